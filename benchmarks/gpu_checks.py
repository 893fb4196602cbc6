"""What must be right before a speed is worth printing: each Triton kernel on fresh random inputs, outputs poisoned.

Plain functions of a device, so that they run under pytest (``tests/gpu``), without it (``benchmarks.gpu``), and in
Triton's interpreter. Casts are compared bit for bit with the torch reference on the CPU, products with float64.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from dsv3.kernels import gemm, hardware, mla, mla_hopper, quant, reference
from dsv3.kernels.reference import FP8, weight_quant

from . import gpu_step_checks
from .gpu_judge import BF16_HALF, FP8_SUM, near, poisoned, same


def act_quant(device: torch.device) -> None:
    """Every BF16 number, blocks of zeros and subnormals, and random ones of each dtype; both kinds of scale."""
    every = torch.arange(65536).to(torch.int16).view(torch.bfloat16).view(512, 128)
    edges = torch.zeros(5, 128)
    edges[0, 0], edges[2, 3], edges[3, 4] = 1e-45, math.inf, math.nan
    edges[1] = 1e-40 * torch.arange(128)
    edges[4] = torch.linspace(-448, 448, 128)
    for x in (every, edges, torch.randn(70, 384).exp(), torch.randn(3, 5, 256).bfloat16(), torch.randn(9, 128).half()):
        for scale_fmt in (None, "ue8m0"):
            got = poisoned(quant.plan_act_quant(x.to(device), 128, scale_fmt))
            for ours, theirs in zip(got, reference.act_quant(x, 128, scale_fmt), strict=True):
                same(ours, theirs)
    columns = poisoned(quant.plan_act_quant(every.to(device), columns=True))
    if columns[1].stride(0) != 1:
        raise AssertionError(f"columns: the scales' strides are {columns[1].stride()}")
    for ours, theirs in zip(columns, reference.act_quant(every), strict=True):
        same(ours.contiguous(), theirs)


def weight_dequant(device: torch.device) -> None:
    """Every FP8 code, ragged edges, all result types, with FP8 units and without."""
    for m, n in ((300, 200), (576, 256), (1, 1)):
        w = torch.randint(0, 256, (m, n), dtype=torch.uint8).view(FP8)
        scale = torch.rand(math.ceil(m / 128), math.ceil(n / 128)).exp() * 1e-3
        for dtype in quant.DTYPES:
            expected = reference.weight_dequant(w, scale, 128, dtype)
            for known in {"sm_80", "sm_90"} if hardware.hardware_of(device).fp8 else {"sm_80"}:
                where = hardware.named(known)
                same(*poisoned(quant.plan_weight_dequant(w.to(device), scale.to(device), 128, dtype, where)), expected)


def _operands(shape: tuple[int, ...], quantise: Callable, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random FP8 numbers, their scales, and both as float64."""
    x = torch.randn(shape)
    q, scale = quantise(x)
    rows = 1 if quantise is reference.act_quant else 128
    wide = scale.double().repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(128, 1)[:, : shape[1]]
    return q.to(device), scale.to(device), (q.double() * wide).to(device)


def _fp8_allowed(a: Tensor, b: Tensor) -> Tensor:
    return (a.abs() @ b.abs().T) * FP8_SUM + (a @ b.T).abs() * BF16_HALF + 1e-30


def fp8_gemm(device: torch.device) -> None:
    """Few and many rows, ragged edges, K in one part and in several; twice the same bits."""
    for m, n, k in ((1, 200, 1024), (16, 576, 512), (33, 64, 2048), (64, 130, 256), (200, 130, 384)):
        a, a_scale, wide_a = _operands((m, k), reference.act_quant, device)
        b, b_scale, wide_b = _operands((n, k), weight_quant, device)
        (got,) = poisoned(gemm.plan_fp8_gemm(a, a_scale, b, b_scale))
        near(got, wide_a @ wide_b.T, _fp8_allowed(wide_a, wide_b))
        same(gemm.fp8_gemm(a, a_scale, b, b_scale), got)


