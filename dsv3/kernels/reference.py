"""The kernels in plain torch: what each Triton kernel must equal, and what runs on a CPU.

Here is attention; ``reference_fp8`` and ``reference_step`` hold what else has this name.
"""

import math

import torch
from torch import Tensor

from .reference_fp8 import FP8, act_quant, check_scale, fp8_gemm, weight_dequant, weight_quant
from .reference_step import (
    Slots,
    absorb,
    add_norm,
    experts_gemm,
    gate_logits,
    head_logits,
    latent,
    route,
    silu_mul,
    sort_slots,
    unfold,
    weighted_sum,
)

__all__ = [
    "FP8",
    "Slots",
    "absorb",
    "act_quant",
    "add_norm",
    "check_mla",
    "check_scale",
    "experts_gemm",
    "fp8_gemm",
    "gate_logits",
    "head_logits",
    "latent",
    "mla_decode",
    "mla_parts",
    "route",
    "silu_mul",
    "sort_by_expert",
    "sort_slots",
    "unfold",
    "weight_dequant",
    "weight_quant",
    "weighted_sum",
]


def sort_by_expert(experts: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Where each token's copies go when they are sorted by expert.

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


def check_mla(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor) -> None:
    """Refuse arguments of ``mla_decode`` that do not fit together.

    Raises:
        ValueError: their shapes or dtypes.
    """
    if q_c.dim() != 3 or c.dim() != 3 or q_pe.dim() != 3:
        raise ValueError("mla_decode: q_c, q_pe, c and k_pe must be [M, H, C], [M, H, R], [B, T, C] and [B, T, R]")
    (m, h, rank), r, (b, t, _) = q_c.shape, q_pe.shape[2], c.shape
    wanted = {"q_pe": (q_pe, (m, h, r)), "c": (c, (b, t, rank)), "k_pe": (k_pe, (b, t, r)), "lengths": (lengths, (m,))}
    for name, (x, shape) in wanted.items():
        if tuple(x.shape) != shape:
            raise ValueError(
                f"mla_decode: {name} is {list(x.shape)}; beside q_c {list(q_c.shape)} it must be {list(shape)}"
            )
    if m % max(b, 1):
        raise ValueError(f"mla_decode: {m} new tokens are not equally many for each of {b} sequences")
    if len({x.dtype for x in (q_c, q_pe, c, k_pe)}) > 1:
        raise ValueError(
            f"mla_decode: q_c is {q_c.dtype}, q_pe {q_pe.dtype}, c {c.dtype}, k_pe {k_pe.dtype}; use one dtype"
        )


def mla_parts(
    q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float
) -> tuple[Tensor, Tensor]:
    """``mla_decode`` before its parts are put together, which ``unfold`` does on the way; here it is one part.

    Returns:
        part: [M, H, splits, C] float32, attention over a part of the tokens each; and lse: [M, H, splits] float32, the
        base-2 logarithm of the part's sum of ``exp(score)``, by which it is weighed: -inf for a part without tokens.
    """
    check_mla(q_c, q_pe, c, k_pe, lengths)
    (m, h, rank), (b, t, _) = q_c.shape, c.shape
    # The heads of a sequence's new tokens, side by side: all look at the same cache.
    unseen = torch.arange(t, device=c.device) >= lengths.view(b, -1, 1)
    q_c, q_pe = (q.float().reshape(b, -1, q.shape[-1]) for q in (q_c, q_pe))
    scores = (q_c @ c.float().mT + q_pe @ k_pe.float().mT) * softmax_scale
    hidden = unseen.repeat_interleave(h, 1)
    scores = scores.masked_fill(hidden, float("-inf"))
    weights = scores.softmax(-1).masked_fill(hidden, 0.0)
    # What lies beyond a sequence's end may be anything, NaN included.
    part = weights @ c.float().masked_fill(unseen.all(1).unsqueeze(2), 0.0)
    return part.view(m, h, 1, rank), (scores.logsumexp(-1) * math.log2(math.e)).view(m, h, 1)


def mla_decode(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float) -> Tensor:
    """Attention of new tokens over the latent cache, in float32, rounded once at the end.

    Args:
        q_c: [M, H, C], the queries without position, absorbed; q_pe: [M, H, R], the rotated ones. Token m belongs to
            sequence m // (M / B).
        c: [B, T, C], the latents; k_pe: [B, T, R], the rotated keys; all four in one dtype.
        lengths: [M], how many tokens of the cache each new token sees, itself included.

    Returns:
        [M, H, C] in ``q_c``'s dtype: ``softmax((q_c c^T + q_pe k_pe^T) * softmax_scale) c``; 0 for a length 0.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: DeepSeek-V2 report (arXiv 2405.04434), section 2.1.2; technical report, section 2.1.1.
    """
    return mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale)[0].squeeze(2).to(q_c.dtype)
