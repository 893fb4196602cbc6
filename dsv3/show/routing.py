"""Figures and the widget of lesson 06: which tokens experts see, how evenly they are loaded, what a batch reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .attention import short
from .style import GREY, HEAT, ORANGE, RED, axes, png
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure
    from torch import Tensor


def heat(names: Sequence[str], shares: "Sequence[Tensor]", titles: Sequence[str], groups: int) -> "Figure":
    """For each of ``shares`` [kinds, E] a heat map; lines separate the groups of experts."""
    fig, found = axes(1, len(shares), size=(10.0, 1.2 + 0.32 * len(names)))
    for ax, share, title in zip(found, shares, titles, strict=True):
        drawn = ax.imshow(share.numpy(), cmap=HEAT, vmin=0, vmax=1, aspect="auto")
        ax.set(title=title, xlabel="expert", xticks=range(0, share.shape[1], 2))
        ax.set_yticks(range(len(names)), names if ax is found[0] else [""] * len(names))
        for edge in range(1, groups):
            ax.axvline(edge * share.shape[1] / groups - 0.5, color="white", linewidth=1.5)
    fig.colorbar(drawn, ax=found, label="share of such tokens\nthat go there")
    return fig


def loads(shares: "dict[str, Tensor]", title: str = "") -> "Figure":
    """Bars of each expert's load for each variant, against the even share."""
    fig, (ax,) = axes(size=(9.0, 3.4))
    count = len(next(iter(shares.values())))
    width = 0.8 / len(shares)
    for i, ((name, share), colour) in enumerate(zip(shares.items(), (ORANGE, RED, GREY), strict=False)):
        ax.bar(
            [e + (i + 0.5) * width - 0.4 for e in range(count)], 100 * share.numpy(), width, color=colour, label=name
        )
    ax.axhline(100 / count, color="black", linestyle="--", label=f"even: {100 / count:.2f} %")
    ax.set(xlabel="expert", ylabel="share of the load (%)", xticks=range(count), title=title)
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def choice(scores: "Tensor", biased: "Tensor", experts: "Tensor", kept: "Tensor", groups: int) -> "Figure":
    """One token's way through the gate: scores [E] and scores with bias, the ``kept`` groups, the chosen experts."""
    fig, (ax,) = axes(size=(9.0, 3.6))
    count = len(scores)
    size = count // groups
    for n, group in enumerate(kept.tolist()):
        label = "groups that stay" if n == 0 else None
        ax.axvspan(group * size - 0.5, (group + 1) * size - 0.5, color=GREY, alpha=0.18, label=label)
    chosen = [ORANGE if e in experts.tolist() else GREY for e in range(count)]
    ax.bar(range(count), scores.numpy(), 0.6, color=chosen, label="score (orange: chosen)")
    ax.scatter(
        range(count), biased.numpy(), color="black", marker="_", s=160, linewidth=3, zorder=3, label="score + bias"
    )
    ax.set(xlabel="expert", ylabel="affinity", xticks=range(count), title="Chosen by score + bias, in the best groups")
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def signature(found: dict[str, tuple[float, float]]) -> "Figure":
    """For each variant of the routing: sums solved, and the busiest expert's load as a multiple of the even share."""
    fig, (left, right) = axes(1, 2, size=(10.0, 4.0))
    names = list(found)
    solved, busiest = ([found[name][i] for name in names] for i in (0, 1))
    colours = [ORANGE, *[RED] * (len(names) - 1)]
    bars = left.barh(names, [100 * s for s in solved], color=colours)
    left.bar_label(bars, labels=[f" {s:.0%}" for s in solved], fontsize=11)
    left.set(xlabel="sums solved (%)", xlim=(0, 125), title="The answers need the right experts ...")
    bars = right.barh(names, busiest, color=colours)
    right.bar_label(bars, labels=[f" {b:.2f}" for b in busiest], fontsize=11)
    right.axvline(1, color="black", linestyle="--")
    right.set(
        xlabel="busiest expert's load (1 is even)",
        xlim=(0, 1.25 * max(busiest)),
        title="... the balance needs the bias",
    )
    right.tick_params(labelleft=False)
    for ax in (left, right):
        ax.invert_yaxis()
    return fig


