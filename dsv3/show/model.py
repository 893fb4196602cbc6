"""Figures of lesson 07: what layers write into the stream, what they cost, and what is missed when one is left out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from ..config import ModelConfig
from ..cost import PARTS, activated, attention_flops, cache_bytes, parameters, touched
from ..layout import layout
from .style import BLUE, GREEN, GREY, HEAT, ORANGE, PINK, RED, SKY, YELLOW, axes, ipywidgets, png

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

CACHE = "attention over the cache"
# What the charts put together, and in which colour.
GROUPS = {
    "routed experts": ("routed",),
    "shared experts": ("shared",),
    "dense layers": ("dense",),
    "attention matrices": ("attention",),
    "head": ("head",),
    "embedding": ("embedding",),
    "gates and norms": ("gate", "norm"),
}
PAINT = dict(zip([*GROUPS, CACHE], (BLUE, SKY, GREEN, ORANGE, PINK, YELLOW, GREY, RED), strict=True))

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
    """``cost``'s parts -> the charts' groups; what is in no group (MTP, sums) is left out."""
    return {group: sum(parts.get(name, 0) for name in names) for group, names in GROUPS.items()}


@dataclass(frozen=True)
class Sums:
    """A model's sums, made once by ``sums``: walking 92,000 tensors takes a moment.

    Attributes:
        stored, used: ``cost.parameters`` and ``cost.activated``.
        nbytes: of the checkpoint's weights, by part, scales included.
    """

    cfg: ModelConfig
    stored: dict[str, int]
    used: dict[str, int]
    nbytes: dict[str, int]

    def operations(self, new: int, context: int, batch: int = 1, attn: str = "absorb") -> dict[str, float]:
        """Floating-point operations of a pass: ``new`` tokens of each of ``batch`` sequences, behind ``context``.

        By group. Only the last token of each sequence meets the head, as in ``decode.prefill``. The i-th new token
        looks at itself, the context and the i - 1 before it.
        """
        found = grouped({part: 2 * n * new * batch for part, n in self.used.items()})
        found["head"] = 2 * self.stored["head"] * batch
        looks = new * context + new * (new + 1) // 2
        return found | {CACHE: attention_flops(self.cfg, looks, attn) * batch}

    def bytes_read(self, new: int, context: int, batch: int = 1) -> dict[str, float]:
        """Bytes that the same pass reads at least once: weights as they are stored, and the latent cache."""
        routed = self.nbytes["routed"] * touched(self.cfg, new * batch)
        looked_up = 2 * self.cfg.dim * new * batch  # a row of the embedding for each token
        found = grouped(self.nbytes | {"routed": routed, "embedding": looked_up})
        return found | {CACHE: cache_bytes(self.cfg) * (context + new) * batch}

    def crossing(self, attn: str = "absorb") -> int:
        """The context at which looking back costs a decoded token as many operations as all its matrices."""
        return math.ceil(2 * self.used["total"] / attention_flops(self.cfg, 1, attn))


def sums(cfg: ModelConfig) -> Sums:
    """The sums of ``cfg``'s table."""
    nbytes: Counter[str] = Counter()
    for row in layout(cfg):
        if row.copy_of is None:
            nbytes[row.part] += row.nbytes
    return Sums(cfg, parameters(cfg), activated(cfg), dict.fromkeys(PARTS, 0) | nbytes)


def parameters_figure(of: Sums) -> "Figure":
    """Two panels: parameters by part, and those that one token is multiplied with."""
    figure, panels = axes(1, 2, size=(9.6, 3.8))
    for ax, parts, title in (
        (panels[0], grouped(of.stored), "stored"),
        (panels[1], grouped(of.used), "multiplied with each token"),
    ):
        values = [n / 1e9 for n in parts.values()]
        bars = ax.barh(list(parts), values, color=[PAINT[name] for name in parts])
        ax.bar_label(bars, [f"{value:,.2f}" for value in values], fontsize=11, padding=3)
        ax.set(xlabel="billions of parameters", xlim=(0, 1.25 * max(values)))
        ax.set_title(f"{title}: {sum(values):,.1f} B")
        ax.invert_yaxis()
    panels[1].set_yticklabels([])
    return figure


