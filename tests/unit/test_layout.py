"""The table of tensors: complete, equal to the model's parameters on every rank, and cut without loss."""

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from small import SMALL

from dsv3.config import ModelConfig
from dsv3.layout import check_ranks, layout, owner, shared_out
from dsv3.model import Transformer
from dsv3.ranks.parallel import Parallel
from dsv3.runtime import Runtime

TORCH = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp32": torch.float32}


def test_r1_has_91991_tensors():
    rows = list(layout(ModelConfig.load("config_671B.json")))
    assert len(rows) == 91_991
    assert len({r.hf for r in rows}) == len({r.name for r in rows}) == 91_991
    assert rows[0].hf == "model.embed_tokens.weight"
    assert "model.layers.61.shared_head.head.weight" in {r.hf for r in rows}


# What the 163 published files of DeepSeek-R1 hold: name without numbers -> shape, dtype, how many.
PUBLISHED = """
lm_head.weight 129280x7168 bf16 1
model.embed_tokens.weight 129280x7168 bf16 1
model.norm.weight 7168 bf16 1
model.layers.mlp.down_proj.weight 7168x18432 fp8 3
model.layers.mlp.down_proj.weight_scale_inv 56x144 fp32 3
model.layers.mlp.gate_proj.weight 18432x7168 fp8 3
model.layers.mlp.gate_proj.weight_scale_inv 144x56 fp32 3
model.layers.mlp.up_proj.weight 18432x7168 fp8 3
model.layers.mlp.up_proj.weight_scale_inv 144x56 fp32 3
model.layers.input_layernorm.weight 7168 bf16 62
model.layers.post_attention_layernorm.weight 7168 bf16 62
model.layers.self_attn.kv_a_layernorm.weight 512 bf16 62
model.layers.self_attn.kv_a_proj_with_mqa.weight 576x7168 fp8 62
model.layers.self_attn.kv_a_proj_with_mqa.weight_scale_inv 5x56 fp32 62
model.layers.self_attn.kv_b_proj.weight 32768x512 fp8 62
model.layers.self_attn.kv_b_proj.weight_scale_inv 256x4 fp32 62
model.layers.self_attn.o_proj.weight 7168x16384 fp8 62
model.layers.self_attn.o_proj.weight_scale_inv 56x128 fp32 62
model.layers.self_attn.q_a_layernorm.weight 1536 bf16 62
model.layers.self_attn.q_a_proj.weight 1536x7168 fp8 62
model.layers.self_attn.q_a_proj.weight_scale_inv 12x56 fp32 62
model.layers.self_attn.q_b_proj.weight 24576x1536 fp8 62
model.layers.self_attn.q_b_proj.weight_scale_inv 192x12 fp32 62
model.layers.mlp.experts.down_proj.weight 7168x2048 fp8 15104
model.layers.mlp.experts.down_proj.weight_scale_inv 56x16 fp32 15104
model.layers.mlp.experts.gate_proj.weight 2048x7168 fp8 15104
model.layers.mlp.experts.gate_proj.weight_scale_inv 16x56 fp32 15104
model.layers.mlp.experts.up_proj.weight 2048x7168 fp8 15104
model.layers.mlp.experts.up_proj.weight_scale_inv 16x56 fp32 15104
model.layers.mlp.gate.e_score_correction_bias 256 fp32 59
model.layers.mlp.gate.weight 256x7168 bf16 59
model.layers.mlp.shared_experts.down_proj.weight 7168x2048 fp8 59
model.layers.mlp.shared_experts.down_proj.weight_scale_inv 56x16 fp32 59
model.layers.mlp.shared_experts.gate_proj.weight 2048x7168 fp8 59
model.layers.mlp.shared_experts.gate_proj.weight_scale_inv 16x56 fp32 59
model.layers.mlp.shared_experts.up_proj.weight 2048x7168 fp8 59
model.layers.mlp.shared_experts.up_proj.weight_scale_inv 16x56 fp32 59
model.layers.eh_proj.weight 7168x14336 bf16 1
model.layers.embed_tokens.weight 129280x7168 bf16 1
model.layers.enorm.weight 7168 bf16 1
model.layers.hnorm.weight 7168 bf16 1
model.layers.shared_head.head.weight 129280x7168 bf16 1
model.layers.shared_head.norm.weight 7168 bf16 1
"""


def test_the_table_is_what_r1s_files_hold():
    rows = list(layout(ModelConfig.load("config_671B.json")))
    kinds = Counter((re.sub(r"\.\d+", "", r.hf), "x".join(map(str, r.shape)), r.kind) for r in rows)
    assert {f"{' '.join(key)} {n}" for key, n in kinds.items()} == set(PUBLISHED.split("\n")) - {""}
    assert sum(r.numel for r in rows) == 684_531_386_000  # scales and MTP's copies counted


def test_a_ragged_matrix_has_whole_scales():
    rows = {r.hf: r for r in layout(ModelConfig.load("config_671B.json"))}
    kv_a = rows["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]
    assert kv_a.shape == (576, 7168)
    assert rows[kv_a.hf + "_scale_inv"].shape == (5, 56)


@pytest.mark.parametrize("n", [1, 3, 16, 61, 256])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 24, 300])
def test_owner_is_the_inverse_of_shared_out(n, size):
    assert [owner(i, n, size) for i in range(n)] == [r for r in range(size) for _ in shared_out(n, r, size)]


@pytest.mark.parametrize(("fp8", "size"), [(False, 1), (False, 2), (False, 4), (True, 1), (True, 2)])
def test_the_table_is_the_models_parameters_on_every_rank(fp8, size):
    cfg = SMALL if fp8 else replace(SMALL, dtype="bf16")
    for rank in range(size):
        run = Runtime(tp=Parallel(rank, size), gemm="fp8" if fp8 else "bf16", attn="naive")
        model = {n: (tuple(p.shape), p.dtype) for n, p in Transformer(cfg, run).named_parameters()}
        table = {}
        for row in layout(cfg):
            if rank in row.holders(size, cfg.n_routed_experts) and row.copy_of is None:
                part = row.local(rank, size)
                table[row.name] = (tuple(s.stop - s.start for s in part), TORCH[row.kind])
        # Head and gate are stored in BF16 and computed in float32.
        for name in table:
            if name == "head.weight" or name.endswith("gate.weight"):
                table[name] = (table[name][0], torch.float32)
        assert table == model


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_ranks_pieces_give_the_whole(size):
    for row in layout(replace(SMALL, dtype="bf16")):
        covered = torch.zeros(row.shape, dtype=torch.int32)
        for rank in row.holders(size, SMALL.n_routed_experts):
            covered[row.local(rank, size)] += 1
        assert (covered == (size if row.cut is None and row.expert is None else 1)).all(), row.name


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3, r"n_heads = 128 does not divide by 3; counts that work: 1, 2, 4, 8, 16, 32, 64 \(.* BF16: 1, .*, 128\)"),
        (128, r"layers.0.attn.wq_b.weight would have 192 of 24576 .* FP8 blocks of 128; .*"),
        (0, "must be 1 or more"),
    ],
)
def test_ranks_that_do_not_work_for_r1(size, message):
    with pytest.raises(ValueError, match=message):
        check_ranks(ModelConfig.load("config_671B.json"), size)


def test_ranks_that_work():
    for size in (1, 2, 4, 8, 16, 32, 64):
        check_ranks(ModelConfig.load("config_671B.json"), size)
    check_ranks(SMALL, 2)
    check_ranks(replace(SMALL, dtype="bf16"), 4)
