"""The references of a decode step's operations, put together, against the layers of ``model.py``."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dsv3.cache import Cache
from dsv3.config import ModelConfig
from dsv3.kernels import reference
from dsv3.kernels.ulps import compare
from dsv3.model import MLA, Gate, MoE, RMSNorm, inverse_frequencies, place, turns
from dsv3.runtime import Runtime

V3 = replace(
    ModelConfig.load("config_671B.json"), dim=96, n_heads=3, q_lora_rank=40, kv_lora_rank=32, qk_rope_head_dim=16,
    qk_nope_head_dim=24, v_head_dim=20, moe_inter_dim=48, n_routed_experts=12, n_expert_groups=4, n_limited_groups=2,
    n_activated_experts=3, dtype="bf16",
)  # fmt: skip
ROUTERS = {
    "V3": V3,
    "V2": replace(V3, topk_method="group_limited_greedy", score_func="softmax", norm_topk_prob=False),
    "V2-Lite": replace(
        V3, topk_method="greedy", score_func="softmax", norm_topk_prob=False, n_expert_groups=1, n_limited_groups=1,
        n_routed_experts=7,
    ),
    "one group": replace(V3, n_expert_groups=1, n_limited_groups=1, n_routed_experts=11, n_shared_experts=2),
}  # fmt: skip


def drawn(module):
    torch.manual_seed(0)
    for p in module.parameters():
        p.data.normal_(std=p.shape[-1] ** -0.5 if p.dim() > 1 else 0.3)
    return module


def rule(cfg):
    groups = (cfg.n_expert_groups, cfg.n_limited_groups) if cfg.grouped else (1, 1)
    return {"softmax": cfg.score_func == "softmax", "groups": groups[0], "kept": groups[1],
            "normalise": cfg.norm_topk_prob, "scale": cfg.route_scale}  # fmt: skip


@pytest.mark.parametrize("cfg", ROUTERS.values(), ids=ROUTERS)
def test_route_is_the_models_gate(cfg):
    gate = drawn(Gate(cfg, Runtime()))
    x = torch.randn(50, cfg.dim).bfloat16()
    weights, ids = gate(x)
    logits = reference.gate_logits(x, gate.weight)
    got, chosen = reference.route(logits, gate.bias, cfg.n_activated_experts, **rule(cfg), shared=2)
    k, e = cfg.n_activated_experts, cfg.n_routed_experts
    assert torch.equal(chosen[:, :k].long(), ids)
    assert compare(got[:, :k], weights).largest <= 2, "the sum of the weights is added in another order"
    assert chosen[:, k:].tolist() == [[e, e + 1]] * 50
    assert (got[:, k:] == 1).all()


def test_of_equal_experts_the_lower_is_chosen():
    ids = reference.route(torch.zeros(1, 1, 12), None, 3)[1]
    assert ids.tolist() == [[0, 1, 2]]
    ids = reference.route(torch.zeros(1, 1, 12), torch.zeros(12), 3, groups=4, kept=2)[1]
    assert ids.tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="route: 4 experts of 12 cannot be chosen from 1 of 4 groups"):
        reference.route(torch.zeros(1, 1, 12), None, 4, groups=4, kept=1)


@pytest.mark.parametrize("cfg", ROUTERS.values(), ids=ROUTERS)
def test_the_experts_are_the_models(cfg):
    run = Runtime(dtype=torch.float32)
    moe = drawn(MoE(cfg, run))
    x = torch.randn(9, cfg.dim)
    shared = moe.shared_experts
    experts = [(m.w1.weight, m.w3.weight, m.w2.weight) for m in moe.experts.values()]
    width = cfg.moe_inter_dim
    for i in range(cfg.n_shared_experts):
        mine = slice(i * width, (i + 1) * width)
        experts.append((shared.w1.weight[mine], shared.w3.weight[mine], shared.w2.weight[:, mine]))
    up = torch.stack([torch.cat(e[:2]) for e in experts])
    down = torch.stack([e[2] for e in experts])
    logits = reference.gate_logits(x, moe.gate.weight)
    weights, ids = reference.route(
        logits, moe.gate.bias, cfg.n_activated_experts, **rule(cfg), shared=cfg.n_shared_experts
    )
    slots = reference.sort_slots(ids, len(up))
    hidden = reference.silu_mul(reference.experts_gemm(x, up, slots, gather=True, dtype=torch.float32))
    part = reference.experts_gemm(hidden, down, slots, gather=False, dtype=torch.float32)
    h = torch.randn_like(x)
    got, normed, _ = reference.add_norm(h, part, torch.ones(cfg.dim), 1e-6, slots=(slots.rank, weights))
    expected = h + moe(x.unsqueeze(0))[0]
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(normed, F.rms_norm(expected, (cfg.dim,), None, 1e-6), rtol=1e-4, atol=1e-4)


def test_another_ranks_experts_come_last_and_count_nothing():
    ids = torch.tensor([[2, -1, 0], [9, 2, 1], [-3, 5, 2]], dtype=torch.int32)
    slots = reference.sort_slots(ids, 3)
    assert slots.order.tolist()[:5] == [2, 5, 0, 4, 8]
    assert slots.rank.tolist() == [[2, -1, 0], [-1, 3, 1], [-1, -1, 4]]
    number, *tiles = slots.tiles.tolist()
    assert (number, tiles[:9]) == (3, [0, 0, 1, 1, 1, 2, 2, 2, 5])
    part = torch.full((9, 4), torch.nan)
    part[:5] = torch.arange(5.0).unsqueeze(1)
    got = reference.weighted_sum(part, slots.rank, torch.full((3, 3), 0.5))
    assert got[:, 0].tolist() == [1.0, 2.0, 2.0]


@pytest.mark.parametrize("n", [1, 16, 17, 100])
def test_tiles_cover_each_row_once(n):
    torch.manual_seed(n)
    ids = torch.randint(0, 5, (n, 2), dtype=torch.int32)
    slots = reference.sort_slots(ids, 6)
    number, *table = slots.tiles.tolist()
    assert len(table) == 3 * (2 * n // slots.rows + min(6, 2 * n))
    rows = []
    for i in range(number):
        expert, first, end = table[3 * i : 3 * i + 3]
        mine = range(first, min(first + slots.rows, end))
        assert {int(ids.flatten()[slots.order[r]]) for r in mine} == {expert}
        rows += mine
    assert rows == list(range(2 * n))
    assert torch.equal(slots.rank.flatten()[slots.order.long()], torch.arange(2 * n, dtype=torch.int32))


@pytest.mark.parametrize("q_lora", [40, 0])
@pytest.mark.parametrize("per", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_models(dtype, per, q_lora):
    cfg, b, start = replace(V3, q_lora_rank=q_lora), 2, torch.tensor([5, 3])
    run = Runtime(dtype=dtype)
    mla = drawn(MLA(cfg, run, 0))
    x = torch.randn(b, 9, cfg.dim).to(dtype)
    frequencies = inverse_frequencies(cfg)
    cache, other = Cache(), Cache()
    for some in (cache, other):
        mla(x[:, :5], place(cfg, frequencies, x[:, :5], 0, some))
    new = x[:, 5 : 5 + per]
    expected = mla(new, place(cfg, frequencies, new, start, other))

    def kept_of(one):
        (kept,) = one.room(0, 12, torch.empty(b, 0, cfg.kv_lora_rank + cfg.qk_rope_head_dim, dtype=dtype))
        return kept

    at = (start.unsqueeze(1) + torch.arange(per)).flatten()
    kept, table = kept_of(cache), torch.view_as_real(turns(cfg, frequencies, torch.arange(20)))
    query = mla.wq_a if q_lora else mla.wq
    first = torch.cat([query(new), mla.wkv_a(new)], -1).flatten(0, 1)
    q = reference.latent(
        first, table, at, kept, mla.kv_norm.weight, mla.kv_norm.eps, mla.q_norm.weight if q_lora else None
    )
    q = mla.wq_b(q) if q_lora else first[:, : cfg.n_heads * cfg.qk_head_dim]
    unfold = mla.wkv_b.weight.unflatten(0, (cfg.n_heads, -1))
    key, value = unfold.split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=1)
    q_c, q_pe = reference.absorb(q, table, at, key.transpose(1, 2))
    c, k_pe = kept.split([cfg.kv_lora_rank, cfg.qk_rope_head_dim], dim=-1)
    part, lse = reference.mla_parts(q_c, q_pe, c, k_pe, at + 1, mla.softmax_scale)
    got = mla.wo(reference.unfold(part, lse, value)).view_as(expected)
    near = 1e-5 if dtype == torch.float32 else 2.0**-6
    assert (got - expected).abs().max() <= near * expected.abs().max()
    theirs = kept_of(other)
    for i in range(b):
        end = int(start[i]) + per
        assert (kept[i, :end].float() - theirs[i, :end].float()).abs().max() <= near


def test_parts_are_weighed_by_their_share():
    torch.manual_seed(0)
    q_c, q_pe, c, k_pe = torch.randn(2, 3, 32), torch.randn(2, 3, 16), torch.randn(2, 10, 32), torch.randn(2, 10, 16)
    value = torch.randn(3, 8, 32)
    lengths = torch.tensor([7, 0])
    whole = reference.unfold(*reference.mla_parts(q_c, q_pe, c, k_pe, lengths, 0.3), value)
    cut = [
        reference.mla_parts(q_c, q_pe, c[:, s], k_pe[:, s], (lengths - s.start).clamp(0, 4), 0.3)
        for s in (slice(0, 4), slice(4, 8))
    ]
    part, lse = (torch.cat(x, 2) for x in zip(*cut, strict=True))
    assert torch.allclose(reference.unfold(part, lse, value), whole, atol=1e-5)
    assert (whole[1] == 0).all()


def test_a_place_outside_of_the_cache_is_not_written():
    kept = torch.full((3, 4, 24), 7.0)
    first = torch.randn(3, 24)
    reference.latent(first, torch.ones(9, 4, 2), torch.tensor([-1, 4, 3]), kept, torch.ones(16), 1e-6)
    assert (kept[:2] == 7).all()
    assert (kept[2, :3] == 7).all()
    assert (kept[2, 3] != 7).all()


def test_the_norm_is_the_models():
    torch.manual_seed(0)
    norm = drawn(RMSNorm(Runtime(), 96, 1e-6))
    h, part = torch.randn(2, 5, 96).bfloat16()
    total, y, nothing = reference.add_norm(h, part.float(), norm.weight, norm.eps)
    assert compare(total, h + part).largest == 0
    assert compare(y, norm(h + part)).largest <= 1
    assert nothing is None
    none, y, (q, scale) = reference.add_norm(
        torch.randn(5, 256).bfloat16(), None, torch.ones(256), 1e-6, plain=False, fp8=True, scale_fmt="ue8m0"
    )
    assert (y, q.shape, scale.shape) == (None, (5, 256), (5, 2))
