"""Products of torch's own library, where that is faster than Triton and this torch has them on this GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import gemm, reference
from .experts import plan_gate_logits
from .launch import run

# On an H100 (2026-11-26) cuBLAS takes 0.5 to 0.95 of the Triton product's time where the result has enough tiles of
# 128 x 128: 1.2 to 1.7 of it with 32 of them or fewer, 1.06 with 48, 0.64 to 0.84 with 56 (``h100/few-rows.json``).
LEAST_ROWS, LEAST_TILES = 128, 56
STEP = 512  # torch 2.11 takes scales of a weight only where a row of blocks has a multiple of four


@dataclass(frozen=True)
class Library:
    """What torch can do on a device.

    Attributes:
        block_scales: ``torch._scaled_mm`` takes a scale for each 128 of an activation and each 128x128 of a weight.
        wide_sums: ``torch.mm`` of BF16 numbers gives float32.
    """

    block_scales: bool = False
    wide_sums: bool = False


@cache
def library(device: torch.device) -> Library:
    """What torch can do on ``device``: each product is tried on a small example, and its result compared."""
    if device.type != "cuda":
        return Library()
    # Every row and block has its own scale, and the last block is ragged, as attn.wkv_a's.
    x, w = torch.arange(LEAST_ROWS).unsqueeze(1), torch.arange(192).unsqueeze(1)
    block = torch.arange(STEP) // 128
    a = reference.act_quant(((x + block) % 3).float().exp2(), columns=True)
    b = reference.weight_quant(((w // 128 + block) % 2).float().exp2())
    one = torch.ones(16, 256, dtype=torch.bfloat16)
    tries: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "block_scales": lambda: (
            scaled_mm(*[t.to(device) for t in a], *[t.to(device) for t in b]),
            reference.fp8_gemm(*a, *b),
        ),
        "wide_sums": lambda: (
            torch.mm(one.to(device), one.t().to(device), out_dtype=torch.float32),
            one.float() @ one.float().t(),
        ),
    }
    found = {}
    for name, product in tries.items():
        try:
            got, expected = product()
            found[name] = torch.equal(got.cpu(), expected)
        except (RuntimeError, ValueError, NotImplementedError, TypeError):  # this torch, or its cuBLAS, has it not
            found[name] = False
    return Library(**found)


def scaled_mm(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """``fp8_gemm`` by ``torch._scaled_mm``: cuBLAS, with one scale for each 1x128 of ``a`` and each 128x128 of ``b``.

    Args:
        a: [M, K] float8_e4m3fn; a_scale: [M, K / 128] float32, which is copied unless it lies column by column, as
            ``act_quant(columns=True)`` writes it. b: [N, K]; b_scale: [ceil(N / 128), K / 128].

    Raises:
        RuntimeError, ValueError, NotImplementedError, TypeError: this torch or this GPU does not have it (``library``).
    """
    columns = a_scale if a_scale.stride(0) == 1 else a_scale.t().contiguous().t()
    return torch._scaled_mm(a, b.t(), columns, b_scale.t(), out_dtype=torch.bfloat16)


def fp8_gemm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """``gemm.fp8_gemm``, for many rows and columns by torch's library; arguments, results and errors as there.

    Which of the two it is depends on shapes and the device alone, so the same call gives the same bits.
    """
    rows, columns, k = a.numel() // max(1, a.shape[-1]), b.shape[0], a.shape[-1]
    fits = block == 128 and dtype == torch.bfloat16 and not k % STEP and not columns % 16
    pays = rows >= LEAST_ROWS and -(-rows // 128) * -(-columns // 128) >= LEAST_TILES
    if not fits or not pays or not library(a.device).block_scales:
        return gemm.fp8_gemm(a, a_scale, b, b_scale, block, dtype)
    gemm.check_operands(a, a_scale, b, b_scale, block, "fp8_gemm")
    flat, scales = a.reshape(rows, -1), a_scale.reshape(rows, -1)
    return scaled_mm(flat, scales, b, b_scale).view(*a.shape[:-1], -1)


def head_logits(y: Tensor, head: Tensor) -> Tensor:
    """``reference.head_logits`` without ``head`` in float32: by torch's library where it has that, or by Triton."""
    if y.dtype == head.dtype == torch.bfloat16 and library(y.device).wide_sums:
        return torch.mm(y, head.t(), out_dtype=torch.float32)
    out, launches = plan_gate_logits(y, head, -(-y.shape[1] // 128) * 128)
    run(launches)
    return out[0]
