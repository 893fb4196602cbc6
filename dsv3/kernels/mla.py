"""Triton attention over the latent cache: ``mla_decode``, in the absorbed form.

Letters: M new tokens of B sequences, H heads, T tokens in the cache, C latent rank (512), R rotary width (64).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .hardware import Hardware, hardware_of
from .launch import Launch, run
from .quant import power_of_two


@dataclass(frozen=True)
class Tile:
    """How attention is cut: heads and tokens per step of a program, and how it is run."""

    BLOCK_H: int
    BLOCK_T: int
    num_warps: int
    num_stages: int


# The default first. A program holds its heads' sums, [BLOCK_H, C] float32, in registers: 64 heads x 512 are 128 KB,
# half of a multiprocessor's. All heads read the same cache, so more heads per program read it less often. On an H100
# (2026-11-26) "wgmma" takes 128 heads over 32 x 4,096 tokens in 142, 228, 206 and 295 us; where the first leaves most
# multiprocessors without work, the second is faster (1 x 4,096: 19.1 against 20.8). The other lines: not measured.
TILES = {
    "wgmma": (Tile(64, 64, 8, 2), Tile(16, 64, 4, 2), Tile(64, 32, 8, 2), Tile(32, 32, 4, 2)),
    "tcgen05": (Tile(64, 32, 8, 2), Tile(32, 32, 4, 2), Tile(16, 32, 4, 2)),
    "mma.sync": (Tile(16, 32, 4, 2), Tile(16, 32, 4, 1), Tile(16, 16, 4, 1)),  # 99 KB of shared memory
    "mfma": (Tile(16, 32, 4, 1), Tile(16, 16, 4, 1)),  # 64 KB
}


def candidates(heads: int, itemsize: int, hardware: Hardware) -> list[Tile]:
    """The tiles to try, none with more heads than there are (rounded up to 16, a matrix instruction's least).

    float32, which only tests use, takes the smallest: it needs twice the memory.
    """
    most = max(16, triton.next_power_of_2(heads))
    tiles = [replace(t, BLOCK_H=min(t.BLOCK_H, most)) for t in TILES[hardware.mma if itemsize == 2 else "mma.sync"]]
    if most == 16:
        tiles.sort(key=lambda t: t.num_warps)  # 4 warps: 16 heads over 32 x 4,096 tokens took 62.9 us, with 8 65.8
    return list(dict.fromkeys(tiles)) if itemsize == 2 else tiles[-1:]


def tile_for(queries: int, heads: int, tokens: int, itemsize: int, hardware: Hardware) -> Tile:
    """The first tile, or the first of fewer heads with which half of the multiprocessors or more have work."""
    tiles = candidates(heads, itemsize, hardware)
    narrower = [t for i, t in enumerate(tiles) if all(t.BLOCK_H < other.BLOCK_H for other in tiles[:i])]

    def programs(tile: Tile) -> int:
        without = queries * triton.cdiv(heads, tile.BLOCK_H)
        return without * n_splits(without, tokens, tile.BLOCK_T, hardware)

    return next((t for t in narrower if 2 * programs(t) > hardware.sms), narrower[-1])


@triton.jit
def mla_decode_kernel(
    q_c_ptr, q_pe_ptr, c_ptr, k_pe_ptr, lengths_ptr, part_ptr, lse_ptr, scale_log2e, H, T, splits, per,
    c_stride_b, k_stride_b,
    STRIDE_C: tl.constexpr, STRIDE_K: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_T: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program: BLOCK_H heads of one new token over one part of its sequence, with a running softmax."""
    split, head_block, m = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    b = m // per
    heads = head_block * BLOCK_H + tl.arange(0, BLOCK_H)
    real = (heads < H)[:, None]
    token, latent, rotary = tl.arange(0, BLOCK_T), tl.arange(0, C), tl.arange(0, R)
    row = m * H + heads
    q_c = tl.load(q_c_ptr + row[:, None] * C + latent[None, :], mask=real, other=0.0)
    q_pe = tl.load(q_pe_ptr + row[:, None] * R + rotary[None, :], mask=real, other=0.0)
    length = tl.minimum(tl.load(lengths_ptr + m), T).to(tl.int32)
    # Whole steps, shared out over the splits as evenly as they go.
    steps = tl.cdiv(length, BLOCK_T)
    best = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    mixed = tl.zeros([BLOCK_H, C], tl.float32)
    for step in range(steps * split // splits, steps * (split + 1) // splits):
        t = step * BLOCK_T + token
        seen = t < length
        at = t.to(tl.int64)[:, None]
        c = tl.load(c_ptr + b * c_stride_b + at * STRIDE_C + latent[None, :], mask=seen[:, None], other=0.0)
        k_pe = tl.load(k_pe_ptr + b * k_stride_b + at * STRIDE_K + rotary[None, :], mask=seen[:, None], other=0.0)
        scores = tl.dot(q_c, tl.trans(c), input_precision=PRECISION)
        scores = tl.dot(q_pe, tl.trans(k_pe), scores, input_precision=PRECISION) * scale_log2e
        scores = tl.where(seen[None, :], scores, float("-inf"))
        # Each step has at least one token, so the new best is finite: no inf - inf.
        better = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - better[:, None])
        shrink = tl.exp2(best - better)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(c.dtype), c, mixed * shrink[:, None], input_precision=PRECISION)
        best = better
    # A split without tokens has the weight 2^-inf = 0.
    safe = tl.where(total > 0, total, 1.0)
    part = (row * splits + split)[:, None] * C + latent[None, :]
    tl.store(part_ptr + part, mixed / safe[:, None], mask=real)
    tl.store(lse_ptr + row * splits + split, best + tl.log2(safe), mask=heads < H)


