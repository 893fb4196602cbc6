"""Triton kernels for what stands between a decode step's products: norms, the residual sum, the gated activation.

Each does in one launch what torch does in five to ten, with the FP8 numbers that the next product reads. Letters as in
``reference_step``: M new tokens, D width, A slots of a token, C latent rank, R rotary width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .hardware import Hardware, hardware_of
from .launch import Launch, run
from .quant import needs_fp8, to_fp8
from .reference_step import Quantised

BLOCK = 128  # numbers that share a scale


def quantised(shape: tuple[int, ...], device: torch.device, what: str, hardware: Hardware | None) -> Quantised:
    """Room for FP8 numbers and their scales, still to be filled.

    Raises:
        ValueError: the last dimension is not a multiple of 128, or the GPU has no FP8 units.
    """
    if shape[-1] % BLOCK:
        raise ValueError(f"{what}: a width of {shape[-1]} is not a multiple of {BLOCK}, which FP8 needs")
    needs_fp8(hardware or hardware_of(device), what)
    scale = torch.empty(*shape[:-1], shape[-1] // BLOCK, dtype=torch.float32, device=device)
    return torch.empty(shape, dtype=reference.FP8, device=device), scale


def result(
    shape: tuple[int, ...], like: Tensor, fp8: bool, what: str, hardware: Hardware | None
) -> tuple[Tensor | Quantised, dict[str, Tensor | None]]:
    """Room for a result in ``like``'s dtype or quantised, and the three pointers that a kernel has for it."""
    if fp8:
        q, scale = quantised(shape, like.device, what, hardware)
        return (q, scale), {"y_ptr": None, "q_ptr": q, "scale_ptr": scale}
    y = torch.empty(shape, dtype=like.dtype, device=like.device)
    return y, {"y_ptr": y, "q_ptr": None, "scale_ptr": None}


def groups_of(width: int) -> int:
    """Runs of 128 that a tile needs for one row, a power of two."""
    return triton.next_power_of_2(triton.cdiv(width, BLOCK))


