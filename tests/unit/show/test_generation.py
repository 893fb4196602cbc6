"""What lesson 09 counts and shows: probabilities against the model, costs against the tensor table."""

import pytest
import torch

from dsv3.cache import Cache
from dsv3.config import ModelConfig
from dsv3.cost import activated
from dsv3.lab import generation
from dsv3.lab.work import read_by, read_by_mtp, speed_up
from dsv3.llm import load
from dsv3.paths import TINY_R1
from dsv3.show import generation as show


@pytest.fixture(scope="module")
def llm():
    return load("tiny-r1", dtype=torch.float32)


def test_each_token_of_a_greedy_answer_was_the_likeliest(llm):
    prompt, coming = generation.tokens(llm, "37 + 48 = ?", temperature=0)
    new = list(coming)
    found = generation.choices(llm, prompt, new)
    assert llm.tokenizer.decode(new) == llm.chat("37 + 48 = ?").text
    assert "".join(c.text for c in found).endswith("</think>\\n\\nAnswer:␣85<end>")
    assert all(c.text == c.others[0][0] and c.probability == c.others[0][1] for c in found)
    assert generation.choices(llm, prompt, []) == []


def test_probabilities_are_those_of_step_by_step_decoding(llm):
    prompt, coming = generation.tokens(llm, "Who are you?", temperature=0, max_new_tokens=6)
    new, cache = list(coming), Cache()
    with torch.inference_mode():
        h, start = llm.model(torch.tensor([prompt]), 0, cache)[:, -1], len(prompt)
        for token, choice in zip(new, generation.choices(llm, prompt, new), strict=True):
            assert choice.probability == pytest.approx(float(llm.model.logits(h)[0].softmax(-1)[token]), rel=1e-3)
            h, start = llm.model(torch.tensor([[token]]), start, cache)[:, -1], start + 1


def test_the_doubt_of_each_token_is_drawn_and_the_rival_named(llm):
    prompt, coming = generation.tokens(llm, "37 + 48 = ?", temperature=0)
    found = generation.choices(llm, prompt, list(coming))
    (ax,) = show.doubt(found, "37 + 48").axes
    tops = ax.lines[0].get_ydata()
    assert len(tops) == len(found)
    assert tops[0] == pytest.approx(1 - found[0].probability, rel=1e-3)
    assert f"or {found[0].others[1][0]}" in [text.get_text() for text in ax.texts]


def test_the_bars_of_a_temperature_are_those_given():
    (ax,) = show.heat(["a", "答"], {0.5: [0.75, 0.25, 0.0], 2.0: [0.5, 0.25, 0.25]}).axes
    assert [bar.get_height() for bar in ax.patches] == [0.75, 0.25, 0.0, 0.5, 0.25, 0.25]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "(zh)", "all others"]


def test_what_matplotlib_cannot_draw_is_named():
    assert [show.drawn(text) for text in ("85", "␣", "答案")] == ["85", "␣", "(zh)"]


def test_one_token_reads_the_activated_parameters_and_many_all_of_them():
    cfg = ModelConfig.load("config_671B.json")
    assert read_by(cfg, 1) == pytest.approx(activated(cfg)["total"])
    assert read_by(cfg, 10_000) == pytest.approx(671.026e9 - 0.927e9, rel=1e-3)  # all but the embedding
    # Two tokens choose 16 - 16 / 64 = 15.75 experts between them.
    assert read_by(cfg, 2) - read_by(cfg, 1) == pytest.approx(7.75 * 58 * 3 * 7168 * 2048)


def test_a_guess_costs_the_mtp_layer_and_the_head_once_more():
    cfg = ModelConfig.load(TINY_R1)
    tiny = read_by_mtp(cfg, 1) / read_by(cfg, 1)
    assert 0.3 < tiny < 0.45
    rows = {"eh_proj": 2 * 256 * 256, "experts": 4 * 3 * 128 * 256, "shared": 2 * 3 * 128 * 256, "head": 1024 * 256}
    assert read_by_mtp(cfg, 1) > sum(rows.values())


def test_speed_up():
    assert speed_up(1.0, 1.0, 1.0, 0.0) == 2.0  # free guesses, all right
    assert speed_up(0.0, 1.0, 1.0, 0.25) == 0.8  # always wrong: the guess is paid for nothing
    assert speed_up(0.5, 2.0, 2.0, 1.0) == 1.0


def test_curves_and_points_are_those_given():
    (ax,) = show.lines({"a": [(1, 2), (3, 4)]}, "x", "y", "title", ("base", 5.0)).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[2, 4], [5.0, 5.0]]
    (ax,) = show.speed_ups([0, 1], {"free": [1.0, 2.0]}, {"here": (0.5, 1.5)}).axes
    assert list(ax.lines[0].get_ydata()) == [1, 2]
    assert list(ax.lines[1].get_xdata()) == [50.0]
    (ax,) = show.cache_growth([(1, 640), (100, 1280)], 10).axes
    assert list(ax.lines[1].get_ydata()) == [10 / 1e6, 1000 / 1e6]


def test_passes_and_the_share_of_attention_are_those_given():
    left, right = show.passes({"prefill": [(1, 10.0), (4, 30.0)]}, [(1, 0.1), (4, 0.5)], "title").axes
    assert list(left.lines[0].get_ydata()) == [10, 30]
    assert list(right.lines[0].get_ydata()) == [10, 50]
    assert len(show.passes({"prefill": [(1, 10.0)]}).axes) == 1


def test_a_completion_is_shaded_where_it_was_doubted():
    found = [generation.Choice("3", 1.0, ()), generation.Choice("7\\n", 0.5, ()), generation.Choice("85", 0.9999, ())]
    (ax,) = show.shaded("question", found).axes
    assert "".join(text.get_text() for text in ax.texts) == "3785"
    assert [round(patch.get_alpha(), 2) for patch in ax.patches] == [0.0, 0.84, 0.1]
    assert ax.texts[1].get_position()[1] < ax.texts[2].get_position()[1]
