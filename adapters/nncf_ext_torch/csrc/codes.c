/* Weights by their codes (nncf_ext.numerics: decoded), float32, one pass forward, one pass backward.
 *
 * A code is -1 for a weight as it comes, or the index of its value in `table`; what comes as zero stays zero. No code, from a
 * damaged checkpoint say, reads or writes outside of the tables. A call does part `part` of `parts`; parts may run at the same
 * time. Not a Python module: loaded with ctypes.
 */
#include <stddef.h>
#include <stdint.h>

#if defined(_MSC_VER)
#define EXPORT __declspec(dllexport)
#define RESTRICT __restrict
#else
#define EXPORT __attribute__((visibility("default")))
#define RESTRICT restrict
#endif

enum { LANES = 4 }; /* tables of sums that take turns: the next addition need not wait for the one before */

#define INDEX(code) ((uint32_t)(code) < (uint32_t)levels ? (code) : 0)

EXPORT void decoded_forward(const float *RESTRICT x, const int32_t *RESTRICT codes, const float *RESTRICT table,
                            float *RESTRICT y, int64_t levels, int64_t size, int64_t part, int64_t parts) {
    int64_t end = size * (part + 1) / parts;
    for (int64_t i = size * part / parts; i < end; i++) {
        int32_t code = codes[i];
        float value = table[INDEX(code)];
        y[i] = code < 0 ? x[i] : x[i] == 0.0f ? 0.0f : value;
    }
}

/* dx, and sums[part][lane][level] of the gradients of the weights that have the level; the caller has set them to zero. */
EXPORT void decoded_backward(const float *RESTRICT g, const float *RESTRICT x, const int32_t *RESTRICT codes,
                             float *RESTRICT dx, double *RESTRICT sums, int64_t levels, int64_t size, int64_t part,
                             int64_t parts) {
    int64_t end = size * (part + 1) / parts;
    sums += part * LANES * levels;
    for (int64_t i = size * part / parts; i < end; i++) {
        int32_t code = codes[i];
        dx[i] = code < 0 ? g[i] : 0.0f;
        sums[(i % LANES) * levels + INDEX(code)] += code < 0 || x[i] == 0.0f ? 0.0f : g[i];
    }
}
