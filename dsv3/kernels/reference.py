"""The FP8 kernels in plain torch: what each Triton kernel must equal, and what runs on a CPU."""

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


def act_quant(x: Tensor, block: int = 128, scale_fmt: str | None = None) -> tuple[Tensor, Tensor]:
    """Quantise each run of ``block`` numbers of the last dimension to FP8 with its own scale.

    Args:
        x: [..., K], K a multiple of ``block``.
        scale_fmt: ``"ue8m0"`` rounds the scale up to a power of two, as V3.1 checkpoints expect.

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


def sort_by_expert(experts: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Where each token's copies go when they are sorted by expert, as ``grouped_gemm`` needs them.

    Args:
        experts: [M, A] ids from 0 to ``n_experts`` - 1, the A experts of each of M tokens.

    Returns:
        order: [M * A], so that ``x[order // A]`` are the sorted copies and ``y[order.argsort()]`` undoes it; and
        offsets: [n_experts + 1] int32, where each expert's rows begin and the last one's end.
    """
    order = experts.flatten().argsort(stable=True)
    counts = torch.zeros(n_experts, dtype=torch.int64, device=experts.device)
    counts.scatter_add_(0, experts.flatten(), torch.ones_like(order))
    return order, torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)


def check_groups(x: Tensor, w: Tensor, offsets: Tensor, x_scale: Tensor | None, w_scale: Tensor | None) -> None:
    """Refuse arguments of ``grouped_gemm`` that do not fit together.

    Raises:
        ValueError: their shapes or dtypes, or scales that are missing or too many.
    """
    if x.dim() != 2 or w.dim() != 3 or x.shape[1] != w.shape[2]:
        raise ValueError(
            f"grouped_gemm: x is {list(x.shape)} and w is {list(w.shape)}; they must be [S, K] and [E, N, K]"
        )
    if x.dtype != w.dtype:
        raise ValueError(f"grouped_gemm: x is {x.dtype} and w is {w.dtype}; they must be the same")
    if tuple(offsets.shape) != (w.shape[0] + 1,):
        raise ValueError(
            f"grouped_gemm: offsets is {list(offsets.shape)}; {w.shape[0]} experts need [{w.shape[0] + 1}]"
        )
    if (x_scale is None) != (w.dtype != FP8) or (w_scale is None) != (w.dtype != FP8):
        raise ValueError(f"grouped_gemm: {w.dtype} weights take {'both scales' if w.dtype == FP8 else 'no scales'}")


def grouped_gemm(
    x: Tensor,
    w: Tensor,
    offsets: Tensor,
    x_scale: Tensor | None = None,
    w_scale: Tensor | None = None,
    block: int = 128,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Each expert's own product: rows ``offsets[e]`` to ``offsets[e + 1]`` of ``x`` with ``w[e].T``, in float32.

    Args:
        x: [S, K], the tokens' copies sorted by expert (``sort_by_expert``), in ``w``'s dtype.
        w: [E, N, K]; float8_e4m3fn with both scales, any other float without.
        offsets: [E + 1] integers rising from 0 to S.
        x_scale: [S, K / block] float32.
        w_scale: [E, ceil(N / block), K / block] float32.

    Returns:
        [S, N] in ``dtype``.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: technical report, sections 2.1.2 (DeepSeekMoE) and 3.3.2 (FP8).
    """
    check_groups(x, w, offsets, x_scale, w_scale)
    out = torch.empty(x.shape[0], w.shape[1], dtype=dtype, device=x.device)
    bounds = offsets.tolist()
    for e, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        rows = slice(begin, end)
        if x_scale is None or w_scale is None:
            out[rows] = (x[rows].float() @ w[e].float().T).to(dtype)
        else:
            out[rows] = fp8_gemm(x[rows], x_scale[rows], w[e], w_scale[e], block, dtype)
    return out


def check_mla(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor) -> None:
    """Refuse arguments of ``mla_decode`` that do not fit together.

    Raises:
        ValueError: their shapes or dtypes.
    """
    if q_c.dim() != 3 or c.dim() != 3 or q_pe.dim() != 3:
        raise ValueError("mla_decode: q_c, q_pe, c and k_pe must be [B, H, C], [B, H, R], [B, T, C] and [B, T, R]")
    (b, h, rank), r, t = q_c.shape, q_pe.shape[2], c.shape[1]
    wanted = {"q_pe": (q_pe, (b, h, r)), "c": (c, (b, t, rank)), "k_pe": (k_pe, (b, t, r)), "lengths": (lengths, (b,))}
    for name, (x, shape) in wanted.items():
        if tuple(x.shape) != shape:
            raise ValueError(
                f"mla_decode: {name} is {list(x.shape)}; beside q_c {list(q_c.shape)} it must be {list(shape)}"
            )
    if len({x.dtype for x in (q_c, q_pe, c, k_pe)}) > 1:
        raise ValueError(
            f"mla_decode: q_c is {q_c.dtype}, q_pe {q_pe.dtype}, c {c.dtype}, k_pe {k_pe.dtype}; use one dtype"
        )


def mla_decode(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float) -> Tensor:
    """Attention of one new token per sequence over the latent cache, in float32, rounded once at the end.

    Args:
        q_c: [B, H, C], the queries without position, absorbed; q_pe: [B, H, R], the rotated ones.
        c: [B, T, C], the latents; k_pe: [B, T, R], the rotated keys; all four in one dtype.
        lengths: [B], how many tokens of the cache each sequence has.

    Returns:
        [B, H, C] in ``q_c``'s dtype: ``softmax((q_c c^T + q_pe k_pe^T) * softmax_scale) c``; 0 for a length 0.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: DeepSeek-V2 report (arXiv 2405.04434), section 2.1.2; technical report, section 2.1.1.
    """
    check_mla(q_c, q_pe, c, k_pe, lengths)
    scores = q_c.float() @ c.float().mT + q_pe.float() @ k_pe.float().mT
    unseen = torch.arange(c.shape[1], device=c.device) >= lengths.unsqueeze(1)
    weights = (scores * softmax_scale).masked_fill(unseen.unsqueeze(1), float("-inf")).softmax(-1)
    weights = weights.masked_fill(unseen.unsqueeze(1), 0.0)
    # What lies beyond a sequence's end may be anything, NaN included.
    return (weights @ c.float().masked_fill(unseen.unsqueeze(2), 0.0)).to(q_c.dtype)
