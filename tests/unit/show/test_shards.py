"""What lesson 04 counts and shows of a conversion, against what the converter does."""

from dataclasses import replace

import pytest

from dsv3 import convert
from dsv3.checkpoint import read
from dsv3.config import ModelConfig
from dsv3.cost import weight_bytes
from dsv3.hubs.catalogue import find_model
from dsv3.lab.checkpoints import repeated
from dsv3.lab.shards import held, segments
from dsv3.layout import check_ranks, layout
from dsv3.paths import TINY_R1
from dsv3.show import shards as show


@pytest.fixture(scope="module")
def tiny():
    return ModelConfig.load(TINY_R1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_a_rank_holds_is_what_its_file_has(tiny, ranks):
    plan = convert.plan(TINY_R1, ranks)
    tensors = [
        plan.sizes[name] - len(plan.heads[name])
        for name in (read.converted_name("model", rank, ranks) for rank in range(ranks))
    ]
    assert [rank.total() for rank in held(tiny, ranks)] == tensors


def test_one_rank_of_the_real_model_holds_all_of_it():
    big = ModelConfig.load("config_671B.json")
    whole = weight_bytes(replace(big, n_mtp_layers=0), "fp8")
    assert held(big, 1)[0].total() == whole
    on16 = held(big, 16)
    extra = 15 * on16[0]["a copy for every rank"]
    assert sum(rank.total() for rank in on16) == whole + extra


def test_segments_cover_each_tensor_once(tiny):
    lines = segments(tiny, 2)
    assert list(lines)[:2] == ["embed: rows", "ffn.w1: rows"]
    assert lines["attn.wq_a: copies"] == []
    assert lines["attn.wo: columns"] == [(0, 0.0, 0.5), (1, 0.5, 1.0)]
    assert [piece.rank for piece in lines["16 experts, each whole"]] == [0] * 8 + [1] * 8
    for pieces in filter(None, lines.values()):
        assert (pieces[0].begin, pieces[-1].end) == (0, 1)
        assert all(a.end == b.begin for a, b in zip(pieces, pieces[1:], strict=False))


def test_ranks_without_a_block_have_no_segment():
    shared = segments(ModelConfig.load("config_671B.json"), 32)["ffn.shared_experts.w1: rows"]
    assert len(shared) == 16
    assert shared[-1].end == 1


def test_figures_plot_what_they_are_given(tiny):
    bars = show.shard_map(segments(tiny, 2), 2).axes[0].patches
    assert len(bars) == sum(max(1, len(pieces)) for pieces in segments(tiny, 2).values())
    lying, standing = (
        show.shard_map({f"w: {cut}": [(0, 0, 0.5), (1, 0.5, 1)]}, 2).axes[0].patches for cut in ("rows", "columns")
    )
    assert [bar.get_width() for bar in (*lying, *standing)] == [1, 1, 0.5, 0.5]
    (ax,) = show.weights(held(tiny, 2), 10**7, "a GPU").axes
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches[-2:]]
    assert tops == pytest.approx([rank.total() / 1e6 for rank in held(tiny, 2)])
    assert ax.lines[0].get_ydata()[0] == 10
    (ax,) = show.memory({"here": [(1e9, 2e9)], "there (recorded)": [(2e9, 1e8)]}, {"R1": 689e9}).axes
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[2.0], [0.1]]
    assert list(ax.lines[-1].get_ydata()) == [1.0, 689.0]


def test_the_widget_says_what_cannot_be_cut():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")

    def cut(name, precision, ranks):
        cfg = replace(find_model(name).load_config(), dtype=precision)
        check_ranks(cfg, ranks)
        return segments(cfg, ranks), held(cfg, ranks)

    box = show.explorer(cut, ["tiny-r1", "DeepSeek-V2-Lite-Chat"], "tiny-r1", ranks=2)
    model, precision, ranks = box.children[0].children
    answer, cuts, sizes = box.children[1:]
    assert "2 ranks: 0.005 to 0.005 GB of weights each" in answer.value
    before = bytes(cuts.value)
    ranks.value = 4
    assert "not whole FP8 blocks of 128" in answer.value
    assert (cuts.layout.display, sizes.layout.display) == ("none", "none")
    precision.value = "bf16"
    assert "4 ranks: " in answer.value
    assert cuts.layout.display is None
    assert bytes(cuts.value) != before
    model.value = "DeepSeek-V2-Lite-Chat"
    ranks.value = 3
    assert "n_heads = 16 does not divide by 3" in answer.value


def test_a_blown_up_checkpoint_is_one_and_holds_the_experts_again(tmp_path, tiny):
    repeated(TINY_R1, tmp_path / "x3", 3)
    cfg = ModelConfig.load(tmp_path / "x3")
    assert cfg.n_routed_experts == 48
    found, old = read.open_folder(tmp_path / "x3"), read.open_folder(TINY_R1)
    read.check(found, {r.hf: (r.shape, r.kind) for r in layout(cfg)}, {r.hf for r in layout(cfg)})
    name = "model.layers.1.mlp.experts.{}.up_proj.weight"
    assert found.read(name.format(37)) == old.read(name.format(5))
    gate = "model.layers.2.mlp.gate.weight"
    assert found.read(gate) == 3 * old.read(gate)
    convert.convert(tmp_path / "x3", tmp_path / "mp2", 2)
