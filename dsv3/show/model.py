"""Figures of lesson 07: what layers write into the stream, what they cost, and what is missed when one is left out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, HEAT, ORANGE, RED, SKY, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the charts put together of ``cost.PARTS``, and in which colour.
GROUPS = {
    "routed experts": ("routed",),
    "shared experts, dense layers": ("shared", "dense"),
    "attention matrices": ("attention",),
    "attention over the cache": ("cache",),
    "embedding, head, gates, norms": ("embedding", "head", "gate", "norm"),
}
PAINT = dict(zip(GROUPS, (ORANGE, GREEN, BLUE, SKY, GREY), strict=True))

# ------------------------------------------------------------------------------------------------- the stream


def stream_figure(names: Sequence[str], stream: Sequence[float], written: Sequence[float], dense: int) -> "Figure":
    """How long the residual stream is after each part, and what the part wrote.

    Args:
        names: of the parts, in order: the embedding, then ``attn`` and ``ffn`` of each layer.
        stream, written: mean lengths (L2 norms) of the stream after each part, and of what it added.
        dense: so many of the layers have no experts.
    """
    ffn = [GREEN if i < dense else ORANGE for i in range(len(names) // 2)]
    colours = [GREY, *(colour for each in ffn for colour in (BLUE, each))]
    figure, (ax,) = axes()
    at = range(len(names))
    ax.bar(at, written, color=colours, label="what the part adds")
    ax.plot(at, stream, color="black", marker="o", label="the stream after it")
    ax.set(
        xticks=at, xticklabels=names, ylabel="mean length of the vector", title="Layers write nearly all of the stream"
    )
    ax.legend(fontsize=11, frameon=False)
    return figure


def lens_figure(tokens: Sequence[str], probability: Mapping[str, Sequence[float]]) -> "Figure":
    """A heat map: how sure each row's hidden states are of each token, when the head reads them.

    Args:
        tokens: that were to be predicted, left to right.
        probability: row -> one number from 0 to 1 for each token; the first row is drawn at the bottom.
    """
    figure, (ax,) = axes(size=(max(8.0, 0.21 * len(tokens) + 2), 0.42 * len(probability) + 1.6))
    shown = ax.pcolormesh(list(probability.values()), cmap=HEAT, vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
    ax.set(xlabel="token to predict", xticks=[i + 0.5 for i in range(len(tokens))])
    ax.set_xticklabels([token.replace("\n", "↵").replace("$", r"\$") for token in tokens])
    ax.set(yticks=[i + 0.5 for i in range(len(probability))], yticklabels=list(probability))
    ax.spines[:].set_visible(False)
    ax.set_title("The digits are known only after the last layer")
    figure.colorbar(shown, ax=ax, label="probability", pad=0.01)
    return figure


# ------------------------------------------------------------------------------------------------- scores, drift


def score_figure(scores: Mapping[str, Mapping[str, float]], what: str, colour: str, title: str) -> "Figure":
    """Horizontal bars, shares from 0 to 1: for each row of ``scores`` one bar per measure; ``what`` names the axis.

    The first row is the baseline, in its own ``colour``; the others are controls.
    """
    measures = list(next(iter(scores.values())))
    figure, (ax,) = axes(size=(8.0, 1.2 + 0.2 * len(scores) * (len(measures) + 1)))
    height = 0.8 / len(measures)
    for i, measure in enumerate(measures):
        at = [row + (i - (len(measures) - 1) / 2) * height for row in range(len(scores))]
        values = [100 * row[measure] for row in scores.values()]
        paint = [colour, *[RED] * (len(scores) - 1)]
        bars = ax.barh(at, values, height=height * 0.9, color=paint, alpha=1 - 0.5 * i)
        ax.bar_label(
            bars,
            [f"{value:.0f}" + (f" {measure}" if i or len(measures) > 1 else "") for value in values],
            fontsize=11,
            padding=3,
        )
    ax.set(yticks=range(len(scores)), yticklabels=list(scores), xlim=(0, 130), xlabel=f"{what}, %", title=title)
    ax.set_xticks(range(0, 101, 20))
    ax.invert_yaxis()
    return figure


def drift_figure(places: Sequence[str], drift: Mapping[str, Sequence[float]]) -> "Figure":
    """How far each choice of number formats is from float32, place by place: relative L2 difference in percent.

    The last place stands alone, without a line to it: logits are another vector than the stream.
    """
    figure, (ax,) = axes()
    for (name, values), mark, colour in zip(drift.items(), "os^", ("black", GREY, RED), strict=False):
        percent = [100 * value for value in values]
        ax.plot(range(len(places) - 1), percent[:-1], marker=mark, color=colour, label=name)
        ax.plot(len(places) - 1, percent[-1], marker=mark, color=colour, linestyle="none")
    ax.set(xticks=range(len(places)), xticklabels=places, ylabel="difference from float32, %", ylim=(0, None))
    ax.set_title("Each layer in BF16 adds a little, whatever stays in float32")
    ax.legend(fontsize=11, frameon=False)
    return figure


# ------------------------------------------------------------------------------- parameters, operations, bytes


def grouped(parts: Mapping[str, float]) -> dict[str, float]:
    """Parts -> the charts' groups that occur; what is in no group (MTP, sums) is left out."""
    found = {group: [parts[name] for name in names if name in parts] for group, names in GROUPS.items()}
    return {group: sum(numbers) for group, numbers in found.items() if numbers}


