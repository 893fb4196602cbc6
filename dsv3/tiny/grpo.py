"""Reinforcement learning on tiny-r1: GRPO with rewards by rule, as DeepSeek-R1's, on sums asked in a way it never saw.

A group of answers to one question is sampled; a rule scores each; those better than their group's mean are made
likelier. No reward model, no value model, no written-out solutions. Equations: DeepSeek-R1 (arXiv 2501.12948),
section 2.2.1, applied to each token as in DeepSeekMath (arXiv 2402.03300), section 4.1. ``imitate`` is the other way,
supervised: R1's cold start.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..inference.chat import END_THINK, Reply, Tokenizer
from ..inference.fast import Fast
from ..inference.weights import load
from ..llm import LLM
from ..model import Transformer
from ..runtime import Runtime
from . import data, train
from .tokenizer import EOS, conversation

Question = tuple[data.Problem, str]
Reward = Callable[[data.Problem, Reply], float]
BATCH = 64  # sequences sampled together
STATED = re.compile(r"(?:Answer: |答案：)(-?[0-9]+)[.。]?")  # the whole of an answer that may be paid


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result.

    Attributes:
        form: how a sum is asked; ``{a}``, ``{s}`` and ``{b}`` are its parts.
        operators: of the sums.
        questions, group: questions per step, and answers sampled to each.
        updates: steps of the optimiser on each batch; from the second on the ratio is not 1, and the clip can act.
        clip, kl: epsilon and beta of equation 1.
        rate: multiplies the learning rates of ``train.Recipe``.
        max_new_tokens: longer answers are cut, and are wrong.
    """

    seed: int = 0
    form: str = "({a} {s} {b}) = ?"
    operators: str = "+-"
    steps: int = 5
    questions: int = 8
    group: int = 8
    updates: int = 1
    clip: float = 0.2
    kl: float = 0.02
    rate: float = 0.4
    temperature: float = 1.0
    max_new_tokens: int = 130


# ---------------------------------------------------------------------------------------------------- questions


def questions(recipe: Recipe, held_out: bool = False) -> Iterator[Question]:
    """Endless sums from one side of tiny-r1's split, asked in the recipe's form."""
    for p in data.problems(recipe.seed, held_out):
        if p.op in recipe.operators:
            yield p, recipe.form.format(a=p.a, s=p.op, b=p.b)


def held_out_set(recipe: Recipe, n: int) -> list[Question]:
    """``n`` different sums that no training ever sees; the same ones for every seed of the recipe."""
    found: dict[data.Problem, str] = {}
    for p, question in questions(replace(recipe, seed=0), held_out=True):
        found[p] = question
        if len(found) == n:
            break
    return list(found.items())


def rule(p: data.Problem, reply: Reply) -> float:
    """The reward: 0.1 for R1's form, and 1 more for the right number in it."""
    kept = form(p, reply)
    return kept + (kept > 0 and correct(p, reply))


def correct(p: data.Problem, reply: Reply) -> bool:
    """Whether the answer is the right number and nothing else, and came to its end: a policy finds every other hole.

    That the last number is right is not enough: ``86 85``, ``84, no 85``, ``3.85`` and ``1,085`` all end in 85.
    """
    stated = STATED.fullmatch(reply.answer.strip())
    return reply.finish == "stop" and stated is not None and int(stated[1]) == p.answer


def form(p: data.Problem, reply: Reply) -> float:
    """0.1 for a reply that ended by itself, with thinking and one answer apart: whatever the answer is."""
    both = bool(reply.thinking.strip()) and bool(reply.answer.strip()) and END_THINK not in reply.answer
    return 0.1 * (reply.finish == "stop" and both)


# ----------------------------------------------------------------------------------------------------- equations


def advantages(rewards: Tensor) -> Tensor:
    """[P, G] rewards -> [P, G]: each less its group's mean, over its group's deviation; 0 where all are equal.

    Source: DeepSeek-R1, equation 3.
    """
    distance = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = rewards.std(dim=1, correction=0, keepdim=True)
    return torch.where(deviation < 1e-6, 0.0, distance / deviation.clamp(min=1e-6))


def divergence(new: Tensor, reference: Tensor) -> Tensor:
    """[...] log-probabilities of sampled tokens -> an estimate, never negative, of how far the policy went.

    ``x - log x - 1`` with ``x`` the reference's probability over the policy's. Source: DeepSeek-R1, equation 2.
    """
    gap = reference - new
    return gap.exp() - gap - 1


def objective(new: Tensor, old: Tensor, reference: Tensor, gain: Tensor, learned: Tensor, recipe: Recipe) -> Tensor:
    """What is maximised, a number: clipped advantage less ``kl`` times divergence, a mean over tokens, then answers.

    Args:
        new, old, reference: [N, S] log-probabilities of the tokens now, when sampled, and before all training.
        gain: [N] advantages, one for all tokens of an answer.
        learned: [N, S] bool, the tokens of the answers; the questions' and the padding do not count.

    Source: DeepSeek-R1, equation 1.
    """
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
    better = torch.minimum(ratio * gain.unsqueeze(1), clipped * gain.unsqueeze(1))
    per_token = (better - recipe.kl * divergence(new, reference)) * learned
    return (per_token.sum(1) / learned.sum(1)).mean()


