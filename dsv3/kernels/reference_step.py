"""The operations of one decode step in plain torch, each what a Triton kernel does at once: part of ``reference``.

Letters: M new tokens, D width, H heads of this rank, C latent rank, R rotary width, N and P a head's width in keys
(without position) and values, E experts, K chosen of them, A slots of a token (K, and the shared experts), S = M x A.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference_fp8 import act_quant, fp8_gemm

Quantised = tuple[Tensor, Tensor]  # [..., X] float8_e4m3fn and [..., X / 128] float32, as ``act_quant`` returns them


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm in float32, rounded once to ``x``'s dtype."""
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.float()).to(x.dtype)


def _as(y: Tensor, fp8: bool, scale_fmt: str | None) -> Tensor | Quantised:
    return act_quant(y, 128, scale_fmt) if fp8 else y


def _turned(pairs: Tensor, turns: Tensor) -> Tensor:
    """[..., R] with neighbours as pairs, turned by [..., R / 2, 2] cosines and sines -> [..., R] float32."""
    a, b = pairs.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turns.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def weighted_sum(part: Tensor, rank: Tensor, weights: Tensor) -> Tensor:
    """Each token's rows of ``part``, weighed and added in the order of its slots, in float32.

    Args:
        part: [S, D], the experts' results, sorted by expert (``experts_gemm``).
        rank: [M, A] int32, where each slot's row is (``sort_slots``); -1: another rank's, which counts as 0.
        weights: [M, A] float32 (``route``).

    Returns:
        [M, D] float32. No two additions race, so the same call gives the same bits.
    """
    total = torch.zeros(rank.shape[0], part.shape[1], dtype=torch.float32, device=part.device)
    for place, weight in zip(rank.unbind(1), weights.unbind(1), strict=True):
        rows = part[place.clamp(min=0)].float().masked_fill((place < 0).unsqueeze(1), 0.0)
        total = total + rows * weight.unsqueeze(1)
    return total


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
    """The residual sum, and its RMSNorm as the next layer reads it.

    Args:
        h: [M, D], the residual stream.
        part: [M, D], what the last layer adds, rounded to ``h``'s dtype first; with ``slots`` [S, D], the experts'
            results; None: nothing.
        weight: [D], the norm's.
        slots: ``rank`` and ``weights`` as ``weighted_sum`` takes them: ``part`` is then that sum.
        plain: whether the norm is returned in ``h``'s dtype. fp8: whether it is quantised; ``scale_fmt`` as
            ``act_quant``'s.

    Returns:
        [M, D] the sum; [M, D] the norm or None; its FP8 numbers [M, D] and scales [M, D / 128] or None.

    Raises:
        ValueError: ``fp8``, and D is not a multiple of 128.

    Source: technical report, section 2.1 (the blocks); DeepSeek-V3 inference/model.py Block.
    """
    if part is not None:
        h = h + (part if slots is None else weighted_sum(part, *slots)).to(h.dtype)
    y = _norm(h, weight, eps)
    return h, y if plain else None, act_quant(y, 128, scale_fmt) if fp8 else None


