"""GRPO on tiny-r1: the equations, what teaches nothing, and that a step moves the model the right way."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dsv3.inference.chat import Reply, Tokenizer
from dsv3.paths import TINY_R1
from dsv3.tiny import data, evaluate, grpo

RECORDED = Path(__file__).parents[3] / "benchmarks" / "results" / "grpo-cpu.json"
SUM = data.Problem(37, "+", 48)
SMALL = grpo.Recipe(questions=2, group=4, steps=1)


@pytest.fixture(scope="module")
def tok():
    return Tokenizer(TINY_R1)


def reply(answer, finish="stop", thinking="7+8+0=15:5"):
    return Reply(thinking, answer, 9, finish)


def test_advantages_are_relative_to_the_group():
    found = grpo.advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 1.0]]))
    torch.testing.assert_close(found[0], torch.tensor([3.0, -1.0, -1.0, -1.0]) / math.sqrt(3))
    assert found[1].tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1.1])
def test_equal_rewards_have_no_advantage_rounding_included(value):
    assert torch.equal(grpo.advantages(torch.full((3, 8), value)), torch.zeros(3, 8))


def test_the_divergence_is_zero_at_the_reference_and_positive_elsewhere():
    here = torch.tensor([-1.0, -0.1, -5.0])
    assert torch.equal(grpo.divergence(here, here), torch.zeros(3))
    assert (grpo.divergence(here, here + torch.tensor([0.5, -0.5, 2.0])) > 0).all()


def gradient(ratio, gain, recipe):
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    zero, learned = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    grpo.objective(new, zero, new.detach(), torch.tensor([gain]), learned, recipe).backward()
    return new.grad.item()


def test_the_clip_stops_what_has_gone_far_enough_and_only_that():
    recipe = grpo.Recipe(kl=0.0, clip=0.2)
    assert gradient(1.5, 1.0, recipe) == 0
    assert gradient(0.5, -1.0, recipe) == 0
    assert gradient(0.5, 1.0, recipe) == pytest.approx(0.5)  # the way back stays open
    assert gradient(1.5, -1.0, recipe) == pytest.approx(-1.5)
    assert gradient(1.1, 1.0, recipe) == pytest.approx(1.1)


def test_the_kl_term_pulls_back_and_padding_does_not_count():
    new = torch.tensor([[-1.0, -9.0]], requires_grad=True)
    learned = torch.tensor([[True, False]])
    grpo.objective(
        new, new.detach(), torch.tensor([[-2.0, 0.0]]), torch.zeros(1), learned, grpo.Recipe(kl=0.5)
    ).backward()
    assert new.grad[0, 0] == pytest.approx(-0.5 * (1 - math.exp(-1)))
    assert new.grad[0, 1] == 0


def test_the_rule_wants_the_number_and_pays_little_for_the_form():
    assert grpo.rule(SUM, reply("\n\nAnswer: 85")) == pytest.approx(1.1)
    assert grpo.rule(SUM, reply("\n\nAnswer: 86")) == pytest.approx(0.1)
    assert grpo.rule(SUM, reply("", finish="length")) == 0
    assert grpo.form(SUM, reply("\n\nI cannot do that.")) == pytest.approx(0.1)


FOOLED = ["86 85", "84, no 85", "3.85", "1,085", "8_5", "85 or 86", "not 85", "84\n</think>\n\nAnswer: 85", "\u221285"]


@pytest.mark.parametrize("answer", [*FOOLED, "185", "850"])
def test_the_rule_pays_the_number_alone(answer):
    assert grpo.rule(SUM, reply(f"\n\nAnswer: {answer}")) <= 0.1


@pytest.mark.parametrize("answer", ["Answer: 85", "Answer: 85.", "答案：85", "答案：85。"])
def test_the_rule_pays_every_way_that_tiny_r1_or_a_person_ends_an_answer(answer):
    assert grpo.rule(SUM, reply(f"\n\n{answer}")) == pytest.approx(1.1)
    assert grpo.rule(SUM, reply(f"\n\n{answer}", finish="length")) == 0
    assert grpo.rule(SUM, reply(f"\n\n{answer}", thinking="")) == 0


@pytest.mark.slow
def test_the_strict_reading_changes_no_score_of_tiny_r1(tok):
    """Its card's scores read the last number; on sums as taught, in brackets and sampled, both readings agree."""
    recipe = grpo.Recipe()
    asked = [*data.held_out_set(100), *grpo.held_out_set(recipe, 100)]
    model = grpo.trainable(TINY_R1)
    for options in ({"temperature": 0}, {"temperature": 1.0, "seed": 3}):
        told = grpo.replies(model, tok, asked, max_new_tokens=200, **options)
        for (p, _), said in zip(asked, told, strict=True):
            assert grpo.correct(p, said) == (evaluate.answer(said.answer) == p.answer), said


