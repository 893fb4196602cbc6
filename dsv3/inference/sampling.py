"""From scores to tokens: temperature, top-k, top-p, a generator of random numbers for each sequence, a thinking budget.

Rank 0 chooses and the others are told, so ranks cannot disagree.
"""

import math
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real

import torch
from torch import Tensor

from ..ranks.parallel import Parallel
from .chat import opens_thinking

COLDEST = 1e-30  # by less than this, float32 scores cannot be divided
MOST = 2**31 - 1  # of whole numbers but seeds


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of everything that generates; the command line's flags are made of them.

    The same seed gives the same tokens, whatever the prompt is batched with.

    Raises:
        ValueError: an option that is no number, or out of its range.
        TypeError: there is no such option.
    """

    max_new_tokens: int = field(default=200, metadata={"help": "the longest completion, in tokens"})
    temperature: float = field(
        default=0.0, metadata={"help": "0 takes the likeliest token; else scores are divided by it before sampling"}
    )
    top_k: int = field(default=0, metadata={"help": "sample among this many likeliest tokens; 0: among all"})
    top_p: float = field(
        default=1.0, metadata={"help": "sample among the fewest likeliest tokens that together have this probability"}
    )
    seed: int = field(default=0, metadata={"help": "of the first prompt; the next ones have the next seeds"})
    think_budget: int | None = field(
        default=None, metadata={"help": "end the thinking after this many tokens, and let the model answer"}
    )

    def __post_init__(self) -> None:
        whole("max_new_tokens", self.max_new_tokens, 1)
        heat = self.temperature
        if not _number(heat) or not (heat == 0 or COLDEST <= heat < math.inf):
            raise ValueError(f"temperature = {_shown(heat)}: must be 0 (greedy), or {COLDEST} or more, and finite")
        whole("top_k", self.top_k, 0)
        if not _number(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {_shown(self.top_p)}: must be above 0 and at most 1")
        whole("seed", self.seed, -(2**63), 2**63 - 1)
        if self.think_budget is not None:
            whole("think_budget", self.think_budget, 0)


def add_flags(parser: ArgumentParser, defaults: Sampling, *names: str) -> None:
    """Give ``parser`` a flag for each option, or for those that are named."""
    for option in fields(Sampling):
        if names and option.name not in names:
            continue
        default, number = getattr(defaults, option.name), float if option.type is float else int
        text = option.metadata["help"] + ("" if default is None else f"; default {default}")
        flag = "--" + option.name.replace("_", "-")
        parser.add_argument(flag, type=number, default=default, metavar="N" if number is int else "X", help=text)


def whole(name: str, value: int, least: int, most: int = MOST) -> None:
    """Check that the argument ``name`` is a whole number in its range.

    Raises:
        ValueError: it is not; names it.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} = {_shown(value)}: must be a whole number from {least} to {most}")


def _shown(value: object) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "a number of thousands of digits"


def _number(value: float) -> bool:
    """Whether it is a number, and not a larger one than a float can be."""
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


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
    """A sequence's random numbers, and how many tokens it may still think: None without a budget, or after it."""

    rng: torch.Generator
    budget: int | None


