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
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#define BF16_PRODUCTS
#include <immintrin.h>
#endif

#define BLOCK 128 /* rows and columns that share one FP8 scale */
#define TILE 32   /* rows that a thread takes at a time; divides BLOCK */
#define LARGE (1 << 16) /* products from which on a second thread pays, as measured */

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

static inline long least(long a, long b) { return a < b ? a : b; }

/* A matrix, row-major; BF16 without scales, FP8 with one for each block of 128 x 128. */
struct matrix {
    const void *w;
    const float *scale;
};

#ifdef BF16_PRODUCTS

/* A row's products with BF16 vectors, by the processor's own: a pair of exact products to each of 16 float32 sums. They
 * count what is below 2^-126 as 0.
 *
 * An FP8 number is looked up, its magnitude among 128: one table has the upper bytes of the BF16 numbers, one the lower.
 */
typedef uint16_t laid;
#define TOGETHER 4 /* vectors at most, for which a weight is read once */

static inline laid to_laid(uint16_t b) { return b; }

/* Numbers that a vector [k] takes when laid: whole steps, zeros behind. */
static inline long room(long k) { return (k + 63) / 64 * 64; }

/* The upper and lower bytes of 64 FP8 numbers are brought together 8 of every 16 at a time, so those of the vector come
 * first, too. */
static inline long place(long i, long k) { return (i & ~63L) | (i & 8) << 2 | (i & 48) >> 1 | (i & 7); }

static void lay(const uint16_t *x, long k, int fp8, laid *out) {
    memset(out + k / 64 * 64, 0, (room(k) - k / 64 * 64) * sizeof *out);
    if (!fp8) memcpy(out, x, k * sizeof *out);
    for (long i = 0; fp8 && i < k; i++) out[place(i, k)] = x[i];
}

#define BY_16 0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240
static const uint8_t UPPER[128] = {
    [1 ... 3] = 0x3B,   [4 ... 15] = 0x3C,  [16 ... 31] = 0x3D,   [32 ... 47] = 0x3E,    [48 ... 63] = 0x3F,
    [64 ... 79] = 0x40, [80 ... 95] = 0x41, [96 ... 111] = 0x42, [112 ... 126] = 0x43, [127] = 0x7F /* NaN */};
static const uint8_t LOWER[128] = {0, 0,     128,   192,   0,     32,    64,   96, /* subnormal */
                                   128, 144, 160, 176, 192, 208, 224, 240,
                                   BY_16, BY_16, BY_16, BY_16, BY_16, BY_16, BY_16};

static inline __m512i look_up(const uint8_t *table, __m512i index) {
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), index, _mm512_loadu_si512(table + 64));
}

/* out[t * TILE + r] for n rows of w [.., k] and m vectors x; inlined, so that fp8, n and m are constants. A block's sums
 * are its own, so that it need not wait for the block before; in FP8 they are multiplied by its scale. For one vector rows
 * come one behind the other, as memory is read fastest, and are asked for a page ahead; for several two by two. */
static inline __attribute__((always_inline)) void products(const char *w, const float *scale, const laid *x, long k,
                                                           int fp8, int n, int m, float *out) {
    long line = fp8 ? k : 2 * k;
    __m512 sums[2][TOGETHER] = {{{0}}};
    for (long i = 0; n > 1 && i < n * line; i += 64) __builtin_prefetch(w + n * line + i);
    for (long begin = 0; begin < k; begin += BLOCK) {
        __m512 block[2][TOGETHER] = {{{0}}};
        for (long i = begin; i < least(begin + BLOCK, k); i += 64)
            for (int r = 0; r < n; r++) {
                const char *at = w + r * line + (fp8 ? i : 2 * i);
                __mmask64 there = k - i < 64 ? (1ull << (k - i)) - 1 : ~0ull;
                __m512i a, b;
                if (n == 1) __builtin_prefetch(at + 4096);
                if (fp8) {
                    __m512i c = _mm512_maskz_loadu_epi8(there, at);
                    __m512i lower = look_up(LOWER, c), sign = _mm512_and_si512(c, _mm512_set1_epi8(-128));
                    __m512i upper = _mm512_or_si512(look_up(UPPER, c), sign);
                    a = _mm512_unpacklo_epi8(lower, upper);
                    b = _mm512_unpackhi_epi8(lower, upper);
                } else {
                    if (n == 1) __builtin_prefetch(at + 4096 + 64);
                    a = _mm512_maskz_loadu_epi16((__mmask32)there, at);
                    b = _mm512_maskz_loadu_epi16((__mmask32)(there >> 32), at + 64);
                }
                for (int t = 0; t < m; t++) {
                    const laid *v = x + t * room(k) + i;
                    block[r][t] = _mm512_dpbf16_ps(block[r][t], (__m512bh)a, (__m512bh)_mm512_loadu_si512(v));
                    block[r][t] = _mm512_dpbf16_ps(block[r][t], (__m512bh)b, (__m512bh)_mm512_loadu_si512(v + 32));
                }
            }
        __m512 factor = _mm512_set1_ps(fp8 ? scale[begin / BLOCK] : 1);
        for (int r = 0; r < n; r++)
            for (int t = 0; t < m; t++) sums[r][t] = _mm512_fmadd_ps(block[r][t], factor, sums[r][t]);
    }
    for (int r = 0; r < n; r++)
        for (int t = 0; t < m; t++) out[t * TILE + r] = _mm512_reduce_add_ps(sums[r][t]);
}

