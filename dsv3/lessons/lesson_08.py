"""The parts of lesson 08: Triton kernels, and how they are launched.

Letters: M tokens, N outputs, K inputs, H heads, T tokens in the cache, C latent rank, R rotary width. Where a layout is
not said, tensors are contiguous, and numbers are added in float32. A kernel calls no other part: ``transplant_08`` puts
them together. They are judged apart (``apart.py``), so this module can be imported where there is no Triton.
"""

from functools import partial

import torch

from ..lab.kernels import triton_here
from . import apart
from .inputs_08 import (
    BF16,
    attended,
    blocks,
    coded,
    dequantised,
    far_below,
    gate_and_up,
    launches,
    merged,
    multiplied,
    pieces_of,
    product,
    quantised,
    random,
    runs,
    tokens,
)
from .lesson_08_transfers import TRANSFERS
from .part import Fault, Part, Witness

__all__ = ["PARTS", "TRANSFERS"]
triton, tl = triton_here()

# ---------------------------------------------------------------------------------------------------- the parts


def launched(kernel, a, b):
    """kernel: swiglu, as above. a, b [M, N], their rows stride(0) apart -> y [M, N] of their dtype.

    Tiles of 256 columns, 4 warps for each program.
    """
    M, N = a.shape
    y = torch.empty(M, N, dtype=a.dtype, device=a.device)
    grid = (M, triton.cdiv(N, 256))
    kernel[grid](a, b, y, N, a.stride(0), b.stride(0), y.stride(0), BLOCK=256, num_warps=4)
    return y


@triton.jit
def quant(x_ptr, q_ptr, scale_ptr, BLOCK: tl.constexpr):
    """Program i: run i of BLOCK numbers x -> its FP8 numbers q, and its scale (float32).

    A run of zeros gets the scale 1.
    """
    run = tl.program_id(0)
    at = run * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at).to(tl.float32)
    largest = tl.max(tl.abs(x), 0)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    tl.store(q_ptr + at, (x / scale).to(q_ptr.dtype.element_ty))
    tl.store(scale_ptr + run, scale)


