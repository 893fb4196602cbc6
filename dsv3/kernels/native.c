/* Products for a few tokens, and the FP8 dequantiser, for any CPU whose C compiler vectorises (gcc, clang).
 *
 * Generating text reads every weight once per token, so bytes are what counts: FP8 weights stay FP8 until they are in
 * a register. The float32 sums of a row do not depend on the number of threads. Activations are BF16.
 */
#include <math.h>
#include <stdint.h>

#define BLOCK 128 /* rows and columns that share one FP8 scale */
#define TILE 32   /* rows that a thread takes at a time; divides BLOCK */

static inline float as_float(uint32_t u) {
    union { uint32_t u; float f; } v = {u};
    return v.f;
}

static inline float from_bf16(uint16_t b) { return as_float((uint32_t)b << 16); }

/* To nearest even; not for NaN. */
static inline uint16_t to_bf16(float f) {
    union { float f; uint32_t u; } v = {f};
    return (v.u + 0x7FFF + (v.u >> 16 & 1)) >> 16;
}

/* The number * 2^-120: sign and magnitude moved to where float32 has them, whose exponent is biased by 127 instead of
 * 7. Subnormals are right, too; NaN (magnitude 127) is read as 480. */
static inline float from_fp8(int8_t b) { return as_float((uint32_t)(int32_t)b << 20 & 0x87F00000u); }

static float dot_bf16(const uint16_t *w, const float *x, long k) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < k; i++) sum += from_bf16(w[i]) * x[i];
    return sum;
}

static float dot_fp8(const int8_t *w, const float *x, long k) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < k; i++) sum += from_fp8(w[i]) * x[i];
    return sum;
}

/* A matrix, row-major; BF16 without scales, FP8 with one for each block of 128 x 128. */
struct matrix {
    const void *w;
    const float *scale;
};

/* out[0 .. count) = rows first .. first + count of a [.., k] times x [k]; the rows lie in one block. */
static void dots(struct matrix a, long first, long count, long k, const float *x, float *out) {
    if (!a.scale) {
        for (long r = 0; r < count; r++) out[r] = dot_bf16((const uint16_t *)a.w + (first + r) * k, x, k);
        return;
    }
    float scaled[k]; /* all rows of a block share its scales, so they go to x; 2^120 in two steps, lest it overflow */
    const float *scale = a.scale + first / BLOCK * ((k + BLOCK - 1) / BLOCK);
    for (long i = 0; i < k; i++) scaled[i] = x[i] * (scale[i / BLOCK] * 0x1p60f);
    for (long r = 0; r < count; r++) out[r] = 0x1p60f * dot_fp8((const int8_t *)a.w + (first + r) * k, scaled, k);
}

static inline long least(long a, long b) { return a < b ? a : b; }

/* out [m, groups, rows] = x [m, groups, k] @ w [groups, rows, k].T. FP8 only with groups == 1. */
void linear(const uint16_t *x, const void *w, const float *scale, uint16_t *out, long m, long groups, long rows, long k,
            int threads) {
    long tiles = (rows + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long tile = 0; tile < groups * tiles; tile++) {
        long group = tile / tiles, first = tile % tiles * TILE, count = least(TILE, rows - first);
        struct matrix a = {(const uint16_t *)w + group * rows * k, 0};
        if (scale) a = (struct matrix){w, scale};
        for (long t = 0; t < m; t++) {
            float xt[k], sums[TILE];
            for (long i = 0; i < k; i++) xt[i] = from_bf16(x[(t * groups + group) * k + i]);
            dots(a, first, count, k, xt, sums);
            for (long r = 0; r < count; r++) out[(t * groups + group) * rows + first + r] = to_bf16(sums[r]);
        }
    }
}

/* A gated feed-forward layer: up is w1 [width, dim] above w3 [width, dim], down is w2 [dim, width].
 * In FP8, width is a multiple of BLOCK. */
struct mlp {
    struct matrix up, down;
};

/* y [m, dim] += the sum over the n chosen layers of weights [m, n] * down(silu(w1 x) * w3 x), x [m, dim].
 * chosen [m, n] are indices into table; a layer that is not on this rank has no up.w and is passed over.
 * Rounded to BF16 where separate operations would. */
void mlp(const uint16_t *x, const struct mlp *table, const int64_t *chosen, const float *weights, float *y, long m,
         long n, long dim, long width, int threads) {
    long wide = (width + TILE - 1) / TILE, high = (dim + TILE - 1) / TILE;
    for (long t = 0; t < m; t++) {
        const int64_t *ids = chosen + t * n;
        float xt[dim], hidden[n * width];
        for (long i = 0; i < dim; i++) xt[i] = from_bf16(x[t * dim + i]);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
#pragma omp for
            for (long tile = 0; tile < n * wide; tile++) {
                long e = tile / wide, first = tile % wide * TILE, count = least(TILE, width - first);
                struct matrix up = table[ids[e]].up;
                if (!up.w) continue;
                float gate[TILE], value[TILE];
                dots(up, first, count, dim, xt, gate);
                dots(up, width + first, count, dim, xt, value);
                for (long r = 0; r < count; r++) {
                    float g = from_bf16(to_bf16(gate[r])), v = from_bf16(to_bf16(value[r]));
                    g = from_bf16(to_bf16(g / (1 + expf(-g))));
                    hidden[e * width + first + r] = from_bf16(to_bf16(g * v));
                }
            }
#pragma omp for
            for (long tile = 0; tile < high; tile++) {
                long first = tile * TILE, count = least(TILE, dim - first);
                for (long e = 0; e < n; e++) {
                    struct matrix down = table[ids[e]].down;
                    if (!down.w) continue;
                    float sums[TILE];
                    dots(down, first, count, width, hidden + e * width, sums);
                    for (long r = 0; r < count; r++)
                        y[t * dim + first + r] += weights[t * n + e] * from_bf16(to_bf16(sums[r]));
                }
            }
        }
    }
}

/* out [rows, k] BF16 = w FP8 * its blocks' scales, rounded once. Returns 1 if there was a NaN, which it misreads. */
int weight_dequant(const int8_t *w, const float *scale, uint16_t *out, long rows, long k) {
    int nan = 0;
    for (long r = 0; r < rows; r++) {
        const float *s = scale + r / BLOCK * ((k + BLOCK - 1) / BLOCK);
        for (long begin = 0; begin < k; begin += BLOCK, s++) {
            long end = least(k, begin + BLOCK);
            float factor = *s;
#pragma omp simd reduction(| : nan)
            for (long i = begin; i < end; i++) {
                int8_t b = w[r * k + i];
                nan |= (b & 127) == 127;
                out[r * k + i] = to_bf16(from_fp8(b) * 0x1p120f * factor);
            }
        }
    }
    return nan;
}