def fp8_gemm_tiles(device: torch.device) -> None:
    """Every tile of the table that this device can hold."""
    a, a_scale, wide_a = _operands((40, 256), reference.act_quant, device)
    b, b_scale, wide_b = _operands((130, 256), weight_quant, device)
    for rows in gemm.TILES:
        for tile in gemm.candidates(rows, hardware.hardware_of(device), 1):
            (got,) = poisoned(gemm.plan_fp8_gemm(a, a_scale, b, b_scale, tile=tile))
            near(got, wide_a @ wide_b.T, _fp8_allowed(wide_a, wide_b))


def mla_decode(device: torch.device) -> None:
    """DeepSeek's widths; ragged lengths with NaN behind them; an empty sequence; many splits; every tile."""
    for b, h, t, lengths in ((3, 20, 200, [200, 1, 0]), (1, 16, 1100, [1050]), (1, 128, 70, [66])):
        q_c, q_pe = torch.randn(b, h, 512).bfloat16(), torch.randn(b, h, 64).bfloat16()
        c, k_pe = torch.randn(b, t, 512).bfloat16(), torch.randn(b, t, 64).bfloat16()
        scale, exact = 0.04, torch.zeros(b, h, 512, dtype=torch.float64)
        for i, n in enumerate(lengths):
            c[i, n:], k_pe[i, n:] = math.nan, math.nan
            if n:
                scores = q_c[i].double() @ c[i, :n].double().T + q_pe[i].double() @ k_pe[i, :n].double().T
                exact[i] = (scores * scale).softmax(-1) @ c[i, :n].double()
        # The weights, which sum to 1, and the result are rounded to BF16.
        allowed = 2 * BF16_HALF * c.nan_to_num().abs().max().item()
        args = [x.to(device) for x in (q_c, q_pe, c, k_pe, torch.tensor(lengths))]
        for tile in mla.candidates(h, 2, hardware.hardware_of(device)):
            near(*poisoned(mla.plan_mla_decode(*args, scale, tile=tile)), exact.to(device), allowed)


def beyond_32_bits(device: torch.device) -> None:
    """A matrix of more than 2^31 numbers: its last rows (6.5 GB of GPU memory)."""
    m, n = (1 << 31) // 8192 + 256, 8192
    w = torch.zeros(m, n, dtype=torch.uint8, device=device).view(FP8)
    tail = torch.randn(256, n).to(FP8)
    w[-256:] = tail.to(device)
    scale = torch.ones(m // 128, n // 128, device=device)
    same(quant.weight_dequant(w, scale)[-256:], tail.bfloat16())


def tiny_r1(device: torch.device) -> None:
    """A whole model on the kernels that ``pick`` chooses still gets a sum right."""
    from dsv3.llm import load

    answer = load("tiny-r1", device=device.type).chat("37 + 48 = ?", temperature=0.0).answer.strip()
    if answer != "Answer: 85":
        raise AssertionError(f"37 + 48 = ? is answered by {answer!r}")


_ALL = (act_quant, weight_dequant, fp8_gemm, fp8_gemm_tiles, mla_decode)
CHECKS: dict[str, Callable[[torch.device], None]] = {
    f.__name__: f for f in (*_ALL, *gpu_step_checks.ALL, beyond_32_bits, tiny_r1)
}
NEED_FP8 = ("act_quant", "fp8_gemm", "fp8_gemm_tiles", *gpu_step_checks.NEED_FP8)


def lacking(name: str, device: torch.device) -> str | None:
    """Why a check of ``CHECKS`` cannot run here; None if it can."""
    if name in NEED_FP8 and not hardware.hardware_of(device).fp8:
        return f"{hardware.hardware_of(device).name} has no FP8 units"
    if name == "mla_hopper_kernel":
        return mla_hopper.lacking(device)
    packages = [p for p in ("numpy", "tokenizers", "jinja2") if name == "tiny_r1" and find_spec(p) is None]
    return f"not installed: {', '.join(packages)}" if packages else None