@triton.jit
def dequant(w_ptr, scale_ptr, out_ptr, M, N, BLOCK: tl.constexpr):
    """Program (i, j): block (i, j) of w [M, N] FP8, times its one scale, in float32 -> out [M, N].

    scale [ceil(M / BLOCK), ceil(N / BLOCK)]. Blocks at the edges may be ragged.
    """
    i, j = tl.program_id(0), tl.program_id(1)
    rows, columns = i * BLOCK + tl.arange(0, BLOCK), j * BLOCK + tl.arange(0, BLOCK)
    at = rows[:, None] * N + columns[None, :]
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    w = tl.load(w_ptr + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + i * tl.cdiv(N, BLOCK) + j)
    tl.store(out_ptr + at, (w * scale).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gemm(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, y_ptr, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (i, j): tile [BLOCK_M, BLOCK_N] of y [M, N] = a b^T, a [M, K] and b [N, K] in FP8.

    a_scale [M, K / BLOCK], b_scale [ceil(N / BLOCK), K / BLOCK].
    BLOCK_N divides BLOCK, and BLOCK divides K.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner, blocks = tl.arange(0, BLOCK), K // BLOCK
    # yours from here
    b_scales = b_scale_ptr + tl.program_id(1) * BLOCK_N // BLOCK * blocks
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(blocks):
        a_at = rows[:, None] * K + k * BLOCK + inner[None, :]
        b_at = columns[None, :] * K + k * BLOCK + inner[:, None]  # b is [N, K]: read as its transpose
        a = tl.load(a_ptr + a_at, mask=(rows < M)[:, None], other=0.0)
        b = tl.load(b_ptr + b_at, mask=(columns < N)[None, :], other=0.0)
        a_scale = tl.load(a_scale_ptr + rows * blocks + k, mask=rows < M, other=0.0)
        acc += tl.dot(a, b) * a_scale[:, None] * tl.load(b_scales + k)
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    at = rows[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, acc.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def piece(
    q_ptr, cache_ptr, length_ptr, out_ptr, lse_ptr, scale, H, pieces,
    C: tl.constexpr, R: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Program (m, p): all heads of query m, over piece p of the length[m] tokens that it sees.

    q [M, H, C + R], cache [T, C + R] -> out [M, pieces, H, C] and lse [M, pieces, H], the logarithm
    of the sum of exp(score). A piece without tokens gives 0 and -inf.
    """
    m, p = tl.program_id(0), tl.program_id(1)
    heads, latent, rotary = tl.arange(0, BLOCK_H), tl.arange(0, C), tl.arange(0, R)
    real, row = (heads < H)[:, None], (m * H + heads)[:, None] * (C + R)
    q_c = tl.load(q_ptr + row + latent[None, :], mask=real, other=0.0)
    q_pe = tl.load(q_ptr + row + C + rotary[None, :], mask=real, other=0.0)
    length = tl.load(length_ptr + m)
    first = tl.cdiv(length, pieces * BLOCK_T) * BLOCK_T * p  # the piece's first token
    end = tl.minimum(tl.cdiv(length, pieces * BLOCK_T) * BLOCK_T * (p + 1), length)
    best = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    mixed = tl.zeros([BLOCK_H, C], tl.float32)
    # yours from here
    for start in range(first, end, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        seen, at = t < end, t[:, None] * (C + R)
        c = tl.load(cache_ptr + at + latent[None, :], mask=seen[:, None], other=0.0)
        k_pe = tl.load(cache_ptr + at + C + rotary[None, :], mask=seen[:, None], other=0.0)
        scores = (tl.dot(q_c, tl.trans(c)) + tl.dot(q_pe, tl.trans(k_pe))) * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        better = tl.maximum(best, tl.max(scores, 1))
        weights, shrink = tl.exp(scores - better[:, None]), tl.exp(best - better)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(c.dtype), c)
        best = better
    at, safe = (m * pieces + p) * H + heads, tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + at[:, None] * C + latent[None, :], mixed / safe[:, None], mask=real)
    tl.store(lse_ptr + at, best + tl.log(safe), mask=heads < H)


@triton.jit
def merge(out_ptr, lse_ptr, y_ptr, H, pieces, C: tl.constexpr, PIECES: tl.constexpr):
    """Program (m, h): head h of query m: out [M, pieces, H, C], lse [M, pieces, H] -> y [M, H, C].

    PIECES is the next power of two; the first piece always has tokens.
    """
    m, h, p, latent = tl.program_id(0), tl.program_id(1), tl.arange(0, PIECES), tl.arange(0, C)
    at = (m * pieces + p) * H + h
    # yours from here
    lse = tl.load(lse_ptr + at, mask=p < pieces, other=float("-inf"))
    out = tl.load(out_ptr + at[:, None] * C + latent[None, :], mask=(p < pieces)[:, None], other=0.0)
    weights = tl.exp(lse - tl.max(lse, 0))
    y = tl.sum(out * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(y_ptr + (m * H + h) * C + latent, y.to(y_ptr.dtype.element_ty))


# --------------------------------------------------------------------------------------------------- the checks

FP8_CAST = ".to(q_ptr.dtype.element_ty)"
judged = partial(apart.outcomes, "08")

PARTS = [
    Part(
        launched, "grid, strides and launch of a kernel", 1, 10,
        "A launch is `kernel[grid](a, b, ...)`. The grid says how many programs there are along each axis: a row for each "
        "i, and `triton.cdiv(N, 256)` tiles for j. `x.stride(0)` is the distance of two rows in memory, in elements.",
        (
            Witness("the grid is (rows, tiles): M programs along the first axis", lambda: gate_and_up(3, 256, False), launches),
            Witness("N is no multiple of 256: the last tile is a program, too", lambda: gate_and_up(2, 300, False), launches),
            Witness("a and b are halves of one matrix: their rows lie 2 N apart", lambda: gate_and_up(3, 40), launches),
            Witness("a and b have strides of their own", lambda: (gate_and_up(2, 520)[0], gate_and_up(2, 520, False)[1]), launches),
        ),
        (
            Fault("(M, triton.cdiv(N, 256))", "(M, N // 256)", "the grid rounds down: the last columns belong to no program (triton.cdiv rounds up)"),
            Fault("(M, triton.cdiv(N, 256))", "(triton.cdiv(N, 256), M)", "the grid's axes are swapped: program_id(0) is the row, program_id(1) the tile"),
            Fault("(M, triton.cdiv(N, 256))", "(M, 1)", "the grid has one tile a row: it needs ceil(N / 256) of them"),
            Fault("a.stride(0), b.stride(0), y.stride(0)", "N, N, N", "rows are N apart only in a contiguous matrix: pass a.stride(0) and b.stride(0)"),
            Fault("a.stride(0), b.stride(0), y.stride(0)", "a.stride(0), b.stride(0), a.stride(0)", "y is contiguous, with a stride of its own: pass y.stride(0)"),
            Fault("a.stride(0), b.stride(0)", "a.stride(0), a.stride(0)", "b has a stride of its own: pass b.stride(0)"),
            Fault("(a, b, y, N", "(b, a, y, N", "a and b are swapped: silu belongs to the first"),
            Fault("dtype=a.dtype", "dtype=torch.float32", "y must have the dtype of a"),
        ),
        together=judged,
    ),
    Part(
        quant, "BF16 to FP8, a scale for each run", 2, 12,
        "Addresses: `run * BLOCK + tl.arange(0, BLOCK)`. `tl.max(tl.abs(x), 0)` is one number for the program. "
        "`tl.where(condition, this, other)` chooses. The cast is `.to(q_ptr.dtype.element_ty)`.",
        (
            Witness("the largest number of a run becomes 448", lambda: (random(1, 32, dtype=BF16),), quantised(32)),
            Witness("a run that holds 448 has scale 1, and 126 becomes 128", lambda: coded(126.0, -250.0, 100.0, 3.3), quantised(32)),
            Witness("the largest is the largest without its sign", lambda: (-random(1, 64, dtype=BF16).abs() - 0.1,), quantised(32)),
            Witness("each run has a scale of its own", lambda: runs(4, 96, (1.0, 50.0, 0.02)), quantised(32)),
            Witness("a run of zeros has the scale 1, and zeros", lambda: runs(2, 128, zero=True), quantised(32)),
            Witness("tiny numbers are divided by a tiny scale", lambda: runs(2, 64, (1e-6, 3e-9)), quantised(32)),
            Witness("other lengths of a run, float32", lambda: (random(3, 256),), quantised(128)),
        ),
        (
            Fault("largest / 448.0", "largest / 240.0", "e4m3's largest number is 448 (240 is that of AMD's variant)"),
            Fault("tl.abs(x)", "x", "the largest without its sign: tl.abs before tl.max"),
            Fault("tl.where(largest > 0, largest / 448.0, 1.0)", "largest / 448.0", "a run of zeros: its scale is 0, and 0 / 0 is NaN; give it the scale 1"),
            Fault("tl.where(largest > 0, largest / 448.0, 1.0)", "tl.maximum(largest, 1e-4) / 448.0", "a floor of 1e-4, as in DeepSeek's demo: small numbers lose their digits, and a run of zeros should have the scale 1"),
            Fault("tl.where(largest > 0, largest / 448.0, 1.0)", "tl.minimum(largest, 1e-4) / 448.0", "the SMALLER of the maximum and 1e-4: everything saturates (DeepSeek-V3 #968)"),
            Fault("(x / scale)", "(x * scale)", "the numbers are divided by their scale, not multiplied: x is about q * scale"),
            Fault("(scale_ptr + run, scale)", "(scale_ptr + run, 1.0 / scale)", "the inverse is stored: the scale multiplies when dequantising, so it is largest / 448"),
            Fault("(scale_ptr + run, scale)", "(scale_ptr + run * BLOCK, scale)", "one scale a run: scale number `run` lies at scale_ptr + run"),
            Fault("run * BLOCK + tl.arange(0, BLOCK)", "tl.arange(0, BLOCK)", "every program works on run 0: run * BLOCK is missing"),
        ),
        together=judged,
    ),
    Part(
        dequant, "FP8 to BF16, a scale for each block", 2, 12,
        "A column of row numbers and a row of column numbers make a tile of addresses: `rows[:, None] * N + "
        "columns[None, :]`. The mask combines both edges with `&`. The matrix of scales has `tl.cdiv(N, BLOCK)` columns.",
        (
            Witness("one block: q times its scale", lambda: blocks(32, 32, 32), dequantised(32)),
            Witness("each block has its scale, and the blocks of a row lie side by side", lambda: blocks(64, 96, 32), dequantised(32)),
            Witness("the last rows and columns belong to ragged blocks", lambda: blocks(70, 100, 32), dequantised(32)),
            Witness("more rows than columns", lambda: blocks(100, 20, 16), dequantised(16)),
            Witness("the result's type is that of out", lambda: blocks(20, 200, 128), dequantised(128, torch.float32)),
        ),
        (
            Fault("rows[:, None] * N", "rows[:, None] * M", "rows of a [M, N] matrix are N apart, not M"),
            Fault("i * tl.cdiv(N, BLOCK) + j", "i * (N // BLOCK) + j", "the matrix of scales has ceil(N / BLOCK) columns: tl.cdiv rounds up"),
            Fault("i * tl.cdiv(N, BLOCK) + j", "j * tl.cdiv(M, BLOCK) + i", "the scales are transposed: block (i, j) has the scale in row i, column j"),
            Fault("i * tl.cdiv(N, BLOCK) + j", "i", "one scale for a whole row of blocks: column j is missing"),
            Fault("w * scale", "w / scale", "dequantising multiplies by the scale"),
            Fault("(rows < M)[:, None] & (columns < N)[None, :]", "(rows < M)[:, None] & (columns < M)[None, :]", "columns end at N, not at M"),
            Fault("(w * scale).to(out_ptr.dtype.element_ty)", "w.to(tl.bfloat16) * scale.to(tl.bfloat16)", "multiply in float32, and round once: the scale has more digits than BF16"),
            Fault("(w * scale).to(out_ptr.dtype.element_ty)", "(w * scale).to(tl.bfloat16)", "the result has the type of out, which need not be BF16: out_ptr.dtype.element_ty"),
            Fault(".to(out_ptr.dtype.element_ty), mask=inside)", ".to(out_ptr.dtype.element_ty), mask=(columns < N)[None, :])", "the masks need both edges: rows < M, too, or a program leaves the matrix"),
        ),
        together=judged,
    ),
    Part(
        gemm, "FP8 product with block scales", 3, 15,
        "Begin with `acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)`. For each block k of K load a tile of a, [BLOCK_M, "
        "BLOCK], and a tile of b as its transpose, [BLOCK, BLOCK_N]: `columns[None, :] * K + k * BLOCK + inner[:, None]`. "
        "`tl.dot(a, b)` is their sum in codes. It becomes numbers by the rows' scales (a column) and by one scale of b.",
        (
            Witness("one block of K: codes times both scales", lambda: product(16, 32, 32), multiplied(16, 32)),
            Witness("each block of K is rescaled before it joins the sum", lambda: product(16, 32, 96), multiplied(16, 32)),
            Witness("each row of a, and each block of rows of b, has scales of its own", lambda: product(32, 64, 64), multiplied(16, 32)),
            Witness("two tiles share a block of b's scales: BLOCK_N may be smaller than BLOCK", lambda: product(16, 64, 64), multiplied(16, 16)),
            Witness("M and N are ragged", lambda: product(21, 50, 64), multiplied(16, 32)),
            Witness("the result's type is that of y", lambda: product(5, 40, 96), multiplied(16, 16, dtype=BF16)),
        ),
        (
            Fault("acc += tl.dot(a, b) * a_scale[:, None] * tl.load(b_scales + k)", "acc += tl.dot(a, b)", "the sums are in codes: each block needs its two scales"),
            Fault("        acc += tl.dot(a, b) * a_scale[:, None] * tl.load(b_scales + k)\n", "        acc += tl.dot(a, b)\n    acc = acc * a_scale[:, None] * tl.load(b_scales + k)\n", "rescaled once, after the loop: each block of K has its own unit, so rescale before you add"),
            Fault(" * tl.load(b_scales + k)", "", "b's scale is missing"),
            Fault(" * a_scale[:, None]", "", "a's scales are missing: one for each row and block"),
            Fault("rows * blocks + k", "rows * blocks", "a's scale of block 0 is used for all blocks of K"),
            Fault("tl.load(b_scales + k)", "tl.load(b_scales)", "b's scale of block 0 is used for all blocks of K"),
            Fault("tl.program_id(1) * BLOCK_N // BLOCK * blocks", "tl.program_id(1) * blocks", "b's scales belong to BLOCK rows of b, not to BLOCK_N: the block of column n is n // BLOCK"),
            Fault("tl.program_id(1) * BLOCK_N // BLOCK * blocks", "0", "all tiles use the first row of b's scales"),
            Fault("for k in range(blocks)", "for k in range(blocks - 1)", "the last block of K is left out"),
            Fault("acc += ", "acc = ", "each block overwrites the sum: add to acc"),
            Fault(", mask=inside)", ", mask=(rows < M)[:, None])", "the store's mask needs both edges: columns < N, too, or a program leaves y"),
            Fault("acc.to(y_ptr.dtype.element_ty)", "acc.to(tl.bfloat16)", "the result is rounded to BF16 although y is float32: cast to y_ptr.dtype.element_ty"),
        ),
        together=judged,
    ),
    Part(
        piece, "decode attention over a piece of the cache", 3, 15,
        "In each step the best score may rise from `best` to `better`. What was summed before is worth less then, by "
        "`tl.exp(best - better)`: shrink total and mixed by it, then add this step's. At the end divide, and store "
        "best + log(total). Guard a total of 0 with `tl.where`.",
        (
            Witness("one token: the result is its latent, the logsumexp its score", lambda: tokens([1], 1), attended(1)),
            Witness("one step: softmax of q_c times latent plus q_pe times rotated key", lambda: tokens([16], 16), attended(1)),
            Witness("several steps: what was summed before shrinks when a better score comes", lambda: tokens([48], 48, size=3.0), attended(1)),
            Witness("tokens from length on are not looked at", lambda: tokens([21, 5], 40), attended(1)),
            Witness("each piece has its own tokens", lambda: tokens([70], 70, H=2), attended(3)),
            Witness("a piece without tokens gives 0 and -inf", lambda: tokens([20, 33], 33), attended(4)),
            Witness("large scores must not overflow", lambda: tokens([40], 40, size=200.0), attended(2)),
            Witness("scores may be far below 0: the best score begins at -inf, not at 0", far_below, attended(1)),
            Witness("in BF16 the weights are cast for the second product", lambda: tokens([30], 30, dtype=BF16), attended(1)),
        ),
        (
            Fault("(tl.dot(q_c, tl.trans(c)) + tl.dot(q_pe, tl.trans(k_pe)))", "tl.dot(q_c, tl.trans(c))", "the rotated part is missing: a score is q_c times latent PLUS q_pe times rotated key"),
            Fault(") * scale\n", ")\n", "the scores are not multiplied by scale"),
            Fault("mixed * shrink[:, None] + ", "mixed + ", "mixed must shrink, too, when a better score comes"),
            Fault("total * shrink + ", "total + ", "total must shrink, too, when a better score comes"),
            Fault("        scores = tl.where(seen[None, :], scores, float(\"-inf\"))\n", "", "the tokens after the end get the score 0, which is an ordinary score: set it to -inf"),
            Fault("mixed / safe[:, None]", "mixed", "the mixed latents are not divided by the sum of the weights"),
            Fault("best + tl.log(safe)", "tl.log(safe)", "the logsumexp is best + log(total): best was taken away before"),
            Fault("best + tl.log(safe)", "best + tl.log2(safe)", "the natural logarithm belongs to exp: tl.log, not tl.log2"),
            Fault("best + tl.log(safe)", "best", "the logsumexp is best + log(total), not the best score alone"),
            Fault("range(first, end, BLOCK_T)", "range(0, end, BLOCK_T)", "every piece begins at token 0: it begins at first"),
            Fault("tl.where(total > 0, total, 1.0)", "total", "a piece without tokens: total is 0, and 0 / 0 is NaN"),
            Fault("(m * pieces + p) * H + heads", "(p * pieces + m) * H + heads", "out is [M, pieces, H, C]: row (m * pieces + p) * H + head"),
        ),
        together=judged,
    ),
    Part(
        merge, "pieces merged by their logsumexps", 2, 10,
        "A piece's weight is exp(lse), its share of the whole softmax's sum. Take the largest lse away first, so that "
        "nothing overflows; divide by the sum of the weights.",
        (
            Witness("one piece: y is its result", lambda: pieces_of(1, 1, 2), merged(1)),
            Witness("pieces are weighed by exp(lse), and the weights add up to 1", lambda: pieces_of(1, 4, 3), merged(4)),
            Witness("each query and each head has its own pieces", lambda: pieces_of(3, 2, 5), merged(2)),
            Witness("pieces need not be a power of two", lambda: pieces_of(2, 3, 2), merged(4)),
            Witness("large logsumexps must not overflow", lambda: pieces_of(1, 5, 2, spread=200.0), merged(8)),
            Witness("a piece without tokens has lse -inf, and no weight", lambda: pieces_of(2, 4, 3, empty_ones=2), merged(4)),
            Witness("the result's type is that of y", lambda: pieces_of(1, 3, 2, C=64), merged(4, BF16)),
        ),
        (
            Fault("tl.exp(lse - tl.max(lse, 0))", "tl.where(p < pieces, 1.0, 0.0)", "a plain mean: a piece's weight is exp(lse)"),
            Fault("tl.exp(lse - tl.max(lse, 0))", "tl.exp(lse)", "exp overflows: take the largest lse away first"),
            Fault("tl.exp(lse - tl.max(lse, 0))", "tl.exp2(lse - tl.max(lse, 0))", "lse is a natural logarithm: tl.exp, not tl.exp2"),
            Fault("tl.exp(lse - tl.max(lse, 0))", "tl.where(p < pieces, lse, 0.0)", "the weight of a piece is exp(lse), not lse"),
            Fault(" / tl.sum(weights, 0)", "", "the weights do not add up to 1: divide by their sum"),
            Fault("other=float(\"-inf\")", "other=0.0", "pieces that do not exist get lse 0, and so a weight: -inf has none"),
            Fault("(m * H + h) * C + latent", "(h * H + m) * C + latent", "y is [M, H, C]: head h of query m begins at (m * H + h) * C"),
        ),
        together=judged,
    ),
]  # fmt: skip