# ------------------------------------------------------------------------------------------------------- models


def trainable(folder: Path) -> Transformer:
    """The model in ``folder`` without its MTP layer, in BF16, ready for gradients; the gate's bias has no loss."""
    cfg = ModelConfig.load(folder)
    model = Transformer(replace(cfg, n_mtp_layers=0), Runtime(attn="naive"))
    load(model, folder, cfg)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.endswith("gate.bias"))
    return model


def player(model: Transformer, tok: Tokenizer) -> LLM:
    """A copy of the model as it is now, laid out for speed: it samples, and is asked for its score."""
    copy = Transformer(replace(model.cfg, max_batch_size=BATCH), replace(model.run, attn="absorb"))
    copy.load_state_dict(model.state_dict())
    return LLM(Fast(copy), tok)


def log_probabilities(model: Transformer, tokens: Tensor) -> Tensor:
    """[N, S] tokens -> [N, S - 1]: the log-probability of each but the first, after those before it."""
    logits = model.logits(model(tokens[:, :-1]))
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


def replies(model: Transformer, tok: Tokenizer, asked: list[Question], **options: Any) -> list[Reply]:
    """The model's answers; options as ``LLM.generate``'s."""
    return player(model, tok).generate([question for _, question in asked], **options)


def accuracy(model: Transformer, tok: Tokenizer, asked: list[Question]) -> float:
    """Share of questions answered exactly, greedily."""
    told = replies(model, tok, asked, temperature=0, max_new_tokens=Recipe.max_new_tokens)
    return sum(correct(p, reply) for (p, _), reply in zip(asked, told, strict=True)) / len(asked)


# --------------------------------------------------------------------------------------------------------- loops


def imitate(model: Transformer, tok: Tokenizer, recipe: Recipe) -> Iterator[float]:
    """Supervised steps on written-out solutions, ``questions x group`` different ones each, in place; their losses."""
    optimiser = train.Optimiser(model, train.Recipe())
    asked = questions(recipe)
    for number in range(1, recipe.steps + 1):
        rows = []
        for p, question in islice(asked, recipe.questions * recipe.group):
            prompt, completion = conversation([data.solve(p, question, chinese=False)])
            rows.append((tok.encode(prompt), tok.encode(completion)))
        loss, _ = train.losses(model, *train.pack(rows, tok.eos_id), mtp=False)
        loss.backward()
        optimiser.step(number, recipe.rate)
        optimiser.publish(fp8=False)
        yield loss.item()


@dataclass(frozen=True)
class Step:
    """What one step of ``reinforce`` saw.

    Attributes:
        reward, right: the mean reward, and the share of right answers, of what was sampled.
        useful: share of the questions whose answers got different rewards; the others teach nothing.
        divergence: mean per token, before the update; 0 where nothing was useful.
    """

    reward: float
    right: float
    useful: float
    divergence: float


def reinforce(model: Transformer, tok: Tokenizer, recipe: Recipe, reward: Reward = rule) -> Iterator[Step]:
    """Train ``model`` in place, a step at a time."""
    reference = Transformer(model.cfg, model.run)
    reference.load_state_dict(model.state_dict())
    optimiser = train.Optimiser(model, train.Recipe())
    asked, taken = questions(recipe), 0
    for number in range(recipe.steps):
        played = [question for question in islice(asked, recipe.questions) for _ in range(recipe.group)]
        told = replies(
            model, tok, played, temperature=recipe.temperature, max_new_tokens=recipe.max_new_tokens,
            seed=(1000 * recipe.seed + number) * len(played),
        )  # fmt: skip
        rewards = torch.tensor([reward(p, reply) for (p, _), reply in zip(played, told, strict=True)])
        gain = advantages(rewards.view(-1, recipe.group))
        away = 0.0
        kept = gain.flatten().nonzero().flatten().tolist()
        if kept:
            tokens, learned = batch(tok, [played[i] for i in kept], [told[i] for i in kept])
            with torch.no_grad():
                before = log_probabilities(reference, tokens)
            new = log_probabilities(model, tokens)
            old = new.detach()
            for update in range(recipe.updates):
                if update:
                    new = log_probabilities(model, tokens)
                (-objective(new, old, before, gain.flatten()[kept], learned, recipe)).backward()
                taken += 1
                optimiser.step(taken, recipe.rate)
                optimiser.publish(fp8=False)
            away = divergence(old, before)[learned].mean().item()
        right = [correct(p, reply) for (p, _), reply in zip(played, told, strict=True)]
        useful = gain.any(dim=1).float().mean().item()
        yield Step(rewards.mean().item(), sum(right) / len(right), useful, away)


def batch(tok: Tokenizer, played: list[Question], told: list[Reply]) -> tuple[Tensor, Tensor]:
    """Questions and replies -> tokens [N, S] and learned [N, S - 1], True where an answer's token is predicted."""
    rows = []
    for (_, question), reply in zip(played, told, strict=True):
        completion = reply.text + (EOS if reply.finish == "stop" else "")
        rows.append((tok.prompt([{"role": "user", "content": question}]), tok.encode(completion)))
    tokens, learned = train.pack(rows, tok.eos_id)
    return tokens, learned[:, 1:]
