"""Figures of lesson 09: doubt, heat, passes, budgets, errors, and what a guess may save."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREY, HEAT, PINK, SKY, axes

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
    ax.plot(range(len(found)), doubts, "o", color="black", markersize=5)
    ax.set_yscale("log")
    ax.margins(x=0.01)
    ax.set(ylim=(5e-10, 1), ylabel="1 - probability", xlabel="token of the completion", title=title)
    ax.set_xticks(range(len(found)), [drawn(c.text) for c in found], fontsize=11, rotation=90, family="monospace")
    for i in sorted(range(len(found)), key=lambda i: -doubts[i])[:3]:
        other = next(text for text, _ in found[i].others if text != found[i].text)
        ax.annotate(f"or {drawn(other)}", (i, doubts[i]), textcoords="offset points", xytext=(5, 5), fontsize=11)
    return figure


def shaded(question: str, found: "Sequence[Choice]", columns: int = 64) -> "Figure":
    """A completion as ``show.chat`` shows it: each token on a ground that is darker where another one was likelier."""
    rows: list[list[tuple[int, str, float]]] = [[]]
    row = 0
    for choice in found:
        text = choice.text.replace("␣", " ").removesuffix("\\n")
        if row + len(text) > columns:
            rows, row = [*rows, []], 0
        rows[-1].append((row, text, 1 - choice.probability))
        row += len(text)
        if choice.text.endswith("\\n"):
            rows, row = [*rows, []], 0
    figure, (ax,) = axes(size=(8.0, 0.5 + 0.27 * len(rows)))
    ax.axis("off")
    ax.set(xlim=(0, columns), ylim=(len(rows), 0), title=question)
    for y, line in enumerate(rows):
        for x, text, doubted in line:
            ax.axvspan(
                x, x + len(text), 1 - y / len(rows), 1 - (y + 1) / len(rows), color=PINK, lw=0, alpha=doubted**0.25
            )
            for i, letter in enumerate(drawn(text)[: len(text)]):
                ax.text(x + i + 0.5, y + 0.5, letter, fontsize=11, family="monospace", ha="center", va="center")
    return figure


def heat(tokens: Sequence[str], shares: Mapping[float, Sequence[float]]) -> "Figure":
    """Temperature -> the probability of each of ``tokens``, and last of all others; the hotter, the lighter."""
    from matplotlib import colormaps

    figure, (ax,) = axes(size=(8.0, 3.6))
    width = 0.8 / len(shares)
    places = range(len(tokens) + 1)
    for i, (temperature, heights) in enumerate(shares.items()):
        at = [place + (i - (len(shares) - 1) / 2) * width for place in places]
        colour = colormaps[HEAT](0.9 * i / max(len(shares) - 1, 1))
        ax.bar(at, heights, width, color=colour, label=f"temperature {temperature:g}")
    ax.set_xticks(places, [*map(drawn, tokens), "all others"], family="monospace")
    title = "Hot: no single unlikely token gains much, but all of them together do"
    ax.set(ylabel="probability", xlabel="next token", title=title)
    ax.legend(fontsize=11)
    return figure


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    level: tuple[str, float] | None = None,
) -> "Figure":
    """Named curves of (x, y) points; ``level`` is a named baseline."""
    figure, (ax,) = axes(size=(8.0, 3.6))
    for colour, marker, (name, points) in zip(("black", SKY, PINK), "osD", series.items(), strict=False):
        ax.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
    if level:
        ax.axhline(level[1], color=GREY, linestyle="--", label=level[0])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=11)
    return figure


def passes(
    speeds: Mapping[str, Sequence[tuple[int, float]]], shares: Sequence[tuple[int, float]] = (), title: str = ""
) -> "Figure":
    """Tokens/s against the tokens of a pass, a curve for each way; beside it attention's share of the operations."""
    figure, found = axes(1, 2 if shares else 1, size=(9.0, 3.8))
    for colour, marker, (name, points) in zip(("black", SKY), "os", speeds.items(), strict=False):
        found[0].plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
    found[0].set(xlabel="tokens that go through the model together", ylabel="tokens/s")
    found[0].legend(fontsize=11)
    if shares:
        at, parts = zip(*shares, strict=True)
        found[1].plot(at, [100 * part for part in parts], color=BLUE, marker="o", label="attention")
        found[1].set(xlabel="tokens of the prompt", ylabel="% of all operations")
        found[1].legend(fontsize=11)
    for ax in found:
        ax.set_xscale("log", base=2)
        ax.set_ylim(bottom=0)
    figure.suptitle(title, fontsize=12)
    return figure


def cache_growth(points: Sequence[tuple[int, int]], per_token: int) -> "Figure":
    """(tokens, bytes allocated) of a cache as it grows, beside what the formula needs."""
    figure, (ax,) = axes(size=(8.0, 3.4))
    lengths, allocated = zip(*points, strict=True)
    ax.step(lengths, [n / 1e6 for n in allocated], where="pre", color="black", label="allocated: doubled when full")
    needed = [n * per_token / 1e6 for n in lengths]
    ax.plot(lengths, needed, color=SKY, label=f"needed: {per_token:,} bytes a token")
    ax.set(xlabel="tokens in the cache", ylabel="MB", title="A cache that doubles its room copies itself seldom")
    ax.legend(fontsize=11)
    return figure


def speed_ups(
    shares: Sequence[float], curves: Mapping[str, Sequence[float]], points: Mapping[str, tuple[float, float]]
) -> "Figure":
    """Speed over that without guesses against the accepted ``shares`` of them, and named points of both."""
    figure, (ax,) = axes(size=(8.0, 4.0))
    for style, (name, factors) in zip(("-", "--", ":"), curves.items(), strict=False):
        ax.plot([100 * share for share in shares], factors, "k" + style, label=name)
    for marker, (name, (accepted, factor)) in zip("*Dos", points.items(), strict=False):
        ax.plot([100 * accepted], [factor], marker, color=PINK, markersize=10, label=name)
    ax.axhline(1, color=GREY, linestyle=":")
    ax.set(xlabel="guesses accepted (%)", ylabel="speed, without = 1", ylim=(0, 2))
    ax.set_title("A right guess nearly doubles the speed of many sequences, not of one")
    ax.legend(fontsize=11, loc="lower right")
    return figure
