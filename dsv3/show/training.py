"""Figures of lesson 12: tiny-r1's training, GRPO's equation, and what rewards make of a model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, ORANGE, PINK, RED, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REWARDS = {"rule": (BLUE, "right number + form"), "form": (ORANGE, "form alone"), "coin": (GREY, "a coin's throw")}


def history(rows: list[dict], mtp_from: int, fp8_from: int, even: float) -> "Figure":
    """A run's losses, and the busiest expert's share of the tokens beside the ``even`` share.

    Args:
        mtp_from, fp8_from: steps at which the MTP layer joins, and the weights are rounded to FP8.
    """
    figure, (losses, loads) = axes(1, 2, size=(11, 4))
    steps = [row["step"] for row in rows]
    losses.semilogy(steps, [row["loss"] for row in rows], color=BLUE, label="next token")
    ahead = [row for row in rows if row["mtp"]]
    losses.semilogy([r["step"] for r in ahead], [r["mtp"] for r in ahead], color=ORANGE, label="the one after (MTP)")
    for step, what in ((mtp_from, "MTP joins"), (fp8_from, "FP8 weights")):
        losses.axvline(step, color=GREY, linestyle=":")
        losses.annotate(f" {what}", (step, 3), fontsize=11, color=GREY)
    losses.set(xlabel="step", ylabel="loss (nats per token)", ylim=(1e-5, 10), title="loss")
    losses.legend(fontsize=11, loc="lower left")
    for layer, colour in enumerate((BLUE, ORANGE)):
        share = [100 * row["busiest"][layer] for row in rows]
        loads.plot(steps, share, color=colour, label=f"MoE layer {layer + 1}")
    loads.axhline(100 * even, color=GREEN, linestyle="--", label=f"even: {100 * even:.2f} %")
    loads.set(xlabel="step", ylabel="% of tokens", ylim=(0, None), title="the busiest expert")
    loads.legend(fontsize=11)
    return figure


def losses(found: list[float], chance: float) -> "Figure":
    """The loss of each step of a short run, beside that of guessing."""
    figure, (ax,) = axes(size=(8, 3.4))
    ax.plot(range(1, len(found) + 1), found, marker="o", color=BLUE, label="loss")
    ax.axhline(chance, color=GREY, linestyle="--", label=f"guessing: ln(vocabulary) = {chance:.2f}")
    ax.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
    ax.legend(fontsize=11)
    return figure


def grpo(
    advantages: Sequence[float], ratios: Sequence[float], objective: Mapping[str, Sequence[float]], clip: float
) -> "Figure":
    """A group's advantages, and the clipped objective of one token whose answer was right or wrong.

    Args:
        ratios: of a token's probability after and before.
        objective: name of a curve -> its value for each ratio.
    """
    figure, (bars, curve) = axes(1, 2, size=(11, 3.8))
    right, group = sum(gain > 0 for gain in advantages), len(advantages)
    bars.bar(range(1, group + 1), advantages, color=[BLUE if gain > 0 else RED for gain in advantages])
    bars.axhline(0, color="black", linewidth=1)
    bars.set(xlabel=f"answer ({right} of {group} are right)", ylabel="advantage", ylim=(-4.2, 4.2), title="one group")
    for (name, values), colour in zip(objective.items(), (BLUE, RED), strict=True):
        curve.plot(ratios, values, color=colour, label=name)
    curve.axvspan(1 - clip, 1 + clip, color=GREY, alpha=0.15, label=f"1 ± {clip:g}")
    curve.set(xlabel="ratio new / old probability", ylabel="objective", title="one token")
    curve.legend(fontsize=11)
    return figure


def scores(found: dict[str, dict[str, float]]) -> "Figure":
    """Accuracy in percent, two bars for each training: ``{"rule": {"before": .., "after": ..}}``."""
    figure, (ax,) = axes(size=(8, 3.6))
    for place, both in enumerate(found.values()):
        for shift, (when, colour) in enumerate((("before", GREY), ("after", BLUE))):
            bar = ax.bar(place + 0.4 * shift, both[when], 0.36, color=colour, label=None if place else when)
            ax.bar_label(bar, fmt="%.0f %%", fontsize=11)
    ax.set(xticks=[place + 0.2 for place in range(len(found))], xticklabels=list(found), ylim=(0, 110))
    ax.set_ylabel("% of held-out sums right")
    ax.legend(fontsize=11, loc="upper right")
    return figure


def recorded(result: dict) -> "Figure":
    """A run of benchmarks/grpo.py: accuracy by step for each reward and seed, and the seeds' mean, on both kinds."""
    figure, both = axes(1, 2, size=(11, 4))
    for ax, kind, title in zip(both, ("brackets", "taught"), ("(37 + 48) = ?", "37 + 48 = ?"), strict=True):
        for name, (colour, label) in REWARDS.items():
            runs = [[r for r in run["rows"] if kind in r] for run in result["runs"] if run["reward"] == name]
            steps = [row["step"] for row in runs[0]]
            for rows in runs:
                ax.plot(steps, [row[kind] for row in rows], color=colour, alpha=0.3)
            mean = [sum(each) / len(each) for each in zip(*[[r[kind] for r in rows] for rows in runs], strict=True)]
            ax.plot(steps, mean, color=colour, linewidth=2.5, marker="o", label=label)
        ax.set(xlabel="step", ylabel="% of held-out sums right", ylim=(0, 105), title=title)
    both[0].legend(fontsize=11, title="reward", title_fontsize=11)
    return figure


def distilled(rows: list[tuple[str, float, str]]) -> "Figure":
    """Published scores as bars: (model, percent, how it was made)."""
    colours = {"reinforced": BLUE, "distilled": PINK, "base": GREY}
    figure, (ax,) = axes(size=(9, 0.42 * len(rows) + 1.2))
    names = [name for name, _, _ in rows][::-1]
    for place, (_, score, how) in enumerate(rows[::-1]):
        ax.bar_label(ax.barh(place, score, color=colours[how]), fmt="%.1f", fontsize=11, padding=3)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="AIME 2024, pass@1 (%)", xlim=(0, 90))
    for how, colour in colours.items():
        ax.barh(0, 0, color=colour, label=how)
    ax.legend(fontsize=11, loc="lower right")
    return figure