/* out[m][TILE] = rows first .. first + count of a [.., k] times each of x [m, k], laid; m is at most TOGETHER, the rows
 * of one block. */
static void dots(struct matrix a, long first, long count, long k, const laid *x, long m, float out[][TILE]) {
    const float *scale = a.scale ? a.scale + first / BLOCK * ((k + BLOCK - 1) / BLOCK) : 0;
    const char *w = (const char *)a.w + first * k * (scale ? 1 : 2);
    long r = 0;
#define ROWS(n, m)                                                                  \
    for (; r + n <= count; r += n) {                                                \
        if (scale) products(w + r * k, scale, x, k, 1, n, m, &out[0][r]);           \
        else products(w + r * k * 2, scale, x, k, 0, n, m, &out[0][r]);             \
    }
    switch (m) {
    case 1: ROWS(1, 1) break;
    case 2: ROWS(2, 2) ROWS(1, 2) break;
    case 3: ROWS(2, 3) ROWS(1, 3) break;
    case 4: ROWS(2, 4) ROWS(1, 4) break;
    }
#undef ROWS
}

#else

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

static inline long place(long i, long k) { return i < k / 4 * 4 ? i % 4 * (k / 4) + i / 4 : i; }

typedef float laid;
#define TOGETHER 2

static inline laid to_laid(uint16_t b) { return from_bf16(b); }

static inline long room(long k) { return k; }

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

#endif

/* Rows of groups of tokens, [.., groups, ..]: how far a token's and a group's numbers are from the next one's. */
struct rows {
    void *of;
    long token, group;
};

/* out [m, groups, rows], BF16 or, if wide, float32 = x [m, groups, k] @ a [groups, rows, k].T. FP8 only with
 * groups == 1. */
static void multiply(struct rows x, struct matrix a, struct rows out, long m, long groups, long rows, long k, int wide,
                     int threads) {
    long tiles = (rows + TILE - 1) / TILE;
    if (groups * rows * k < LARGE) threads = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        laid own[m * room(k)]; /* the tokens' vectors for one group */
        long of = -1;
#pragma omp for
        for (long tile = 0; tile < groups * tiles; tile++) {
            long group = tile / tiles, first = tile % tiles * TILE, count = least(TILE, rows - first);
            struct matrix b = a.scale ? a : (struct matrix){(const uint16_t *)a.w + group * rows * k, 0};
            for (long t = 0; t < m && of != group; t++)
                lay((uint16_t *)x.of + t * x.token + group * x.group, k, a.scale != 0, own + t * room(k));
            of = group;
            for (long t = 0; t < m; t += TOGETHER) {
                long some = least(TOGETHER, m - t);
                float sums[TOGETHER][TILE];
                dots(b, first, count, k, own + t * room(k), some, sums);
                for (long u = 0; u < some; u++)
                    for (long r = 0; r < count; r++) {
                        long at = (t + u) * out.token + group * out.group + first + r;
                        if (wide) ((float *)out.of)[at] = sums[u][r];
                        else ((uint16_t *)out.of)[at] = to_bf16(sums[u][r]);
                    }
            }
        }
    }
}

/* As above, of whole arrays; scale is that of FP8. */
void linear(uint16_t *x, const void *w, const float *scale, void *out, long m, long groups, long rows, long k, int wide,
            int threads) {
    struct rows from = {x, groups * k, k}, to = {out, groups * rows, rows};
    multiply(from, (struct matrix){w, scale}, to, m, groups, rows, k, wide, threads);
}

/* out [m, k] = x [m, k] / rms(x) * weight, BF16, in float32; x's rows are ``line`` apart, out's ``out_line``. */
static void norm(const uint16_t *x, long line, const float *weight, uint16_t *out, long out_line, long m, long k,
                 float eps) {
    for (long t = 0; t < m; t++, x += line, out += out_line) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < k; i++) sum += from_bf16(x[i]) * from_bf16(x[i]);
        float factor = 1 / sqrtf(sum / k + eps);