class Chooser:
    """Chooses the tokens of a batch of sequences.

    Args:
        prompts: token ids of each sequence.
        seeds: one for each.
        think_ids: the tokens ``<think>`` and ``</think>``; a ``think_budget`` needs them.
    """

    def __init__(
        self,
        tp: Parallel,
        device: torch.device,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        think_ids: tuple[int, int] | None = None,
    ):
        self.tp, self.device, self.think_ids = tp, device, think_ids
        self.temperature, self.top_k, self.top_p = float(sampling.temperature), sampling.top_k, float(sampling.top_p)
        self.sequences = [
            _Sequence(
                torch.Generator(device).manual_seed(seed),
                sampling.think_budget if opens_thinking(prompt, think_ids) else None,
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def keep(self, rows: list[int]) -> None:
        """Forget all sequences but ``rows``."""
        self.sequences = [self.sequences[row] for row in rows]

    @property
    def on_device(self) -> bool:
        """Whether what is drawn is what is chosen: no other rank to ask, and no thinking to end."""
        return self.tp.size == 1 and all(sequence.budget is None for sequence in self.sequences)

    def begin(self, logits: Tensor) -> tuple[Tensor, Callable[[], list[list[int]]]]:
        """Choose without waiting: [B, 1, V] scores -> [B, 1] tokens, where they are, and what reads them.

        The reader waits for these tokens alone, not for what was launched behind them. Only where ``on_device``.
        """
        drawn = logits.argmax(-1) if self.temperature == 0 else self._draw(logits, [])
        host = drawn.to("cpu", non_blocking=True)
        if drawn.device.type != "cuda":
            return drawn, host.tolist
        there = torch.cuda.Event()
        there.record(torch.cuda.current_stream(drawn.device))

        def read() -> list[list[int]]:
            there.synchronize()
            return host.tolist()

        return drawn, read

    def __call__(self, logits: Tensor, drafts: Tensor | list[list[int]]) -> list[list[int]]:
        """The next tokens of each sequence, one or more.

        Args:
            logits: [B, S, V]: scores after the last token, and after each of the S - 1 drafts behind it.
            drafts: [B][S - 1] guesses. One is kept if the token chosen from the scores before it is the same; so the
                tokens, and how they are distributed, are those without drafts.

        Returns:
            [B][1 to S]: the kept guesses, and one token after them.
        """
        drafts = torch.as_tensor(drafts, dtype=torch.long, device=self.device)
        if self.tp.size == 1:
            return self._choose(logits, drafts)
        batch, new = logits.shape[:2]
        chosen = self._choose(logits, drafts) if self.tp.rank == 0 else [[] for _ in range(batch)]
        table = torch.tensor([row + [-1] * (new - len(row)) for row in chosen], device=self.device)
        return [[token for token in row if token >= 0] for row in self.tp.broadcast(table).tolist()]

    def _choose(self, logits: Tensor, drafts: Tensor) -> list[list[int]]:
        states: list[list[Tensor]] = []
        drawn = logits.argmax(-1) if self.temperature == 0 else self._draw(logits, states)
        table = torch.cat([drawn, drafts], dim=1).tolist()  # the only wait
        chosen = []
        for row, sequence in enumerate(self.sequences):
            tokens: list[int] = []
            wanted, guesses = table[row][: logits.shape[1]], table[row][logits.shape[1] :]
            while len(tokens) <= len(guesses) and tokens == guesses[: len(tokens)]:
                tokens.append(self._within_budget(sequence, wanted[len(tokens)]))
            if states and len(tokens) <= len(guesses):  # numbers behind a wrong guess were not used up
                sequence.rng.set_state(states[row][len(tokens)])
            chosen.append(tokens)
        return chosen

    def _draw(self, logits: Tensor, states: list[list[Tensor]]) -> Tensor:
        """[B, S, V] scores -> [B, S] tokens; with S > 1 the random generators' states before each go to ``states``.

        The token with the largest share / e, e exponentially distributed, is drawn with the probability of its share:
        ``torch.multinomial`` does the same, number for number, but looks at the shares first, for which it must wait.
        """
        shares = distribution(logits, self.temperature, self.top_k, self.top_p)
        noise = torch.empty_like(shares)
        for sequence, rows in zip(self.sequences, noise, strict=True):
            before = []
            for row in rows:
                before += [sequence.rng.get_state()] if len(rows) > 1 else []
                row.exponential_(generator=sequence.rng)
            states += [before] if before else []
        return (shares / noise).argmax(-1)

    def _within_budget(self, sequence: _Sequence, token: int) -> int:
        if sequence.budget is None or self.think_ids is None:
            return token
        _, end = self.think_ids
        if sequence.budget == 0:
            token = end
        sequence.budget = None if token == end else sequence.budget - 1
        return token
