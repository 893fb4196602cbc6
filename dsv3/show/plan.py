"""A plan as a figure."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..paths import check_result, write_result
from ..sizing.needs import Need
from ..sizing.planner import Fit
from ..sizing.report import LABELS, title
from .style import BLUE, GREEN, GREY, ORANGE, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How a file of each kind begins.
KINDS = {"png": (b"\x89PNG\r\n\x1a\n",), "svg": (b"<?xml", b"<svg"), "pdf": (b"%PDF",)}
COLOURS = dict(zip(Need._fields, (BLUE, ORANGE, GREEN, GREY), strict=True))


def figure(plan: Fit) -> "Figure":
    """Memory of each GPU by part, against what it has."""
    fig, (ax,) = axes(size=(max(8.0, 2.5 + 0.45 * len(plan.ranks)), 4.2))
    below = [0.0] * len(plan.ranks)
    for part in Need._fields:
        heights = [getattr(need, part) / 1e9 for need in plan.ranks]
        ax.bar(range(len(heights)), heights, bottom=below, color=COLOURS[part], label=LABELS.get(part, part))
        below = [b + h for b, h in zip(below, heights, strict=True)]
    ax.axhline(plan.gpu.nbytes / 1e9, color="black", linestyle="--", label=plan.gpu.name)
    ax.set(xlabel="GPU", ylabel="GB", xticks=range(len(plan.ranks)))
    ax.set_title(title(plan).replace(" (", "\n("), fontsize=11)
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def save(plan: Fit, file: Path) -> None:
    """Draw ``figure`` into ``file``; its ending says the format. An earlier picture of that format is replaced.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: another ending than ``KINDS``.
        OSError: as ``write_result``.
    """
    kind = file.suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise ValueError(f"{file}: not a picture's ending; known: {', '.join(KINDS)}")

    def known(data: bytes) -> bool:
        return data.startswith(KINDS[kind])

    check_result(file, known)
    drawn = io.BytesIO()
    try:
        figure(plan).savefig(drawn, format=kind, dpi=150)
    except ImportError:
        raise ImportError("matplotlib is not installed: pip install matplotlib") from None
    write_result(file, drawn.getvalue(), known)