#pragma omp simd
        for (long i = 0; i < k; i++) out[i] = to_bf16(from_bf16(x[i]) * factor * weight[i]);
    }
}

void rms_norm(const uint16_t *x, const float *weight, uint16_t *out, long m, long k, float eps) {
    norm(x, k, weight, out, k, m, k, eps);
}

/* Pairs of neighbours [k] turned by complex numbers [k / 2]. */
static void rotate(const uint16_t *x, const float *turns, long k, uint16_t *out) {
    for (long i = 0; i < k; i += 2) {
        float a = from_bf16(x[i]), b = from_bf16(x[i + 1]), c = turns[i], s = turns[i + 1];
        out[i] = to_bf16(a * c - b * s);
        out[i + 1] = to_bf16(a * s + b * c);
    }
}

/* The first half of latent attention. first [q_rank + rank + rotary, dim] gives a token's compressed query, its latent
 * and its rotary key; second [heads * (nope + rotary), q_rank] the heads' queries, which first gives itself if q_rank is 0;
 * key [heads, rank, nope] brings their parts without position to the latent's width. */
struct asking {
    struct matrix first, second, key;
    const float *q_norm, *kv_norm;
    long dim, q_rank, heads, nope, rotary, rank;
    float eps;
};

/* x [m, dim], turns [m, rotary] -> query [m, heads, rank + rotary] and what the cache keeps, entry [m, rank + rotary].
 * space is for m * (the rows of first and second, and q_rank) numbers. */
void ask(const struct asking *a, uint16_t *x, const float *turns, uint16_t *query, uint16_t *entry, uint16_t *space,
         long m, int threads) {
    long each = a->nope + a->rotary, wide = a->heads * each, kept = a->rank + a->rotary;
    long compressed = a->q_rank ? a->q_rank : wide, all = compressed + kept;
    uint16_t *made = space, *normed = made + m * all, *q = normed + m * a->q_rank;
    multiply((struct rows){x, a->dim, 0}, a->first, (struct rows){made, all, 0}, m, 1, all, a->dim, 0, threads);
    struct rows heads = {made, all, each};
    if (a->q_rank) {
        heads = (struct rows){q, wide, each};
        norm(made, all, a->q_norm, normed, a->q_rank, m, a->q_rank, a->eps);
        multiply((struct rows){normed, a->q_rank, 0}, a->second, heads, m, 1, wide, a->q_rank, 0, threads);
    }
    struct rows out = {query, a->heads * kept, kept};
    multiply(heads, a->key, out, m, a->heads, a->rank, a->nope, 0, threads);
    norm(made + compressed, all, a->kv_norm, entry, kept, m, a->rank, a->eps);
    for (long t = 0; t < m; t++, turns += a->rotary) {
        rotate(made + t * all + compressed + a->rank, turns, a->rotary, entry + t * kept + a->rank);
        for (long h = 0; h < a->heads; h++)
            rotate((uint16_t *)heads.of + t * heads.token + h * each + a->nope, turns, a->rotary,
                   query + (t * a->heads + h) * kept + a->rank);
    }
}

/* Attention of a few tokens over their sequences' caches, in float32: q [n, heads, width], kept [sequences, room, width],
 * token t of sequence t / per sees the first lengths[t] entries -> out [n, heads, rank], their first numbers mixed. */
void attend(const uint16_t *q, const uint16_t *kept, const int64_t *lengths, uint16_t *out, long n, long heads, long width,
            long rank, long room, long per, float scale, int threads) {
    if (n * heads * lengths[0] * width < LARGE) threads = 1;
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
    long width; /* 0: on another rank */
};

/* y [m, dim] = the sum over the n chosen layers of weights [m, n] * down(silu(w1 x) * w3 x), x [m, dim].
 * chosen [m, n] are indices into table. Rounded to BF16 where separate operations would. */
