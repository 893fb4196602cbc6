"""What must be right of a decode step's kernels, as in ``gpu_checks.py``, which lists these, too.

Each is held against float64, or bit for bit where nothing is rounded; FP8 forms must be the quantised plain ones, and a
second run must give the same bits.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsv3.kernels import experts, fused, hardware, heads, mla, mla_hopper, reference, sorting
from dsv3.kernels import triton as kernels
from dsv3.kernels.reference import weight_quant

from .gpu_judge import BF16_HALF, FP8_SUM, near, poisoned, same

FLOAT = 2.0**-24  # half a step of float32
EPS = 1e-6
TINY = 1e-30  # so that an exact 0 may be compared


def normal(*shape: int, device: torch.device) -> Tensor:
    """Random BF16; drawn on the CPU, so that a seed means the same everywhere."""
    return torch.randn(shape).bfloat16().to(device)


def twice(plan: Callable[..., Any], *args: Any, **options: Any) -> tuple[Tensor, ...]:
    """Run what a ``plan_...`` makes of its arguments, two times -> its outputs.

    Raises:
        AssertionError: the second run gives other bits.
    """
    first, again = (poisoned(plan(*args, **options)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        same(other, one)
    return first


def normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm in float64."""
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double()


def rotations(positions: int, r: int, device: torch.device) -> Tensor:
    """[positions, R / 2, 2] cosines and sines."""
    angle = torch.randn(positions, r // 2)
    return torch.stack([angle.cos(), angle.sin()], -1).to(device)


def turned(pairs: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """[..., R] turned by [..., R / 2, 2], in float64, and what its rounding to BF16 allows."""
    a, b = pairs.double().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turns.double().unbind(-1)
    exact = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return exact, exact.abs() * BF16_HALF + (a.abs() + b.abs()).repeat_interleave(2, -1) * 4 * FLOAT


def add_norm(device: torch.device) -> None:
    """A layer's part, and experts' rows weighed in order; widths that fill no run of 128."""
    for m, d, slots in ((1, 7168, 9), (5, 200, 3), (33, 256, 2)):
        h, weight = normal(m, d, device=device), torch.rand(d).to(device) + 0.5
        part, rows = normal(m, d, device=device), normal(m * slots, d, device=device)
        rank = torch.randperm(m * slots).view(m, slots).int().to(device)
        share = torch.rand(m, slots).to(device)
        total, y = twice(fused.plan_add_norm, h, part, weight, EPS)
        same(total, h + part)
        near(y, exact := normed(total, weight), exact.abs() * BF16_HALF + TINY)
        total, y = twice(fused.plan_add_norm, h, rows, weight, EPS, slots=(rank, share))
        added = (rows.double()[rank.long()] * share.double().unsqueeze(-1)).sum(1)
        near(total, h.double() + added, ((h.double() + added).abs() + added.abs()) * BF16_HALF + TINY)
        near(y, exact := normed(total, weight), exact.abs() * BF16_HALF + TINY)


def silu_mul(device: torch.device) -> None:
    """Few tokens and many, widths that fill no run of 128, large numbers of both signs."""
    for m, x in ((1, 2048), (7, 48), (70, 128)):
        up = (torch.randn(m, 2 * x) * 4).bfloat16()
        up[0, :3] = torch.tensor([-200.0, 0.0, 200.0])
        (y,) = twice(fused.plan_silu_mul, up.to(device))
        left, right = up.double().to(device).chunk(2, -1)
        exact = left * left.sigmoid() * right
        near(y, exact, exact.abs() * 2 * BF16_HALF + TINY)


def latent(device: torch.device) -> None:
    """Several new tokens a sequence, one of them outside of the cache; with and without a compressed query."""
    for b, per, q, c, r in ((1, 1, 1536, 512, 64), (3, 2, 256, 48, 24), (4, 1, 0, 64, 16)):
        m, t = b * per, 12
        first, table = normal(m, q + c + r, device=device), rotations(20, r, device)
        at = torch.stack([torch.randperm(t)[:per] for _ in range(b)]).flatten().int().to(device)
        at[-1] = t
        kv_norm, q_norm = torch.rand(c).to(device) + 0.5, torch.rand(q).to(device) + 0.5 if q else None
        before = normal(b, t, c + r, device=device)
        kept = before.clone()
        out = twice(
            lambda f=first, p=at, k=kept, v=kv_norm, n=q_norm, x=table: fused.plan_latent(f, x, p, k, v, EPS, n)
        )
        new = kept[torch.arange(m, device=device)[:-1] // per, at[:-1].long()]
        near(new[:, :c], exact := normed(first[:-1, q : q + c], kv_norm), exact.abs() * BF16_HALF + TINY)
        near(new[:, c:], *turned(first[:-1, q + c :], table[at[:-1].long()]))
        before[torch.arange(m, device=device)[:-1] // per, at[:-1].long()] = new
        same(kept, before)  # nothing else was written
        if q_norm is not None:
            near(out[0], exact := normed(first[:, :q], q_norm), exact.abs() * BF16_HALF + TINY)


def absorb(device: torch.device) -> None:
    """The queries' two parts, also as a view of a longer row."""
    for m, h, n, r, c in ((1, 4, 128, 64, 512), (33, 2, 16, 24, 160), (64, 1, 128, 64, 64)):
        q = normal(m, h * (n + r) + 40, device=device)[:, : h * (n + r)]
        key, table = normal(h, c, n, device=device), rotations(9, r, device)
        at = torch.randint(0, 9, (m,)).to(device)
        q_c, q_pe = twice(heads.plan_absorb, q, table, at, key)
        nope, pe = q.unflatten(1, (h, -1)).double().split([n, r], -1)
        exact = torch.einsum("mhn,hcn->mhc", nope, key.double())
        size = torch.einsum("mhn,hcn->mhc", nope.abs(), key.double().abs())
        near(q_c, exact, exact.abs() * BF16_HALF + size * n * FLOAT)
        near(q_pe, *turned(pe, table[at].unsqueeze(1)))


def unfold(device: torch.device) -> None:
    """Parts of attention, some of them empty, put together and unfolded."""
    few = (1, 3, 11, 512, 128), (18, 2, 1, 48, 40), (3, 4, 8, 64, 32)
    for m, h, splits, c, p in (*few, (1, 130, 11, 512, 128), (90, 2, 1, 48, 40), (3, 50, 8, 64, 32)):
        part, lse = torch.randn(m, h, splits, c).to(device), (torch.randn(m, h, splits) * 4).to(device)
        lse[-1, -1, splits // 2 + 1 :] = -torch.inf
        value = normal(h, p, c, device=device)
        (y,) = twice(heads.plan_unfold, part, lse, value)
        mixed = (part.double() * (lse.double() * math.log(2)).softmax(-1).unsqueeze(-1)).sum(2)
        exact = torch.einsum("mhc,hpc->mhp", mixed, value.double())
        size = torch.einsum("mhc,hpc->mhp", mixed.abs(), value.double().abs())
        near(y, exact.flatten(1), (exact.abs() * BF16_HALF + size * (BF16_HALF + c * FLOAT)).flatten(1))


def attended(
    q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, scale: float
) -> tuple[Tensor, Tensor, float]:
    """Attention in float64, the base-2 logarithms of its sums, and by how much BF16 weights and results may differ."""
    exact, lse = torch.zeros_like(q_c, dtype=torch.float64), torch.full_like(q_c[:, :, 0], -torch.inf).double()
    per = len(q_c) // len(c)
    for i, n in enumerate(lengths.tolist()):
        if n:
            seen, keys = c[i // per, :n].double(), k_pe[i // per, :n].double()
            scores = (q_c[i].double() @ seen.T + q_pe[i].double() @ keys.T) * scale
            exact[i], lse[i] = scores.softmax(-1) @ seen, scores.logsumexp(-1) / math.log(2)
    return exact, lse, 2 * BF16_HALF * c.nan_to_num().abs().max().item()


def mla_parts(device: torch.device) -> None:
    """Several new tokens a sequence, with ragged lengths: parts and ``unfold`` are ``mla_decode`` and a product."""
    q_c, q_pe = normal(4, 16, 512, device=device), normal(4, 16, 64, device=device)
    c, k_pe = normal(2, 1100, 512, device=device), normal(2, 1100, 64, device=device)
    lengths = torch.tensor([1050, 1051, 3, 4], dtype=torch.int32, device=device)
    part, lse = twice(mla.plan_mla_parts, q_c, q_pe, c, k_pe, lengths, 0.04)
    mixed = (part.double() * (lse.double() * math.log(2)).softmax(-1).unsqueeze(-1)).sum(2)
    exact, _, allowed = attended(q_c, q_pe, c, k_pe, lengths, 0.04)
    near(mixed, exact, allowed)


def ragged(
    device: torch.device, heads: int, tokens: int, lengths: list[list[int]], view: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """Arguments of ``mla_decode`` with NaN behind each sequence's end; ``lengths`` of each sequence's new tokens.

    ``view``: the caches are views of one longer in all three dimensions, NaN around them.
    """
    b, n = len(lengths), torch.tensor(lengths, dtype=torch.int32)
    rows, before = (tokens + 37, 32) if view else (tokens, 0)
    whole = torch.full((b + view, rows, before + 576 + before), math.nan, dtype=torch.bfloat16, device=device)
    kept = whole[:b, :tokens, before : before + 576]
    for one, longest in zip(kept, n.amax(1).tolist(), strict=True):
        one[:longest] = normal(longest, 576, device=device)
    q_c, q_pe = normal(n.numel(), heads, 512, device=device), normal(n.numel(), heads, 64, device=device)
    c, k_pe = kept.split([512, 64], dim=-1)
    return q_c, q_pe, c, k_pe, n.flatten().to(device), 0.04


def mla_hopper_kernel(device: torch.device) -> None:
    """In Gluon: heads that fill no block, one part and many, an empty sequence, views; chosen, and in a CUDA graph."""
    inputs = (
        ragged(device, 64, 200, [[200], [1], [0]]),
        ragged(device, 100, 4500, [[4499, 4500], [63, 64], [128, 0]], view=True),
        ragged(device, 128, 130, [[3 * n] for n in range(40)], view=True),
        ragged(device, 128, 16384, [[16000]]),
        ragged(device, 64, 4096, [[4000, 4001], [7, 8]], view=True),
    )
    for args in inputs:
        exact, total, allowed = attended(*args)
        (got,) = twice(mla_hopper.plan_mla_decode, *args)
        near(got, exact, allowed)
        part, lse = twice(mla_hopper.plan_mla_parts, *args)
        empty = args[4] == 0
        same(lse[empty], torch.full_like(lse[empty], -torch.inf))
        same(part[empty], torch.zeros_like(part[empty]))
        near((lse.double() * math.log(2)).logsumexp(-1)[~empty] / math.log(2), total[~empty], 1e-3)
    if not mla_hopper.works(device):
        raise AssertionError("the first use's own check refuses the kernel")
    same(kernels.mla_decode(*args), got)  # the last is long enough to be chosen
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernels.mla_decode(*args)
    captured.fill_(math.nan)
    graph.replay()
    same(captured, got)


def chosen_mla_decode(device: torch.device) -> None:
    """By the kernel that is chosen over a long cache; twice the same bits."""
    args = ragged(device, 64, mla_hopper.LEAST, [[1000, 1001]], view=True)
    got = kernels.mla_decode(*args)
    exact, _, allowed = attended(*args)
    near(got, exact, allowed)
    same(kernels.mla_decode(*args), got)


def gate_logits(device: torch.device) -> None:
    """BF16 numbers, and a router in float32; a token's logits do not depend on its neighbours."""
    for m, e, d in ((1, 256, 1024), (5, 7, 200), (70, 66, 640)):
        y = normal(m, d, device=device)
        for gate in (normal(e, d, device=device), torch.randn(e, d).to(device)):
            (parts,) = twice(experts.plan_gate_logits, y, gate)
            size = y.double().abs() @ gate.double().abs().T
            near(parts.sum(0), y.double() @ gate.double().T, size * d * FLOAT)
            if m <= 16:
                same(poisoned(experts.plan_gate_logits(y[:1], gate))[0], parts[:, :1])


RULES: tuple[tuple[int, int, bool, dict[str, Any]], ...] = (
    (256, 8, True, {"groups": 8, "kept": 4, "scale": 2.5, "shared": 1}),
    (160, 6, False, {"groups": 8, "kept": 3, "scale": 16.0, "shared": 2, "softmax": True, "normalise": False}),
    (64, 6, False, {"shared": 2, "softmax": True, "normalise": False}),
    (384, 8, True, {"scale": 2.827, "shared": 1}),
)


def route(device: torch.device) -> None:
    """The rules of V3, V2, V2-Lite and Kimi: the reference's experts, and weights up to the last bits."""
    for e, k, biased, rule in RULES:
        logits, bias = torch.randn(3, 9, e), torch.randn(e) * 0.1 if biased else None
        there = None if bias is None else bias.to(device)
        weights, ids = twice(experts.plan_route, logits.to(device), there, k, **rule)
        expected, chosen = reference.route(logits, bias, k, **rule)
        same(ids, chosen)
        near(weights.cpu(), expected.double(), expected.double() * 2.0**-18)


def drawn(m: int, a: int, e: int, device: torch.device) -> Tensor:
    """[M, A] int32, different experts of each token."""
    return torch.rand(m, e).argsort(-1)[:, :a].int().to(device)


def sort_slots(device: torch.device) -> None:
    """The reference's order, ranks and tiles; experts without a token, and another rank's."""
    for m, a, e in ((1, 9, 257), (8, 3, 5), (33, 2, 3), (64, 8, 64), (65, 2, 3), (2000, 9, 257)):
        ids = drawn(m, a, e, device)
        ids[0, 0] = -1
        got, expected = twice(sorting.plan_sort_slots, ids, e), reference.sort_slots(ids.cpu(), e)
        number = 1 + 3 * int(expected.tiles[0])
        order, rank, tiles, ends = got
        for mine, theirs in (
            (order, expected.order), (rank, expected.rank), (tiles[:number], expected.tiles[:number]),
            (ends, expected.ends),
        ):  # fmt: skip
            same(mine, theirs)


def _experts(device: torch.device, fp8: bool) -> None:
    """Every tile; tokens that are gathered, and rows in order."""
    for m, a, e, n, k in ((1, 3, 8, 200, 256), (40, 3, 5, 64, 256), (3, 2, 4, 50, 128)):
        slots = kernels.sort_slots(drawn(m, a, e, device), e)
        token = slots.order.long() // a
        of = torch.zeros(m * a, dtype=torch.long, device=device)
        for i in range(int(slots.tiles[0])):
            expert, first, stop = slots.tiles[1 + 3 * i : 4 + 3 * i].tolist()
            of[first : min(first + slots.rows, stop)] = expert
        w, scale = torch.randn(e, n, k), None
        wide = w = w.bfloat16() if not fp8 else w
        if fp8:
            pairs = [weight_quant(one) for one in w]
            w, scale = torch.stack([q for q, _ in pairs]), torch.stack([s for _, s in pairs])
            blocks = scale.repeat_interleave(128, 1)[:, :n].repeat_interleave(128, 2)[:, :, :k]
            wide = w.double() * blocks
        w, wide, scale = w.to(device), wide.double().to(device), None if scale is None else scale.to(device)
        for gather in (True, False):
            x: Any = torch.randn(m if gather else m * a, k).bfloat16()
            seen = x.double()
            if fp8:
                x = reference.act_quant(x)
                seen = x[0].double() * x[1].double().repeat_interleave(128, 1)
            x = tuple(one.to(device) for one in x) if fp8 else x.to(device)
            rows = seen.to(device)[token] if gather else seen.to(device)
            exact = torch.einsum("sk,snk->sn", rows, wide[of])
            size = torch.einsum("sk,snk->sn", rows.abs(), wide[of].abs())
            allowed = exact.abs() * BF16_HALF + size * (FP8_SUM if fp8 else k * FLOAT) + TINY
            for tile in experts.candidates(slots, hardware.hardware_of(device), w.itemsize):
                got = twice(experts.plan_experts_gemm, x, w, slots, scale, gather=gather, tile=tile)
                near(*got, exact, allowed)


def experts_gemm_bf16(device: torch.device) -> None:
    """In BF16."""
    _experts(device, False)


def experts_gemm_fp8(device: torch.device) -> None:
    """In FP8, with block scales."""
    _experts(device, True)


def fused_fp8(device: torch.device) -> None:
    """What also writes FP8 writes the quantised plain result, with both kinds of scale."""
    for m in (5, 50):  # unfold has a form for few and one for many
        _fused_fp8(m, device)


def _fused_fp8(m: int, device: torch.device) -> None:
    h, part, weight = normal(m, 512, device=device), normal(m, 512, device=device), torch.rand(512).to(device) + 0.5
    parts, lse = torch.randn(m, 4, 3, 64).to(device), torch.randn(m, 4, 3).to(device)
    value, table, kept = normal(4, 32, 64, device=device), rotations(9, 16, device), normal(m, 9, 64, device=device)
    first, at = normal(m, 256 + 64, device=device), torch.arange(m, device=device)
    more = torch.rand(48).to(device) + 0.5, EPS, torch.rand(256).to(device) + 0.5
    for scale_fmt in (None, "ue8m0"):
        pairs = [
            (fused.plan_add_norm(h, part, weight, EPS, fp8=fp8, plain=not fp8, scale_fmt=scale_fmt),
             fused.plan_silu_mul(h, fp8, scale_fmt), fused.plan_latent(first, table, at, kept, *more, fp8, scale_fmt),
             heads.plan_unfold(parts, lse, value, fp8, scale_fmt))
            for fp8 in (False, True)
        ]  # fmt: skip
        for plain, quantised in zip(*pairs, strict=True):
            for got, expected in zip(
                # On the CPU: on a GPU torch divides by a number by multiplying with its inverse, and rounds twice.
                poisoned(quantised)[-2:],
                reference.act_quant(poisoned(plain)[-1].cpu(), 128, scale_fmt),
                strict=True,
            ):
                same(got, expected)


def chosen_fp8_gemm(device: torch.device) -> None:
    """By the library where it was chosen, many rows and columns, and not; ragged edges; scales by row and by column."""
    for m, n, k in ((128, 6208, 512), (1100, 720, 1536), (200, 144, 384), (1100, 720, 640)):
        x, (b, b_scale) = torch.randn(m, k).bfloat16(), weight_quant(torch.randn(n, k))
        a, a_scale = reference.act_quant(x)
        wide_a = (a.double() * a_scale.double().repeat_interleave(128, 1)).to(device)
        blocks = b_scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)
        wide_b = (b.double() * blocks).to(device)
        b, b_scale, a, a_scale = (one.to(device) for one in (b, b_scale, a, a_scale))
        exact = wide_a @ wide_b.T
        got = kernels.fp8_gemm(a, a_scale, b, b_scale)
        near(got, exact, (wide_a.abs() @ wide_b.abs().T) * FP8_SUM + exact.abs() * BF16_HALF + TINY)
        same(kernels.fp8_gemm(a, a_scale.t().contiguous().t(), b, b_scale), got)


def head_logits(device: torch.device) -> None:
    """BF16 numbers, float32 sums: far nearer than a result in BF16 would be."""
    for m, v, d in ((1, 1000, 1024), (33, 130, 256)):
        y, head = normal(m, d, device=device), normal(v, d, device=device)
        got = kernels.head_logits(y, head)
        near(got, y.double() @ head.double().T, (y.double().abs() @ head.double().abs().T) * d * FLOAT)
        same(kernels.head_logits(y, head), got)


ALL = (
    chosen_fp8_gemm, head_logits,
    add_norm, silu_mul, latent, absorb, unfold, mla_parts, mla_hopper_kernel, chosen_mla_decode, gate_logits, route,
    sort_slots, experts_gemm_bf16, experts_gemm_fp8, fused_fp8,
)  # fmt: skip
NEED_FP8 = ("experts_gemm_fp8", "fused_fp8", "chosen_fp8_gemm")