def balance(histories: dict[str, Sequence[float]], floor: float, title: str) -> "Figure":
    """The busiest expert's load after each step, as a multiple of the even share; the first variant is the control.

    Args:
        floor: what chance alone gives.
    """
    fig, (ax,) = axes(size=(8.0, 3.4))
    for (name, history), colour in zip(histories.items(), (RED, ORANGE, GREY), strict=False):
        ax.plot(history, color=colour, label=name)
    ax.axhline(floor, color="black", linestyle="--", label="chance alone")
    ax.set(xlabel="step", ylabel="busiest expert's load\n(1 is the even share)", title=title, ylim=(0, None))
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def reading(nbytes: Mapping[int, tuple[float, float]]) -> "Figure":
    """What a decode step reads, in all and for each token: sequences -> bytes of the routed experts, and of all."""
    fig, (left, right) = axes(1, 2, size=(9.5, 3.6))
    batches = list(nbytes)
    left.plot(batches, [whole / 1e9 for _, whole in nbytes.values()], marker="o", color=GREY, label="all weights read")
    left.plot(batches, [part / 1e9 for part, _ in nbytes.values()], marker="o", color=ORANGE, label="routed experts")
    left.set(
        xlabel="sequences in the batch",
        ylabel="GB read by a step",
        xscale="log",
        title="A batch reads nearly all experts ...",
    )
    left.legend(fontsize=11)
    per_token = [whole / batch / 1e9 for batch, (_, whole) in nbytes.items()]
    right.plot(batches, per_token, marker="o", color=GREY)
    right.set(
        xlabel="sequences in the batch",
        ylabel="GB read per token",
        xscale="log",
        ylim=(0, None),
        title="... and shares the bill",
    )
    for ax in (left, right):
        ax.set_xticks(batches, [str(batch) for batch in batches])
        ax.minorticks_off()
    return fig


def raster(weights: "Tensor", words: Sequence[str], groups: int, title: str = "") -> "Figure":
    """Routing weights [S, E], 0 where a token does not go: a column for each token, a row for each expert."""
    fig, (ax,) = axes(size=(max(7.0, 1.6 + 0.19 * len(words)), 3.8))
    drawn = ax.imshow(weights.T.numpy(), cmap=HEAT, vmin=0, aspect="auto")
    ax.set(xlabel="token", ylabel="expert", title=title)
    ax.set_xticks(range(len(words)), [short(word) for word in words])
    for edge in range(1, groups):
        ax.axhline(edge * weights.shape[1] / groups - 0.5, color="white", linewidth=1.5)
    fig.colorbar(drawn, label="weight", fraction=0.03)
    return fig


def explorer(
    route: "Callable[[str], tuple[Sequence[Tensor], Sequence[str]]]", groups: int, question: str = "4857 + 2986 = ?"
) -> "VBox":
    """The experts of every token of a question and its answer. Its ``children`` are the row of choices and the picture.

    Args:
        route: question -> the routing weights [S, E] of each layer with experts, and a word for each token.
        groups: of the experts.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    seen = {question: route(question)}
    asked = widgets.Text(value=question, description="question", continuous_update=False)
    layer = widgets.IntSlider(value=1, min=1, max=len(seen[question][0]), description="MoE layer")
    picture = widgets.Image(format="png")

    def draw() -> None:
        if asked.value not in seen:
            seen[asked.value] = route(asked.value)
        weights, words = seen[asked.value]
        picture.value = png(raster(weights[layer.value - 1], words, groups))

    follow((asked, layer), draw)
    return widgets.VBox([widgets.HBox([asked, layer]), picture])
