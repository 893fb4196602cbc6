"""MLA decoding for Hopper in Gluon, Triton's lower level: warps, shared memory and barriers are written down.

``mla_decode_kernel`` (mla.py) computes scores, then their softmax, then the mixed latents, and each waits for the one
before: while the softmax is computed, the matrix units stand idle, and while they work, so does all else. Here a
program has three parts that run at the same time and speak through barriers in shared memory:

    loader   1 warp    the queries, then step after step of 64 tokens from the cache, by TMA (copies without threads)
    left     4 warps   scores, softmax, and columns 0 to 255 of the mixed latents
    right    4 warps   columns 256 to 511, with the weights that ``left`` computed

The columns have to be shared out: the sums of 64 heads, 64 x 512 float32, are 128 KB, and the registers of four warps
(a warp group, which multiplies together) hold 130 KB at most. Two groups read each latent once from the cache, and
``right`` multiplies while ``left`` is at the next step's scores and softmax.

A barrier counts arrivals; whoever waits for it names the parity of the round meant. In each round of

    queries            the loader's copy of the queries has arrived (one round)
    full[stage]        the loader's copy of a step's tokens has arrived
    free[stage]        both groups have read that step's tokens: the loader may write over them
    weights_full       ``left`` has put a step's weights, and what they shrink older sums by, into shared memory
    weights_free       ``right`` has read them: ``left`` may write over them

Letters: M new tokens, H heads of each, C latent rank (512), R rotary width (64). ``mla_hopper`` launches it.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

group_barrier = getattr(gl, "barrier", None) or gl.thread_barrier  # Triton 3.6 has the second name, 3.7 the first

HEADS = gl.constexpr(64)  # of a program: the rows of a warp group's product
TOKENS = gl.constexpr(64)  # of a step
C, R = gl.constexpr(512), gl.constexpr(64)
HALF = gl.constexpr(256)  # of C
STAGES = gl.constexpr(2)  # steps in shared memory: 147 KB; the queries are 74 KB of its 227
TILE_BYTES = gl.constexpr(64 * (512 + 64) * 2)  # of a step's tokens, and of the queries
# How a product's result lies in the registers of four warps: 16 rows each, all columns of 64 or 256.
SCORES = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
SUMS = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 256, 16]))


@gluon.jit
def load(
    q_c_desc, q_pe_desc, c_desc, k_pe_desc, q_c, q_pe, c, k_pe, queries, full, free, first_head, first_row, steps,
):  # fmt: skip
    """The loader: asks for the queries once, and for a step's tokens as soon as the stage is free."""
    mbarrier.expect(queries, TILE_BYTES)
    tma.async_copy_global_to_shared(q_c_desc, [first_head, 0], queries, q_c)
    tma.async_copy_global_to_shared(q_pe_desc, [first_head, 0], queries, q_pe)
    for i in range(steps):
        stage = i % STAGES
        # The first round of a barrier has parity 0; waiting for the round before it returns at once.
        mbarrier.wait(free.index(stage), ((i // STAGES) & 1) ^ 1)
        mbarrier.expect(full.index(stage), TILE_BYTES)
        row = first_row + i * TOKENS
        tma.async_copy_global_to_shared(c_desc, [row, 0], full.index(stage), c.index(stage))
        tma.async_copy_global_to_shared(k_pe_desc, [row, 0], full.index(stage), k_pe.index(stage))


@gluon.jit
def clear(c, token, length):
    """Latents behind the sequence's end become 0: whatever lies there may be NaN, and 0 x NaN would be NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    seen = (token + gl.arange(0, TOKENS, layout=gl.SliceLayout(1, layout)) < length)[:, None]
    for i in gl.static_range(C // 64):
        piece = c.slice(i * 64, 64, dim=1)
        value = piece.load(layout)
        piece.store(gl.where(seen, value, gl.zeros_like(value)))
    # The matrix units read shared memory by another way than threads write it; they must not overtake.
    fence_async_shared()
    group_barrier()


@gluon.jit
def softmax(scores, best, total, token, length, scale_log2e):
    """A step of the running softmax -> its weights in BF16, what older sums shrink by, the new best and total."""
    tokens = token + gl.arange(0, TOKENS, layout=gl.SliceLayout(0, SCORES))
    scores = gl.where((tokens < length)[None, :], scores * scale_log2e, float("-inf"))
    # Each step has at least one token, so the new best is finite: no inf - inf.
    better = gl.maximum(best, gl.max(scores, 1))
    weights = gl.exp2(scores - better[:, None])
    shrink = gl.exp2(best - better)
    return weights.to(gl.bfloat16), shrink, better, total * shrink + gl.sum(weights, 1)


@gluon.jit
def publish(weights_at, factor_at, weights_full, weights_free, weights, factor, i):
    """Hand step ``i``'s weights and factor to ``right``, once it has read those before."""
    mbarrier.wait(weights_free, (i & 1) ^ 1)
    weights_at.store(weights)
    factor_at.store(factor)
    fence_async_shared()
    group_barrier()
    mbarrier.arrive(weights_full, count=1)


@gluon.jit
def store(sums, part_ptr, first_head, stop, split, splits, first_column):
    """Half of the columns of the part's mixed latents; heads from ``stop`` on are the next token's, or nobody's."""
    heads = first_head + gl.arange(0, HEADS, layout=gl.SliceLayout(1, SUMS))
    columns = first_column + gl.arange(0, HALF, layout=gl.SliceLayout(0, SUMS))
    at = (heads.to(gl.int64) * splits + split)[:, None] * C + columns[None, :]
    gl.store(part_ptr + at, sums, mask=(heads < stop)[:, None] & (columns >= 0)[None, :])


@gluon.jit
def left(
    q_c, q_pe, c, k_pe, weights_at, factor_at, queries, full, free, weights_full, weights_free, part_ptr, lse_ptr,
    first_head, stop, split, splits, first_token, steps, length, scale_log2e,
):  # fmt: skip
    """Scores, softmax, and the left half of the columns, one step's product behind the next step's scores."""
    rows: gl.constexpr = gl.SliceLayout(1, SCORES)
    best = gl.full([HEADS], float("-inf"), gl.float32, rows)
    total = gl.zeros([HEADS], gl.float32, rows)
    sums = gl.zeros([HEADS, HALF], gl.float32, SUMS)
    zero = gl.zeros([HEADS, TOKENS], gl.float32, SCORES)
    mbarrier.wait(queries, 0)
    if steps > 0:
        mbarrier.wait(full.index(0), 0)
        if first_token + TOKENS > length:
            clear(c.index(0), first_token, length)
        found = warpgroup_mma(q_c, c.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
        found = warpgroup_mma(q_pe, k_pe.index(0).permute((1, 0)), found, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[found])
        weights, shrink, best, total = softmax(scores, best, total, first_token, length, scale_log2e)
        publish(weights_at, factor_at, weights_full, weights_free, weights, shrink, 0)
        for i in range(steps - 1):
            now, then = i % STAGES, (i + 1) % STAGES
            mixed = warpgroup_mma(weights_at, c.index(now).slice(0, HALF, dim=1), sums, is_async=True)
            mbarrier.wait(full.index(then), ((i + 1) // STAGES) & 1)
            token = first_token + (i + 1) * TOKENS
            if token + TOKENS > length:
                clear(c.index(then), token, length)
            found = warpgroup_mma(q_c, c.index(then).permute((1, 0)), zero, use_acc=False, is_async=True)
            found = warpgroup_mma(q_pe, k_pe.index(then).permute((1, 0)), found, is_async=True)
            # All but the last two: the mixed latents are there, the scores may still be computed.
            sums = warpgroup_mma_wait(2, deps=[mixed])
            mbarrier.arrive(free.index(now), count=1)
            scores = warpgroup_mma_wait(0, deps=[found])
            weights, shrink, best, total = softmax(scores, best, total, token, length, scale_log2e)
            sums = sums * gl.convert_layout(shrink, gl.SliceLayout(1, SUMS))[:, None]
            publish(weights_at, factor_at, weights_full, weights_free, weights, shrink, i + 1)
        last = (steps - 1) % STAGES
        mixed = warpgroup_mma(weights_at, c.index(last).slice(0, HALF, dim=1), sums, is_async=True)
        sums = warpgroup_mma_wait(0, deps=[mixed])
    # A part without tokens has the weight 2^-inf = 0. The last thing that ``right`` is told is what to divide by.
    safe = gl.where(total > 0, total, 1.0)
    mbarrier.wait(weights_free, (steps & 1) ^ 1)
    factor_at.store(1.0 / safe)
    fence_async_shared()
    group_barrier()
    mbarrier.arrive(weights_full, count=1)
    sums = sums * gl.convert_layout(1.0 / safe, gl.SliceLayout(1, SUMS))[:, None]
    store(sums, part_ptr, first_head, stop, split, splits, 0)
    heads = first_head + gl.arange(0, HEADS, layout=rows)
    gl.store(lse_ptr + heads.to(gl.int64) * splits + split, best + gl.log2(safe), mask=heads < stop)


@gluon.jit
def right(
    c, weights_at, factor_at, full, free, weights_full, weights_free, part_ptr, first_head, stop, split, splits, steps,
):  # fmt: skip
    """The right half of the columns, a step behind ``left``."""
    rows: gl.constexpr = gl.SliceLayout(1, SUMS)
    sums = gl.zeros([HEADS, HALF], gl.float32, SUMS)
    for i in range(steps):
        stage = i % STAGES
        mbarrier.wait(weights_full, i & 1)
        mbarrier.wait(full.index(stage), (i // STAGES) & 1)
        sums = sums * factor_at.load(rows)[:, None]
        mixed = warpgroup_mma(weights_at, c.index(stage).slice(HALF, HALF, dim=1), sums, is_async=True)
        sums = warpgroup_mma_wait(0, deps=[mixed])
        mbarrier.arrive(weights_free, count=1)
        mbarrier.arrive(free.index(stage), count=1)
    mbarrier.wait(weights_full, steps & 1)
    sums = sums * factor_at.load(rows)[:, None]
    store(sums, part_ptr, first_head, stop, split, splits, HALF)


@gluon.jit(do_not_specialize=["H", "T", "per", "rows", "splits"])
def mla_hopper_kernel(
    q_c_desc, q_pe_desc, c_desc, k_pe_desc, lengths_ptr, part_ptr, lse_ptr, scale_log2e, H, T, splits, per, rows,
):  # fmt: skip
    """Each program: 64 heads of one new token over one part of its sequence, which begins at row b * ``rows``."""
    q_c = gl.allocate_shared_memory(gl.bfloat16, [HEADS, C], q_c_desc.layout)
    q_pe = gl.allocate_shared_memory(gl.bfloat16, [HEADS, R], q_pe_desc.layout)
    c = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TOKENS, C], c_desc.layout)
    k_pe = gl.allocate_shared_memory(gl.bfloat16, [STAGES, TOKENS, R], k_pe_desc.layout)
    weights_at = gl.allocate_shared_memory(gl.bfloat16, [HEADS, TOKENS], q_pe_desc.layout)
    factor_at = gl.allocate_shared_memory(gl.float32, [HEADS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    single = gl.allocate_shared_memory(gl.int64, [3, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    queries, weights_full, weights_free = single.index(0), single.index(1), single.index(2)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(free.index(i), count=2)  # of both groups
    for i in gl.static_range(3):
        mbarrier.init(single.index(i), count=1)
    fence_async_shared()
    split, m = gl.program_id(0), gl.program_id(2)
    first_head, stop = m * H + gl.program_id(1) * HEADS, m * H + H
    length = gl.minimum(gl.load(lengths_ptr + m).to(gl.int32), T)
    # Whole steps, shared out over the splits as evenly as they go.
    every = gl.cdiv(length, TOKENS)
    begin = every * split // splits
    steps = every * (split + 1) // splits - begin
    token = begin * TOKENS
    row = m // per * rows + token
    # ``left`` goes on with the program's own four warps. Registers are shared out anew: ``right`` takes 184 a thread,
    # the loader 24, and what is left, ``left``'s.
    gl.warp_specialize([
        (left, (q_c, q_pe, c, k_pe, weights_at, factor_at, queries, full, free, weights_full, weights_free, part_ptr,
                lse_ptr, first_head, stop, split, splits, token, steps, length, scale_log2e)),
        (right, (c, weights_at, factor_at, full, free, weights_full, weights_free, part_ptr, first_head, stop, split,
                 splits, steps)),
        (load, (q_c_desc, q_pe_desc, c_desc, k_pe_desc, q_c, q_pe, c, k_pe, queries, full, free, first_head, row,
                steps)),
    ], [4, 1], [184, 24])  # fmt: skip
