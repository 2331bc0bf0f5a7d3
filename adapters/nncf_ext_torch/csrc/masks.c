/* Fused masks of float32 arrays (nncf_ext.numerics: masked, masked_by_score, kept_count), one pass forward, one pass backward.
 *
 * Memory is the limit. A store to a line that is not in the cache reads it first, so large results are streamed past the cache:
 * half the time of a product as the framework computes it. Results are made in blocks in the first-level cache.
 *
 * Noise is a table of rows of WIDTH; `rows` says which of them the stretches of an array get, in memory order. rows NULL: no
 * noise. A call does part `part` of `parts`; parts may run at the same time. Not a Python module: loaded with ctypes.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(_M_X64)
#include <emmintrin.h>
#endif

#if defined(_MSC_VER)
#define EXPORT __declspec(dllexport)
#define INLINE static __forceinline
#define RESTRICT __restrict
#else
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT restrict
#endif

/* One binary for every x86: glibc picks what the machine can run. The exponential function gains from AVX-512. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && (!defined(__clang__) || __clang_major__ >= 14)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

enum { WIDTH = 256 }; /* as in nncf_ext/noise.py */
static const float silence[WIDTH];

/* Where a part begins and the one before it ends, in whole rows of noise but at the end. */
INLINE int64_t bound(int64_t size, int64_t part, int64_t parts) {
    return part == parts ? size : size / WIDTH * part / parts * WIDTH;
}

enum { LARGE = 1 << 18 }; /* elements: smaller results are worth keeping in the cache for whoever reads them next */

/* Copy a block that was made in the first-level cache to its place. */
INLINE void put(float *to, const float *from, int64_t n, int64_t size) {
#if defined(__x86_64__) || defined(_M_X64)
    if (size >= LARGE && n % 4 == 0 && (uintptr_t)to % 16 == 0) {
        for (int64_t i = 0; i < n; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
        return;
    }
#endif
    memcpy(to, from, n * sizeof(float));
}

/* Before others read what was streamed. */
INLINE void finish(void) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_sfence();
#endif
}

/* exp(-a) for a >= 0, to 1.2e-6 of itself; never smaller than 2^-126. */
INLINE float exp_of_minus(float a) {
    float t = a * -1.44269504088896341f;
    t = t < -126.0f ? -126.0f : t;
    float whole = (t + 12582912.0f) - 12582912.0f, f = t - whole; /* |f| <= 1/2 */
    float p = 1.5403530393381609954e-4f; /* 2^f = sum of (f ln 2)^k / k! */
    p = p * f + 1.3333558146428443423e-3f;
    p = p * f + 9.6181291076284771619e-3f;
    p = p * f + 5.5504108664821579953e-2f;
    p = p * f + 2.4022650695910071233e-1f;
    p = p * f + 6.9314718055994530942e-1f;
    p = p * f + 1.0f;
    int32_t bits = ((int32_t)whole + 127) << 23; /* 2^whole */
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

/* The derivative of the sigmoid. */
INLINE float slope(float score) {
    float e = exp_of_minus(fabsf(score)), d = 1.0f + e;
    return e / (d * d);
}

/* y = x * mask */
EXPORT FOR_EACH_CPU void masked(const float *RESTRICT x, const float *RESTRICT mask, float *RESTRICT y, int64_t size,
                                int64_t part, int64_t parts) {
    int64_t end = bound(size, part + 1, parts);
    float block[WIDTH];
    for (int64_t at = bound(size, part, parts); at < end; at += WIDTH) {
        int64_t n = end - at < WIDTH ? end - at : WIDTH;
        for (int64_t i = 0; i < n; i++) block[i] = x[at + i] * mask[at + i];
        put(y + at, block, n, size);
    }
    finish();
}

/* y = x * [score + noise > 0]; count[part]: the positive scores of this part, without noise. */
EXPORT FOR_EACH_CPU void masked_by_score_forward(const float *RESTRICT x, const float *RESTRICT score,
                                                 const float *RESTRICT table, const int32_t *RESTRICT rows, float *RESTRICT y,
                                                 float *count, int64_t size, int64_t part, int64_t parts) {
    int64_t total = 0, end = bound(size, part + 1, parts);
    float block[WIDTH];
    for (int64_t at = bound(size, part, parts); at < end; at += WIDTH) {
        int64_t n = end - at < WIDTH ? end - at : WIDTH;
        const float *RESTRICT noise = rows ? table + (int64_t)rows[at / WIDTH] * WIDTH : silence;
        const float *RESTRICT px = x + at, *RESTRICT ps = score + at;
        int32_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            block[i] = px[i] * (ps[i] + noise[i] > 0.0f ? 1.0f : 0.0f);
            kept += ps[i] > 0.0f;
        }
        put(y + at, block, n, size);
        total += kept;
    }
    finish();
    count[part] = (float)total;
}

