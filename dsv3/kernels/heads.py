"""Triton kernels for what each head does with its own matrix: ``absorb`` before attention, ``unfold`` behind it.

Letters: M new tokens, H heads of this rank, C latent rank, R rotary width, N and P a head's width in keys and values.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fused import BLOCK, result
from .hardware import Hardware
from .launch import Launch, run
from .quant import plan_act_quant, to_fp8
from .reference_step import Quantised

# Heads of all tokens. On an H200 (2026-11-26) unfold_few_kernel took 3.9 us for 1 x 16 heads where the other took 12.1,
# for 8 x 16 9.1 and 17.2, for 1 x 128 9.8 and 14.9 (in FP8 13.0 and 15.7), for 4 x 128 27.8 and 17.0.
FEW = 128


def padded(width: int) -> int:
    """``width`` as a side of a matrix instruction's tile: a power of two, 16 at least."""
    return max(16, triton.next_power_of_2(width))


def rows_of(m: int, most: int) -> int:
    """How many tokens a program takes."""
    return min(padded(m), most)


@triton.jit
def absorb_kernel(
    q_ptr, turns_ptr, at_ptr, key_ptr, qc_ptr, qr_ptr, M, H, q_stride, positions,
    N: tl.constexpr, R: tl.constexpr, C: tl.constexpr, PADDED_N: tl.constexpr, PADDED_R: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program: BLOCK_C latents of one head for BLOCK_M tokens; the head's first also turns its rotary part."""
    h, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    n, c = tl.arange(0, PADDED_N), block * BLOCK_C + tl.arange(0, BLOCK_C)
    head = q_ptr + rows.to(tl.int64) * q_stride + h * (N + R)
    place = key_ptr + (h * C + c[:, None]) * N + n[None, :]
    key = tl.load(place, mask=(c < C)[:, None] & (n < N)[None, :], other=0.0)
    x = tl.load(head[None, :] + n[:, None], mask=(rows < M)[None, :] & (n < N)[:, None], other=0.0)
    # The matrix stands first: matrix instructions want many rows, and tokens are few.
    y = tl.dot(key, x, input_precision=PRECISION)
    to = qc_ptr + (rows.to(tl.int64) * H + h)[None, :] * C + c[:, None]
    tl.store(to, y.to(qc_ptr.dtype.element_ty), mask=(rows < M)[None, :] & (c < C)[:, None])
    if block == 0:
        j = tl.arange(0, PADDED_R // 2)
        inside = (rows < M)[:, None] & (j < R // 2)[None, :]
        at = tl.load(at_ptr + rows, mask=rows < M, other=0).to(tl.int64)
        at = tl.minimum(tl.maximum(at, 0), positions - 1)
        a = tl.load(head[:, None] + N + 2 * j[None, :], mask=inside, other=0.0).to(tl.float32)
        b = tl.load(head[:, None] + N + 2 * j[None, :] + 1, mask=inside, other=0.0).to(tl.float32)
        turn = turns_ptr + at[:, None] * R + 2 * j[None, :]
        cos, sin = tl.load(turn, mask=inside, other=0.0), tl.load(turn + 1, mask=inside, other=0.0)
        turned = qr_ptr + (rows.to(tl.int64) * H + h)[:, None] * R + 2 * j[None, :]
        tl.store(turned, (a * cos - b * sin).to(qr_ptr.dtype.element_ty), mask=inside)
        tl.store(turned + 1, (a * sin + b * cos).to(qr_ptr.dtype.element_ty), mask=inside)


def plan_absorb(q: Tensor, turns: Tensor, at: Tensor, key: Tensor) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """What ``absorb`` returns, still to be filled, and the launch that fills it."""
    m, (h, c, n) = q.shape[0], key.shape
    r = q.shape[1] // h - n
    q = q if q.stride(1) == 1 else q.contiguous()
    out = tuple(torch.empty(m, h, width, dtype=q.dtype, device=q.device) for width in (c, r))
    rows, block = rows_of(m, 32), min(128, padded(c))
    args: dict[str, Any] = {"q_ptr": q, "turns_ptr": turns.contiguous(), "at_ptr": at.contiguous()}
    args |= {"key_ptr": key.contiguous(), "qc_ptr": out[0], "qr_ptr": out[1], "M": m, "H": h}
    args |= {"q_stride": q.stride(0), "positions": turns.shape[0], "N": n, "R": r, "C": c, "PADDED_N": padded(n)}
    args |= {"PADDED_R": triton.next_power_of_2(r), "BLOCK_M": rows, "BLOCK_C": block}
    args["PRECISION"] = "ieee" if q.dtype == torch.float32 else None
    return (out[0], out[1]), [Launch(absorb_kernel, (h, triton.cdiv(c, block), triton.cdiv(m, rows)), args)]


def absorb(q: Tensor, turns: Tensor, at: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """``reference.absorb`` in one launch; its arguments and results, up to the order of float32 summation."""
    out, launches = plan_absorb(q, turns, at, key)
    run(launches)
    return out


@triton.jit
def unfold_kernel(
    part_ptr, lse_ptr, value_ptr, y_ptr, q_ptr, scale_ptr, M, H, splits,
    C: tl.constexpr, P: tl.constexpr, PADDED_P: tl.constexpr, SPLITS: tl.constexpr, TOGETHER: tl.constexpr,
    TOKENS: tl.constexpr, EACH: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr, UE8M0: tl.constexpr,
):  # fmt: skip
    """Each program: one head of TOKENS tokens; its parts by their shares, times its matrix.

    A token has EACH columns of the tile (a matrix instruction wants 16), each with every EACH-th part: few tokens have
    many parts, and all must be on their way at once. SPLITS is ``splits`` rounded up to a power of two.
    """
    h, column = tl.program_id(0).to(tl.int64), tl.arange(0, TOKENS * EACH)
    token, p, split = tl.program_id(1) * TOKENS + column // EACH, tl.arange(0, PADDED_P), tl.arange(0, SPLITS)
    real, row = token < M, token.to(tl.int64) * H + h
    lse = tl.load(
        lse_ptr + row[:, None] * splits + split[None, :],
        mask=real[:, None] & (split < splits)[None, :],
        other=float("-inf"),
    )
    best = tl.max(lse, 1)
    best = tl.where(best > float("-inf"), best, 0.0)  # an empty sequence: all its shares are 0
    total = tl.sum(tl.exp2(lse - best[:, None]), 1)
    total = tl.where(total > 0, total, 1.0)
    acc = tl.zeros([PADDED_P, TOKENS * EACH], tl.float32)
    for c0 in tl.static_range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        value = tl.load(
            value_ptr + (h * P + p[:, None]) * C + c[None, :], mask=(p < P)[:, None] & (c < C)[None, :], other=0.0
        )
        mixed = tl.zeros([BLOCK_C, TOKENS * EACH], tl.float32)
        for first in range(0, splits, EACH * TOGETHER):
            for i in tl.static_range(TOGETHER):  # written out, so that no load waits for another
                mine = first + i * EACH + column % EACH
                there = real & (mine < splits)
                share = tl.load(lse_ptr + row * splits + mine, mask=there, other=float("-inf"))
                share = tl.math.div_rn(tl.exp2(share - best), total)
                at = (row * splits + mine)[None, :] * C + c[:, None]
                part = tl.load(part_ptr + at, mask=there[None, :] & (c < C)[:, None], other=0.0)
                mixed += part * share[None, :]
        if EACH > 1:
            mixed = tl.sum(tl.reshape(mixed, [BLOCK_C, TOKENS, EACH]), 2)
            mixed = tl.broadcast_to(mixed[:, :, None], [BLOCK_C, TOKENS, EACH])
            mixed = tl.reshape(mixed, [BLOCK_C, TOKENS * EACH])
        acc = tl.dot(value, mixed.to(value.dtype), acc, input_precision=PRECISION)
    y = tl.trans(acc).to(value_ptr.dtype.element_ty)
    at = row[:, None] * P + p[None, :]
    stored = (real & (column % EACH == 0))[:, None]
    if q_ptr is None:
        tl.store(y_ptr + at, y, mask=stored & (p < P)[None, :])
    else:  # P is a power of two of 128 or more
        runs: tl.constexpr = TOKENS * EACH * P // 128
        q, scale = to_fp8(tl.reshape(y.to(tl.float32), [runs, 128]), runs, 128, UE8M0)
        q = tl.reshape(q, [TOKENS * EACH, P])
        tl.store(q_ptr + at, q.to(q_ptr.dtype.element_ty), mask=stored)
        group = row[:, None] * (P // 128) + tl.arange(0, P // 128)[None, :]
        tl.store(scale_ptr + group, tl.reshape(scale, [TOKENS * EACH, P // 128]), mask=stored)


@triton.jit
def unfold_few_kernel(
    part_ptr, lse_ptr, value_ptr, y_ptr, q_ptr, scale_ptr, H, splits,
    C: tl.constexpr, P: tl.constexpr, SPLITS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    UE8M0: tl.constexpr,
):  # fmt: skip
    """Each program: BLOCK_P numbers of one head of one token. Nothing to share, so no matrix instruction."""
    h, token, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    p, split = block * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, SPLITS)
    row, there = token * H + h, split < splits
    lse = tl.load(lse_ptr + row * splits + split, mask=there, other=float("-inf"))
    best = tl.max(lse, 0)
    share = tl.exp2(lse - tl.where(best > float("-inf"), best, 0.0))  # of an empty sequence all are 0
    total = tl.sum(share, 0)
    share = tl.math.div_rn(share, tl.zeros_like(share) + tl.where(total > 0, total, 1.0))
    acc = tl.zeros([BLOCK_P], tl.float32)
    for c0 in tl.static_range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        place = value_ptr + (h * P + p[:, None]) * C + c[None, :]
        value = tl.load(place, mask=(p < P)[:, None] & (c < C)[None, :], other=0.0)
        at = (row * splits + split)[:, None] * C + c[None, :]
        part = tl.load(part_ptr + at, mask=there[:, None] & (c < C)[None, :], other=0.0)
        mixed = tl.sum(part * share[:, None], 0).to(value.dtype).to(tl.float32)
        acc += tl.sum(value.to(tl.float32) * mixed[None, :], 1)
    y = acc.to(value_ptr.dtype.element_ty)
    if q_ptr is None:
        tl.store(y_ptr + row * P + p, y, mask=p < P)
    else:  # P is a power of two of 128 or more, and all of it is here
        q, scale = to_fp8(tl.reshape(y.to(tl.float32), [P // 128, 128]), P // 128, 128, UE8M0)
        tl.store(q_ptr + row * P + p, tl.reshape(q, [P]).to(q_ptr.dtype.element_ty))
        tl.store(scale_ptr + row * (P // 128) + tl.arange(0, P // 128), scale)


def plan_unfold(
    part: Tensor,
    lse: Tensor,
    value: Tensor,
    fp8: bool = False,
    scale_fmt: str | None = None,
    hardware: Hardware | None = None,
) -> tuple[Tensor | Quantised, list[Launch]]:
    """What ``unfold`` returns, still to be filled, and the launches that fill it."""
    (m, h, splits, c), p = part.shape, value.shape[1]
    inside = fp8 and p % BLOCK == 0 and padded(p) == p
    out, pointers = result((m, h * p), value, inside, "unfold", hardware)
    args: dict[str, Any] = {"part_ptr": part.contiguous(), "lse_ptr": lse.contiguous(), "value_ptr": value.contiguous()}
    args |= {**pointers, "H": h, "splits": splits, "C": c, "P": p, "SPLITS": triton.next_power_of_2(splits)}
    args["UE8M0"] = scale_fmt == "ue8m0"
    if m * h <= FEW:
        args |= {"BLOCK_P": p if inside else min(32, padded(p))}
        args |= {"BLOCK_C": min(128 if inside else 512, padded(c), max(16, 8192 // args["SPLITS"]))}
        grid, warps = (h, m, triton.cdiv(p, args["BLOCK_P"])), 4 if inside else 8
        launches = [Launch(unfold_few_kernel, grid, args, num_warps=warps)]
    else:
        together = min(16, triton.next_power_of_2(m))
        steps = triton.cdiv(args["SPLITS"], 16 // together)
        args |= {"M": m, "PADDED_P": padded(p), "TOGETHER": min(4, steps), "TOKENS": together, "EACH": 16 // together}
        args |= {"BLOCK_C": min(128, padded(c)), "PRECISION": "ieee" if value.dtype == torch.float32 else None}
        launches = [Launch(unfold_kernel, (h, triton.cdiv(m, together)), args, num_warps=8)]
    if fp8 and isinstance(out, Tensor):
        # Runs of 128 that are parts of heads, or of several: they are quantised in a launch of their own.
        quantised, more = plan_act_quant(out, BLOCK, scale_fmt, hardware=hardware)
        return quantised, launches + more
    return out, launches


def unfold(
    part: Tensor, lse: Tensor, value: Tensor, fp8: bool = False, scale_fmt: str | None = None
) -> Tensor | Quantised:
    """``reference.unfold`` in one launch, in two where FP8's runs of 128 are not whole heads.

    Arguments, results and errors as the reference's, up to the order of float32 summation.
    """
    out, launches = plan_unfold(part, lse, value, fp8, scale_fmt)
    run(launches)
    return out
