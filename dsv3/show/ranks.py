"""Figures of lesson 10: what ranks hold, what they add up, and what waiting for each other costs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, COLOURS, GREEN, GREY, ORANGE, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def held(ranks: Sequence[Counter[str]], title: str) -> "Figure":
    """Bytes of weights on each rank, by part of the model."""
    figure, (ax,) = axes(size=(9.0, 3.8))
    parts = sorted({part for rank in ranks for part in rank}, key=lambda part: -ranks[0][part])
    unit, name = (1e9, "GB") if max(rank.total() for rank in ranks) > 1e9 else (1e6, "MB")
    below = [0.0] * len(ranks)
    for part, colour in zip(parts, (*COLOURS, "black"), strict=False):
        heights = [rank[part] / unit for rank in ranks]
        ax.bar(range(len(ranks)), heights, bottom=below, color=colour, label=part)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    ax.set(xlabel="rank", ylabel=f"weights ({name})", xticks=range(len(ranks)), title=title)
    figure.legend(fontsize=11, loc="outside right upper")
    return figure


def sums(parts: "Sequence[Tensor]", whole: "Tensor", count: int = 12) -> "Figure":
    """The first numbers of what each rank computed, of their sum, and of one process's answer."""
    figure, (ax,) = axes(size=(9.0, 3.6))
    width = 0.8 / (len(parts) + 1)
    bars = [(f"rank {rank}", part, COLOURS[rank]) for rank, part in enumerate(parts)]
    bars.append(("their sum", sum(parts[1:], parts[0]), GREEN))
    for i, (name, values, colour) in enumerate(bars):
        at = [place + (i - len(parts) / 2) * width for place in range(count)]
        ax.bar(at, values.flatten()[:count].tolist(), width, color=colour, label=name)
    ax.plot(range(count), whole.flatten()[:count].tolist(), "kx", markersize=8, label="one process")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel="number of the hidden state", ylabel="value", xticks=range(count))
    figure.legend(fontsize=11, loc="outside right upper")
    return figure


def waiting(latencies: Sequence[float], speeds: Mapping[str, Sequence[float]], alone: float) -> "Figure":
    """Tokens per second over the latency of a collective in µs, for each link; ``alone`` is without communication."""
    figure, (ax,) = axes(size=(8.0, 3.8))
    for (name, values), colour in zip(speeds.items(), (BLUE, ORANGE), strict=False):
        ax.plot(latencies, values, color=colour, label=name)
    ax.axhline(alone, color=GREY, linestyle="--", label="without communication")
    ax.set(xscale="log", xlabel="latency of one collective (µs)", ylabel="tokens/s, all sequences")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=11)
    return figure
