"""Figures of lesson 01: what the doctor finds about some machines, and what the tools take of memory.

Imports no torch.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, ORANGE, RED, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from ..doctor import Finding

LEVELS = {"ok": GREEN, "warning": ORANGE, "failure": RED}


def worst(findings: "Sequence[Finding]") -> dict[str, str]:
    """The worst level of each kind of finding; ``gpu 0`` and ``gpu 1`` are one kind."""
    order = list(LEVELS)
    found: dict[str, str] = {}
    for f in findings:
        kind = re.sub(r" \d+$", "", f.what)
        found[kind] = max(found.get(kind, "ok"), f.level, key=order.index)
    return found


def levels(found: "Mapping[str, Sequence[Finding]]") -> "Figure":
    """A grid: a row for each kind of finding, a column for each machine, the worst level as a colour and a word."""
    columns = {name: worst(findings) for name, findings in found.items()}
    rows = list(dict.fromkeys(kind for column in columns.values() for kind in column))
    figure, (ax,) = axes(size=(10.0, 0.5 * len(rows) + 1.4))
    for x, column in enumerate(columns.values()):
        for y, kind in enumerate(rows):
            level = column.get(kind)
            ax.add_patch(_cell(x, y, LEVELS[level] if level else "#f2f2f2"))
            ax.text(x, y, level or "-", ha="center", va="center", fontsize=11)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(columns)), [name.replace(", ", ",\n") for name in columns])
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    figure.suptitle("A healthy machine gets no complaint, and every other one gets its own", fontsize=12)
    return figure


def _cell(x: int, y: int, colour: str) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, alpha=0.75)


def peaks(found: Mapping[str, int]) -> "Figure":
    """Peak memory of each command in MB, and the 2 GB of AutoDL's no-GPU mode."""
    figure, (ax,) = axes(size=(9.0, 0.45 * len(found) + 1.6))
    megabytes = [nbytes / 1e6 for nbytes in found.values()]
    names = [f"{name}: {n:,.0f} MB" for name, n in zip(found, megabytes, strict=True)]
    ax.plot(megabytes, names, "o", markersize=9, color=BLUE)  # dots: a bar has no beginning on a logarithmic scale
    ax.axvline(2 * 1024**3 / 1e6, color=GREY, linestyle="--", label="AutoDL's no-GPU mode: 2 GB")
    ax.set(xlabel="memory at most, MB", xscale="log", xlim=(5, 4000))
    ax.set_title("dsv3's tools fit into 2 GB many times over; torch takes most of all")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="both", color="#e5e5e5")
    ax.invert_yaxis()
    figure.legend(fontsize=11, loc="outside lower center")
    return figure
