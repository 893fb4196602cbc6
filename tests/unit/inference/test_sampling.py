"""Sampling against the exact distribution; speculative decoding gives the same tokens; budgets; seeds."""

import argparse
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsv3
from dsv3 import llm as g
from dsv3.inference.decode import generate
from dsv3.inference.sampling import Chooser, Sampling, add_flags, distribution
from dsv3.paths import TINY_R1
from dsv3.ranks.parallel import Parallel
from dsv3.slice import cut_out
from dsv3.tiny.data import held_out_set

QUESTIONS = [q for _, q in held_out_set(5, seed=8)] + ["Who are you?", "Hello"]
CPU = torch.device("cpu")


def by_hand(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The definition, token by token."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    kept = order[: top_k or len(order)]
    total = sum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if top_p < 1 and mass >= top_p:
            break
        nucleus.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in nucleus)
    return [weights[i] / total if i in nucleus else 0.0 for i in range(len(logits))]


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=12, unique=True),
    st.floats(0.1, 3), st.integers(0, 12), st.sampled_from([0.01, 0.33, 0.7, 0.999, 1.0]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_distribution_is_its_definition(tenths, temperature, top_k, top_p):
    logits = [x / 10 for x in tenths]
    mine = distribution(torch.tensor(logits), temperature, top_k, top_p)
    expected = torch.tensor(by_hand(logits, temperature, top_k, top_p))
    borderline = (expected > 0) != (mine > 0)  # where float32 sums meet top_p exactly
    assert borderline.sum() <= 1
    if not borderline.any():
        assert torch.allclose(mine, expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.9}])
def test_what_is_drawn_follows_the_distribution(options):
    logits, n, temperature = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5]), 6000, 0.7
    chooser = Chooser(Parallel(), CPU, [[0]], [0], Sampling(temperature=temperature, **options))
    drawn = torch.tensor([chooser(logits.view(1, 1, -1), [[]])[0][0] for _ in range(n)])
    expected = distribution(logits, temperature, **options) * n
    counts = torch.bincount(drawn, minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi2 = ((counts - expected)[possible] ** 2 / expected[possible]).sum().item()
    assert chi2 < {2: 10.83, 3: 13.82, 4: 16.27, 5: 18.47}[int(possible.sum())]  # one chance in a thousand


def test_guesses_are_kept_as_long_as_they_are_right():
    logits = torch.full((1, 4, 9), -10.0)
    for place, token in enumerate((5, 6, 7, 8)):
        logits[0, place, token] = 10.0
    for guesses, expected in (([5, 6, 7], [5, 6, 7, 8]), ([5, 6, 1], [5, 6, 7]), ([1, 6, 7], [5]), ([], [5])):
        chooser = Chooser(Parallel(), CPU, [[0]], [0], Sampling())
        assert chooser(logits[:, : len(guesses) + 1], [guesses]) == [expected]


@pytest.mark.parametrize("drafts", [1, 3])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_speculative_decoding_gives_the_same_tokens(drafts, batch, temperature):
    """Also when sampling: a seed's random numbers are used up one a token, whoever guessed it."""
    options = {"temperature": temperature, "top_p": 0.95, "seed": 3, "max_new_tokens": 80}
    plain = dsv3.load("tiny-r1", max_batch_size=batch)
    speculative = dsv3.load("tiny-r1", max_batch_size=batch, mtp=drafts)
    assert speculative.generate(QUESTIONS, **options) == plain.generate(QUESTIONS, **options)
    stats = speculative.stats
    assert stats.tokens == plain.stats.tokens
    assert 0 < stats.accepted <= stats.drafted
    assert stats.steps < plain.stats.steps


def test_most_guesses_on_sums_are_right():
    llm = dsv3.load("tiny-r1", mtp=1)
    llm.generate([q for _, q in held_out_set(40, seed=21)])
    assert llm.stats.accepted / llm.stats.drafted > 0.8


def test_the_plain_model_speculates_as_well():
    options = {"max_new_tokens": 60}
    plain = dsv3.load("tiny-r1", model="plain").generate(QUESTIONS[:2], **options)
    assert dsv3.load("tiny-r1", model="plain", mtp=2).generate(QUESTIONS[:2], **options) == plain


def test_a_prompts_seed_does_not_depend_on_its_company():
    llm = dsv3.load("tiny-r1")
    options = {"temperature": 2.0, "max_new_tokens": 25}
    together = llm.generate(["Hello", "Hello", "Who are you?"], seed=7, **options)
    alone = [llm.chat(q, seed=7 + i, **options) for i, q in enumerate(["Hello", "Hello", "Who are you?"])]
    assert [r.text for r in together] == [r.text for r in alone]
    assert together[0].text != together[1].text


def test_a_thinking_budget_ends_the_thought_and_the_answer_follows():
    llm = dsv3.load("tiny-r1", mtp=1)
    for budget in (0, 7, 100):
        reply = llm.chat("37 + 48 = ?", think_budget=budget)
        thought = llm.tokenizer.encode(reply.thinking)
        assert len(thought) <= budget
        assert reply.answer
        assert reply.finish == "stop"
    whole = llm.chat("37 + 48 = ?")
    assert llm.chat("37 + 48 = ?", think_budget=100) == whole
    assert reply.answer.strip() == "Answer: 85"


@pytest.fixture(scope="module")
def narrow() -> g.LLM:
    return dsv3.load("tiny-r1", max_seq_len=64)


OUT_OF_RANGE = {
    "max_new_tokens": (0, -1, 1.5, True, "5", None, 10**12),
    "temperature": (math.nan, math.inf, -0.1, 1e-40, "0.5", True, None, 10**400, -(10**400)),
    "top_p": (0, math.nan, 1.5, "1", None, True),
    "top_k": (-1, 1.5, "3", None),
    "seed": (2**64, -(2**64), 1.5, "1", None),
    "think_budget": (-1, 1.5, "3", True),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in OUT_OF_RANGE.items() for value in row])