@triton.jit
def store_row(x, y_ptr, q_ptr, scale_ptr, row, D, GROUPS: tl.constexpr, UE8M0: tl.constexpr):
    """One row of D numbers, [GROUPS, 128] float32: to ``y_ptr``, and quantised to ``q_ptr``, where these are there."""
    group = tl.arange(0, GROUPS)
    at = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    if y_ptr is not None:
        tl.store(y_ptr + row * D + at, x.to(y_ptr.dtype.element_ty), mask=at < D)
    if q_ptr is not None:
        q, scale = to_fp8(x, GROUPS, 128, UE8M0)
        tl.store(q_ptr + row * D + at, q.to(q_ptr.dtype.element_ty), mask=at < D)
        tl.store(scale_ptr + row * (D // 128) + group, scale, mask=group < D // 128)


@triton.jit
def add_norm_kernel(
    h_ptr, part_ptr, rank_ptr, share_ptr, weight_ptr, sum_ptr, y_ptr, q_ptr, scale_ptr, eps, D,
    SLOTS: tl.constexpr, GROUPS: tl.constexpr, UE8M0: tl.constexpr,
):  # fmt: skip
    """Each program: one token. With SLOTS, its experts' rows are added, weighed, in their order: no atomics."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, GROUPS)[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = at < D
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    h = tl.load(h_ptr + row * D + at, mask=inside, other=0.0)
    dtype = h.dtype
    if part_ptr is not None:
        if SLOTS > 0:
            part = tl.zeros([GROUPS, 128], tl.float32)
            for k in tl.static_range(SLOTS):
                place = tl.load(rank_ptr + row * SLOTS + k).to(tl.int64)
                mine = tl.load(part_ptr + place * D + at, mask=inside & (place >= 0), other=0.0)
                part += mine.to(tl.float32) * tl.load(share_ptr + row * SLOTS + k)
        else:
            part = tl.load(part_ptr + row * D + at, mask=inside, other=0.0)
        h = (h.to(tl.float32) + part.to(dtype).to(tl.float32)).to(dtype)
        tl.store(sum_ptr + row * D + at, h, mask=inside)
    x = h.to(tl.float32)
    mean = tl.sum(tl.sum(x * x, 1), 0) / D
    y = (x * tl.rsqrt(mean + eps) * weight).to(dtype).to(tl.float32)
    store_row(y, y_ptr, q_ptr, scale_ptr, row, D, GROUPS, UE8M0)


def plan_add_norm(
    h: Tensor,
    part: Tensor | None,
    weight: Tensor,
    eps: float,
    *,
    slots: tuple[Tensor, Tensor] | None = None,
    plain: bool = True,
    fp8: bool = False,
    scale_fmt: str | None = None,
    hardware: Hardware | None = None,
) -> tuple[tuple[Tensor, Tensor | None, Quantised | None], list[Launch]]:
    """What ``add_norm`` returns, still to be filled, and the launch that fills it."""
    (m, d), h = h.shape, h.contiguous()
    total = h if part is None else torch.empty_like(h)
    y = torch.empty_like(h) if plain else None
    q, scale = quantised((m, d), h.device, "add_norm", hardware) if fp8 else (None, None)
    rank, share = (x.contiguous() for x in slots) if slots else (None, None)
    args: dict[str, Any] = {"h_ptr": h, "part_ptr": None if part is None else part.contiguous(), "eps": eps, "D": d}
    args |= {"rank_ptr": rank, "share_ptr": share, "SLOTS": 0 if rank is None else rank.shape[1]}
    args |= {"weight_ptr": weight, "sum_ptr": None if part is None else total}
    args |= {"y_ptr": y, "q_ptr": q, "scale_ptr": scale, "GROUPS": groups_of(d), "UE8M0": scale_fmt == "ue8m0"}
    launch = Launch(add_norm_kernel, (m,), args, num_warps=8 if groups_of(d) > 16 else 4)
    return (total, y, None if q is None or scale is None else (q, scale)), [launch]


def add_norm(
    h: Tensor,
    part: Tensor | None,
    weight: Tensor,
    eps: float,
    *,
    slots: tuple[Tensor, Tensor] | None = None,
    plain: bool = True,
    fp8: bool = False,
    scale_fmt: str | None = None,
) -> tuple[Tensor, Tensor | None, Quantised | None]:
    """``reference.add_norm`` in one launch; its arguments, results and errors.

    The sum is the reference's bit for bit, with ``slots`` up to the fusing of a product and a sum. The mean square is
    added in another order, so the norm is one step of its dtype away here and there.
    """
    out, launches = plan_add_norm(h, part, weight, eps, slots=slots, plain=plain, fp8=fp8, scale_fmt=scale_fmt)
    run(launches)
    return out


@triton.jit
def silu_mul_kernel(
    up_ptr, y_ptr, q_ptr, scale_ptr, X, n_groups, across,
    GROUPS: tl.constexpr, UE8M0: tl.constexpr,
):  # fmt: skip
    """Each program: GROUPS runs of 128 of the result, ``across`` of which are a row of X numbers."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    row, column = group // across, (group % across * 128)[:, None] + tl.arange(0, 128)[None, :]
    inside = (group < n_groups)[:, None] & (column < X)
    source = up_ptr + (row * 2 * X)[:, None] + column
    left = tl.load(source, mask=inside, other=0.0)
    dtype = left.dtype
    left = left.to(tl.float32)
    right = tl.load(source + X, mask=inside, other=0.0).to(tl.float32)
    gate = tl.math.div_rn(left, 1.0 + tl.exp(-left)).to(dtype).to(tl.float32)
    y = (gate * right).to(dtype)
    at = (row * X)[:, None] + column
    if q_ptr is None:
        tl.store(y_ptr + at, y, mask=inside)
    else:
        q, scale = to_fp8(y.to(tl.float32), GROUPS, 128, UE8M0)
        tl.store(q_ptr + at, q.to(q_ptr.dtype.element_ty), mask=inside)
        tl.store(scale_ptr + group, scale, mask=group < n_groups)


def plan_silu_mul(
    up: Tensor, fp8: bool = False, scale_fmt: str | None = None, hardware: Hardware | None = None
) -> tuple[Tensor | Quantised, list[Launch]]:
    """What ``silu_mul`` returns, still to be filled, and the launch that fills it."""
    m, x = up.shape[0], up.shape[1] // 2
    out, pointers = result((m, x), up, fp8, "silu_mul", hardware)
    across = triton.cdiv(x, BLOCK)
    # One run for each of many small programs is fastest for few tokens (1.4 against 1.7 us), and slow for many.
    groups = 1 if m <= 64 else 16
    args: dict[str, Any] = {"up_ptr": up.contiguous(), **pointers, "X": x}
    args |= {"n_groups": m * across, "across": across, "GROUPS": groups, "UE8M0": scale_fmt == "ue8m0"}
    return out, [Launch(silu_mul_kernel, (triton.cdiv(m * across, groups),), args, num_warps=1 if groups == 1 else 4)]


def silu_mul(up: Tensor, fp8: bool = False, scale_fmt: str | None = None) -> Tensor | Quantised:
    """``reference.silu_mul`` in one launch; its arguments, results and errors.

    The exponential's last bit is the library's own, so a result is one step of its dtype away here and there.
    """
    out, launches = plan_silu_mul(up, fp8, scale_fmt)
    run(launches)
    return out


@triton.jit
def latent_kernel(
    first_ptr, turns_ptr, at_ptr, kept_ptr, kv_norm_ptr, q_norm_ptr, y_ptr, q_ptr, scale_ptr, eps,
    W, Q, T, positions, per, kept_stride_b, kept_stride_t,
    C: tl.constexpr, R: tl.constexpr, PADDED_C: tl.constexpr, PADDED_R: tl.constexpr,
    GROUPS: tl.constexpr, UE8M0: tl.constexpr,
):  # fmt: skip
    """Each program: one token. Its normed latent and its turned key go into the cache; its query through the norm."""
    row = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, PADDED_C), tl.arange(0, PADDED_R // 2)
    at = tl.load(at_ptr + row).to(tl.int64)
    source = first_ptr + row * W
    to = kept_ptr + row // per * kept_stride_b + at * kept_stride_t
    written = (at >= 0) & (at < T)
    c = tl.load(source + Q + i, mask=i < C, other=0.0)
    dtype = c.dtype
    c = c.to(tl.float32)
    weight = tl.load(kv_norm_ptr + i, mask=i < C, other=0.0).to(tl.float32)
    c = (c * tl.rsqrt(tl.sum(c * c, 0) / C + eps) * weight).to(dtype)
    tl.store(to + i, c.to(kept_ptr.dtype.element_ty), mask=written & (i < C))
    pair = j < R // 2
    a = tl.load(source + Q + C + 2 * j, mask=pair, other=0.0).to(tl.float32)
    b = tl.load(source + Q + C + 2 * j + 1, mask=pair, other=0.0).to(tl.float32)
    turn = turns_ptr + tl.minimum(tl.maximum(at, 0), positions - 1) * R + 2 * j
    cos, sin = tl.load(turn, mask=pair, other=0.0), tl.load(turn + 1, mask=pair, other=0.0)
    tl.store(to + C + 2 * j, (a * cos - b * sin).to(kept_ptr.dtype.element_ty), mask=written & pair)
    tl.store(to + C + 2 * j + 1, (a * sin + b * cos).to(kept_ptr.dtype.element_ty), mask=written & pair)
    if q_norm_ptr is not None:
        place = tl.arange(0, GROUPS)[:, None] * 128 + tl.arange(0, 128)[None, :]
        x = tl.load(source + place, mask=place < Q, other=0.0).to(tl.float32)
        weight = tl.load(q_norm_ptr + place, mask=place < Q, other=0.0).to(tl.float32)
        mean = tl.sum(tl.sum(x * x, 1), 0) / Q
        y = (x * tl.rsqrt(mean + eps) * weight).to(dtype).to(tl.float32)
        store_row(y, y_ptr, q_ptr, scale_ptr, row, Q, GROUPS, UE8M0)


def plan_latent(
    first: Tensor,
    turns: Tensor,
    at: Tensor,
    kept: Tensor,
    kv_norm: Tensor,
    eps: float,
    q_norm: Tensor | None = None,
    fp8: bool = False,
    scale_fmt: str | None = None,
    hardware: Hardware | None = None,
) -> tuple[Tensor | Quantised | None, list[Launch]]:
    """What ``latent`` returns, still to be filled, and the launch that fills it and the cache.

    Raises:
        ValueError: FP8 does not fit, or the cache's last dimension is not dense.
    """
    if kept.stride(-1) != 1:
        raise ValueError(f"latent: kept has the strides {kept.stride()}; its last dimension must be dense")
    (m, w), (b, t, width), c = first.shape, kept.shape, kv_norm.shape[0]
    r, before = width - c, w - width
    out, pointers = result((m, before if q_norm is not None else 0), first, fp8, "latent", hardware)
    args: dict[str, Any] = {"first_ptr": first.contiguous(), "turns_ptr": turns.contiguous()}
    args |= {"at_ptr": at.contiguous(), "kept_ptr": kept, "kv_norm_ptr": kv_norm, "q_norm_ptr": q_norm, "eps": eps}
    args |= {**pointers, "W": w, "Q": before, "T": t, "positions": turns.shape[0]}
    args |= {
        "per": max(m // max(b, 1), 1),
        "kept_stride_b": kept.stride(0),
        "kept_stride_t": kept.stride(1),
        "C": c,
        "R": r,
    }
    args |= {"PADDED_C": triton.next_power_of_2(c), "PADDED_R": triton.next_power_of_2(r)}
    args |= {"GROUPS": groups_of(before), "UE8M0": scale_fmt == "ue8m0"}
    return out if q_norm is not None else None, [Launch(latent_kernel, (m,), args)]


def latent(
    first: Tensor,
    turns: Tensor,
    at: Tensor,
    kept: Tensor,
    kv_norm: Tensor,
    eps: float,
    q_norm: Tensor | None = None,
    fp8: bool = False,
    scale_fmt: str | None = None,
) -> Tensor | Quantised | None:
    """``reference.latent`` in one launch; its arguments, results and errors.

    Mean squares are added in another order, so a normed number is one step of its dtype away here and there.
    """
    out, launches = plan_latent(first, turns, at, kept, kv_norm, eps, q_norm, fp8, scale_fmt)
    run(launches)
    return out
