"""Triton kernels between BF16 and FP8: ``act_quant`` and ``weight_dequant``, each equal to its torch reference."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .hardware import Hardware, hardware_of
from .launch import Launch, run

GROUPS = 16  # of 128 numbers that a program of act_quant quantises: 4 KB of BF16
ROWS = 32  # of a 128x128 block that a program of weight_dequant casts
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def power_of_two(block: int, what: str, least: int = 16) -> None:
    """Refuse a ``block`` that no Triton tile can have as its side; ``what`` begins the message.

    Raises:
        ValueError: ``block`` is no power of two of ``least`` or more, which a side of a Triton tile must be.
    """
    if block < least or block & (block - 1):
        raise ValueError(
            f"{what} {block} must be a power of two of {least} or more; dsv3.kernels.reference takes any number"
        )


def needs_fp8(hardware: Hardware, what: str) -> None:
    """Refuse FP8 on a GPU without units for it; ``what`` was asked for.

    Raises:
        ValueError: the GPU cannot multiply or cast float8_e4m3fn.
    """
    if not hardware.fp8:
        raise ValueError(
            f"{what}: {hardware.chips} ({hardware.name}) has no units for float8_e4m3fn; dequantise the weights once "
            "with weight_dequant and multiply in BF16 (gemm='bf16')"
        )


@triton.jit
def to_fp8(x, GROUPS: tl.constexpr, BLOCK: tl.constexpr, UE8M0: tl.constexpr):
    """[GROUPS, BLOCK] float32 -> what FP8 rounds, and each row's scale [GROUPS]."""
    # Without the sign bit, floats are ordered as integers are, with NaN above infinity: a maximum that keeps NaN.
    largest = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)
    amax = largest.to(tl.float32, bitcast=True)
    # The smallest normal number, 2^-126, keeps the quotient defined when amax / 448 underflows.
    scale = tl.math.div_rn(amax, tl.full([GROUPS], 448.0, tl.float32))
    scale = tl.where(scale < 1.1754943508222875e-38, 1.1754943508222875e-38, scale)
    scale = tl.where(amax == 0, 1.0, scale)
    if UE8M0:
        # Adding all ones below the exponent carries into it unless they were zeros: the next power of two.
        up = (scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000
        scale = tl.where(scale == scale, up.to(tl.float32, bitcast=True), scale)
    q = tl.math.div_rn(x, tl.broadcast_to(scale[:, None], [GROUPS, BLOCK]))
    return tl.clamp(q, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL), scale


@triton.jit
def act_quant_kernel(
    x_ptr, q_ptr, scale_ptr, n_groups, across, row_stride, group_stride,
    GROUPS: tl.constexpr, BLOCK: tl.constexpr, UE8M0: tl.constexpr,
):  # fmt: skip
    """Each program: GROUPS runs of BLOCK numbers -> FP8 numbers and one scale a run; ``across`` runs are a row."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inside = group < n_groups
    at = group[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + at, mask=inside[:, None], other=0.0).to(tl.float32)
    q, scale = to_fp8(x, GROUPS, BLOCK, UE8M0)
    tl.store(q_ptr + at, q.to(q_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(scale_ptr + group // across * row_stride + group % across * group_stride, scale, mask=inside)


def plan_act_quant(
    x: Tensor,
    block: int = 128,
    scale_fmt: str | None = None,
    columns: bool = False,
    hardware: Hardware | None = None,
) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """What ``act_quant`` returns, still to be filled, and the launches that fill it."""
    if x.shape[-1] % block:
        raise ValueError(f"act_quant: last dimension {x.shape[-1]} is not a multiple of the block {block}")
    if x.dtype not in DTYPES:
        raise ValueError(f"act_quant: x is {x.dtype}; it must be one of {', '.join(map(str, DTYPES))}")
    power_of_two(block, "act_quant: block =")
    needs_fp8(hardware or hardware_of(x.device), "act_quant")
    x = x.contiguous()
    q = torch.empty(x.shape, dtype=reference.FP8, device=x.device)
    across = x.shape[-1] // block
    rows = x.numel() // max(1, x.shape[-1])
    shape = (across, rows) if columns else (rows, across)
    scale = torch.empty(shape, dtype=torch.float32, device=x.device)
    scale = (scale.t() if columns else scale).view(*x.shape[:-1], across)
    args = {"x_ptr": x, "q_ptr": q, "scale_ptr": scale, "n_groups": scale.numel(), "across": across}
    args |= {"row_stride": 1 if columns else across, "group_stride": rows if columns else 1}
    args |= {"GROUPS": GROUPS, "BLOCK": block, "UE8M0": scale_fmt == "ue8m0"}
    return (q, scale), [Launch(act_quant_kernel, (triton.cdiv(scale.numel(), GROUPS),), args)]


def act_quant(
    x: Tensor, block: int = 128, scale_fmt: str | None = None, columns: bool = False
) -> tuple[Tensor, Tensor]:
    """Quantise each run of ``block`` numbers of the last dimension to FP8 with its own scale.

    Args:
        x: [..., K] bfloat16, float16 or float32, K a multiple of ``block``, a power of two.
        scale_fmt: ``"ue8m0"`` rounds the scale up to a power of two, as V3.1 checkpoints expect.
        columns: scales lie column by column in memory, as ``torch._scaled_mm`` reads them.

    Returns:
        q: [..., K] float8_e4m3fn, and scale: [..., K / block] float32, bit for bit the reference's.

    Raises:
        ValueError: K, the dtype or the block does not fit, or the GPU has no FP8.

    Source: technical report, section 3.3.2 (1x128 groups for activations).
    """
    out, launches = plan_act_quant(x, block, scale_fmt, columns)
    run(launches)
    return out


@triton.jit
def fp8_to_float(codes):
    """float8_e4m3fn codes (uint8) -> float32 in integer arithmetic, for GPUs that do not know the format.

    Shifted into place, a code is the float16 of its number / 256, subnormals included; only NaN needs a look.
    """
    bits = ((codes & 0x7F).to(tl.uint16) << 7) | ((codes & 0x80).to(tl.uint16) << 8)
    value = bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return tl.where((codes & 0x7F) == 0x7F, float("nan"), value)


@triton.jit
def weight_dequant_kernel(
    w_ptr, scale_ptr, out_ptr, M, N, ROWS: tl.constexpr, BLOCK: tl.constexpr, UNITS: tl.constexpr
):  # fmt: skip
    """Each program: ROWS rows of one BLOCK x BLOCK block, so that one scale serves it."""
    row0 = tl.program_id(0).to(tl.int64) * ROWS
    column_block = tl.program_id(1)
    rows = row0 + tl.arange(0, ROWS)
    columns = column_block * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    at = rows[:, None] * N + columns[None, :]
    scale = tl.load(scale_ptr + (row0 // BLOCK) * tl.cdiv(N, BLOCK) + column_block)
    w = tl.load(w_ptr + at, mask=inside)
    if UNITS:
        value = w.to(tl.float32)
    else:
        value = fp8_to_float(w)
    tl.store(out_ptr + at, (value * scale).to(out_ptr.dtype.element_ty), mask=inside)


def plan_weight_dequant(
    w: Tensor, scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16, hardware: Hardware | None = None
) -> tuple[Tensor, list[Launch]]:
    """What ``weight_dequant`` returns, still to be filled, and the launches that fill it."""
    reference.check_scale(w, scale, block)
    power_of_two(block, "weight_dequant: block =")
    if dtype not in DTYPES:
        raise ValueError(f"weight_dequant: dtype is {dtype}; it must be one of {', '.join(map(str, DTYPES))}")
    hardware = hardware or hardware_of(w.device)
    w, scale = w.contiguous(), scale.float().contiguous()
    out = torch.empty(w.shape, dtype=dtype, device=w.device)
    (m, n), rows = w.shape, min(ROWS, block)
    args = {"w_ptr": w if hardware.fp8 else w.view(torch.uint8), "scale_ptr": scale, "out_ptr": out, "M": m, "N": n}
    args |= {"ROWS": rows, "BLOCK": block, "UNITS": hardware.fp8}
    # Blocks of rows come first: a grid's first axis takes 2^31 programs, the others 65,535.
    return out, [Launch(weight_dequant_kernel, (triton.cdiv(m, rows), triton.cdiv(n, block)), args)]


def weight_dequant(w: Tensor, scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """``w * scale``, block by block, in float32 and then rounded once to ``dtype``.

    It runs on every GPU: without FP8 units the codes are decoded in integer arithmetic.

    Args:
        w: [M, N] float8_e4m3fn; edges of blocks may be ragged.
        scale: [ceil(M / block), ceil(N / block)] float32, ``block`` a power of two.
        dtype: bfloat16, float16 or float32.

    Returns:
        [M, N] in ``dtype``, bit for bit the reference's.

    Raises:
        ValueError: the scale's shape, the block or the dtype does not fit.

    Source: README_WEIGHTS.md, "Dequantization Method"; technical report, section 3.3.2 (128x128 blocks for weights).
    """
    out, launches = plan_weight_dequant(w, scale, block, dtype)
    run(launches)
    return out