def silu_mul(up: Tensor, fp8: bool = False, scale_fmt: str | None = None) -> Tensor | Quantised:
    """[M, 2 X] -> ``silu(left) * right``, [M, X]: both rounded to ``up``'s dtype; quantised if ``fp8``.

    Raises:
        ValueError: ``fp8``, and X is not a multiple of 128.
    """
    left, right = up.chunk(2, dim=-1)
    return _as(F.silu(left) * right, fp8, scale_fmt)


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
    """What follows attention's first product: the latent goes into the cache, the query through its norm.

    Args:
        first: [M, Q + C + R], query, latent and rotary key side by side.
        turns: [positions, R / 2, 2] float32, cosine and sine of each pair at each position.
        at: [M] int32 or int64, the token's position; one outside of the cache writes nothing.
        kept: [B, T, C + R], the cache, written in place: token m belongs to sequence m // (M / B).
        kv_norm: [C]. q_norm: [Q], or None where the query is not compressed and has no norm.
        fp8: whether the query is quantised; ``scale_fmt`` as ``act_quant``'s.

    Returns:
        The query after its norm, [M, Q], in ``first``'s dtype or as FP8 numbers and scales; None without ``q_norm``.

    Raises:
        ValueError: ``fp8``, and Q is not a multiple of 128.

    Source: technical report, section 2.1.1; DeepSeek-V3 inference/model.py MLA.
    """
    m, (b, length, _), rank = first.shape[0], kept.shape, kv_norm.shape[0]
    q, c, k_pe = first.split([first.shape[1] - kept.shape[2], rank, kept.shape[2] - rank], dim=1)
    turned = _turned(k_pe, turns[at.clamp(0, len(turns) - 1)])
    row = torch.cat([_norm(c, kv_norm, eps).to(kept.dtype), turned.to(kept.dtype)], 1)
    inside = ((at >= 0) & (at < length)).unsqueeze(1)
    sequence, place = torch.arange(m, device=at.device) // max(m // max(b, 1), 1), at.clamp(0, length - 1)
    kept[sequence, place] = torch.where(inside, row, kept[sequence, place])
    return None if q_norm is None else _as(_norm(q, q_norm, eps), fp8, scale_fmt)


