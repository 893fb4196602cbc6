"""Figures and the widget of lesson 04: which rank holds what of a tensor, what that weighs, what converting takes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .style import GREY, HEAT, ORANGE, RED, SKY, YELLOW, axes, png
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

# How a tensor gets to the ranks -> its colour.
WAYS = {"whole experts": ORANGE, "cut by rows": SKY, "cut by columns": YELLOW, "a copy for every rank": GREY}
Pieces = Mapping[str, Sequence[tuple[int, float, float]]]  # tensor -> (rank, begin, end), shares of its length


def shard_map(lines: Pieces, ranks: int) -> "Figure":
    """A box for each tensor, cut as it is cut, a colour for each rank; grey where every rank holds a copy.

    A cut by rows is drawn as rows, one above the other; one by columns as columns, side by side.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    fig, (ax,) = axes(size=(9.0, 1.4 + 0.42 * len(lines)))
    colour = colormaps[HEAT].resampled(ranks)
    for at, (name, pieces) in enumerate(lines.items()):
        by_rows = name.endswith(": rows")
        for rank, begin, end in pieces:
            looks: dict[str, Any] = {
                "color": colour(rank),
                "edgecolor": "white",
                "linewidth": 0 if len(pieces) > 8 and by_rows else 0.3 if len(pieces) > 40 else 1.2,
            }
            if by_rows:
                ax.barh(at - 0.4 + 0.8 * begin, 1, height=0.8 * (end - begin), align="edge", **looks)
            else:
                ax.barh(at, end - begin, left=begin, height=0.8, **looks)
        if not pieces:
            ax.barh(at, 1, height=0.8, color="#dddddd", hatch="///", edgecolor=GREY, linewidth=0)
    ax.set(yticks=range(len(lines)), yticklabels=list(lines), xlim=(0, 1), xticks=[])
    ax.set_title("A cut by rows lies, a cut by columns stands, an expert goes whole", loc="left", fontsize=12)
    ax.invert_yaxis()
    scale = ScalarMappable(BoundaryNorm([r - 0.5 for r in range(ranks + 1)], ranks), colour)
    ticks = range(ranks) if ranks <= 16 else range(0, ranks, ranks // 8)
    fig.colorbar(scale, ax=ax, label="rank; grey: every rank", ticks=list(ticks), fraction=0.04)
    return fig


def weights(held: Sequence[Counter[str]], memory: int | None = None, kind: str = "") -> "Figure":
    """Bytes of each rank, stacked by ``WAYS``; a line at the ``memory`` in bytes of a GPU of that ``kind``."""
    unit, word = (1e9, "GB") if held[0].total() > 1e9 else (1e6, "MB")
    fig, (ax,) = axes(size=(8.5, 3.4))
    below = [0.0] * len(held)
    for name, colour in WAYS.items():
        heights = [rank[name] / unit for rank in held]
        ax.bar(range(len(held)), heights, bottom=below, color=colour, label=name)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    if memory:
        ax.axhline(memory / unit, color="black", linestyle="--", label=kind)
    ax.set(xlabel="rank", ylabel=f"{word} of weights")
    if len(held) <= 16:
        ax.set_xticks(range(len(held)))
    fig.legend(fontsize=11, loc="outside right upper")
    ax.set_title("Nearly all that a rank holds are whole experts", loc="left", fontsize=12)
    return fig


def memory(curves: Mapping[str, Sequence[tuple[float, float]]], marks: Mapping[str, float]) -> "Figure":
    """Peak memory against the checkpoint's size, both in bytes, on logarithmic axes; ``marks`` are sizes with names.

    The first, third, ... of ``curves`` load everything, the others move bytes.
    """
    fig, (ax,) = axes(size=(8.5, 4.0))
    looks = {"here": "-", "recorded": ":"}
    for i, (name, points) in enumerate(curves.items()):
        colour = (RED, SKY)[i % 2]
        style = looks["recorded" if "recorded" in name else "here"]
        ax.plot([x / 1e9 for x, _ in points], [y / 1e9 for _, y in points], style, marker="o", color=colour, label=name)
    for name, size in marks.items():
        ax.axvline(size / 1e9, color=GREY, linestyle="--")
        ax.text(size / 1e9 * 0.85, 0.5, name, rotation=90, ha="right", va="center", transform=ax.get_xaxis_transform())
    ends = [min(x for points in curves.values() for x, _ in points) / 1e9, max(marks.values()) / 1e9]
    ax.plot(ends, ends, color=GREY, linewidth=1, label="memory = checkpoint")
    ax.set(xscale="log", yscale="log", xlabel="checkpoint, GB", ylabel="peak memory, GB")
    fig.legend(fontsize=11, loc="outside lower center", ncols=2)
    fig.suptitle("Who loads everything needs its size in memory; moving bytes needs a plan", fontsize=13)
    return fig


def explorer(
    cut: Callable[[str, str, int], tuple[Pieces, Sequence[Counter[str]]]],
    names: Sequence[str],
    model: str = "DeepSeek-R1",
    precision: str = "fp8",
    ranks: int = 16,
) -> "VBox":
    """How a model is cut over a number of ranks, or why it cannot be. Its ``children``: choices, text, two pictures.

    Args:
        cut: model, precision, ranks -> what ``shard_map`` and ``weights`` draw, or a ValueError.
        names: of the models.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    choices = (
        widgets.Dropdown(options=names, value=model, description="model"),
        widgets.Dropdown(options=["fp8", "bf16"], value=precision, description="precision"),
        widgets.BoundedIntText(value=ranks, min=1, max=128, description="ranks"),
    )
    answer, cuts, sizes = widgets.HTML(), widgets.Image(format="png"), widgets.Image(format="png")

    def draw() -> None:
        name, precision, ranks = (choice.value for choice in choices)
        cuts.layout.display = sizes.layout.display = "none"
        try:
            pieces, held = cut(name, precision, ranks)
        except ValueError as error:
            answer.value = f"<pre>{escape(str(error))}</pre>"
            return
        totals = [rank.total() / 1e9 for rank in held]
        each = f"{min(totals):.3f} to {max(totals):.3f} GB of weights each, {sum(totals):,.3f} in all"
        answer.value = f"<pre>{ranks} ranks: {each}</pre>"
        cuts.value, sizes.value = png(shard_map(pieces, ranks)), png(weights(held))
        cuts.layout.display = sizes.layout.display = None

    follow(choices, draw)
    return widgets.VBox([widgets.HBox(choices), answer, cuts, sizes])
