"""Figures and the widget of lesson 03: FP8's numbers, what rounding to them loses, what a scale does about it."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .style import BLUE, COLOURS, GREEN, GREY, HEAT, ORANGE, RED, axes, png
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..lab.fp8 import Stored


def number_line(positive: Sequence[float]) -> "Figure":
    """E4M3's numbers from 0 up: all to 448, the first 2, and the smallest, where the steps stop shrinking."""
    fig, rows = axes(3, 1, size=(9.0, 4.2))
    for ax, top, what in zip(
        rows, (448, 2, 2**-5), ("all", "up to 2", "up to 1/32; red: subnormal, evenly spaced"), strict=True
    ):
        shown = [v for v in positive if v <= top]
        for values, colour in (([v for v in shown if v >= 2**-6], BLUE), ([v for v in shown if v < 2**-6], RED)):
            ax.vlines(values, 0, 1, color=colour, linewidth=1.3)
        ax.set(xlim=(-0.01 * top, 1.01 * top), yticks=[], title=f"{what}: {len(shown)} numbers, 0 included")
        ax.spines["left"].set_visible(False)
    rows[-1].set_xlabel("value")
    return fig


def precision(x: "Tensor", errors: "Mapping[str, Tensor]") -> "Figure":
    """The largest relative error of rounding a number of each size ``x``, for formats that are scaled to end at 448."""
    fig, (ax,) = axes(size=(8.5, 3.8))
    for (form, error), colour in zip(errors.items(), (BLUE, ORANGE), strict=True):
        ax.plot(x, 100 * error, color=colour, label=f"{form}, largest number 448")
    ax.axvline(2**-6, color=GREY, linestyle=":", label="smallest normal E4M3, 1/64")
    ax.set(xscale="log", xlabel="size of the number (block's largest: 448)", ylabel="worst relative error, %")
    ax.set_title("E4M3 loses at most 6 % over a range of 28,672, INT8 only near its largest number")
    ax.set(yscale="log", yticks=[1, 10, 100], yticklabels=["1", "10", "100"])
    fig.legend(fontsize=11, loc="outside lower center", ncols=3)
    return fig


def lines(x: Sequence[float], errors: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> "Figure":
    """Relative errors against ``x``, both logarithmic; a name that ends in "block" is drawn solid, others dashed."""
    fig, (ax,) = axes(size=(8.5, 3.8))
    for i, (name, y) in enumerate(errors.items()):
        style = "-" if name.endswith("block") else "--"
        ax.plot(x, [100 * v for v in y], style, marker="o", color=COLOURS[i // 2], label=name)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_title("Blocks put a wall around the damage of an outlier")
    ax.set(yticks=[1, 10, 100], yticklabels=["1", "10", "100"])
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def group_scales(x: "Tensor", group: int = 128) -> "Figure":
    """The largest number of every group of activations [S, K], as a share of the tensor's: a row for each group."""
    peaks = x.float().unflatten(-1, (-1, group)).abs().amax(-1)
    fig, (ax,) = axes(size=(9.0, 3.2))
    drawn = ax.imshow((peaks / peaks.max()).clamp(min=1e-9).log2().T.numpy(), cmap=HEAT, aspect="auto", vmax=0)
    ax.set(xlabel="token", ylabel=f"group of {group}", title="Groups of one input differ by a factor of 100")
    fig.colorbar(drawn, label="log2 of its largest number\n(0: the tensor's)", fraction=0.04)
    return fig


def scores(percent: Mapping[str, float], control: str) -> "Figure":
    """Percent of sums solved, a bar each; the negative ``control`` in another colour."""
    fig, (ax,) = axes(size=(8.5, 0.5 * len(percent) + 1.2))
    names = list(percent)
    ax.barh(names, [percent[n] for n in names], color=[RED if n == control else GREEN for n in names])
    for row, name in enumerate(names):
        ax.text(percent[name] + 1, row, f"{percent[name]:.0f} %", va="center", fontsize=11)
    ax.set(
        xlim=(0, 112),
        xlabel="held-out sums solved to the last token, %",
        title="FP8 costs no sum; lost scales cost all",
    )
    ax.invert_yaxis()
    return fig


def shrinking(
    factors: Sequence[float], without: Sequence[float], at: Sequence[float], scaled: Sequence[float], base: float
) -> "Figure":
    """Percent of sums solved against the factor that shrank the weights: ``without`` a scale, ``scaled``, and BF16."""
    fig, (ax,) = axes(size=(8.5, 3.4))
    ax.axhline(base, color=GREY, linestyle=":", label="BF16, unchanged")
    ax.plot(at, scaled, marker="o", color=GREEN, label="FP8, a scale for each block")
    ax.plot(factors, without, marker="o", color=RED, label="FP8, every scale 1 (control)")
    ax.set_title("A scale puts the numbers where FP8 is precise")
    ax.set(xscale="log", xlabel="weights divided by", ylabel="sums solved, %", ylim=(-4, 108))
    ax.set_xticks(factors, [f"{f:,}" for f in factors])
    ax.minorticks_off()
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def neighbours(number: float, back: float, values: Sequence[float], name: str) -> "Figure":
    """A number and what is stored of it, among the ``values`` around it that a format with its scale has, ascending."""
    fig, (ax,) = axes(size=(8.5, 1.9))
    at = bisect_left(values, number)
    ax.vlines(values[max(0, at - 6) : at + 6], 0, 1, color=BLUE, linewidth=2, label=name)
    ax.plot([number], [0.5], "o", color=RED, markersize=9, label="the number")
    ax.plot([back], [0.5], "o", color=GREEN, markersize=9, label="what is stored")
    ax.set(yticks=[], xlabel="value", title="The nearest number is stored")
    ax.spines["left"].set_visible(False)
    fig.legend(fontsize=11, loc="outside upper center", ncols=3)
    return fig


def explorer(
    store: "Callable[[float, float, str], Stored]", values: Mapping[str, Sequence[float]], number: float = 0.3
) -> "VBox":
    """What becomes of a number in a format with a scale. Its ``children`` are the row of choices, text and picture.

    Args:
        store: number, scale, format -> what becomes of it.
        values: format -> its numbers, ascending; the first format is chosen.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    choices = (
        widgets.FloatText(value=number, description="number", step=0.1),
        widgets.FloatLogSlider(value=1.0, base=2, min=-20, max=10, step=0.25, description="scale"),
        widgets.Dropdown(options=list(values), description="format"),
    )
    answer, picture = widgets.HTML(), widgets.Image(format="png")

    def draw() -> None:
        number, scale, form = (choice.value for choice in choices)
        found, largest = store(number, scale, form), values[form][-1]
        clamped = f", clamped: the largest is {largest:g}" if abs(number / scale) > largest else ""
        text = (
            f"{number:g} / {scale:.6g} = {number / scale:.6g}\n"
            f"code   0x{found.code:02x}  {found.bits}   means {found.value:g}\n"
            f"back   {found.value:g} x {scale:.6g} = {found.back:.6g}\n"
            f"error  {found.error:.2%}{clamped}"
        )
        around = neighbours(number, found.back, [scale * value for value in values[form]], f"{form} x scale")
        answer.value, picture.value = f"<pre>{escape(text)}</pre>", png(around)

    follow(choices, draw)
    return widgets.VBox([widgets.HBox(choices), answer, picture])
