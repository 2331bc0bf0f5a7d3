/* Fused fake quantization of float32 arrays: one pass forward, one pass backward (nncf_ext.numerics: fake_quantize, and
 * fake_quantize_symmetric where there is no `low`).
 *
 * The array is read in memory order as outer x channels x inner; one grid for all of it is channels = 1, inner = size.
 * A call does part `part` of `parts`; parts may run at the same time. Not a Python module: loaded with ctypes.
 *
 * A residual code tells the backward pass in one byte what it needs to know of x: round(v) - v in steps of 1/252 where
 * v = x / step is on the grid, ABOVE or BELOW where it is not, and NOT_A_NUMBER.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_MSC_VER)
#define EXPORT __declspec(dllexport)
#define INLINE static __forceinline
#define RESTRICT __restrict
#define SIMD_SUM
#else
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT restrict
#define SIMD_SUM _Pragma("omp simd reduction(+ : low_sum, step_sum)")
#endif

/* One binary for every x86: glibc picks what the machine can run. (AVX-512 gains nothing: memory is the limit.) */
#if defined(__x86_64__) && defined(__GLIBC__) && (!defined(__clang__) || __clang_major__ >= 14)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

static const float ABOVE = 127.0f, BELOW = -127.0f, NOT_A_NUMBER = -128.0f;
static const float CODES = 252.0f;    /* residual codes in one step */
static const float SMALLEST = 1e-16f; /* as in numerics.py */

enum { BLOCK = 1024, TILE_ROWS = 64 }; /* sums are in float within a block, in double across blocks */
enum { SHORT = 32 };                   /* rows shorter than this are worked on across channels, */
enum { TILE = 512 };                   /* that many columns at a time: their grids and sums fit the first-level cache */

typedef struct {
    float low, high, step; /* first and last integer of the grid, and what one is worth */
} Grid;

typedef struct {
    int outside, above; /* the grid's range */
    float residual;     /* round(v) - v, if inside */
} Place;

/* The grids of all channels. `low` NULL: integers from `lowest` on, the last of which is worth |step|. */
typedef struct {
    const float *low, *step;
    float lowest, intervals;
} Ranges;

INLINE Grid grid_of(Ranges ranges, int64_t channel) {
    float step = ranges.step[channel], first = ranges.lowest;
    if (ranges.low)
        first = -rintf(-ranges.low[channel] / step);
    else
        step = (fabsf(step) + SMALLEST) / (first + ranges.intervals);
    Grid grid = {first, first + ranges.intervals, step};
    return grid;
}

/* Half to even, for |v| <= 2^22. Unlike rintf it vectorises with every compiler and instruction set. */
INLINE float round_half_even(float v) { return (v + 12582912.0f) - 12582912.0f; }

INLINE float clip(float v, Grid grid) { /* NaN stays NaN */
    v = v < grid.low ? grid.low : v;
    return v > grid.high ? grid.high : v;
}

INLINE float quantized(float x, Grid grid) {
    return round_half_even(clip(x / grid.step, grid)) * grid.step + 0.0f; /* + 0: never -0, as in the composite form */
}

INLINE float residual_code(float x, Grid grid) {
    float v = x / grid.step, clipped = clip(v, grid);
    float code = round_half_even((round_half_even(clipped) - clipped) * CODES);
    code = v > grid.high ? ABOVE : code;
    code = v < grid.low ? BELOW : code;
    return v == v ? code : NOT_A_NUMBER;
}

INLINE Place place_of_x(float x, Grid grid) {
    float v = x / grid.step, clipped = clip(v, grid);
    Place place = {(v > grid.high) | (v < grid.low), v > grid.high, round_half_even(clipped) - clipped};
    return place;
}

INLINE Place place_of_code(float code) { /* written so that compilers see selections, not branches */
    Place place = {fabsf(code) == ABOVE, code == ABOVE, code == NOT_A_NUMBER ? NAN : code * (1.0f / CODES)};
    return place;
}

/* Bytes are widened and narrowed in loops of their own, through a buffer in the first-level cache: compilers vectorise loops
 * over one size of element much better. */
INLINE void widen(const int8_t *RESTRICT code, float *RESTRICT wide, int64_t n) {
    for (int64_t i = 0; i < n; i++) wide[i] = code[i];
}

INLINE void narrow(const float *RESTRICT wide, int8_t *RESTRICT code, int64_t n) {
    for (int64_t i = 0; i < n; i++) code[i] = (int8_t)(int32_t)wide[i];
}

/* ---- rows: the whole stretch has one grid ---- */

INLINE void forward_row(const float *RESTRICT x, float *RESTRICT y, int8_t *RESTRICT code, Grid grid, int64_t size) {
    float wide[BLOCK];
    for (int64_t start = 0; start < size; start += BLOCK) {
        int64_t n = size - start < BLOCK ? size - start : BLOCK;
        for (int64_t i = 0; i < n; i++) {
            y[start + i] = quantized(x[start + i], grid);
            if (code) wide[i] = residual_code(x[start + i], grid);
        }
        if (code) narrow(wide, code + start, n);
    }
}

