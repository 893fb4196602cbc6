"""The derived figures beside the published ones, and beside closed formulas that do not use the table."""

import pytest

from dsv3.config import ModelConfig
from dsv3.cost import activated, cache_bytes, flops, parameters, weight_bytes

R1 = ModelConfig.load("config_671B.json")


def by_formula(c: ModelConfig) -> dict[str, int]:
    """Parameters by part, from the config alone."""
    q = c.dim * c.q_lora_rank + c.q_lora_rank + c.q_lora_rank * c.n_heads * c.qk_head_dim if c.q_lora_rank else (
        c.dim * c.n_heads * c.qk_head_dim)  # fmt: skip
    kv = c.dim * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank
    kv += c.kv_lora_rank * c.n_heads * (c.qk_nope_head_dim + c.v_head_dim)
    attention = q + kv + c.n_heads * c.v_head_dim * c.dim
    expert = 3 * c.dim * c.moe_inter_dim
    moe_layers = c.n_layers - c.n_dense_layers
    gate = c.n_routed_experts * (c.dim + c.route_bias)
    mtp = attention + (c.n_routed_experts + c.n_shared_experts) * expert + gate + 2 * c.dim * c.dim + 5 * c.dim
    return {
        "embedding": c.vocab_size * c.dim,
        "attention": c.n_layers * attention,
        "dense": c.n_dense_layers * 3 * c.dim * c.inter_dim,
        "routed": moe_layers * c.n_routed_experts * expert,
        "shared": moe_layers * c.n_shared_experts * expert,
        "gate": moe_layers * gate,
        "norm": (2 * c.n_layers + 1) * c.dim,
        "head": c.vocab_size * c.dim,
        "mtp": c.n_mtp_layers * mtp,
    }


@pytest.mark.parametrize("name", ["16B", "236B", "671B"])
def test_the_table_sums_to_the_formulas(name):
    cfg = ModelConfig.load(f"config_{name}.json")
    parts = by_formula(cfg)
    assert parameters(cfg) == parts | {"total": sum(parts.values()) - parts["mtp"]}


def billions(n: int) -> float:
    return round(n / 1e9, 1)


def test_published_parameters():
    assert billions(parameters(R1)["total"]) == 671.0
    # README_WEIGHTS.md says 11.5 B unique parameters; the tensors sum to 11.6 B.
    assert billions(parameters(R1)["mtp"]) == 11.6
    assert billions(parameters(R1)["embedding"]) == billions(parameters(R1)["head"]) == 0.9
    assert billions(parameters(ModelConfig.load("config_236B.json"))["total"]) == 235.7
    assert billions(parameters(ModelConfig.load("config_16B.json"))["total"]) == 15.7


def test_published_activated_parameters():
    # Published: 36.7 B "including 0.9 B for Embedding and 0.9 B for the output Head"; the report says 37 B.
    assert billions(activated(R1)["total"]) == 36.6
    assert billions(activated(R1)["with embedding"]) == 37.6
    assert billions(activated(ModelConfig.load("config_236B.json"))["with embedding"]) == 21.4


def test_published_cache():
    assert cache_bytes(R1) == 70_272
    assert cache_bytes(R1, "naive") == 4_997_120
    assert cache_bytes(R1, itemsize=1) == 35_136


def test_bytes_on_disk():
    # 163 files of about 4.3 GB, 688.6 GB in all, MTP and its copies of embedding and head included.
    assert round(weight_bytes(R1, "fp8") / 1e9, 1) == 688.6
    assert round(weight_bytes(R1, "bf16") / 1e9) == 1369


def test_flops():
    assert flops(R1) == 2 * activated(R1)["total"]
    naive = flops(R1, 1000, "naive") - flops(R1)
    assert naive == 1000 * 61 * 128 * (2 * 192 + 2 * 128)
    assert flops(R1, 1000) - flops(R1) == 1000 * 61 * 128 * (2 * 576 + 2 * 512)