void mlp(const uint16_t *x, const struct mlp *table, const int64_t *chosen, const float *weights, float *y, long m,
         long n, long dim, int threads) {
    for (long t = 0; t < m; t++, x += dim, y += dim, chosen += n, weights += n) {
        long tiles[n + 1], places[n + 1]; /* of each layer, in all that are chosen */
        tiles[0] = places[0] = 0;
        for (long e = 0; e < n; e++) {
            long width = table[chosen[e]].width;
            tiles[e + 1] = tiles[e] + (width + TILE - 1) / TILE;
            places[e + 1] = places[e] + room(width);
        }
        laid hidden[places[n] + 1]; /* as each layer's down wants it */
        memset(hidden, 0, sizeof hidden);
#pragma omp parallel num_threads(threads) if (threads > 1 && places[n] * dim >= LARGE)
        {
            laid own[room(dim)];
            int form = -1;
#pragma omp for
            for (long tile = 0; tile < tiles[n]; tile++) {
                long e = 0;
                while (tile >= tiles[e + 1]) e++;
                struct mlp layer = table[chosen[e]];
                long first = (tile - tiles[e]) * TILE, count = least(TILE, layer.width - first);
                int fp8 = layer.up.scale != 0;
                if (form != fp8) lay(x, dim, form = fp8, own);
                float gate[1][TILE], value[1][TILE];
                dots(layer.up, first, count, dim, own, 1, gate);
                dots(layer.up, layer.width + first, count, dim, own, 1, value);
                for (long r = 0; r < count; r++) {
                    float g = from_bf16(to_bf16(gate[0][r])), v = from_bf16(to_bf16(value[0][r]));
                    g = from_bf16(to_bf16(g / (1 + expf(-g))));
                    long at = layer.down.scale ? place(first + r, layer.width) : first + r;
                    hidden[places[e] + at] = to_laid(to_bf16(g * v));
                }
            }
#pragma omp for
            for (long tile = 0; tile < (dim + TILE - 1) / TILE; tile++) {
                long first = tile * TILE, count = least(TILE, dim - first);
                float total[TILE] = {0};
                for (long e = 0; e < n; e++) {
                    struct mlp layer = table[chosen[e]];
                    if (!layer.width) continue;
                    float sums[1][TILE];
                    dots(layer.down, first, count, layer.width, hidden + places[e], 1, sums);
                    for (long r = 0; r < count; r++) total[r] += weights[e] * from_bf16(to_bf16(sums[0][r]));
                }
                memcpy(y + first, total, count * sizeof *y);
            }
        }
    }
}

/* Indices of the n largest of [count] that are not taken, largest first; of equals the first. They are taken then. */
static void largest(const float *of, long count, long n, uint8_t *taken, int64_t *out) {
    for (long i = 0; i < n; i++) {
        long best = -1;
        for (long j = 0; j < count; j++)
            if (!taken[j] && (best < 0 || of[j] > of[best])) best = j;
        taken[out[i] = best] = 1;
    }
}

/* The router: w [experts, dim] BF16, bias [experts] or none; n experts from the best ``kept`` of groups. */
struct router {
    const void *w;
    const float *bias;
    long experts, groups, kept, n;
    int softmax, normalise;
    float scale;
};

/* x [m, dim] -> chosen [m, 1 + n] and weights: first the shared experts, as number ``experts`` with weight 1. */
void route(const struct router *a, uint16_t *x, int64_t *chosen, float *weights, long m, long dim, int threads) {
    long experts = a->experts, size = experts / a->groups;
    float scores[m * experts], choice[experts], best[a->groups];
    linear(x, a->w, 0, scores, m, 1, experts, dim, 1, threads);
    for (long t = 0; t < m; t++, chosen += 1 + a->n, weights += 1 + a->n) {
        float *s = scores + t * experts, most = -INFINITY, sum = 0;
        for (long i = 0; i < experts; i++) most = s[i] > most ? s[i] : most;
        for (long i = 0; i < experts; i++) {
            s[i] = a->softmax ? expf(s[i] - most) : 1 / (1 + expf(-s[i]));
            sum += s[i];
        }
        for (long i = 0; i < experts; i++) {
            if (a->softmax) s[i] /= sum;
            choice[i] = a->bias ? s[i] + a->bias[i] : s[i];
        }
        /* V3 scores a group by its best two experts, V2, which has no bias, by its best one. */
        uint8_t taken[experts], out[a->groups];
        int64_t two[2], groups[a->kept];
        memset(taken, 0, sizeof taken);
        memset(out, 0, sizeof out);
        if (a->kept < a->groups) {
            for (long g = 0; g < a->groups; g++) {
                long some = a->bias ? 2 : 1;
                largest(choice + g * size, size, some, taken + g * size, two);
                best[g] = choice[g * size + two[0]] + (some == 2 ? choice[g * size + two[1]] : 0);
            }
            memset(taken, 1, sizeof taken);
            largest(best, a->groups, a->kept, out, groups);
            for (long g = 0; g < a->kept; g++) memset(taken + groups[g] * size, 0, size);
        }
        chosen[0] = experts, weights[0] = 1, sum = 0;
        largest(choice, experts, a->n, taken, chosen + 1);
        for (long i = 1; i <= a->n; i++) sum += weights[i] = s[chosen[i]];
        float divisor = a->normalise ? sum + 1e-20f : 1;
        for (long i = 1; i <= a->n; i++) weights[i] = weights[i] / divisor * a->scale;
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