INLINE void backward_row(const float *RESTRICT g, const float *RESTRICT x, const int8_t *RESTRICT code, float *RESTRICT dx,
                         float *dlow, float *dstep, Grid grid, float intervals, int64_t size) {
    double low = 0.0, step = 0.0;
    float wide[BLOCK];
    for (int64_t start = 0; start < size; start += BLOCK) {
        int64_t n = size - start < BLOCK ? size - start : BLOCK;
        float low_sum = 0.0f, step_sum = 0.0f;
        if (!x) widen(code + start, wide, n);
        SIMD_SUM
        for (int64_t i = 0; i < n; i++) {
            Place place = x ? place_of_x(x[start + i], grid) : place_of_code(wide[i]);
            float all = g[start + i], inside = place.outside ? 0.0f : all, outside = place.outside ? all : 0.0f;
            float above = place.above ? all : 0.0f;
            dx[start + i] = inside;
            if (dlow) {
                low_sum += outside;
                step_sum += inside * place.residual + above * intervals;
            }
        }
        low += low_sum;
        step += step_sum;
    }
    if (dlow) {
        *dlow += (float)low;
        *dstep += (float)step;
    }
}

/* ---- tiles: `rows` rows, `period` apart, of n columns that have a grid each ---- */

typedef struct {
    float low[TILE], high[TILE], step[TILE];
} Grids;

INLINE void forward_tile(const float *RESTRICT x, float *RESTRICT y, int8_t *RESTRICT code, const Grids *RESTRICT grids,
                         int64_t rows, int64_t period, int n) {
    float wide[TILE];
    for (int64_t at = 0; at < rows * period; at += period) {
        for (int i = 0; i < n; i++) {
            Grid grid = {grids->low[i], grids->high[i], grids->step[i]};
            y[at + i] = quantized(x[at + i], grid);
            if (code) wide[i] = residual_code(x[at + i], grid);
        }
        if (code) narrow(wide, code + at, n);
    }
}

INLINE void backward_tile(const float *RESTRICT g, const float *RESTRICT x, const int8_t *RESTRICT code, float *RESTRICT dx,
                          double *RESTRICT dlow, double *RESTRICT dstep, const Grids *RESTRICT grids, float intervals,
                          int64_t rows, int64_t period, int n) {
    float wide[TILE];
    for (int64_t start = 0; start < rows; start += TILE_ROWS) {
        float low_sum[TILE] = {0}, step_sum[TILE] = {0};
        for (int64_t row = start; row < rows && row < start + TILE_ROWS; row++) {
            int64_t at = row * period;
            if (!x) widen(code + at, wide, n);
            for (int i = 0; i < n; i++) {
                Grid grid = {grids->low[i], grids->high[i], grids->step[i]};
                Place place = x ? place_of_x(x[at + i], grid) : place_of_code(wide[i]);
                float all = g[at + i], inside = place.outside ? 0.0f : all, outside = place.outside ? all : 0.0f;
                float above = place.above ? all : 0.0f;
                dx[at + i] = inside;
                if (dlow) {
                    low_sum[i] += outside;
                    step_sum[i] += inside * place.residual + above * intervals;
                }
            }
        }
        for (int i = 0; dlow && i < n; i++) {
            dlow[i] += low_sum[i];
            dstep[i] += step_sum[i];
        }
    }
}

INLINE void grids_of_columns(Grids *grids, int64_t column, int n, Ranges ranges, int64_t inner) {
    for (int i = 0; i < n; i++) {
        Grid grid = grid_of(ranges, (column + i) / inner);
        grids->low[i] = grid.low;
        grids->high[i] = grid.high;
        grids->step[i] = grid.step;
    }
}

/* ---- the array ---- */

/* Where a part begins and the one before it ends, in whole units. */
INLINE int64_t bound(int64_t size, int64_t unit, int64_t part, int64_t parts) { return size / unit * part / parts * unit; }

INLINE void forward(const float *x, float *y, int8_t *code, Ranges ranges, int64_t size, int64_t channels, int64_t inner,
                    int64_t part, int64_t parts) {
    int64_t period = channels * inner;
    if (inner < SHORT) {
        int64_t begin = bound(size, period, part, parts), rows = (bound(size, period, part + 1, parts) - begin) / period;
        for (int64_t column = 0; column < period; column += TILE) {
            Grids grids;
            int n = (int)(period - column < TILE ? period - column : TILE);
            int64_t at = begin + column;
            grids_of_columns(&grids, column, n, ranges, inner);
            forward_tile(x + at, y + at, code ? code + at : NULL, &grids, rows, period, n);
        }
        return;
    }
    int64_t begin = bound(size, 1, part, parts), end = bound(size, 1, part + 1, parts);
    for (int64_t at = begin, next; at < end; at = next) {
        int64_t row = at / inner, channel = row % channels;
        next = (row + 1) * inner < end ? (row + 1) * inner : end;
        forward_row(x + at, y + at, code ? code + at : NULL, grid_of(ranges, channel), next - at);
    }
}

