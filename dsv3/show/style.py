"""How the course's figures look: one palette that survives colour blindness, text as large as the prose."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with every common colour blindness, and in grey by its order of lightness.
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#6e6e6e",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY)
BLACK = "#222222"
HEAT = "viridis"  # for heat maps
DPI = 110


def axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (8.0, 3.6)) -> "tuple[Figure, list[Axes]]":
    """A white figure of ``size`` inches, and its axes in reading order; made without pyplot, so nothing stays open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    found = figure.subplots(rows, columns, squeeze=False).flatten()
    for each in found:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=11)
        each.xaxis.label.set_size(12)
        each.yaxis.label.set_size(12)
        each.title.set_size(12)
        each.set_prop_cycle(color=COLOURS)
    return figure, list(found)


def png(figure: "Figure") -> bytes:
    """The figure as a file."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()


def picture(figure: "Figure", alt: str) -> "Image":
    """The figure as a cell's output: a PNG with ``alt`` text, the same in a browser, on a git host and in slides."""
    from IPython.display import Image

    return Image(data=png(figure), format="png", alt=alt)
