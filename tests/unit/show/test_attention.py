"""What lesson 05 measures and shows: sizes, attention weights and interventions, on tiny-r1 itself."""

import time

import pytest
import torch

from dsv3.config import ModelConfig
from dsv3.cost import cache_bytes, kept_numbers
from dsv3.lab import attention, probe
from dsv3.paths import TINY_R1
from dsv3.show import attention as show
from dsv3.sizing.gpus import find_gpu

R1 = ModelConfig.load("config_671B.json")


@pytest.fixture(scope="module")
def sums():
    return probe.solved(TINY_R1, 8)


def test_sums_are_read_with_their_solutions(llm, sums):
    assert sums.tokens.shape == sums.learned.shape
    for text, offsets, row, learned in zip(sums.texts, sums.offsets, sums.tokens, sums.learned, strict=True):
        assert llm.tokenizer.decode(row[: len(offsets)].tolist()) in text.replace("<｜User｜>", "").replace(
            "<｜Assistant｜>", ""
        )
        first = offsets[int(learned.nonzero()[0])][0]
        assert text[:first].endswith("<think>\n")
        assert learned.sum() == sum(begin >= first for begin, _ in offsets)


def test_the_score_is_what_greedy_generation_gives(llm, sums):
    solved, nats = probe.score(llm.model, sums)
    assert solved == 1.0
    assert 0 < nats < 0.01
    question = sums.texts[0].split("<｜User｜>")[1].split("<｜Assistant｜>")[0]
    assert llm.chat(question).text in sums.texts[0]
    kept = llm.model.frequencies.clone()
    llm.model.frequencies.zero_()
    assert probe.score(llm.model, sums)[0] == 0.0
    llm.model.frequencies.copy_(kept)


def test_kept_numbers_are_those_of_the_cost_tables():
    numbers = kept_numbers(R1)
    assert 2 * 61 * numbers["MLA"] == cache_bytes(R1)
    assert 2 * 61 * numbers["MHA"] == cache_bytes(R1, "naive")
    assert round(numbers["MHA"] / numbers["MLA"]) == 71


def test_weights_are_recorded_and_the_model_is_left_as_it_was(llm):
    tokens, begin = probe.answered(llm, "37 + 48 = ?")
    with torch.inference_mode():
        before = llm.model.logits(llm.model(torch.tensor([tokens])))[0]
    looked = attention.look(llm.model, tokens)
    assert looked.weights.shape == (3, 4, len(tokens), len(tokens))
    assert torch.allclose(looked.weights.sum(-1), torch.ones(3, 4, len(tokens)), atol=0.02)  # weights are BF16
    assert (looked.weights.triu(1) == 0).all()
    assert torch.equal(looked.logits, before)
    attention.look(llm.model, tokens, [(2, begin, 0)])
    assert not any("softmax" in vars(block.attn) for block in llm.model.layers)
    assert torch.equal(attention.look(llm.model, tokens).logits, before)


def test_what_is_hidden_gets_no_weight_and_only_there(llm):
    tokens, _ = probe.answered(llm, "37 + 48 = ?")
    open_, hidden = attention.look(llm.model, tokens), attention.look(llm.model, tokens, [(1, 20, 7)])
    assert (hidden.weights[1, :, 20, 7] == 0).all()
    assert torch.equal(hidden.weights[0], open_.weights[0])
    assert torch.equal(hidden.weights[:, :, :20], open_.weights[:, :, :20])


def test_carries_are_found_where_they_stand_and_are_looked_at(llm, sums):
    found = attention.carries(sums)
    assert found
    for row, query, key in found:
        carry, tens = (llm.tokenizer.decode([int(sums.tokens[row, i])]) for i in (query + 1, key))
        assert carry == tens
    row, query, key = found[0]
    weights = attention.look(llm.model, sums.tokens[row].tolist()).weights
    assert weights[-1, 2, query, key] > 0.9


def test_a_call_is_timed_by_its_median_after_two_that_do_not_count():
    calls = []
    assert attention.timed(lambda: calls.append(time.sleep(0.2 if len(calls) < 2 else 0)), repeats=3) < 100
    assert len(calls) == 5


def test_figures_hold_their_data():
    lines = show.cache(kept_numbers(R1), R1.n_layers, find_gpu("H100-80G")).axes[0].lines
    assert lines[3].get_ydata()[-1] == pytest.approx(cache_bytes(R1) * 131_072 / 1e9)
    turned = {"RoPE": torch.tensor([8.0, 4.0]), "YaRN": torch.tensor([8.0, 0.1])}
    plain, yarn, *marks = show.frequencies(turned, 4096, (32, 1)).axes[0].lines
    assert (plain.get_ydata()[1], yarn.get_ydata()[0]) == (4, 8)
    assert [line.get_ydata()[0] for line in marks] == [32, 1]
    assert show.heat(torch.eye(3), "abc", "abc").axes[0].images[0].get_array().shape == (3, 3)


def test_the_explorer_follows_its_choices():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")

    def look(question):
        words = list(question)
        return torch.rand(3, 4, len(words), len(words)), words, 2

    box = show.explorer(look, "2 + 3 = ?")
    asked, layer, head = box.children[0].children
    assert (layer.max, head.max) == (3, 4)
    picture = box.children[1]
    seen = {bytes(picture.value)}
    for choice, value in ((layer, 1), (head, 2), (asked, "9 + 9 = ?")):
        choice.value = value
        seen.add(bytes(picture.value))
    assert len(seen) == 4
