"""Between BF16 and FP8, and the FP8 product, in plain torch: part of ``reference``."""

from math import ceil

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0  # largest finite float8_e4m3fn
SMALLEST = 2.0**-126  # the smallest normal float32, and the smallest scale


def _scale(amax: Tensor, scale_fmt: str | None) -> Tensor:
    """The scale that maps ``amax`` to 448; for ``ue8m0`` rounded up to a power of two. An all-zero block gets 1.

    It is never 0, not even where ``amax / 448`` underflows; a block that holds NaN or infinity gets just that.
    """
    scale = torch.where(amax == 0, 1.0, (amax / FP8_MAX).clamp(min=SMALLEST))
    if scale_fmt == "ue8m0":
        # The bits below the exponent, all ones, carry into it unless they meet zeros. A logarithm could round down.
        up = ((scale.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)
        scale = torch.where(scale.isnan(), scale, up)
    return scale


def act_quant(
    x: Tensor, block: int = 128, scale_fmt: str | None = None, columns: bool = False
) -> tuple[Tensor, Tensor]:
    """Quantise each run of ``block`` numbers of the last dimension to FP8 with its own scale.

    Args:
        x: [..., K], K a multiple of ``block``.
        scale_fmt: ``"ue8m0"`` rounds the scale up to a power of two, as V3.1 checkpoints expect.
        columns: scales lie column by column in memory, as ``torch._scaled_mm`` reads them.

    Returns:
        q: [..., K] float8_e4m3fn, and scale: [..., K / block] float32, with ``x ~ q * scale``.

    Raises:
        ValueError: K is not a multiple of ``block``.

    Source: technical report, section 3.3.2 (1x128 groups for activations).
    """
    if x.shape[-1] % block:
        raise ValueError(f"act_quant: last dimension {x.shape[-1]} is not a multiple of the block {block}")
    groups = x.float().unflatten(-1, (x.shape[-1] // block, block))
    scale = _scale(groups.abs().amax(-1), scale_fmt)
    q = (groups / scale.unsqueeze(-1)).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    if columns:
        scale = scale.view(-1, scale.shape[-1]).t().contiguous().t().view(scale.shape)
    return q.flatten(-2), scale


def check_scale(w: Tensor, scale: Tensor, block: int) -> None:
    """Refuse a ``scale`` that does not belong to ``w``.

    Raises:
        ValueError: not.
    """
    expected = (ceil(w.shape[0] / block), ceil(w.shape[1] / block))
    if tuple(scale.shape) != expected:
        raise ValueError(f"a {list(w.shape)} weight has {expected} scales, not {tuple(scale.shape)}")


def _spread(scale: Tensor, w: Tensor, block: int) -> Tensor:
    """[ceil(M / block), ceil(N / block)] -> [M, N]: each weight's own scale; the last blocks may be ragged."""
    check_scale(w, scale, block)
    rows = scale.repeat_interleave(block, 0)[: w.shape[0]]
    return rows.repeat_interleave(block, 1)[:, : w.shape[1]]


def weight_quant(
    w: Tensor, block: int = 128, scale_fmt: str | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise a matrix to FP8 with one scale per ``block`` x ``block`` tile; edges may be ragged.

    Args:
        scale: the scales to use, as returned; by default a tile's largest number becomes 448.

    Returns:
        q: [M, N] float8_e4m3fn, and scale: [ceil(M / block), ceil(N / block)] float32, with ``w ~ q * scale``.

    Source: technical report, section 3.3.2 (128x128 blocks for weights).
    """
    if scale is None:
        m, n = w.shape
        padded = torch.nn.functional.pad(w.float(), (0, -n % block, 0, -m % block))
        tiles = padded.unflatten(0, (-1, block)).unflatten(2, (-1, block))
        scale = _scale(tiles.abs().amax((1, 3)), scale_fmt)
    q = (w.float() / _spread(scale, w, block)).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return q, scale


def weight_dequant(w: Tensor, scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """``w * scale``, block by block, in float32 and then rounded once to ``dtype``.

    Args:
        w: [M, N] float8_e4m3fn.
        scale: [ceil(M / block), ceil(N / block)] float32.

    Raises:
        ValueError: the scale's shape does not fit the weight's.

    Source: README_WEIGHTS.md, "Dequantization Method".
    """
    return (w.float() * _spread(scale, w, block)).to(dtype)


def fp8_gemm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """``(a * a_scale) @ (b * b_scale).T`` with float32 accumulation.

    Args:
        a: [..., K] float8_e4m3fn with a_scale: [..., K / block] float32.
        b: [N, K] float8_e4m3fn with b_scale: [ceil(N / block), K / block] float32.

    Returns:
        [..., N] in ``dtype``.

    Source: technical report, section 3.3.2 (scales applied per 128 of K).
    """
    x = (a.float().unflatten(-1, (a.shape[-1] // block, block)) * a_scale.unsqueeze(-1)).flatten(-2)
    return (x @ weight_dequant(b, b_scale, block, torch.float32).T).to(dtype)