def test_questions_of_training_and_of_the_score_are_apart():
    recipe = grpo.Recipe(form="({a} {s} {b}) = ?", operators="+")
    asked = grpo.held_out_set(recipe, 40)
    assert asked == grpo.held_out_set(replace(recipe, seed=5), 40)
    assert len({p for p, _ in asked}) == 40
    assert all(p.held_out and p.op == "+" for p, _ in asked)
    p, question = next(grpo.questions(recipe))
    assert not p.held_out
    assert question == f"({p.a} + {p.b}) = ?"


def test_the_gate_bias_is_not_trained_by_a_loss():
    still = [n for n, p in grpo.trainable(TINY_R1).named_parameters() if not p.requires_grad]
    assert still == ["layers.1.ffn.gate.bias", "layers.2.ffn.gate.bias"]


def test_equal_rewards_leave_every_weight_as_it_was(tok):
    model = grpo.trainable(TINY_R1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    (step,) = grpo.reinforce(model, tok, SMALL, lambda p, reply: 0.1)
    assert step.useful == step.divergence == 0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_step_makes_rewarded_answers_likelier_than_the_others(tok):
    """On the very answers that were sampled: reward those of an even number of tokens."""
    model, recipe, seen = grpo.trainable(TINY_R1), replace(SMALL, questions=1, group=8, rate=0.2), []

    def even(p, reply):
        seen.append((p, reply))
        return float(reply.tokens % 2 == 0)

    (step,) = grpo.reinforce(model, tok, recipe, even)
    assert step.useful == 1
    question = next(grpo.questions(recipe))
    tokens, learned = grpo.batch(tok, [question] * len(seen), [reply for _, reply in seen])
    with torch.no_grad():
        old = (grpo.log_probabilities(grpo.trainable(TINY_R1), tokens) * learned).sum(1)
        new = (grpo.log_probabilities(model, tokens) * learned).sum(1)
    gained = new - old
    good = torch.tensor([reply.tokens % 2 == 0 for _, reply in seen])
    assert gained[good].mean() > gained[~good].mean()


@pytest.mark.slow
def test_imitation_learns_what_reinforcement_could_not_begin(tok):
    recipe = grpo.Recipe(form="{a} take away {b}", operators="-", steps=3, questions=4, group=4)
    model = grpo.trainable(TINY_R1)
    losses = list(grpo.imitate(model, tok, recipe))
    assert losses[-1] < losses[0] / 1.5


def test_the_batch_is_what_was_said(tok):
    replies = [reply("\n\nAnswer: 85"), reply("", finish="length")]
    tokens, learned = grpo.batch(tok, [(SUM, "(37 + 48) = ?")] * 2, replies)
    said = [tok.decode(tokens[i, 1:][learned[i]].tolist()) for i in range(2)]
    assert said == [r.text for r in replies]
    assert tokens[0, 1:][learned[0]][-1] == tok.eos_id
    assert tokens[1, 1:][learned[1]][-1] != tok.eos_id


def test_the_recorded_runs_say_what_the_lesson_says():
    result = json.loads(RECORDED.read_text())
    first, last = {}, {}
    for run in result["runs"]:
        scored = [row["brackets"] for row in run["rows"] if "brackets" in row]
        first.setdefault(run["reward"], []).append(scored[0])
        last.setdefault(run["reward"], []).append(scored[-1])
    assert min(last["rule"]) > max(first["rule"]) + 30
    assert max(last["coin"]) < min(last["rule"])
    assert max(last["form"]) < min(last["rule"])