INLINE void backward(const float *g, const float *x, const int8_t *code, float *dx, float *dlow, float *dstep, Ranges ranges,
                     int64_t size, int64_t channels, int64_t inner, int64_t part, int64_t parts) {
    int64_t period = channels * inner;
    if (dlow)
        for (int64_t channel = 0; channel < channels; channel++) dlow[channel] = dstep[channel] = 0.0f;
    if (inner < SHORT) {
        int64_t begin = bound(size, period, part, parts), rows = (bound(size, period, part + 1, parts) - begin) / period;
        for (int64_t column = 0; column < period; column += TILE) {
            Grids grids;
            double low_sum[TILE] = {0}, step_sum[TILE] = {0};
            int n = (int)(period - column < TILE ? period - column : TILE);
            int64_t at = begin + column;
            grids_of_columns(&grids, column, n, ranges, inner);
            backward_tile(g + at, x ? x + at : NULL, code ? code + at : NULL, dx + at, dlow ? low_sum : NULL, step_sum,
                          &grids, ranges.intervals, rows, period, n);
            for (int i = 0; dlow && i < n; i++) {
                dlow[(column + i) / inner] += (float)low_sum[i];
                dstep[(column + i) / inner] += (float)step_sum[i];
            }
        }
        return;
    }
    int64_t begin = bound(size, 1, part, parts), end = bound(size, 1, part + 1, parts);
    for (int64_t at = begin, next; at < end; at = next) {
        int64_t row = at / inner, channel = row % channels;
        next = (row + 1) * inner < end ? (row + 1) * inner : end;
        backward_row(g + at, x ? x + at : NULL, code ? code + at : NULL, dx + at, dlow ? dlow + channel : NULL,
                     dlow ? dstep + channel : NULL, grid_of(ranges, channel), ranges.intervals, next - at);
    }
}

/* What `backward` found is by the low ends and steps of the grids; dstep becomes the gradient by the scales. */
INLINE void by_scales(const float *dlow, float *dstep, Ranges ranges, int64_t channels) {
    for (int64_t channel = 0; channel < channels; channel++) {
        float scale = ranges.step[channel], sign = (float)((scale > 0.0f) - (scale < 0.0f));
        dstep[channel] = (dstep[channel] + ranges.lowest * dlow[channel]) / (ranges.lowest + ranges.intervals) * sign;
    }
}

/* y, and the residual codes where `code` is not NULL. low and step have `channels` elements. */
EXPORT FOR_EACH_CPU void fake_quantize_forward(const float *x, float *y, int8_t *code, const float *low, const float *step,
                                               float lowest, float intervals, int64_t size, int64_t channels, int64_t inner,
                                               int64_t part, int64_t parts) {
    Ranges ranges = {low, step, lowest, intervals};
    if (code)
        forward(x, y, code, ranges, size, channels, inner, part, parts);
    else
        forward(x, y, NULL, ranges, size, channels, inner, part, parts);
}

/* dx from the output's gradient g and either x or (x is NULL) the residual codes. Where dlow and dstep are not NULL, this
 * part's share of them goes to dlow[part][channel] and dstep[part][channel]; where low is NULL, dstep is by the scales and dlow
 * of no use to the caller. */
EXPORT FOR_EACH_CPU void fake_quantize_backward(const float *g, const float *x, const int8_t *code, float *dx, float *dlow,
                                                float *dstep, const float *low, const float *step, float lowest,
                                                float intervals, int64_t size, int64_t channels, int64_t inner, int64_t part,
                                                int64_t parts) {
    Ranges ranges = {low, step, lowest, intervals};
    if (dlow) {
        dlow += part * channels;
        dstep += part * channels;
    }
    if (!dlow && x)
        backward(g, x, NULL, dx, NULL, NULL, ranges, size, channels, inner, part, parts);
    else if (!dlow)
        backward(g, NULL, code, dx, NULL, NULL, ranges, size, channels, inner, part, parts);
    else if (x)
        backward(g, x, NULL, dx, dlow, dstep, ranges, size, channels, inner, part, parts);
    else
        backward(g, NULL, code, dx, dlow, dstep, ranges, size, channels, inner, part, parts);
    if (dlow && !low) by_scales(dlow, dstep, ranges, channels);
}

EXPORT void *PyInit__kernels(void) { return NULL; } /* Windows' linker is told to export it from an extension */
