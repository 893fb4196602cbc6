"""Triton kernels of an MoE layer's router and experts, none of which waits for the host; between them is sorting.py.

Letters as in ``reference_step``: M new tokens, D width, E experts, K chosen, A slots of a token, S = M x A.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import gemm, reference_step
from .gemm import Tile, scaled_dot
from .hardware import Hardware, hardware_of
from .heads import rows_of
from .launch import Launch, run
from .quant import needs_fp8
from .reference_step import Quantised, Slots

CUT = 512  # of D that a program of the gate adds up: 14 parts of the 671B model's width keep 56 programs busy
# By the rows of a tile (``reference_step.tile_rows``): candidates, the default first. On an H100 (2026-11-26) a whole
# step of V3's widths took 4.79 ms for 8 sequences and 10.52 for 32 with the first of 16 rows, 4.87 and 10.71 with the
# second, which is the best for a single one (1.98 against 1.99; of V2-Lite 2.68 against 2.73). The first of 64 rows was
# the best of five for a prefill of V3, that of 128 for one of V2-Lite. 32 rows: not measured.
TILES = {
    16: (Tile(16, 64, 128, 4, 5), Tile(16, 128, 128, 4, 4), Tile(16, 64, 128, 4, 4), Tile(16, 32, 128, 4, 6)),
    32: (Tile(32, 64, 128, 4, 4), Tile(32, 128, 128, 4, 4)),
    64: (Tile(64, 128, 128, 4, 4), Tile(64, 64, 128, 4, 4)),
    128: (Tile(128, 128, 128, 8, 3), Tile(128, 64, 128, 4, 4)),
}
ONE_TOKEN = 16  # slots, at most, of what is taken for a single sequence


@triton.jit
def gate_kernel(
    y_ptr, gate_ptr, out_ptr, M, E, D,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, CUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program: the logits of BLOCK_E experts for BLOCK_M tokens, over one CUT of D. Products of BF16 are exact."""
    e, d = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_D)
    part, rows = tl.program_id(1), tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = tl.zeros([BLOCK_E, BLOCK_M], tl.float32)
    for step in range(CUT // BLOCK_D):
        k = part * CUT + step * BLOCK_D + d
        gate = tl.load(gate_ptr + e[:, None] * D + k[None, :], mask=(e < E)[:, None] & (k < D)[None, :], other=0.0)
        y = tl.load(
            y_ptr + rows.to(tl.int64)[None, :] * D + k[:, None], mask=(rows < M)[None, :] & (k < D)[:, None], other=0.0
        )
        acc = tl.dot(gate, y.to(gate.dtype), acc, input_precision=PRECISION)
    at = (part * M + rows).to(tl.int64)[None, :] * E + e[:, None]
    tl.store(out_ptr + at, acc, mask=(rows < M)[None, :] & (e < E)[:, None])


def plan_gate_logits(y: Tensor, gate: Tensor, cut: int = CUT) -> tuple[Tensor, list[Launch]]:
    """What ``gate_logits`` returns, still to be filled, and the launch that fills it.

    Args:
        cut: of D in a part, a multiple of 128.
    """
    (m, d), e = y.shape, gate.shape[0]
    # BF16 numbers times float32 ones: float32 holds both.
    wide = y.dtype != gate.dtype or y.dtype == torch.float32
    parts, rows = triton.cdiv(d, cut), rows_of(m, 64)
    out = torch.empty(parts, m, e, dtype=torch.float32, device=y.device)
    args: dict[str, Any] = {"y_ptr": y.contiguous(), "gate_ptr": (gate.float() if wide else gate).contiguous()}
    args |= {"out_ptr": out, "M": m, "E": e, "D": d, "BLOCK_E": 64, "BLOCK_M": rows, "CUT": cut}
    args |= {"BLOCK_D": 64 if wide else 128, "PRECISION": "ieee" if wide else None}
    return out, [Launch(gate_kernel, (triton.cdiv(e, 64), parts, triton.cdiv(m, rows)), args)]


def gate_logits(y: Tensor, gate: Tensor) -> Tensor:
    """``reference.gate_logits`` in one launch, in a part for each 512 of D, up to the order of float32 summation."""
    out, launches = plan_gate_logits(y, gate)
    run(launches)
    return out


@triton.jit
def route_kernel(
    logits_ptr, bias_ptr, weight_ptr, id_ptr, scale, M, parts, E,
    GROUPS: tl.constexpr, PADDED_GROUPS: tl.constexpr, WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr,
    KEPT: tl.constexpr, K: tl.constexpr, SHARED: tl.constexpr, SLOTS: tl.constexpr,
    SOFTMAX: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    """Each program: one token. Experts are [GROUPS, WIDTH] of a tile with powers of two as sides."""
    token, slot = tl.program_id(0), tl.arange(0, SLOTS)
    i = tl.arange(0, PADDED_GROUPS * PADDED_WIDTH)
    real = (i // PADDED_WIDTH < GROUPS) & (i % PADDED_WIDTH < WIDTH)
    e = tl.where(real, i // PADDED_WIDTH * WIDTH + i % PADDED_WIDTH, 0)
    logits = tl.zeros([PADDED_GROUPS * PADDED_WIDTH], tl.float32)
    for part in range(parts):
        logits += tl.load(logits_ptr + (part * M + token).to(tl.int64) * E + e, mask=real, other=0.0)
    if SOFTMAX:
        scores = tl.exp(logits - tl.max(tl.where(real, logits, float("-inf")), 0))
        scores = tl.where(real, scores, 0.0)
        scores = tl.math.div_rn(scores, tl.zeros_like(scores) + tl.sum(scores, 0))
    else:
        scores = tl.math.div_rn(tl.full([PADDED_GROUPS * PADDED_WIDTH], 1.0, tl.float32), 1.0 + tl.exp(-logits))
    choice = scores
    if bias_ptr is not None:
        choice += tl.load(bias_ptr + e, mask=real, other=0.0)
    choice = tl.where(real, choice, float("-inf"))
    if GROUPS > 1:
        groups = tl.reshape(choice, [PADDED_GROUPS, PADDED_WIDTH])
        value = tl.max(groups, 1)
        if bias_ptr is not None:
            inner = tl.arange(0, PADDED_WIDTH)
            others = tl.where(inner[None, :] == tl.argmax(groups, 1)[:, None], float("-inf"), groups)
            value += tl.max(others, 1)
        g = tl.arange(0, PADDED_GROUPS)
        better = (value[None, :] > value[:, None]) | ((value[None, :] == value[:, None]) & (g[None, :] < g[:, None]))
        place = tl.sum(better.to(tl.int32), 1)
        choice = tl.reshape(tl.where((place < KEPT)[:, None], groups, float("-inf")), [PADDED_GROUPS * PADDED_WIDTH])
    weights, ids, total = tl.zeros([SLOTS], tl.float32), tl.zeros([SLOTS], tl.int32), 0.0
    for k in tl.static_range(K):
        best = tl.argmax(choice, 0)  # of equal ones the first
        weight = tl.sum(tl.where(i == best, scores, 0.0), 0)
        total += weight
        weights = tl.where(slot == k, weight, weights)
        # Logits of NaN choose anything, but no expert that there is not.
        ids = tl.where(slot == k, tl.sum(tl.where(i == best, e, 0), 0), ids)
        choice = tl.where(i == best, float("-inf"), choice)
    if NORMALISE:
        weights = tl.math.div_rn(weights, tl.zeros_like(weights) + (total + 1e-20))
    weights = tl.where(slot < K, weights * scale, 1.0)
    ids = tl.where(slot < K, ids, E + slot - K)
    at = token.to(tl.int64) * (K + SHARED) + slot
    tl.store(weight_ptr + at, weights, mask=slot < K + SHARED)
    tl.store(id_ptr + at, ids, mask=slot < K + SHARED)


def plan_route(
    logits: Tensor,
    bias: Tensor | None,
    chosen: int,
    *,
    softmax: bool = False,
    groups: int = 1,
    kept: int = 1,
    normalise: bool = True,
    scale: float = 1.0,
    shared: int = 0,
) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """What ``route`` returns, still to be filled, and the launch that fills it."""
    parts, m, experts = logits.shape
    reference_step.check_route(experts, chosen, groups, kept)
    weights = torch.empty(m, chosen + shared, dtype=torch.float32, device=logits.device)
    ids = torch.empty(m, chosen + shared, dtype=torch.int32, device=logits.device)
    args: dict[str, Any] = {"logits_ptr": logits.contiguous(), "bias_ptr": bias, "weight_ptr": weights, "id_ptr": ids}
    args |= {"scale": float(scale), "M": m, "parts": parts, "E": experts, "GROUPS": groups, "KEPT": kept, "K": chosen}
    args |= {"PADDED_GROUPS": triton.next_power_of_2(groups), "WIDTH": experts // groups}
    args |= {"PADDED_WIDTH": triton.next_power_of_2(experts // groups), "SHARED": shared}
    args |= {"SLOTS": triton.next_power_of_2(chosen + shared), "SOFTMAX": softmax, "NORMALISE": normalise}
    return (weights, ids), [Launch(route_kernel, (m,), args)]


def route(
    logits: Tensor,
    bias: Tensor | None,
    chosen: int,
    *,
    softmax: bool = False,
    groups: int = 1,
    kept: int = 1,
    normalise: bool = True,
    scale: float = 1.0,
    shared: int = 0,
) -> tuple[Tensor, Tensor]:
    """``reference.route`` in one launch; its arguments, results and errors; weights up to the last bits."""
    out, launches = plan_route(
        logits, bias, chosen, softmax=softmax, groups=groups, kept=kept, normalise=normalise, scale=scale, shared=shared
    )
    run(launches)
    return out


@triton.jit
def experts_kernel(
    x_ptr, x_scale_ptr, w_ptr, w_scale_ptr, order_ptr, tiles_ptr, out_ptr, N, K,
    SLOTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FP8: tl.constexpr, PRECISION: tl.constexpr, SWAP: tl.constexpr,
):  # fmt: skip
    """Each program: one tile of one expert's rows. With SLOTS, a row is token ``order[row] // SLOTS``."""
    tile, column0 = tl.program_id(1), tl.program_id(0) * BLOCK_N
    if tile >= tl.load(tiles_ptr):  # the grid has room for the worst distribution
        return
    expert = tl.load(tiles_ptr + 1 + tile * 3).to(tl.int64)
    rows = tl.load(tiles_ptr + 2 + tile * 3) + tl.arange(0, BLOCK_M)
    stop = tl.load(tiles_ptr + 3 + tile * 3)
    # Rows and columns beyond the edge read the last one again: cheaper than a mask in the loop, and never stored.
    source = tl.minimum(rows, stop - 1)
    if SLOTS > 0:
        source = tl.load(order_ptr + source) // SLOTS
    source, inner = source.to(tl.int64), tl.arange(0, BLOCK_K)
    w_row = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - column0)
    x_tile = x_ptr + source[:, None] * K + inner[None, :]
    w_tile = w_ptr + (expert * N + column0) * K + (w_row[None, :] * K + inner[:, None])
    if FP8:
        x_scales = x_scale_ptr + source * (K // 128)
        w_scales = w_scale_ptr + (expert * tl.cdiv(N, 128) + column0 // 128) * (K // 128)
    acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAP else [BLOCK_M, BLOCK_N], tl.float32)
    for step in range(tl.cdiv(K, BLOCK_K)):
        k = step * BLOCK_K
        if FP8:
            scale = tl.load(x_scales + k // 128) * tl.load(w_scales + k // 128)
            acc += scaled_dot(tl.load(x_tile + k), tl.load(w_tile + k), scale, SWAP)
        else:
            x = tl.load(x_tile + k, mask=(inner < K - k)[None, :], other=0.0)
            w = tl.load(w_tile + k, mask=(inner < K - k)[:, None], other=0.0)
            if SWAP:
                acc = tl.dot(tl.trans(w), tl.trans(x), acc, input_precision=PRECISION)
            else:
                acc = tl.dot(x, w, acc, input_precision=PRECISION)
    if SWAP:
        acc = tl.trans(acc)
    columns = column0 + tl.arange(0, BLOCK_N)
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=(rows < stop)[:, None] & (columns < N)[None, :])


def candidates(slots: Slots, hardware: Hardware, itemsize: int) -> list[Tile]:
    """The tiles to try, those that fit into shared memory; never empty. A step along K is BLOCK_K bytes of a row."""
    tiles = [Tile(t.BLOCK_M, t.BLOCK_N, t.BLOCK_K // itemsize, t.num_warps, t.num_stages) for t in TILES[slots.rows]]
    if len(slots.order) <= ONE_TOKEN:
        tiles[:2] = tiles[1::-1]
    fitting = [t for t in tiles if t.shared(itemsize) <= hardware.shared]
    return fitting or [Tile(slots.rows, 32, 32, 4, 2)]


def plan_experts_gemm(
    x: Tensor | Quantised,
    w: Tensor,
    slots: Slots,
    w_scale: Tensor | None = None,
    *,
    gather: bool,
    dtype: torch.dtype = torch.bfloat16,
    hardware: Hardware | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, list[Launch]]:
    """What ``experts_gemm`` returns, still to be filled, and the launch that fills it."""
    reference_step.check_experts(x, w, slots, w_scale, gather)
    hardware = hardware or hardware_of(w.device)
    q, x_scale = x if isinstance(x, tuple) else (x, None)
    if x_scale is not None and w_scale is not None:
        gemm.check_operands(q, x_scale, w, w_scale, 128, "experts_gemm")
        needs_fp8(hardware, "experts_gemm")
    tile = tile or candidates(slots, hardware, w.itemsize)[0]
    s, (_, n, k) = len(slots.order), w.shape
    out = torch.empty(s, n, dtype=dtype, device=w.device)
    sizes, warps, stages = tile.options()
    args: dict[str, Any] = {"x_ptr": q.contiguous(), "x_scale_ptr": x_scale, "w_ptr": w, "w_scale_ptr": w_scale}
    args |= {"order_ptr": slots.order, "tiles_ptr": slots.tiles, "out_ptr": out, "N": n, "K": k}
    args |= {"SLOTS": slots.rank.shape[1] if gather else 0, "FP8": x_scale is not None, **sizes}
    args["PRECISION"] = "ieee" if w.dtype == torch.float32 else None
    grid = (triton.cdiv(n, tile.BLOCK_N), (len(slots.tiles) - 1) // 3)
    return out, [Launch(experts_kernel, grid, args, warps, stages)]


def experts_gemm(
    x: Tensor | Quantised,
    w: Tensor,
    slots: Slots,
    w_scale: Tensor | None = None,
    *,
    gather: bool,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """``reference.experts_gemm`` in one launch; its arguments, results and errors, up to the order of summation."""
    out, launches = plan_experts_gemm(x, w, slots, w_scale, gather=gather, dtype=dtype)
    run(launches)
    return out
