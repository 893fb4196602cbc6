"""Figures and figures' data of the lesson on generation: doubt, heat, budgets, batches, and what a guess may save."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from ..config import ModelConfig
from ..cost import activated, parameters, touched
from ..layout import layout
from .style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..generate import LLM
    from ..inference.chat import Tokenizer
    from ..inference.sampling import Sampling

SHOWN = {"\n": "\\n", " ": "␣"}


@dataclass(frozen=True)
class Choice:
    """One token of a completion, and how likely the model found it.

    Attributes:
        text: as it is shown: a line break as ``\\n``, special tokens by name.
        probability: at temperature 1.
        others: the likeliest tokens, the chosen one perhaps among them, with their probabilities.
    """

    text: str
    probability: float
    others: tuple[tuple[str, float], ...]


def label(tokenizer: "Tokenizer", token: int) -> str:
    """A token's text, made visible."""
    text = "<end>" if token == tokenizer.eos_id else tokenizer.decode([token])
    return "".join(SHOWN.get(c, c) for c in text) or f"#{token}"


def drawn(text: str) -> str:
    """The text as matplotlib's own font can draw it: it has no Chinese."""
    return text if all(ord(c) < 0x2E80 for c in text) else "(zh)"


def tokens(
    llm: "LLM", message: "str | list[dict[str, str]]", **options: "Unpack[Sampling]"
) -> tuple[list[int], Iterator[int]]:
    """The prompt's ids and, as they come, those of the completion: ``LLM.stream`` before it is text."""
    from ..inference.decode import generate

    messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
    prompt = llm.tokenizer.prompt(messages)
    ids = {"eos_id": llm.tokenizer.eos_id, "think_ids": llm.tokenizer.think_ids}
    return prompt, (token for _, token in generate(llm.model, [prompt], **ids, **options))


def choices(llm: "LLM", prompt: list[int], completion: list[int], top: int = 5) -> list[Choice]:
    """How likely each token of ``completion`` was: one pass over all of them, as in a prefill."""
    import torch

    if not completion:
        return []
    with torch.inference_mode():
        ids = torch.tensor([prompt + completion[:-1]], device=llm.model.run.device)
        h = llm.model(ids)[0, len(prompt) - 1 :]
        shares = llm.model.logits(h).double().softmax(-1)
    best = shares.topk(top)
    found = []
    for row, token in enumerate(completion):
        others = zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
        named = tuple((label(llm.tokenizer, other), share) for other, share in others)
        found.append(Choice(label(llm.tokenizer, token), float(shares[row, token]), named))
    return found


def doubt(found: Sequence[Choice], title: str) -> "Figure":
    """1 - p of each token along a completion, on a logarithmic axis; the likeliest other token of the largest ones."""
    figure, (ax,) = axes(size=(max(8.0, 0.19 * len(found)), 3.8))
    doubts = [max(1 - c.probability, 1e-9) for c in found]
    ax.bar(range(len(found)), doubts, bottom=1e-10, color=BLUE)
    ax.set_yscale("log")
    ax.margins(x=0.01)
    ax.set(ylim=(1e-9, 1), ylabel="1 - probability", xlabel="token of the completion", title=title)
    ax.set_xticks(range(len(found)), [drawn(c.text) for c in found], fontsize=11, rotation=90, family="monospace")
    for i in sorted(range(len(found)), key=lambda i: -doubts[i])[:3]:
        other = next(text for text, _ in found[i].others if text != found[i].text)
        ax.annotate(f"or {drawn(other)}", (i, doubts[i]), textcoords="offset points", xytext=(2, 4), fontsize=11)
    return figure


