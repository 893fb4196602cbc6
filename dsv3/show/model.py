"""Figures of lesson 07: what layers write into the stream, what they cost, and what is missed when one is left out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, HEAT, ORANGE, PINK, RED, SKY, YELLOW, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the charts put together of ``cost.PARTS``, and in which colour.
GROUPS = {
    "routed experts": ("routed",),
    "shared experts": ("shared",),
    "dense layers": ("dense",),
    "attention matrices": ("attention",),
    "head": ("head",),
    "embedding": ("embedding",),
    "gates and norms": ("gate", "norm"),
    "attention over the cache": ("cache",),
}
PAINT = dict(zip(GROUPS, (BLUE, SKY, GREEN, ORANGE, PINK, YELLOW, GREY, RED), strict=True))

# ------------------------------------------------------------------------------------------------- the stream


def stream_figure(names: Sequence[str], stream: Sequence[float], written: Sequence[float]) -> "Figure":
    """How long the residual stream is behind each part, and what the part wrote.

    Args:
        names: of the parts, in order; the first is the embedding.
        stream, written: mean lengths (L2 norms) of the stream behind each part, and of what it added.
    """
    figure, (ax,) = axes()
    at = range(len(names))
    ax.bar(at, written, color=ORANGE, label="what the part adds")
    ax.plot(at, stream, color=BLUE, marker="o", label="the stream behind it")
    ax.set(xticks=at, xticklabels=names, ylabel="mean length of the vector")
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
    figure.colorbar(shown, ax=ax, label="probability", pad=0.01)
    return figure


# ------------------------------------------------------------------------------------------------- scores, drift


def score_figure(scores: Mapping[str, Mapping[str, float]], what: str) -> "Figure":
    """Horizontal bars, shares from 0 to 1: for each row of ``scores`` one bar per measure; ``what`` names the axis."""
    measures = list(next(iter(scores.values())))
    figure, (ax,) = axes(size=(8.0, 0.9 + 0.2 * len(scores) * (len(measures) + 1)))
    height = 0.8 / len(measures)
    for i, (measure, colour) in enumerate(zip(measures, (BLUE, ORANGE, GREEN), strict=False)):
        at = [row + (i - (len(measures) - 1) / 2) * height for row in range(len(scores))]
        values = [100 * row[measure] for row in scores.values()]
        bars = ax.barh(at, values, height=height * 0.9, color=colour, label=measure)
        ax.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=11, padding=3)
    ax.set(yticks=range(len(scores)), yticklabels=list(scores), xlim=(0, 112), xlabel=f"{what}, %")
    ax.invert_yaxis()
    if len(measures) > 1:
        ax.legend(fontsize=11, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(measures))
    return figure


def drift_figure(places: Sequence[str], drift: Mapping[str, Sequence[float]]) -> "Figure":
    """How far each choice of number formats is from float32, place by place: relative L2 difference in percent."""
    figure, (ax,) = axes()
    for (name, values), mark in zip(drift.items(), "os^D", strict=False):
        ax.plot(range(len(places)), [100 * value for value in values], marker=mark, label=name)
    ax.set(xticks=range(len(places)), xticklabels=places, ylabel="difference from float32, %", ylim=(0, None))
    ax.legend(fontsize=11, frameon=False)
    return figure


# ------------------------------------------------------------------------------- parameters, operations, bytes


def grouped(parts: Mapping[str, float]) -> dict[str, float]:
    """Parts -> the charts' groups that occur; what is in no group (MTP, sums) is left out."""
    found = {group: [parts[name] for name in names if name in parts] for group, names in GROUPS.items()}
    return {group: sum(numbers) for group, numbers in found.items() if numbers}


def parameters_figure(stored: Mapping[str, int], used: Mapping[str, int]) -> "Figure":
    """Two panels: parameters by part, and those that one token is multiplied with."""
    figure, panels = axes(1, 2, size=(9.6, 3.8))
    for ax, parts, title in (
        (panels[0], stored, "stored"),
        (panels[1], used, "multiplied with each token"),
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
    ax.set(xlabel="share, %", xlim=(0, 100))
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
        ax.plot(contexts, [100 * share for share in shares], color=ORANGE, marker=mark, label=f"bytes, {name}")
    ax.axhline(50, color=GREY, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="tokens in the cache", ylabel="attention over the cache, %", ylim=(0, 100))
    ax.set_xticks(contexts[::2], [f"{n:,}" for n in contexts[::2]])
    ax.legend(fontsize=11, frameon=False)
    return figure
