"""Figures of lesson 09: doubt, heat, budgets, batches, and what a guess may save."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..lab.generation import Choice


def drawn(text: str) -> str:
    """The text as matplotlib's own font can draw it: it has no Chinese."""
    return text if all(ord(c) < 0x2E80 for c in text) else "(zh)"


def doubt(found: "Sequence[Choice]", title: str) -> "Figure":
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


def heat(tokens: Sequence[str], shares: Mapping[float, Sequence[float]]) -> "Figure":
    """Temperature -> the probability of each of ``tokens``, and last of all others."""
    figure, (ax,) = axes(size=(8.0, 3.6))
    width = 0.8 / len(shares)
    places = range(len(tokens) + 1)
    for i, (temperature, heights) in enumerate(shares.items()):
        at = [place + (i - (len(shares) - 1) / 2) * width for place in places]
        colour = (SKY, BLUE, ORANGE, PINK, GREEN)[i % 5]
        ax.bar(at, heights, width, color=colour, label=f"temperature {temperature:g}")
    ax.set_xticks(places, [*map(drawn, tokens), "all others"], family="monospace")
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


def speed_ups(
    shares: Sequence[float], curves: Mapping[str, Sequence[float]], points: Mapping[str, tuple[float, float]]
) -> "Figure":
    """Speed over that without guesses against the accepted ``shares`` of them, and named points of both."""
    figure, (ax,) = axes(size=(8.0, 4.0))
    for name, factors in curves.items():
        ax.plot([100 * share for share in shares], factors, label=name)
    for marker, (name, (accepted, factor)) in zip("*Dos", points.items(), strict=False):
        ax.plot([100 * accepted], [factor], "k" + marker, markersize=9, label=name)
    ax.axhline(1, color=GREY, linestyle=":")
    ax.set(xlabel="guesses accepted (%)", ylabel="speed, without = 1", ylim=(0, 2))
    ax.legend(fontsize=11, loc="lower right")
    return figure