def heat(logits: "Tensor", tokenizer: "Tokenizer", temperatures: Sequence[float], top: int = 6) -> "Figure":
    """[V] scores of one place -> the probabilities of its likeliest tokens at each temperature."""
    from ..inference.sampling import distribution

    best = logits.topk(top).indices.tolist()
    figure, (ax,) = axes(size=(8.0, 3.6))
    width = 0.8 / len(temperatures)
    for i, temperature in enumerate(temperatures):
        shares = distribution(logits, temperature)
        heights = [*(float(shares[token]) for token in best), 1 - float(shares[best].sum())]
        at = [place + (i - (len(temperatures) - 1) / 2) * width for place in range(top + 1)]
        colour = (SKY, BLUE, ORANGE, PINK, GREEN)[i % 5]
        ax.bar(at, heights, width, color=colour, label=f"temperature {temperature:g}")
    names = [drawn(label(tokenizer, token)) for token in best]
    ax.set_xticks(range(top + 1), [*names, "all others"], family="monospace")
    ax.set(ylabel="probability", xlabel="next token")
    ax.legend(fontsize=11)
    return figure


def lines(
    series: dict[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str, level: tuple[str, float] | None = None
) -> "Figure":
    """Named curves of (x, y) points; ``level`` is a named baseline."""
    figure, (ax,) = axes(size=(8.0, 3.6))
    for name, points in series.items():
        ax.plot(*zip(*points, strict=True), marker="o", label=name)
    if level:
        ax.axhline(level[1], color=GREY, linestyle="--", label=level[0])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=11)
    return figure


def cache_growth(points: Sequence[tuple[int, int]], per_token: int) -> "Figure":
    """(tokens, bytes allocated) of a cache as it grows, beside what the formula needs."""
    figure, (ax,) = axes(size=(8.0, 3.4))
    lengths, allocated = zip(*points, strict=True)
    ax.step(lengths, [n / 1e6 for n in allocated], where="pre", color=BLUE, label="allocated: doubled when full")
    needed = [n * per_token / 1e6 for n in lengths]
    ax.plot(lengths, needed, color=ORANGE, label=f"needed: {per_token:,} bytes a token")
    ax.set(xlabel="tokens in the cache", ylabel="MB")
    ax.legend(fontsize=11)
    return figure


# --------------------------------------------------------------------------------------- speculative decoding


def read_by(cfg: ModelConfig, tokens: int) -> float:
    """Parameters that a step touches when ``tokens`` tokens go through the model together.

    Everything but the routed experts is read once, however many tokens there are.
    """
    used = activated(cfg)
    return used["total"] - used["routed"] + parameters(cfg)["routed"] * touched(cfg, tokens)


def read_by_mtp(cfg: ModelConfig, tokens: int) -> float:
    """The same of one guess by the MTP layer: its own weights, and the head once more."""
    rows = (row for row in layout(cfg) if row.part == "mtp" and not row.is_scale and row.copy_of is None)
    layer = sum(row.numel * (1.0 if row.expert is None else touched(cfg, tokens)) for row in rows)
    return layer + activated(cfg)["head"]


def speed_up(accepted: float, step: float, check: float, guess: float) -> float:
    """Tokens per second with one guess a step, over those without.

    Args:
        accepted: share of the guesses that are right.
        step, check, guess: cost of a step of one token, of a step of two, and of the guess; in any one unit.
    """
    return (1 + accepted) * step / (check + guess)


def speed_ups(curves: dict[str, tuple[float, float, float]], points: dict[str, tuple[float, float]]) -> "Figure":
    """``speed_up`` over the accepted share for named costs (step, check, guess), and named points of both."""
    figure, (ax,) = axes(size=(8.0, 4.0))
    shares = [i / 20 for i in range(21)]
    for name, costs in curves.items():
        ax.plot([100 * p for p in shares], [speed_up(p, *costs) for p in shares], label=name)
    for marker, (name, (accepted, factor)) in zip("*Dos", points.items(), strict=False):
        ax.plot([100 * accepted], [factor], "k" + marker, markersize=9, label=name)
    ax.axhline(1, color=GREY, linestyle=":")
    ax.set(xlabel="guesses accepted (%)", ylabel="speed, without = 1", ylim=(0, 2))
    ax.legend(fontsize=11, loc="lower right")
    return figure


def seconds_of(work: Callable[[], object], repeat: int = 20) -> float:
    """Seconds that ``work()`` takes: the least of ``repeat`` calls, since whatever else runs only adds to it."""
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)
