"""Boxes, arrows and text as SVG: a white sheet with dark text, the same in a light and in a dark theme."""

from html import escape

INK, PALE = "#1b1b1b", "#f3f3f3"
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, GREY = (
    "#cfe3f1", "#f9e3b8", "#c7ead9", "#f2dbe8", "#dff1fb", "#faf5c4", "#e4e4e4",
)  # fmt: skip


def box(x: float, y: float, w: float, h: float, words: str = "", fill: str = PALE, size: int = 17) -> str:
    """A rounded box with ``words`` in its middle, a line per ``\\n``."""
    shape = f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{fill}" stroke="{INK}" stroke-width="1.5"/>'
    return shape + text(x + w / 2, y + h / 2, words, size, "middle")


def text(x: float, y: float, words: str, size: int = 17, anchor: str = "start", bold: bool = False) -> str:
    """Lines of text centred vertically on ``y``."""
    lines = words.split("\n")
    first = y - (len(lines) - 1) * size * 0.62 + size * 0.35
    weight = ' font-weight="bold"' if bold else ""
    spans = "".join(
        f'<text x="{x}" y="{first + i * size * 1.24:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(line)}</text>'
        for i, line in enumerate(lines)
        if line
    )
    return spans


def arrow(x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" stroke-width="2" marker-end="url(#head)"{dash}/>'
    )


def grid(
    x: float, y: float, columns: int, rows: int, cell: float, fills: dict[tuple[int, int], str] | None = None
) -> str:
    """Square cells; ``fills`` colours (column, row)."""
    return "".join(
        f'<rect x="{x + c * cell}" y="{y + r * cell}" width="{cell}" height="{cell}" '
        f'fill="{(fills or {}).get((c, r), "white")}" stroke="{INK}" stroke-width="0.8"/>'
        for r in range(rows)
        for c in range(columns)
    )


def sheet(width: int, height: int, title: str, *parts: str) -> str:
    """The whole file; ``title`` is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="Helvetica, Arial, \'Noto Sans\', sans-serif" fill="{INK}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" rx="12" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
