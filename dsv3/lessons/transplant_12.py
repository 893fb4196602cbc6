"""Lesson 12's parts train tiny-r1: the learner's loop, advantages, log-probabilities, loss and reward."""

from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from ..inference.chat import Reply, Tokenizer
from ..model import Transformer
from ..paths import TINY_R1
from ..tiny import grpo, train
from ..tiny.grpo import Question, Recipe
from .part import Transplant

BRACKETS = Recipe(form="({a} {s} {b}) = ?", operators="+-", steps=4)
ASKED = 48  # held-out sums that a training is scored with
ENOUGH = 8  # more of them right than before: the training works; the exact number is another machine's


class Trainee:
    """tiny-r1 in training: what ``parts.step`` needs to sample answers and to learn from them."""

    def __init__(self, parts: SimpleNamespace, recipe: Recipe):
        self.parts, self.recipe, self.tok = parts, recipe, Tokenizer(TINY_R1)
        self.model, self.first = grpo.trainable(TINY_R1), grpo.trainable(TINY_R1)
        self.optimiser = train.Optimiser(self.model, train.Recipe())
        self.sampled = self.taken = 0

    def sample(self, asked: list[Question]) -> list[Reply]:
        """An answer to each question, by the model as it is now."""
        seed = (1000 * self.recipe.seed + self.sampled) * len(asked)
        self.sampled += 1
        options = {"temperature": self.recipe.temperature, "max_new_tokens": self.recipe.max_new_tokens, "seed": seed}
        return grpo.replies(self.model, self.tok, asked, **options)

    def scored(self, model: Transformer, tokens: Tensor) -> Tensor:
        """[N, S] tokens -> [N, S - 1] log-probabilities of all but the first."""
        return self.parts.log_probabilities(model.logits(model(tokens)), tokens)

    def learn(self, asked: list[Question], answers: list[Reply], gains: Tensor) -> None:
        """One update of the weights; ``gains`` are the answers' advantages."""
        tokens, learned = grpo.batch(self.tok, asked, answers)
        with torch.no_grad():
            before = self.scored(self.first, tokens)
        new = self.scored(self.model, tokens)
        loss = self.parts.loss(new, new.detach(), before, gains, learned, self.recipe.clip, self.recipe.kl)
        if loss.requires_grad:  # a detached loss teaches nothing
            loss.backward()
            self.taken += 1
            self.optimiser.step(self.taken, self.recipe.rate)
            self.optimiser.publish(fp8=False)


def training(
    trainee: Trainee, pay: Callable[[Question, Reply], float], questions: Iterator[Question] | None = None
) -> Iterator[Tensor]:
    """The recipe's steps, made by the parts; the rewards [Q, G] of each, before its update."""
    recipe, parts = trainee.recipe, trainee.parts
    asked = questions or grpo.questions(recipe)
    for _ in range(recipe.steps):
        some = list(islice(asked, recipe.questions))
        yield parts.step(some, recipe.group, trainee.sample, pay, parts.advantages, trainee.learn)


def paid_by(reward: Callable[[str, bool, int], float]) -> Callable[[Question, Reply], float]:
    """The part ``reward``, as ``step`` calls it."""
    return lambda question, reply: reward(reply.text, reply.finish == "stop", question[0].answer)


def trained(parts: SimpleNamespace, recipe: Recipe = BRACKETS) -> Trainee:
    """tiny-r1 after the recipe's steps with all the parts."""
    trainee = Trainee(parts, recipe)
    for _ in training(trainee, paid_by(parts.reward)):
        pass
    return trainee


def gained(parts: SimpleNamespace) -> int:
    """How many more of ``ASKED`` sums are right after the training, ``ENOUGH`` at most."""
    asked, tok = grpo.held_out_set(BRACKETS, ASKED), Tokenizer(TINY_R1)
    before, after = grpo.trainable(TINY_R1), trained(parts).model
    more = round(ASKED * (grpo.accuracy(after, tok, asked) - grpo.accuracy(before, tok, asked)))
    return min(more, ENOUGH)


TRANSPLANTS = [
    Transplant("GRPO on sums in brackets", gained, ENOUGH, ("loss", "sign is turned")),
]
