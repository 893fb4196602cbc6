"""Figures of lesson 00: an answer waits for its thinking; the R1 family against GPUs' memory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, COLOURS, GREY, RED, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..hubs.catalogue import Model


def budgets(right: Mapping[int, int], lengths: Sequence[int], baseline: int) -> "Figure":
    """Right answers by thinking budget, beside the problems whose own thinking is no longer than that.

    Args:
        right: tokens of thinking allowed -> problems answered right.
        lengths: tokens of thinking that each problem takes when it is left alone.
        baseline: problems that are right by accident, the answers marked against other problems.
    """
    figure, (ax,) = axes(size=(8.0, 3.8))
    grid = range(max(right) + 1)
    ended = [sum(n <= budget for n in lengths) for budget in grid]
    ax.step(grid, ended, where="post", color=GREY, label="thinking would have ended by itself")
    ax.plot(list(right), list(right.values()), "o", markersize=9, color=BLUE, label="answered right")
    ax.axhline(baseline, color=RED, linestyle="--", label="control: answers marked against other problems")
    ax.set(xlabel="thinking allowed, in tokens", ylabel="problems", ylim=(-1, len(lengths) + 1))
    ax.set_title("A problem is answered right once its thinking has had room to end")
    ax.locator_params(axis="y", integer=True)
    ax.legend(fontsize=11, loc="upper left")
    return figure


def family(models: "Sequence[Model]", memory: Mapping[str, int], title: str) -> "Figure":
    """Weights of each model as published, in GB on a logarithmic scale, and the memory of some machines as lines."""
    figure, (ax,) = axes(size=(9.0, 0.45 * len(models) + 2.2))
    sizes = [m.nbytes / 1e9 for m in models]
    shown = [f"{size:,.0f}" if size >= 10 else f"{size:,.2g}" for size in sizes]
    names = [f"{m.name}, {m.precision.upper()}: {size} GB" for m, size in zip(models, shown, strict=True)]
    ax.plot(sizes, names, "o", markersize=9, color=BLUE)  # dots: a bar has no beginning on a logarithmic scale
    for (name, nbytes), colour in zip(memory.items(), COLOURS[1:], strict=False):
        ax.axvline(nbytes / 1e9, color=colour, linestyle="--", label=f"{name}: {nbytes / 1e9:,.0f} GB")
    ax.set(xlabel="weights, GB; each grid line is ten times the one before", xscale="log")
    ax.set_title(title, loc="right")
    ax.set(xlim=(min(sizes) / 2, max(sizes) * 4))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="both", color="#e5e5e5")
    ax.invert_yaxis()
    figure.legend(fontsize=11, loc="outside lower center", ncols=2)
    return figure