@triton.jit
def mla_combine_kernel(part_ptr, lse_ptr, out_ptr, splits, C: tl.constexpr, PADDED: tl.constexpr):
    """Each program: one head of one new token, the splits' results weighed by their share of the softmax's sum."""
    row = tl.program_id(0).to(tl.int64)
    split, latent = tl.arange(0, PADDED), tl.arange(0, C)
    lse = tl.load(lse_ptr + row * splits + split, mask=split < splits, other=float("-inf"))
    best = tl.max(lse, 0)
    # An empty sequence has no best: its result is 0.
    weights = tl.exp2(lse - tl.where(best > float("-inf"), best, 0.0))
    at = (row * splits + split)[:, None] * C + latent[None, :]
    parts = tl.load(part_ptr + at, mask=(split < splits)[:, None], other=0.0)
    total = tl.sum(weights, 0)
    mixed = tl.sum(parts * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + row * C + latent, mixed.to(out_ptr.dtype.element_ty))


def n_splits(programs: int, tokens: int, block: int, hardware: Hardware) -> int:
    """Into how many parts the context is cut: one program for each multiprocessor, none of less than 2 steps."""
    return max(1, min(hardware.sms // max(programs, 1), tokens // (2 * block), 64))


def plan_mla_parts(
    q_c: Tensor,
    q_pe: Tensor,
    c: Tensor,
    k_pe: Tensor,
    lengths: Tensor,
    softmax_scale: float,
    hardware: Hardware | None = None,
    tile: Tile | None = None,
) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """What ``mla_parts`` returns, still to be filled, and the launch that fills it."""
    reference.check_mla(q_c, q_pe, c, k_pe, lengths)
    (m, h, rank), r, (b, t, _) = q_c.shape, q_pe.shape[2], c.shape
    power_of_two(rank, "mla_decode: C =")
    power_of_two(r, "mla_decode: R =")
    hardware = hardware or hardware_of(q_c.device)
    tile = tile or tile_for(m, h, t, q_c.itemsize, hardware)
    head_blocks = triton.cdiv(h, tile.BLOCK_H)
    splits = n_splits(m * head_blocks, t, tile.BLOCK_T, hardware)
    # A cache may be a view of a longer one; only its last dimension must be dense.
    c, k_pe = (x if x.stride(-1) == 1 else x.contiguous() for x in (c, k_pe))
    part = torch.empty(m, h, splits, rank, dtype=torch.float32, device=q_c.device)
    lse = torch.empty(m, h, splits, dtype=torch.float32, device=q_c.device)
    args: dict[str, Any] = {"q_c_ptr": q_c.contiguous(), "q_pe_ptr": q_pe.contiguous(), "c_ptr": c, "k_pe_ptr": k_pe}
    args |= {"lengths_ptr": lengths.contiguous(), "part_ptr": part, "lse_ptr": lse}
    args |= {"scale_log2e": softmax_scale * math.log2(math.e), "H": h, "T": t, "per": max(m // max(b, 1), 1)}
    args |= {"c_stride_b": c.stride(0), "k_stride_b": k_pe.stride(0)}
    args |= {"STRIDE_C": c.stride(1), "STRIDE_K": k_pe.stride(1)}
    args |= {"C": rank, "R": r, "BLOCK_H": tile.BLOCK_H, "BLOCK_T": tile.BLOCK_T, "splits": splits}
    args["PRECISION"] = "ieee" if c.dtype == torch.float32 else None
    launch = Launch(mla_decode_kernel, (splits, head_blocks, m), args, tile.num_warps, tile.num_stages)
    return (part, lse), [launch]


def fits(c: Tensor, k_pe: Tensor) -> bool:
    """Whether the widths are sides that a Triton tile can have; where they are not, torch attends."""
    return all(x.shape[-1] >= 16 and not x.shape[-1] & (x.shape[-1] - 1) for x in (c, k_pe))


def mla_parts(
    q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float
) -> tuple[Tensor, Tensor]:
    """``mla_decode`` without its last kernel, for ``unfold`` to put the parts together. Arguments, errors as there.

    Returns:
        part: [M, H, splits, C] float32, and lse: [M, H, splits] float32, as the reference's, but in more parts.
    """
    if not fits(c, k_pe):
        return reference.mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    out, launches = plan_mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    run(launches)
    return out


def plan_mla_decode(
    q_c: Tensor,
    q_pe: Tensor,
    c: Tensor,
    k_pe: Tensor,
    lengths: Tensor,
    softmax_scale: float,
    hardware: Hardware | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, list[Launch]]:
    """What ``mla_decode`` returns, still to be filled, and the launches that fill it."""
    (part, lse), launches = plan_mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale, hardware, tile)
    out, combine = plan_combine(part, lse, q_c)
    return out, [*launches, combine]


def plan_combine(part: Tensor, lse: Tensor, like: Tensor) -> tuple[Tensor, Launch]:
    """The parts put together, [M, H, C] in ``like``'s dtype, still to be filled, and the launch that fills it."""
    m, h, splits, rank = part.shape
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    args = {"part_ptr": part, "lse_ptr": lse, "out_ptr": out, "C": rank, "splits": splits}
    args["PADDED"] = triton.next_power_of_2(splits)
    return out, Launch(mla_combine_kernel, (m * h,), args)


def mla_decode(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float) -> Tensor:
    """Attention of new tokens over the latent cache, never unfolding keys or values.

    The context is cut into parts that run side by side; a second, small kernel adds them by their softmax sums. Which
    parts there are depends on shapes alone, so the same call gives the same bits. The host never waits for ``lengths``.

    Args:
        q_c: [M, H, C], the queries without position times the keys' matrix (``MLA.absorbed`` in model.py); token m
            belongs to sequence m // (M / B).
        q_pe: [M, H, R], the rotated queries.
        c: [B, T, C], the latents; k_pe: [B, T, R], the rotated keys; views with a dense last dimension are fine.
        lengths: [M] int32 or int64: how many tokens of the cache each new token sees, itself included, at most T.
        softmax_scale: as the model's: (N + R)^-0.5, times YaRN's correction squared.

    Returns:
        [M, H, C] in ``q_c``'s dtype: the mixed latents, still to be multiplied with the values' matrix; 0 for a
        length of 0. Where C or R is not a power of two of 16 or more, it is the reference's result, on the same device.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: technical report, section 2.1.1; DeepSeek-V2 report (arXiv 2405.04434), section 2.1.2 for the absorption;
    FlashAttention (arXiv 2205.14135) for the running softmax.
    """
    if not fits(c, k_pe):
        return reference.mla_decode(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    out, launches = plan_mla_decode(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    run(launches)
    return out
