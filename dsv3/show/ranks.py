"""Figures of lesson 10: what ranks hold, what they add up, and what waiting for each other costs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, ORANGE, SKY, YELLOW, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PARTS = {  # of the model: what belongs to each, and its colour through the course
    "routed experts": (("routed",), ORANGE),
    "attention": (("attention",), BLUE),
    "shared and dense": (("shared", "dense"), GREEN),
    "embedding, head, other": (("embedding", "head", "gate", "norm"), GREY),
}


def held(ranks: Mapping[str, Counter[str]], limits: Mapping[str, float], title: str) -> "Figure":
    """Bytes of weights on one rank of each way to cut, by part of the model; ``limits`` are lines, in GB."""
    figure, (ax,) = axes(size=(9.0, 3.8))
    below = [0.0] * len(ranks)
    for name, (parts, colour) in PARTS.items():
        heights = [sum(rank[part] for part in parts) / 1e9 for rank in ranks.values()]
        ax.bar(list(ranks), heights, 0.5, bottom=below, color=colour, label=name)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    for name, limit in limits.items():
        ax.axhline(limit, color="black", linestyle="--", linewidth=1)
        ax.annotate(name, (1, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=11)
    ax.set(ylabel="weights on one rank (GB)", title=title)
    figure.legend(fontsize=11, loc="outside right upper")
    return figure


def sums(parts: "Sequence[Tensor]", whole: "Tensor", count: int = 12) -> "Figure":
    """The first numbers of what each rank computed, of their sum, and of one process's answer."""
    figure, (ax,) = axes(size=(9.0, 3.6))
    width = 0.8 / len(parts)
    for rank, (part, colour) in enumerate(zip(parts, (SKY, YELLOW), strict=True)):
        at = [place + (rank - (len(parts) - 1) / 2) * width for place in range(count)]
        ax.bar(at, part.flatten()[:count].tolist(), width, color=colour, label=f"rank {rank}")
    total = sum(parts[1:], parts[0])
    ax.plot(range(count), total.flatten()[:count].tolist(), "ko", markersize=9, fillstyle="none", label="their sum")
    ax.plot(range(count), whole.flatten()[:count].tolist(), "kx", markersize=7, label="one process")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel="number of the hidden state", ylabel="value", xticks=range(count))
    ax.set_title("No rank has the answer; the sum has")
    figure.legend(fontsize=11, loc="outside right upper")
    return figure


def times(nbytes: Sequence[int], measured: Mapping[str, Sequence[float]]) -> "Figure":
    """Microseconds of an all-reduce over its size, for each way to do it."""
    figure, (ax,) = axes(size=(8.0, 3.8))
    for (name, values), colour, mark in zip(measured.items(), (SKY, "black"), "os", strict=False):
        ax.plot(nbytes, values, mark + "-", color=colour, markersize=8, label=name)
    ax.set(xscale="log", yscale="log", xlabel="bytes of the tensor", ylabel="time (µs)")
    ax.set_title("Small tensors cost the waiting, large ones the bytes")
    ax.legend(fontsize=11)
    return figure


def waiting(latencies: Sequence[float], speeds: Mapping[str, Sequence[float]], alone: float, mine: float) -> "Figure":
    """Tokens per second over the latency of a message in µs, for each algorithm.

    Args:
        alone: tokens per second without communication.
        mine: a latency that was measured, in µs.
    """
    figure, (ax,) = axes(size=(8.0, 3.8))
    for (name, values), colour in zip(speeds.items(), (SKY, "black"), strict=False):
        ax.plot(latencies, values, color=colour, label=name, linewidth=2)
    ax.axhline(alone, color=GREY, linestyle="--", label="no communication")
    ax.axvline(mine, color="black", linestyle=":", label="your messages, here")
    ax.set(xscale="log", xlabel="latency of one message (µs)", ylabel="tokens/s of one chat")
    ax.set_title("DeepSeek-R1 on 16 ranks: waiting decides, not bytes")
    ax.set_ylim(bottom=0)
    figure.legend(fontsize=11, loc="outside right upper")
    return figure