INLINE void backward(const float *RESTRICT g, const float *RESTRICT x, const float *RESTRICT score, const float *RESTRICT noise,
                     float by_count, float *RESTRICT dx, float *RESTRICT dscore, int64_t n, int counted) {
    for (int64_t i = 0; i < n; i++) {
        float noisy = score[i] + noise[i];
        dx[i] = g[i] * (noisy > 0.0f ? 1.0f : 0.0f);
        dscore[i] = g[i] * x[i] * slope(noisy) + (counted ? by_count * slope(score[i]) : 0.0f);
    }
}

/* dx and, unless it is NULL, dscore from the gradients by y, g, and by the count, which may be NULL. */
EXPORT FOR_EACH_CPU void masked_by_score_backward(const float *RESTRICT g, const float *RESTRICT by_count,
                                                  const float *RESTRICT x, const float *RESTRICT score,
                                                  const float *RESTRICT table, const int32_t *RESTRICT rows, float *RESTRICT dx,
                                                  float *RESTRICT dscore, int64_t size, int64_t part, int64_t parts) {
    int64_t end = bound(size, part + 1, parts);
    float of_x[WIDTH], of_score[WIDTH];
    for (int64_t at = bound(size, part, parts); at < end; at += WIDTH) {
        int64_t n = end - at < WIDTH ? end - at : WIDTH;
        const float *RESTRICT noise = rows ? table + (int64_t)rows[at / WIDTH] * WIDTH : silence;
        if (!dscore)
            for (int64_t i = 0; i < n; i++) of_x[i] = g[at + i] * (score[at + i] + noise[i] > 0.0f ? 1.0f : 0.0f);
        else if (by_count)
            backward(g + at, x + at, score + at, noise, *by_count, of_x, of_score, n, 1);
        else
            backward(g + at, x + at, score + at, noise, 0.0f, of_x, of_score, n, 0);
        put(dx + at, of_x, n, size);
        if (dscore) put(dscore + at, of_score, n, size);
    }
    finish();
}

/* count[part]: the positive scores of this part. */
EXPORT FOR_EACH_CPU void kept_count_forward(const float *RESTRICT score, float *count, int64_t size, int64_t part,
                                            int64_t parts) {
    int64_t total = 0, end = bound(size, part + 1, parts);
    for (int64_t at = bound(size, part, parts); at < end; at += WIDTH) {
        int64_t n = end - at < WIDTH ? end - at : WIDTH;
        int32_t kept = 0;
        for (int64_t i = 0; i < n; i++) kept += score[at + i] > 0.0f;
        total += kept;
    }
    count[part] = (float)total;
}

EXPORT FOR_EACH_CPU void kept_count_backward(const float *RESTRICT g, const float *RESTRICT score, float *RESTRICT dscore,
                                             int64_t size, int64_t part, int64_t parts) {
    int64_t end = bound(size, part + 1, parts);
    float all = *g;
    for (int64_t i = bound(size, part, parts); i < end; i++) dscore[i] = all * slope(score[i]);
}
