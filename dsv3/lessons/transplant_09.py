"""Lesson 09's parts around a real model: sampler, loops and the check of guesses answer 20 unseen sums."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache import Cache
from ..inference.decode import Model
from ..llm import LLM, load
from ..tiny import data
from ..tiny.evaluate import answer
from . import transplant
from .part import Transplant
from .transplant import MOST


class Conversations:
    """B sequences in a model with their cache: ``prefill`` and ``step`` as the learner's loops call them.

    ``check`` reads several tokens of a single sequence, and ``guess`` asks the MTP layer what comes after them.

    Attributes:
        passes: how often the model was called after the prompt.
    """

    def __init__(self, model: Model):
        self.model, self.cache, self.passes = model, Cache(), 0
        self.h, self.begin = torch.empty(0), 0  # latest hidden states [1, S, D], and the first one's position

    def prefill(self, tokens: Tensor) -> Tensor:
        """[B, S] ids of prompts -> [B, S, V] scores."""
        with torch.inference_mode():
            return self.model.logits(self.model(tokens, 0, self.cache))

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """[B] ids at [B] positions -> [B, V] scores."""
        self.passes += 1
        with torch.inference_mode():
            return self.model.logits(self.model(tokens[:, None], positions, self.cache)[:, 0])

    def one(self, prompt: list[int]) -> Tensor:
        """The prompt of a single sequence -> [V] scores; the MTP layer reads it, too, each token with the next."""
        with torch.inference_mode():
            h = self.model(torch.tensor([prompt]), 0, self.cache)
            if len(self.model.mtp) and len(prompt) > 1:
                self.model.predict(h[:, :-1], torch.tensor([prompt[1:]]), 0, self.cache)
            self.h, self.begin = h[:, -1:], len(prompt) - 1
            return self.model.logits(h[0, -1])

    def next(self, token: int, position: int) -> Tensor:
        """One id of a single sequence -> [V] scores."""
        return self.check([token], position)[0]

    def check(self, tokens: list[int], position: int) -> Tensor:
        """S ids of a single sequence, the first at ``position`` -> [S, V] scores. What stood there is overwritten."""
        self.passes += 1
        with torch.inference_mode():
            self.h, self.begin = self.model(torch.tensor([tokens]), position, self.cache), position
            return self.model.logits(self.h[0])

    def guess(self, new: list[int]) -> list[int]:
        """The id that the MTP layer expects after ``new``, which were chosen after the latest hidden states."""
        with torch.inference_mode():
            h = self.model.predict(self.h[:, : len(new)], torch.tensor([new]), self.begin, self.cache)
            return [int(self.model.logits(h[0, -1]).argmax())]


def sampler(
    parts: SimpleNamespace, batch: int, temperature: float, top_k: int = 0, top_p: float = 1.0, seed: int = 0
) -> Callable[[Tensor], list[int]]:
    """``shares``, then ``draw``, as the loops' ``choose``: [B, V] scores -> B ids. Each sequence has its generator."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(batch)]

    def choose(scores: Tensor) -> list[int]:
        knobs = temperature, top_k, top_p
        return [parts.draw(parts.shares(row, *knobs), g) for row, g in zip(scores, generators, strict=True)]

    return choose


def with_guesses(
    llm: LLM, parts: SimpleNamespace, prompt: list[int], most: int, lookup: tuple[int, int] | None = None
) -> tuple[list[int], int]:
    """A greedy answer with guesses -> its ids, and the passes that they took.

    Args:
        lookup: n and count of ``lookup``, whose guesses are taken; None: the MTP layer guesses.
    """
    talk, ends = Conversations(llm.model), llm.tokenizer.eos_ids
    new = [int(talk.one(prompt).argmax())]
    latest = new[:]  # chosen after the hidden states of the latest pass
    while new[-1] not in ends and len(new) < most:
        guesses = parts.lookup(prompt + new, *lookup) if lookup else talk.guess(latest)
        scores = talk.check([new[-1], *guesses], len(prompt) + len(new) - 1)
        latest = parts.accept(scores, guesses)
        end = next((i + 1 for i, token in enumerate(latest) if token in ends), len(latest))
        new += latest[:end]
    return new[:most], talk.passes


class Scored(NamedTuple):
    """Of how many sums the answer was right, the ids that were generated, and the passes that decoded."""

    right: int
    ids: int
    passes: int


def in_float32() -> LLM:
    """tiny-r1 with the layers of ``model.py`` and the MTP layer, its FP8 weights dequantised to float32."""
    return load("tiny-r1", model="plain", gemm="bf16", dtype=torch.float32, mtp=1)


def score(
    llm: LLM, parts: SimpleNamespace, way: str, n: int | None = None, temperature: float = 0.0, top_p: float = 1.0
) -> Scored:
    """``n`` sums that training never saw, ``SUMS`` if nothing is said, in one of these ways:

    "one by one", "batch"; and greedily with guesses "of the MTP layer" or "of the text".
    """
    problems = data.held_out_set(transplant.SUMS if n is None else n)
    prompts = [llm.tokenizer.prompt([{"role": "user", "content": question}]) for _, question in problems]
    ends, passes, said = llm.tokenizer.eos_ids, 0, list[list[int]]()
    if way == "batch":
        talk = Conversations(llm.model)
        choose = sampler(parts, len(prompts), temperature, top_p=top_p)
        said = parts.decode_batch(talk.prefill, talk.step, prompts, choose, ends, MOST)
        passes = talk.passes
    for i, prompt in enumerate(prompts if way != "batch" else ()):
        if way.startswith("of the "):
            new, took = with_guesses(llm, parts, prompt, MOST, (2, 3) if way == "of the text" else None)
        else:
            talk, choose = Conversations(llm.model), sampler(parts, 1, temperature, top_p=top_p, seed=i)
            new = parts.decode(talk.one, talk.next, prompt, lambda row, choose=choose: choose(row[None])[0], ends, MOST)
            took = talk.passes
        said.append(new)
        passes += took
    answers = [llm.tokenizer.decode(new).partition("</think>")[2] for new in said]
    right = sum(answer(text) == problem.answer for (problem, _), text in zip(problems, answers, strict=True))
    return Scored(right, sum(map(len, said)), passes)


def _scored(way: str, temperature: float = 0.0, top_p: float = 1.0) -> Callable[[SimpleNamespace], int]:
    return lambda parts: score(in_float32(), parts, way, temperature=temperature, top_p=top_p).right


def _guessed(parts: SimpleNamespace) -> int:
    """The MTP layer's guesses are so good that an ``accept`` that believes them costs no sum; the text's are not."""
    llm = in_float32()
    return min(score(llm, parts, way).right for way in ("of the MTP layer", "of the text"))


TRANSPLANTS = [
    Transplant("the loop, one sum after another", _scored("one by one"), 20, ("decode", "one too large")),
    Transplant("the sampler", _scored("batch", 0.6, 0.95), 20, ("draw", "drawn equally often")),
    Transplant("the batch", _scored("batch"), 20, ("decode_batch", "after the padding")),
    Transplant("guesses, of the MTP layer and of the text", _guessed, 20, ("accept", "believes every guess")),
]
