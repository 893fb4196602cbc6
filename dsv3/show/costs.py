"""What errors in a learner's part cost: a dot for each. Imports no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .style import GREY, RED, SKY, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def costs(found: Mapping[str, int | None], most: int, what: str, title: str) -> "Figure":
    """A row for each answer, a dot at what came out of ``most``; None, where something refused, is a cross."""
    figure, (ax,) = axes(size=(9.0, 0.36 * len(found) + 1.6))
    for at, score in enumerate(found.values()):
        colour = RED if score is None or score < most else SKY
        ax.plot(score or 0, at, "x" if score is None else "o", color=colour, markersize=10, markeredgewidth=2.5)
        text = "refused" if score is None else f"{score}"
        ax.annotate(text, (score or 0, at), xytext=(11, 0), textcoords="offset points", va="center", fontsize=11)
    ax.axvline(most, color=GREY, linestyle="--", linewidth=1)
    ax.set(xlabel=what, xlim=(-0.04 * most, 1.12 * most), ylim=(len(found) - 0.5, -0.5))
    ax.set_yticks(range(len(found)), list(found))
    figure.suptitle(title, fontsize=13)
    return figure
