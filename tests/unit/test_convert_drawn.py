"""Conversion over drawn architectures, rank counts and shard layouts, against a plain definition of the cut."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsv3.checkpoint import read
from dsv3.checkpoint.plan import Make, Out, Plan
from dsv3.checkpoint.write import execute
from dsv3.config import BLOCK, ModelConfig
from dsv3.convert import convert
from dsv3.layout import check_ranks, layout, shared_out
from dsv3.tiny.export import hf_config

DTYPE = {"fp8": "F8_E4M3", "bf16": "BF16", "fp32": "F32"}
RANKS = (1, 2, 3, 4, 6)


@st.composite
def architectures(draw) -> ModelConfig:
    v3 = draw(st.booleans())
    groups = draw(st.sampled_from((1, 2)))
    return ModelConfig(
        vocab_size=draw(st.sampled_from((64, 65, 100))),
        dim=draw(st.sampled_from((32, 128, 160))),
        inter_dim=draw(st.sampled_from((128, 200, 384))),
        moe_inter_dim=draw(st.sampled_from((32, 128))),
        n_layers=draw(st.integers(1, 3)),
        n_dense_layers=draw(st.integers(0, 2)),
        n_heads=draw(st.sampled_from((2, 4, 6, 12))),
        n_routed_experts=groups * draw(st.integers(2, 5)),
        n_shared_experts=draw(st.integers(1, 3)),
        n_activated_experts=2,
        n_expert_groups=groups,
        n_limited_groups=groups,
        score_func="sigmoid" if v3 else "softmax",
        topk_method="noaux_tc" if v3 else "greedy",
        q_lora_rank=draw(st.sampled_from((0, 24, 136))),
        n_mtp_layers=draw(st.integers(0, 1)) if v3 else 0,
        dtype=draw(st.sampled_from(("bf16", "fp8"))),
    )


def write(cfg: ModelConfig, folder: Path, shards: int, rng: random.Random) -> dict[str, bytes]:
    """A checkpoint of random bytes, its tensors strewn over the shards in any order; name -> bytes."""
    rows = list(layout(cfg))
    values = {r.hf: rng.randbytes(r.nbytes) for r in rows}
    for row in rows:
        if row.copy_of:
            values[row.hf] = values[row.copy_of]
    rng.shuffle(rows)
    plan, where = Plan("drawn"), {}
    for i in range(shards):
        held, name = rows[i::shards], f"model-{i}.safetensors"
        offsets = plan.file(name, [Out(r.hf, DTYPE[r.kind], r.shape) for r in held])
        plan.fill(Make(lambda r=r: values[r.hf], r.nbytes, name, offsets[r.hf]) for r in held)
        where |= {r.hf: name for r in held}
    if shards > 1:
        plan.index(where, sum(r.nbytes for r in rows))
    kind = {"model_type": "deepseek_v3" if cfg.score_func == "sigmoid" else "deepseek_v2"}
    hf = hf_config(cfg) | kind
    if not cfg.fp8:
        del hf["quantization_config"]
    plan.json("config.json", hf)
    execute(plan, folder)
    return values


def rows_of(n: int, ranks: int, rank: int, unit: int) -> range:
    """Whole units dealt out in turn by the largest remainder from the front: the definition, written differently."""
    units = [range(i, min(i + unit, n)) for i in range(0, n, unit)]
    mine = [u for i, u in enumerate(units) if rank * len(units) // ranks <= i < (rank + 1) * len(units) // ranks]
    return range(mine[0].start, mine[-1].stop) if mine else range(0)


def cut(name: str, cfg: ModelConfig) -> tuple[int, int] | None:
    """Dimension and unit that a tensor is cut along, from its Hugging Face name alone."""
    block = BLOCK if cfg.fp8 else 1
    if "mlp.experts." in name:
        return None
    for end, value in {
        "embed_tokens": (0, 1), "lm_head": (0, 1), "shared_head.head": (0, 1),
        "q_proj": (0, cfg.qk_head_dim), "q_b_proj": (0, cfg.qk_head_dim),
        "kv_b_proj": (0, cfg.qk_nope_head_dim + cfg.v_head_dim), "o_proj": (1, cfg.v_head_dim),
        "gate_proj": (0, block), "up_proj": (0, block), "down_proj": (1, block),
    }.items():  # fmt: skip
        if name.rsplit(".", 1)[0].endswith(end):
            return value
    return None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(cfg=architectures(), ranks=st.sampled_from(RANKS), shards=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_byte_goes_where_the_definition_says(cfg, ranks, shards, seed):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        values = write(cfg, source, shards, random.Random(seed))
        try:
            check_ranks(cfg, ranks)
        except ValueError:
            assert cfg.n_heads % ranks or cfg.fp8
            with pytest.raises(ValueError, match="cannot split over .*; counts that work: 1"):
                convert(source, target, ranks)
            return
        convert(source, target, ranks)
        for rank in range(ranks):
            files = sorted(target.glob(f"*{rank}-mp{ranks}.safetensors"))
            found = read.open_files(target, files)
            for row in layout(cfg):
                if row.copy_of:
                    assert row.name not in found
                    continue
                held = row.expert is None or row.expert in rows_of(cfg.n_routed_experts, ranks, rank, 1)
                assert (row.name in found) == held
                if held:
                    expected = part(values[row.hf], row.hf, row.shape, cfg, ranks, rank)
                    assert bytes(found.read(row.name)) == expected, row.hf


def part(data: bytes, name: str, shape: tuple[int, ...], cfg: ModelConfig, ranks: int, rank: int) -> bytes:
    """A rank's bytes of a whole tensor, row by row."""
    how = cut(name.removesuffix("_scale_inv"), cfg)
    if how is None:
        return data
    dim, unit = how
    if name.endswith("_scale_inv"):  # its blocks follow the weight's rows
        whole = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
        width = shape[dim] * BLOCK
        if any(k in name for k in whole):
            width = min(width, cfg.inter_dim if ".mlp.shared" not in name else cfg.n_shared_experts * cfg.moe_inter_dim)
        mine = rows_of(width, ranks, rank, unit)
        mine = range(mine.start // BLOCK, -(-mine.stop // BLOCK))
    else:
        mine = rows_of(shape[dim], ranks, rank, unit)
    line = len(data) // shape[0]
    if dim == 0:
        return data[mine.start * line : mine.stop * line]
    item = line // shape[1]
    return b"".join(data[r * line + mine.start * item : r * line + mine.stop * item] for r in range(shape[0]))


def test_r1_is_cut_over_24_ranks_where_heads_allow():
    """96 heads in place of 128: 3 x 8 GPUs, experts 10 or 11 to a rank, widths in whole FP8 blocks."""
    cfg = replace(ModelConfig.load("config_671B.json"), n_heads=96)
    for ranks in (3, 6, 12, 24):
        check_ranks(cfg, ranks)
    assert {len(shared_out(256, rank, 24)) for rank in range(24)} == {10, 11}
