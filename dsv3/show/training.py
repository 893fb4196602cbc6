"""Figures of lesson 12: tiny-r1's training, GRPO's equation, and what rewards make of a model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREY, ORANGE, PINK, RED, SKY, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REWARDS = {"rule": (BLUE, "right number + form"), "form": (GREY, "form alone"), "coin": (RED, "a coin's throw")}


def history(rows: list[dict], mtp_from: int, fp8_from: int, even: float) -> "Figure":
    """A run's losses, and the busiest expert's share of the tokens beside the ``even`` share.

    Args:
        mtp_from, fp8_from: steps at which the MTP layer joins, and the weights are rounded to FP8.
    """
    figure, (losses, loads) = axes(1, 2, size=(11, 4))
    steps = [row["step"] for row in rows]
    losses.semilogy(steps, [row["loss"] for row in rows], color=BLUE, label="next token")
    ahead = [row for row in rows if row["mtp"]]
    losses.semilogy([r["step"] for r in ahead], [r["mtp"] for r in ahead], color=PINK, label="the one after (MTP)")
    for step, what in ((mtp_from, "MTP joins"), (fp8_from, "FP8 weights")):
        losses.axvline(step, color=GREY, linestyle=":")
        losses.annotate(f" {what}", (step, 3), fontsize=11, color=GREY)
    losses.set(xlabel="step", ylabel="loss (nats per token)", ylim=(1e-5, 10))
    losses.legend(fontsize=11, loc="lower left")
    for layer, alpha in enumerate((1.0, 0.45)):
        share = [100 * row["busiest"][layer] for row in rows]
        loads.plot(steps, share, color=ORANGE, alpha=alpha, label=f"MoE layer {layer + 1}")
    loads.axhline(100 * even, color=GREY, linestyle="--", label=f"even: {100 * even:.2f} %")
    loads.set(xlabel="step", ylabel="busiest expert, % of tokens", ylim=(0, None))
    loads.legend(fontsize=11)
    figure.suptitle("The losses fall ten-thousandfold, and the experts stay even without a loss term", fontsize=13)
    return figure


def losses(found: list[float], chance: float) -> "Figure":
    """The loss of each step of a short run, beside that of guessing."""
    figure, (ax,) = axes(size=(8, 3.4))
    ax.plot(range(1, len(found) + 1), found, marker="o", color=BLUE, label="loss")
    ax.axhline(chance, color=GREY, linestyle="--", label=f"guessing: ln(vocabulary) = {chance:.2f}")
    ax.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
    ax.legend(fontsize=11)
    figure.suptitle("The loss begins at that of guessing, and falls at once", fontsize=13)
    return figure


def group(right: Sequence[float], wrong: Sequence[float]) -> "Figure":
    """Advantages of right and of wrong answers, for 1, 2, ... right ones in a group."""
    figure, (ax,) = axes(size=(8, 3.8))
    places = range(1, len(right) + 1)
    ax.plot(places, right, marker="o", color=BLUE, label="a right answer")
    ax.plot(places, wrong, marker="s", color=RED, label="a wrong answer")
    ax.axhline(0, color="black", linewidth=1)
    ax.set(xlabel=f"right answers in a group of {len(right) + 1}", ylabel="advantage")
    ax.legend(fontsize=11)
    figure.suptitle("What is rare in its group counts most", fontsize=13)
    return figure


def clipped(ratios: Sequence[float], objective: Mapping[str, Sequence[float]], clip: float) -> "Figure":
    """The objective of one token whose answer was right or wrong.

    Args:
        ratios: of a token's probability after and before.
        objective: name of a curve -> its value for each ratio.
    """
    figure, (curve,) = axes(size=(8, 3.8))
    for (name, values), colour in zip(objective.items(), (BLUE, RED), strict=True):
        curve.plot(ratios, values, color=colour, label=name)
    curve.axvspan(1 - clip, 1 + clip, color=GREY, alpha=0.15, label=f"1 ± {clip:g}")
    curve.set(xlabel="ratio: probability now / when sampled", ylabel="objective")
    curve.legend(fontsize=11)
    figure.suptitle("A token that has moved far enough has nothing more to gain", fontsize=13)
    return figure


def fooled(loose: Sequence[float], strict: Sequence[float], refused: Sequence[float]) -> "Figure":
    """A training by a loose rule, by step: percent of the answers that it pays, that are right, that refuse."""
    figure, (ax,) = axes(size=(8, 3.8))
    steps = range(1, len(loose) + 1)
    ax.plot(steps, loose, marker="o", color=RED, label="paid by the loose rule")
    ax.plot(steps, strict, marker="s", color=BLUE, label="right")
    ax.plot(steps, refused, marker="^", color=GREY, linestyle="--", label="declined: “I cannot do that”")
    ax.set(xlabel="step", ylabel="% of the sampled answers", ylim=(-3, 105), xticks=list(steps))
    ax.legend(fontsize=11)
    figure.suptitle("The reward rises, the right answers do not", fontsize=13)
    return figure


def costs(result: dict) -> "Figure":
    """A run of benchmarks/grpo_parts.py: held-out sums right after a training with one wrong part, a dot each."""
    rows = sorted(result["runs"], key=lambda run: run["right"])
    figure, (ax,) = axes(size=(9, 0.4 * len(rows) + 1.4))
    for place, run in enumerate(rows):
        ax.plot(run["right"], place, "o", markersize=9, color=RED if run["part"] else BLUE)
    names = [f"{run['part']}: {run['what']}" if run["part"] else run["what"] for run in rows]
    ax.axvline(result["before"], color=GREY, linestyle="--", label="before the training")
    ax.set(yticks=range(len(rows)), yticklabels=names, xlim=(-3, 100), xlabel="% of held-out sums in brackets right")
    ax.legend(fontsize=11, loc="lower right")
    figure.suptitle("One wrong part: some cost every sum, some cost none", fontsize=13)
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
    figure.suptitle("Right and wrong are enough, and the sign decides", fontsize=13)
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
    figure.suptitle("The rule teaches, the form alone does not, a coin destroys", fontsize=13)
    return figure


def distilled(rows: list[tuple[str, float, str]]) -> "Figure":
    """Published scores as bars: (model, percent, how it was made)."""
    colours = {"reinforced": BLUE, "distilled": SKY, "base": GREY}
    figure, (ax,) = axes(size=(9, 0.42 * len(rows) + 1.2))
    names = [name for name, _, _ in rows][::-1]
    for place, (_, score, how) in enumerate(rows[::-1]):
        ax.bar_label(ax.barh(place, score, color=colours[how]), fmt="%.1f", fontsize=11, padding=3)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="AIME 2024, pass@1 (%)", xlim=(0, 90))
    for how, colour in colours.items():
        ax.barh(0, 0, color=colour, label=how)
    ax.legend(fontsize=11, loc="lower right")
    figure.suptitle("Rewards lift a large model; chains of a large model lift small ones", fontsize=13)
    return figure
