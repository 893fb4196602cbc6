"""From scores to tokens: temperature, top-k, top-p, a generator of random numbers for each sequence, a thinking budget.

Rank 0 chooses and the others are told, so ranks cannot disagree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypedDict

import torch
from torch import Tensor

from ..ranks.parallel import Parallel
from .chat import opens_thinking

MAX_NEW_TOKENS = 200  # by default
COLDEST = 1e-30  # by less than this, float32 scores cannot be divided
MOST = 2**31 - 1  # of whole numbers but seeds


class Sampling(TypedDict, total=False):
    """Options of everything that generates.

    Attributes:
        max_new_tokens: the longest completion, in tokens; 200 by default.
        temperature: 0, the default, takes the likeliest token; otherwise logits are divided by it before sampling.
        top_k: sample among this many likeliest tokens; 0, the default, among all.
        top_p: sample among the fewest likeliest tokens that together have this probability; 1 by default.
        seed: of the first prompt; the next ones have the next seeds. The same seed gives the same tokens, whatever the
            prompt is batched with.
        think_budget: end the thinking after this many tokens, and let the model answer; by default never.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    think_budget: int | None


def check(
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    think_budget: int | None = None,
) -> None:
    """
    Raises:
        ValueError: an option that is no number, or out of its range.
        TypeError: there is no such option.
    """
    whole("max_new_tokens", max_new_tokens, 1)
    if not _number(temperature) or not (temperature == 0 or COLDEST <= temperature < math.inf):
        raise ValueError(f"temperature = {temperature!r:.40}: must be 0 (greedy), or {COLDEST} or more, and finite")
    whole("top_k", top_k, 0)
    if not _number(top_p) or not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p!r:.40}: must be above 0 and at most 1")
    whole("seed", seed, -(2**63), 2**63 - 1)
    if think_budget is not None:
        whole("think_budget", think_budget, 0)


def whole(name: str, value: int, least: int, most: int = MOST) -> None:
    """Raises ValueError, which names the argument, unless ``value`` is a whole number in its range."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} = {value!r:.40}: must be a whole number from {least} to {most}")


def _number(value: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def distribution(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """[..., V] scores -> [..., V] float32 probabilities; top-k first, then top-p of what is left."""
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        kept = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # what comes before it is enough
        outside[..., 0] = False  # also where float32 takes top_p for 0
        ordered = ordered.masked_fill(outside, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered / ordered.sum(-1, keepdim=True))
    return probabilities


@dataclass
class _Sequence:
    rng: torch.Generator
    thinking: bool
    thought: int = 0


class Chooser:
    """Chooses the tokens of a batch of sequences.

    Args:
        prompts: token ids of each sequence.
        seeds: one for each.
        think_ids: the tokens ``<think>`` and ``</think>``.

    Raises:
        ValueError: an option that is out of its range.
    """

    def __init__(
        self,
        tp: Parallel,
        device: torch.device,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        think_ids: tuple[int, int] | None = None,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        think_budget: int | None = None,
    ):
        check(temperature=temperature, top_k=top_k, top_p=top_p, think_budget=think_budget)
        self.tp, self.device, self.think_ids = tp, device, think_ids
        self.temperature, self.top_p = float(temperature), float(top_p)
        self.top_k, self.think_budget = top_k, think_budget
        self.sequences = [
            _Sequence(
                torch.Generator(device).manual_seed(seed),
                thinking=think_budget is not None and opens_thinking(prompt, think_ids),
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def keep(self, rows: list[int]) -> None:
        """Forget all sequences but ``rows``."""
        self.sequences = [self.sequences[row] for row in rows]

    def __call__(self, logits: Tensor, drafts: list[list[int]]) -> list[list[int]]:
        """The next tokens of each sequence, one or more.

        Args:
            logits: [B, S, V]: scores after the last token, and after each of the S - 1 drafts behind it.
            drafts: [B][S - 1] guesses. One is kept if the token chosen from the scores before it is the same; so the
                tokens, and how they are distributed, are those without drafts.

        Returns:
            [B][1 to S]: the kept guesses, and one token after them.
        """
        if self.tp.size == 1:
            return self._choose(logits, drafts)
        batch, new = logits.shape[:2]
        table = torch.full((batch, new), -1, device=self.device)
        if self.tp.rank == 0:
            for row, tokens in enumerate(self._choose(logits, drafts)):
                table[row, : len(tokens)] = torch.tensor(tokens, device=self.device)
        return [[token for token in row if token >= 0] for row in self.tp.broadcast(table).tolist()]

    def _choose(self, logits: Tensor, drafts: list[list[int]]) -> list[list[int]]:
        likeliest = logits.argmax(-1).tolist()
        chosen = []
        for row, (sequence, guesses) in enumerate(zip(self.sequences, drafts, strict=True)):
            tokens: list[int] = []
            while len(tokens) <= len(guesses) and tokens == guesses[: len(tokens)]:
                place = len(tokens)
                if self.temperature == 0:
                    token = likeliest[row][place]
                else:
                    shares = distribution(logits[row, place], self.temperature, self.top_k, self.top_p)
                    token = int(torch.multinomial(shares, 1, generator=sequence.rng))
                tokens.append(self._within_budget(sequence, token))
            chosen.append(tokens)
        return chosen

    def _within_budget(self, sequence: _Sequence, token: int) -> int:
        if sequence.thinking:
            if sequence.thought >= self.think_budget:
                token = self.think_ids[1]
            sequence.thought += 1
            sequence.thinking = token != self.think_ids[1]
        return token