def test_options_out_of_range_are_named(name, value, narrow):
    for ask in (narrow.chat, narrow.stream):  # before the first token
        with pytest.raises(ValueError, match=f"{name} = "):
            ask("37 + 48 = ?", **{name: value})


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_number_too_long_to_be_written_is_named(name):
    with pytest.raises(ValueError, match=f"{name} = a number of thousands of digits"):
        Sampling(**{name: 10**5000})


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1e-30}, {"temperature": 1e300}, {"top_p": 1e-300, "temperature": 1},
     {"seed": -5, "temperature": 1}, {"seed": 2**63 - 1, "temperature": 1}, {"top_k": 10**9, "temperature": 1},
     {"max_new_tokens": 2**31 - 1}],
)  # fmt: skip
def test_extremes_that_are_in_range(options, narrow):
    assert all(0 < reply.tokens < 64 for reply in narrow.generate(["37 + 48 = ?"] * 2, **options))


@pytest.mark.parametrize("name", ["temprature", "chunk", "drafts", "eos_id"])
def test_an_unknown_option_is_named(name, narrow):
    for ask in (narrow.chat, narrow.stream):
        with pytest.raises(TypeError, match=name):
            ask("37 + 48 = ?", **{name: 1})


def test_every_option_has_a_flag():
    parser = argparse.ArgumentParser()
    add_flags(parser, Sampling(temperature=0.2))
    assert Sampling(**vars(parser.parse_args([]))) == Sampling(temperature=0.2)
    given = {"max_new_tokens": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 7, "think_budget": 4}
    words = [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), str(value))]
    assert Sampling(**vars(parser.parse_args(words))) == Sampling(**given)


@pytest.mark.parametrize("mtp", [0, 1, 5])
@pytest.mark.parametrize("room", [1, 2, 7])
def test_no_answer_leaves_the_context(mtp, room, narrow):
    prompt = narrow.tokenizer.prompt([{"role": "user", "content": "Hello"}])
    llm = dsv3.load("tiny-r1", max_seq_len=len(prompt) + room, mtp=mtp)
    assert [r.tokens for r in llm.generate(["Hello"] * 3, think_budget=None, temperature=9.0)] == [room] * 3


def test_drafts_need_the_layer(tmp_path):
    llm = dsv3.load("tiny-r1")
    with pytest.raises(ValueError, match="drafts need the MTP layer"):
        list(generate(llm.model, [[5, 6]], eos_id=1, drafts=1))
    cut_out(TINY_R1, tmp_path / "no-mtp", layers=[0, 1, 2], experts=list(range(16)))
    with pytest.raises(ValueError, match="has no whole MTP layer to guess with; load it without mtp"):
        dsv3.load(tmp_path / "no-mtp", mtp=1)


def test_prefill_reads_a_batch_of_unequal_prompts_at_once(monkeypatch):
    """The demo reads what the longer prompts have more token by token (C15)."""
    llm = dsv3.load("tiny-r1", model="plain")
    shapes = []
    llm.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    prompts = [llm.tokenizer.prompt([{"role": "user", "content": q}]) for q in ("Hello", "What is 4821 - 977?")]
    for _ in generate(llm.model, prompts, eos_id=1, max_new_tokens=3):
        pass
    assert shapes == [(2, max(map(len, prompts))), (2, 1), (2, 1)]


@pytest.mark.slow
def test_numerics_show_what_bf16_costs():
    """Each choice changes what it says, and nothing else."""
    question = [{"role": "user", "content": "37 + 48 = ?"}]
    logits, models = {}, {}
    for numerics in ("exact", "hf", "demo"):
        llm = dsv3.load("tiny-r1", model="plain", numerics=numerics)
        models[numerics] = llm.model
        with torch.inference_mode():
            logits[numerics] = llm.model.logits(llm.model(torch.tensor([llm.tokenizer.prompt(question)]))[:, -1])
        assert llm.chat("37 + 48 = ?").answer.strip() == "Answer: 85"
    assert models["exact"].head.weight.dtype == torch.float32
    assert models["hf"].head.weight.dtype == models["demo"].head.weight.dtype == torch.bfloat16
    for other in ("hf", "demo"):
        assert 0 < (logits[other] - logits["exact"]).abs().max() < 1.0
        # A BF16 head can only say what BF16 can.
        assert torch.equal(logits[other], logits[other].bfloat16().float())
    assert not torch.equal(logits["exact"], logits["exact"].bfloat16().float())