def work_figure(rows: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Stacked horizontal bars, each 100 %: where a pass's operations or bytes go, by group."""
    figure, (ax,) = axes(size=(9.0, 1.5 + 0.5 * len(rows)))
    left = [0.0] * len(rows)
    for group in PAINT:
        shares = [100 * row[group] / sum(row.values()) for row in rows.values()]
        if max(shares) > 0.05:
            bars = ax.barh(list(rows), shares, left=left, color=PAINT[group], label=group)
            ax.bar_label(bars, [f"{s:.0f}" if s > 4 else "" for s in shares], label_type="center", fontsize=11)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    ax.set(xlabel="share, %", xlim=(0, 100))
    ax.invert_yaxis()
    figure.legend(fontsize=11, loc="outside upper center", ncols=3, frameon=False)
    return figure


def context_figure(of: Sums, batches: Sequence[int] = (1, 64)) -> "Figure":
    """Attention over the cache, as a share of what decoding a token costs, against the context."""
    contexts = [2**n for n in range(7, 18)]
    figure, (ax,) = axes()
    for attn, line in (("absorb", "-"), ("naive", "--")):
        shares = [_share(of.operations(1, n, attn=attn)) for n in contexts]
        ax.plot(contexts, shares, color=BLUE, linestyle=line, label=f"operations, attn={attn}")
    for batch, mark in zip(batches, "os^", strict=False):
        shares = [_share(of.bytes_read(1, n, batch)) for n in contexts]
        ax.plot(contexts, shares, color=ORANGE, marker=mark, label=f"bytes, {batch} at once")
    ax.axhline(50, color=GREY, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="tokens in the cache", ylabel="attention over the cache, %", ylim=(0, 100))
    ax.set_xticks(contexts[::2], [f"{n:,}" for n in contexts[::2]])
    ax.legend(fontsize=11, frameon=False)
    return figure


def _share(work: Mapping[str, float]) -> float:
    return 100 * work[CACHE] / sum(work.values())


# ------------------------------------------------------------------------------------------------- widget


def explorer(config: str = "config_671B.json") -> "VBox":
    """Sliders for experts per token, context and sequences; parameters and a decode step's work are counted anew.

    Its ``children`` are the row of choices, the text and the figure.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    names = ["config_16B.json", "config_236B.json", "config_671B.json"]
    choices = {
        "model": widgets.Dropdown(options=names, value=config, description="model"),
        "experts": widgets.IntSlider(
            value=ModelConfig.load(config).n_activated_experts, min=1, max=32, description="experts"
        ),
        "context": widgets.SelectionSlider(options=[2**n for n in range(7, 18)], value=4096, description="context"),
        "batch": widgets.SelectionSlider(options=[2**n for n in range(11)], value=1, description="sequences"),
    }
    answer, picture = widgets.HTML(), widgets.Image(format="png")
    counted: dict[ModelConfig, Sums] = {}  # the slow part, for the choices seen so far

    def show(_: object = None) -> None:
        try:
            cfg = replace(ModelConfig.load(choices["model"].value), n_activated_experts=choices["experts"].value)
        except ValueError as error:
            answer.value, picture.layout.display = f"<p>{escape(str(error))}</p>", "none"
            return
        if cfg not in counted:
            counted[cfg] = sums(cfg)
        of, load = counted[cfg], {"context": choices["context"].value, "batch": choices["batch"].value}
        work, read = of.operations(1, **load), of.bytes_read(1, **load)
        flops, nbytes = sum(work.values()), sum(read.values())
        answer.value = (
            f"<p>{of.stored['total'] / 1e9:,.1f} B parameters, {of.used['total'] / 1e9:,.1f} B of them for a token.<br>"
            f"A step: {flops / 1e9:,.0f} GFLOP, {nbytes / 1e9:,.1f} GB read: {flops / nbytes:,.1f} FLOP a byte.</p>"
        )
        picture.value, picture.layout.display = png(work_figure({"operations": work, "bytes": read})), None

    for choice in choices.values():
        choice.observe(show, names="value")
    show()
    return widgets.VBox([widgets.VBox(list(choices.values())), answer, picture])