def parameters_figure(stored: Mapping[str, int], used: Mapping[str, int]) -> "Figure":
    """Two panels: parameters by part, and those that one token is multiplied with."""
    figure, panels = axes(1, 2, size=(9.6, 3.2))
    for ax, parts, title in (
        (panels[0], stored, "asleep: stored"),
        (panels[1], used, "awake: multiplied with a token"),
    ):
        groups = {group: grouped(parts).get(group, 0) for group in grouped(stored)}  # the same rows in both panels
        values = [n / 1e9 for n in groups.values()]
        bars = ax.barh(list(groups), values, color=[PAINT[name] for name in groups])
        ax.bar_label(bars, [f"{value:,.2f}" for value in values], fontsize=11, padding=3)
        ax.set(xlabel="billions of parameters", xlim=(0, 1.25 * max(values)))
        ax.set_title(f"{title}: {sum(values):,.1f} B")
        ax.invert_yaxis()
    panels[1].set_yticklabels([])
    return figure


def work_figure(rows: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Stacked horizontal bars, each 100 %: where a pass's operations or bytes go, by part."""
    rows = {name: grouped(parts) for name, parts in rows.items()}
    figure, (ax,) = axes(size=(9.0, 1.5 + 0.5 * len(rows)))
    left = [0.0] * len(rows)
    for group in PAINT:
        shares = [100 * row.get(group, 0) / sum(row.values()) for row in rows.values()]
        if max(shares) > 0.05:
            bars = ax.barh(list(rows), shares, left=left, color=PAINT[group], label=group)
            ax.bar_label(bars, [f"{s:.0f}" if s > 4 else "" for s in shares], label_type="center", fontsize=11)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    ax.set(xlabel="share, %", xlim=(0, 100), title="Experts fill the memory, attention fills the arithmetic")
    ax.invert_yaxis()
    figure.legend(fontsize=11, loc="outside upper center", ncols=3, frameon=False)
    return figure


def context_figure(
    contexts: Sequence[int], operations: Mapping[str, Sequence[float]], nbytes: Mapping[str, Sequence[float]]
) -> "Figure":
    """Attention over the cache, as a share of what decoding a token costs, against the context.

    Args:
        operations, nbytes: name of a curve -> its shares, from 0 to 1.
    """
    figure, (ax,) = axes()
    for (name, shares), line in zip(operations.items(), ("-", "--"), strict=False):
        ax.plot(contexts, [100 * share for share in shares], color=BLUE, linestyle=line, label=f"operations, {name}")
    for (name, shares), mark in zip(nbytes.items(), "os^", strict=False):
        ax.plot(contexts, [100 * share for share in shares], color=GREY, marker=mark, label=f"bytes, {name}")
    ax.axhline(50, color=GREY, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="tokens in the cache", ylabel="attention over the cache, %", ylim=(0, 100))
    ax.set_title("Looking back costs operations long before it costs bytes")
    ax.set_xticks(contexts[::2], [f"{n:,}" for n in contexts[::2]])
    ax.legend(fontsize=11, frameon=False)
    return figure
