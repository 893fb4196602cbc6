"""Lesson 07's sums, from the true configs, and its figures."""

import pytest

from dsv3.config import ModelConfig
from dsv3.cost import activated, cache_bytes, flops, touched, weight_bytes
from dsv3.lab.work import CACHE, sums
from dsv3.show import model as show
from dsv3.show.style import png

R1 = ModelConfig.load("config_671B.json")


@pytest.fixture(scope="module")
def r1():
    return sums(R1)


def test_a_decoded_token_costs_what_cost_says(r1):
    for context, attn in ((0, "absorb"), (4095, "absorb"), (4095, "naive")):
        # cost counts the tokens before, the lesson also the token itself.
        assert sum(r1.operations(1, context, attn=attn).values()) == flops(R1, context + 1, attn)


def test_a_prompt_costs_its_tokens_one_by_one_but_only_one_head(r1):
    whole = r1.operations(5, 100, batch=3, attn="naive")
    steps = [r1.operations(1, 100 + i, batch=3, attn="naive") for i in range(5)]
    for group in whole:
        times = 1 if group == "head" else 5
        assert whole[group] == pytest.approx(sum(s[group] for s in steps) * times / 5)


def test_one_token_reads_an_experts_share_and_many_read_all_of_it(r1):
    one, many = r1.bytes_read(1, 0), r1.bytes_read(1, 4096, batch=4096)
    assert one["routed"] == pytest.approx(r1.nbytes["routed"] * 8 / 256)
    assert many["routed"] == pytest.approx(r1.nbytes["routed"])
    assert many[CACHE] == cache_bytes(R1) * 4097 * 4096
    copies = 2 * 2 * R1.vocab_size * R1.dim  # of embedding and head, in the MTP layer
    assert sum(r1.nbytes.values()) == weight_bytes(R1, "fp8") - copies


def test_touched_experts_are_counted_as_by_hand():
    assert touched(R1, 0) == 0
    assert touched(R1, 1) == 8 / 256
    assert touched(R1, 2) == pytest.approx(1 - (248 / 256) ** 2)


def test_the_crossing_is_where_attention_is_half(r1):
    for attn in ("absorb", "naive"):
        at = r1.crossing(attn)
        matrices = 2 * activated(R1)["total"]
        assert r1.operations(1, at - 1, attn=attn)[CACHE] >= matrices
        assert r1.operations(1, at - 2, attn=attn)[CACHE] < matrices


def test_the_figures_draw_what_they_are_given(r1):
    stored, used = show.parameters_figure(r1.stored, r1.used).axes
    assert [bar.get_width() for bar in stored.patches][0] == pytest.approx(653.908770816)
    assert sum(bar.get_width() for bar in used.patches) == pytest.approx(36.625618432)
    (ax,) = show.context_figure([128, 256, 512], {"absorb": [0.1, 0.2, 0.4]}, {"1 at once": [0, 0.1, 0.2]}).axes
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[10, 20, 40], [0, 10, 20]]
    (ax,) = show.work_figure({"a": r1.operations(1, 4096), "b": r1.bytes_read(1, 4096)}).axes
    ends = [
        max(bar.get_x() + bar.get_width() for bar in ax.patches if abs(bar.get_y() + 0.4 - row) < 0.1) for row in (0, 1)
    ]
    assert ends == pytest.approx([100, 100], abs=0.2)
    (ax,) = show.score_figure({"x": {"m": 0.5, "n": 1.0}, "y": {"m": 0.0, "n": 0.25}}, "right", "black", "a title").axes
    assert sorted(bar.get_width() for bar in ax.patches) == [0, 25, 50, 100]
    heat = show.lens_figure(["1", "\n"], {"layer 0": [0.1, 0.2], "layer 1": [1.0, 0.9]}).axes[0]
    assert heat.collections[0].get_array().flatten().tolist() == [0.1, 0.2, 1.0, 0.9]
    drift = show.drift_figure(["a", "b", "logits"], {"exact": [0.0, 0.1, 0.3], "demo": [0.1, 0.2, 0.4]})
    assert [list(line.get_ydata()) for line in drift.axes[0].lines] == [[0, 10], [30], [10, 20], [40]]
    assert png(drift)[:4] == b"\x89PNG"
    (ax,) = show.stream_figure(
        ["embed", "attn 0", "ffn 0", "attn 1", "ffn 1"], [1, 3, 4, 5, 6], [1, 2, 3, 4, 5], 1
    ).axes
    assert ax.lines[0].get_ydata().tolist() == [1, 3, 4, 5, 6]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 4  # embedding, attention, a dense layer, experts
