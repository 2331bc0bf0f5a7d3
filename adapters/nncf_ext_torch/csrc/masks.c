/* Fused masks of float32 arrays (nncf_ext.numerics: masked_by_score, kept_count), one pass forward, one pass backward.
 *
 * Noise is a table of rows of WIDTH; `rows` says which of them the stretches of an array get, in memory order. rows NULL: no
 * noise. A call does part `part` of `parts`; parts may run at the same time. Not a Python module: loaded with ctypes.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

/* y = x * [score + noise > 0]; count[part]: the positive scores of this part, without noise. */
EXPORT FOR_EACH_CPU void masked_by_score_forward(const float *RESTRICT x, const float *RESTRICT score,
                                                 const float *RESTRICT table, const int32_t *RESTRICT rows, float *RESTRICT y,
                                                 float *count, int64_t size, int64_t part, int64_t parts) {
    int64_t total = 0, end = bound(size, part + 1, parts);
    for (int64_t at = bound(size, part, parts); at < end; at += WIDTH) {
        int64_t n = end - at < WIDTH ? end - at : WIDTH;
        const float *RESTRICT noise = rows ? table + (int64_t)rows[at / WIDTH] * WIDTH : silence;
        const float *RESTRICT px = x + at, *RESTRICT ps = score + at;
        float *RESTRICT py = y + at;
        int32_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            py[i] = px[i] * (ps[i] + noise[i] > 0.0f ? 1.0f : 0.0f);
            kept += ps[i] > 0.0f;
        }
        total += kept;
    }
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
    for (int64_t at = bound(size, part, parts); at < end; at += WIDTH) {
        int64_t n = end - at < WIDTH ? end - at : WIDTH;
        const float *RESTRICT noise = rows ? table + (int64_t)rows[at / WIDTH] * WIDTH : silence;
        if (!dscore)
            for (int64_t i = 0; i < n; i++) dx[at + i] = g[at + i] * (score[at + i] + noise[i] > 0.0f ? 1.0f : 0.0f);
        else if (by_count)
            backward(g + at, x + at, score + at, noise, *by_count, dx + at, dscore + at, n, 1);
        else
            backward(g + at, x + at, score + at, noise, 0.0f, dx + at, dscore + at, n, 0);
    }
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