def absorb(q: Tensor, turns: Tensor, at: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The queries as attention over the latent cache needs them.

    Args:
        q: [M, H * (N + R)], each head's part without position, then its rotary part; a view with dense rows is fine.
        turns, at: as ``latent``'s.
        key: [H, C, N], what unfolds a latent into each head's key.

    Returns:
        [M, H, C], the part without position times ``key``, in float32 and rounded once; and [M, H, R], the rotated
        part; both in ``q``'s dtype.

    Source: DeepSeek-V2 report (arXiv 2405.04434), section 2.1.2.
    """
    heads, _, n = key.shape
    nope, pe = q.unflatten(1, (heads, -1)).split([n, q.shape[1] // heads - n], dim=-1)
    q_c = torch.einsum("mhn,hcn->mhc", nope.float(), key.float())
    return q_c.to(q.dtype), _turned(pe, turns[at.clamp(0, len(turns) - 1)].unsqueeze(1)).to(q.dtype)


def unfold(
    part: Tensor, lse: Tensor, value: Tensor, fp8: bool = False, scale_fmt: str | None = None
) -> Tensor | Quantised:
    """The parts of attention put together, and the mixed latents unfolded into each head's values.

    Args:
        part: [M, H, splits, C] float32 and lse: [M, H, splits] float32, as ``mla_parts`` returns them.
        value: [H, P, C].

    Returns:
        [M, H * P] in ``value``'s dtype, to which the mixed latents are rounded, too; or FP8 numbers and scales.

    Raises:
        ValueError: ``fp8``, and H * P is not a multiple of 128.

    Source: DeepSeek-V2 report (arXiv 2405.04434), section 2.1.2.
    """
    best = lse.amax(-1, keepdim=True)
    shares = (lse - best.masked_fill(best.isinf(), 0.0)).exp2()
    total = shares.sum(-1, keepdim=True)
    shares = shares / total.masked_fill(total == 0, 1.0)
    mixed = (part * shares.unsqueeze(-1)).sum(2).to(value.dtype)
    y = torch.einsum("mhc,hpc->mhp", mixed.float(), value.float()).to(value.dtype)
    return _as(y.flatten(1), fp8, scale_fmt)


def gate_logits(y: Tensor, gate: Tensor) -> Tensor:
    """[M, D] times [E, D] in float32 -> [parts, M, E] float32, to be added by ``route``; here it is one part.

    How D is cut into parts, and so every bit, depends on D alone.
    """
    return (y.float() @ gate.float().T).unsqueeze(0)


def head_logits(y: Tensor, head: Tensor) -> Tensor:
    """[M, D] times [V, D] -> [M, V] float32: the numbers are taken as they are and summed in float32."""
    return y.float() @ head.float().T


def check_route(experts: int, chosen: int, groups: int, kept: int) -> None:
    """Refuse a rule that does not leave ``chosen`` experts to choose.

    Raises:
        ValueError: not.
    """
    if experts % groups or not chosen <= experts // groups * min(kept, groups):
        raise ValueError(
            f"route: {chosen} experts of {experts} cannot be chosen from {kept} of {groups} groups of one size"
        )


def _largest(x: Tensor, k: int) -> Tensor:
    """Where the ``k`` largest of the last dimension are, largest first, of equal ones the first one first."""
    return x.argsort(dim=-1, descending=True, stable=True)[..., :k]


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
    """Which experts see a token, and with which weight; the shared ones follow as experts E, E + 1, ... of weight 1.

    Args:
        logits: [parts, M, E] float32, to be added (``gate_logits``).
        bias: [E] float32, added for the choice, not for the weight; or None.
        chosen: K. softmax: scores are a softmax over the experts, else a sigmoid of each.
        groups, kept: experts come from the ``kept`` best of so many groups of one size: by the sum of a group's two
            best scores with a ``bias`` (V3), else by its best (V2). 1 group is no grouping.
        normalise: weights are divided by their sum. scale: and multiplied by this.
        shared: how many shared experts.

    Returns:
        weights [M, K + shared] float32 and ids [M, K + shared] int32, best first; of equals the lower id first.

    Raises:
        ValueError: the groups do not leave so many experts to choose.

    Source: technical report, section 2.1.2; DeepSeek-V3 inference/model.py Gate.
    """
    experts = logits.shape[2]
    check_route(experts, chosen, groups, kept)
    logits = logits.sum(0)
    scores = logits.softmax(-1) if softmax else logits.sigmoid()
    choice = scores if bias is None else scores + bias
    if groups > 1:
        grouped = choice.unflatten(-1, (groups, -1))
        value = grouped.amax(-1) if bias is None else grouped.topk(2, dim=-1)[0].sum(-1)
        out = torch.ones_like(value, dtype=torch.bool).scatter_(-1, _largest(value, kept), False)
        choice = grouped.masked_fill(out.unsqueeze(-1), float("-inf")).flatten(-2)
    ids = _largest(choice, chosen)
    weights = scores.gather(-1, ids)
    if normalise:
        total = torch.zeros_like(weights[:, :1])
        for one in weights.split(1, dim=1):  # one after the other, as the kernel does
            total = total + one
        weights = weights / (total + 1e-20)
    more = torch.arange(experts, experts + shared, device=ids.device).expand(len(ids), -1)
    return F.pad(weights * scale, (0, shared), value=1.0), torch.cat([ids, more], 1).to(torch.int32)


class Slots(NamedTuple):
    """Where the slots of all tokens go when they are sorted by expert.

    Attributes:
        order: [S] int32: slot ``order[r]`` of [M, A] is at row r; its token is ``order[r] // A``.
        rank: [M, A] int32, the same backwards; -1 where the expert is another rank's.
        tiles: [1 + 3 T] int32: how many tiles there are, then each one's expert, first row and the expert's end.
        ends: [E] int32: one past each expert's last row.
        rows: of a tile.
    """

    order: Tensor
    rank: Tensor
    tiles: Tensor
    ends: Tensor
    rows: int


def tile_rows(slots: int, experts: int) -> int:
    """Rows of a tile of ``experts_gemm``: about what an expert has, so that no tile is mostly empty."""
    return next((rows for rows, most in ((16, 16), (32, 32), (64, 128)) if slots <= most * experts), 128)


def sort_slots(ids: Tensor, experts: int) -> Slots:
    """Sort the slots by expert, those of one expert by token, and cut each expert's rows into tiles.

    Nothing waits for the device: how many tiles there are stays on it.

    Args:
        ids: [M, A] int32. Ids outside of 0 to ``experts`` - 1 are another rank's: they come last, and no tile has them.
    """
    flat, device, s = ids.flatten(), ids.device, ids.numel()
    foreign = (flat < 0) | (flat >= experts)
    key = flat.masked_fill(foreign, experts)
    order = key.argsort(stable=True)
    rank = torch.empty_like(flat).scatter_(0, order, torch.arange(s, dtype=flat.dtype, device=device))
    rows = tile_rows(s, experts)
    count = torch.zeros(experts + 1, dtype=torch.int32, device=device)
    count = count.scatter_add_(0, key.long(), torch.ones_like(key, dtype=torch.int32))[:experts]
    end, tiles = count.cumsum(0), (count + rows - 1) // rows
    upto = tiles.cumsum(0)
    tile = torch.arange(s // rows + min(experts, s), device=device)
    expert = torch.searchsorted(upto, tile, right=True).clamp_(max=experts - 1)
    first = (end - count)[expert] + (tile - (upto - tiles)[expert]) * rows
    table = torch.cat([upto[-1:], torch.stack([expert, first, end[expert]], 1).flatten()])
    rank = rank.masked_fill(foreign, -1).view(ids.shape)
    order, rank, table, ends = (x.to(torch.int32) for x in (order, rank, table, end))
    return Slots(order, rank, table, ends, rows)


def check_experts(x: Tensor | Quantised, w: Tensor, slots: Slots, w_scale: Tensor | None, gather: bool) -> None:
    """Refuse arguments of ``experts_gemm`` that do not fit together.

    Raises:
        ValueError: their shapes, dtypes or scales.
    """
    q = x[0] if isinstance(x, tuple) else x
    rows = len(slots.rank) if gather else len(slots.order)
    if w.dim() != 3 or tuple(q.shape) != (rows, w.shape[2]):
        raise ValueError(
            f"experts_gemm: beside w {list(w.shape)}, [E, n, k], x must be [{rows}, k]; it is {list(q.shape)}"
        )
    if q.dtype != w.dtype or isinstance(x, tuple) != (w_scale is not None):
        raise ValueError(
            f"experts_gemm: x is {q.dtype} and w {w.dtype}; they must be the same, in FP8 with the scales of both"
        )


def experts_gemm(
    x: Tensor | Quantised,
    w: Tensor,
    slots: Slots,
    w_scale: Tensor | None = None,
    *,
    gather: bool,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Each slot's row times its expert's matrix, in float32.

    Args:
        x: with ``gather`` [M, k], the tokens, of which each slot takes its own; else [S, k], the rows in order. In
            ``w``'s dtype; or FP8 numbers and scales.
        w: [E, n, k], shared experts included; with w_scale: [E, ceil(n / 128), k / 128] float32 in FP8.

    Returns:
        [S, n] in ``dtype``, sorted by expert; rows of another rank's experts are undefined.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: technical report, sections 2.1.2 (DeepSeekMoE) and 3.3.2 (FP8).
    """
    check_experts(x, w, slots, w_scale, gather)
    source = slots.order.long()
    source = source // slots.rank.shape[1] if gather else torch.arange(len(source), device=source.device)
    out = torch.zeros(len(source), w.shape[1], dtype=dtype, device=w.device)
    number, *table = slots.tiles.tolist()
    for i in range(number):
        expert, begin, end = table[3 * i : 3 * i + 3]
        mine = slice(begin, min(begin + slots.rows, end))
        if isinstance(x, tuple) and w_scale is not None:
            q, scale = x
            out[mine] = fp8_gemm(q[source[mine]], scale[source[mine]], w[expert], w_scale[expert], 128, dtype)
        elif isinstance(x, Tensor):
            out[mine] = (x[source[mine]].float() @ w[expert].float().T).to(dtype)
    return out
