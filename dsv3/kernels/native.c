/* Products for a few tokens, and the FP8 dequantiser, for any little-endian CPU with a C compiler that vectorises.
 *
 * Generating text reads every weight once per token, so bytes are what counts: FP8 weights stay FP8 until they are in
 * a register. The float32 sums of a row do not depend on the number of threads. Activations are BF16.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

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

/* The FP8 number in the top byte * 2^-120: sign and magnitude moved to where float32 has them, whose exponent is biased
 * by 127 instead of 7. Subnormals are right, too; NaN (magnitude 127) is read as 480. */
static inline float from_fp8(int32_t top) { return as_float((uint32_t)(top >> 4) & 0x87F00000u); }

/* Products of a row with one vector, and with two, for which the row is converted once. */
static float dot_bf16(const uint16_t *w, const float *x, long k) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < k; i++) sum += from_bf16(w[i]) * x[i];
    return sum;
}

static void two_dots_bf16(const uint16_t *w, const float *x, const float *y, long k, float *out_x, float *out_y) {
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (long i = 0; i < k; i++) {
        float v = from_bf16(w[i]);
        a += v * x[i];
        b += v * y[i];
    }
    *out_x = a;
    *out_y = b;
}

/* Four FP8 numbers are read as a word, so the vector is laid in four parts: x[q * words + i] belongs to w[4 * i + q]. */
static inline uint32_t word(const int8_t *w, long i) {
    uint32_t v;
    memcpy(&v, w + 4 * i, 4);
    return v;
}

static inline long place(long i, long words) { return i < 4 * words ? i % 4 * words + i / 4 : i; }

/* Each part has a sum of its own, since every addition to one waits for the addition before. */
static void dot_fp8(const int8_t *w, const float *x, long words, float *out) {
    float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
    for (long i = 0; i < words; i++) {
        uint32_t v = word(w, i);
        a += from_fp8(v << 24) * x[i];
        b += from_fp8(v << 16) * x[words + i];
        c += from_fp8(v << 8) * x[2 * words + i];
        d += from_fp8(v) * x[3 * words + i];
    }
    *out = (a + b) + (c + d);
}

static inline float add_word(float sum, uint32_t v, float x, float y, float z, float u) {
    sum += from_fp8(v << 24) * x;
    sum += from_fp8(v << 16) * y;
    sum += from_fp8(v << 8) * z;
    return sum + from_fp8(v) * u;
}

/* Four rows, for which the vector is read once. Four places of memory are more than a processor foresees, so the rows
 * after these, which lie behind them, are asked for. */
static void four_dots_fp8(const int8_t *w, const float *x, long k, float *out) {
    long words = k / 4;
    float a = 0, b = 0, c = 0, d = 0;
    for (long i = 0; i < 4 * k; i += 64) __builtin_prefetch(w + 4 * k + i);
#pragma omp simd reduction(+ : a, b, c, d)
    for (long i = 0; i < words; i++) {
        float x0 = x[i], x1 = x[words + i], x2 = x[2 * words + i], x3 = x[3 * words + i];
        a = add_word(a, word(w, i), x0, x1, x2, x3);
        b = add_word(b, word(w + k, i), x0, x1, x2, x3);
        c = add_word(c, word(w + 2 * k, i), x0, x1, x2, x3);
        d = add_word(d, word(w + 3 * k, i), x0, x1, x2, x3);
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

static void two_dots_fp8(const int8_t *w, const float *x, const float *y, long words, float *out_x, float *out_y) {
    float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
    for (long i = 0; i < words; i++) {
        uint32_t all = word(w, i);
        float s = from_fp8(all << 24), t = from_fp8(all << 16), u = from_fp8(all << 8), v = from_fp8(all);
        a += s * x[i] + t * x[words + i];
        b += u * x[2 * words + i] + v * x[3 * words + i];
        c += s * y[i] + t * y[words + i];
        d += u * y[2 * words + i] + v * y[3 * words + i];
    }
    *out_x = a + b;
    *out_y = c + d;
}

static inline long least(long a, long b) { return a < b ? a : b; }

/* A matrix, row-major; BF16 without scales, FP8 with one for each block of 128 x 128. */
struct matrix {
    const void *w;
    const float *scale;
};

/* A vector [k] as ``dots`` takes it: in float32, in four parts for FP8. */
static void lay(const uint16_t *x, long k, int fp8, float *out) {
    long words = fp8 ? k / 4 : 0;
    for (long i = 0; i < 4 * words; i += 4)
        for (long q = 0; q < 4; q++) out[q * words + i / 4] = from_bf16(x[i + q]);
    for (long i = 4 * words; i < k; i++) out[i] = from_bf16(x[i]);
}

/* A laid vector times its blocks' scales; and times 2^60, half of what from_fp8 leaves out, lest it overflow. */
static void scale_blocks(const float *x, const float *scale, long k, float *out) {
    long words = k / 4;
    for (long first = 0; first < words; first += BLOCK / 4) {
        float factor = scale[first / (BLOCK / 4)] * 0x1p60f;
        long end = least(words, first + BLOCK / 4);
        for (long q = 0; q < 4; q++)
#pragma omp simd
            for (long i = q * words + first; i < q * words + end; i++) out[i] = x[i] * factor;
    }
    for (long i = 4 * words; i < k; i++) out[i] = x[i] * (scale[i / BLOCK] * 0x1p60f);
}

/* out[m][TILE] = rows first .. first + count of a [.., k] times each of x [m, k], laid; m is 1 or 2, the rows of one
 * block. In FP8 all rows of a block share its scales, so these go to x. */
static void dots(struct matrix a, long first, long count, long k, const float *x, long m, float out[][TILE]) {
    if (!a.scale) {
        for (long r = 0; r < count; r++) {
            const uint16_t *row = (const uint16_t *)a.w + (first + r) * k;
            if (m == 2) two_dots_bf16(row, x, x + k, k, &out[0][r], &out[1][r]);
            else out[0][r] = dot_bf16(row, x, k);
        }
        return;
    }
    long words = k / 4;
    float scaled[m * k];
    for (long t = 0; t < m; t++)
        scale_blocks(x + t * k, a.scale + first / BLOCK * ((k + BLOCK - 1) / BLOCK), k, scaled + t * k);
    const int8_t *rows = (const int8_t *)a.w + first * k;
    long r = 0;
    for (; m == 1 && r + 4 <= count; r += 4) four_dots_fp8(rows + r * k, scaled, k, &out[0][r]);
    for (; r < count; r++) {
        if (m == 2) two_dots_fp8(rows + r * k, scaled, scaled + k, words, &out[0][r], &out[1][r]);
        else dot_fp8(rows + r * k, scaled, words, &out[0][r]);
    }
    for (r = 0; r < count; r++)
        for (long t = 0; t < m; t++) {
            for (long i = 4 * words; i < k; i++)
                out[t][r] += from_fp8((uint32_t)rows[r * k + i] << 24) * scaled[t * k + i];
            out[t][r] *= 0x1p60f;
        }
}

/* out [m, groups, rows], BF16 or, if wide, float32 = x [m, groups, k] @ w [groups, rows, k].T. FP8 only with
 * groups == 1. */
void linear(const uint16_t *x, const void *w, const float *scale, void *out, long m, long groups, long rows, long k,
            int wide, int threads) {
    long tiles = (rows + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float laid[m * k]; /* the tokens' vectors for one group */
        long of = -1;
#pragma omp for
        for (long tile = 0; tile < groups * tiles; tile++) {
            long group = tile / tiles, first = tile % tiles * TILE, count = least(TILE, rows - first);
            struct matrix a = {(const uint16_t *)w + group * rows * k, 0};
            if (scale) a = (struct matrix){w, scale};
            for (long t = 0; t < m && of != group; t++) lay(x + (t * groups + group) * k, k, scale != 0, laid + t * k);
            of = group;
            for (long t = 0; t < m; t += 2) {
                long some = least(2, m - t);
                float sums[2][TILE];
                dots(a, first, count, k, laid + t * k, some, sums);
                for (long u = 0; u < some; u++)
                    for (long r = 0; r < count; r++) {
                        long at = ((t + u) * groups + group) * rows + first + r;
                        if (wide) ((float *)out)[at] = sums[u][r];
                        else ((uint16_t *)out)[at] = to_bf16(sums[u][r]);
                    }
            }
        }
    }
}

/* Attention of a few tokens over their sequences' caches, in float32: q [n, heads, width], kept [sequences, room, width],
 * token t of sequence t / per sees the first lengths[t] entries -> out [n, heads, rank], their first numbers mixed. */
void attend(const uint16_t *q, const uint16_t *kept, const int64_t *lengths, uint16_t *out, long n, long heads, long width,
            long rank, long room, long per, float scale, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < n * heads; row++) {
        long t = row / heads, length = lengths[t];
        const uint16_t *own = kept + t / per * room * width;
        float query[width], scores[length], mixed[rank], most = -INFINITY, sum = 0;
        for (long i = 0; i < width; i++) query[i] = from_bf16(q[row * width + i]) * scale;
        for (long e = 0; e < length; e++) {
            scores[e] = dot_bf16(own + e * width, query, width);
            most = scores[e] > most ? scores[e] : most;
        }
        for (long i = 0; i < rank; i++) mixed[i] = 0;
        for (long e = 0; e < length; e++) {
            float weight = expf(scores[e] - most);
            sum += weight;
#pragma omp simd
            for (long i = 0; i < rank; i++) mixed[i] += weight * from_bf16(own[e * width + i]);
        }
        for (long i = 0; i < rank; i++) out[row * rank + i] = to_bf16(mixed[i] / sum);
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
        float hidden[n * width]; /* laid as each layer's down wants it */
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            float laid[dim];
            int form = -1;
#pragma omp for
            for (long tile = 0; tile < n * wide; tile++) {
                long e = tile / wide, first = tile % wide * TILE, count = least(TILE, width - first);
                struct matrix up = table[ids[e]].up, down = table[ids[e]].down;
                if (!up.w) continue;
                if (form != (up.scale != 0)) lay(x + t * dim, dim, form = up.scale != 0, laid);
                float gate[1][TILE], value[1][TILE];
                dots(up, first, count, dim, laid, 1, gate);
                dots(up, width + first, count, dim, laid, 1, value);
                for (long r = 0; r < count; r++) {
                    float g = from_bf16(to_bf16(gate[0][r])), v = from_bf16(to_bf16(value[0][r]));
                    g = from_bf16(to_bf16(g / (1 + expf(-g))));
                    long at = down.scale ? place(first + r, width / 4) : first + r;
                    hidden[e * width + at] = from_bf16(to_bf16(g * v));
                }
            }
#pragma omp for
            for (long tile = 0; tile < high; tile++) {
                long first = tile * TILE, count = least(TILE, dim - first);
                for (long e = 0; e < n; e++) {
                    struct matrix down = table[ids[e]].down;
                    if (!down.w) continue;
                    float sums[1][TILE];
                    dots(down, first, count, width, hidden + e * width, 1, sums);
                    for (long r = 0; r < count; r++)
                        y[t * dim + first + r] += weights[t * n + e] * from_bf16(to_bf16(sums[0][r]));
                }
            }
        }
    }
}

/* out [m, k] = x [m, k] / rms(x) * weight, BF16, in float32. */
void rms_norm(const uint16_t *x, const float *weight, uint16_t *out, long m, long k, float eps) {
    for (long t = 0; t < m; t++, x += k, out += k) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < k; i++) sum += from_bf16(x[i]) * from_bf16(x[i]);
        float factor = 1 / sqrtf(sum / k + eps);
#pragma omp simd
        for (long i = 0; i < k; i++) out[i] = to_bf16(from_bf16(x[i]) * factor * weight[i]);
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
                out[r * k + i] = to_bf16(from_fp8((uint32_t)b << 24) * 0x1p120f * factor);
            }
        }
    }
    return nan;
}

/* Freed memory back to the system, which glibc otherwise keeps for blocks of the same size. */
void give_back(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
