"""Figures of lesson 02: a file's bytes, the tensor table by layer and kind, what each check notices.

Imports no torch: the lesson runs in 2 GB of RAM.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..layout import Row
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, YELLOW, axes

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    from ..checkpoint.read import Entry

TYPES = {"F8_E4M3": SKY, "F32": YELLOW, "BF16": BLACK}
GROUPS = {
    "routed experts": (r"\.mlp\.experts\.", ORANGE),
    "shared expert, dense layers": (r"\.mlp\.(shared_experts|(gate|up|down)_proj)\.", GREEN),
    "attention": (r"\.self_attn\.", BLUE),
    "embedding, head, other": ("", GREY),
}
STORED = {"FP8 weights": SKY, "their scales": YELLOW, "BF16": BLACK, "FP32": GREY}
LAST = 1000  # after every layer


def group(row: Row) -> str:
    """Which of ``GROUPS`` a tensor belongs to, by its name in the checkpoint."""
    return next(name for name, (pattern, _) in GROUPS.items() if re.search(pattern, row.hf))


def stored(row: Row) -> str:
    """Which of ``STORED`` a tensor is."""
    return "their scales" if row.is_scale else {"fp8": "FP8 weights", "bf16": "BF16", "fp32": "FP32"}[row.kind]


def place(row: Row) -> str:
    """The layer, ``"0"`` to ``"61"``, or ``"embedding"`` or ``"head"`` for what stands before and after them."""
    found = re.match(r"model\.layers\.(\d+)\.", row.hf)
    return found[1] if found else "embedding" if "embed" in row.hf else "head"


def anatomy(entries: "Sequence[Entry]") -> "Figure":
    """A safetensors file from its first byte to its last, and two places in it enlarged: header, scales."""
    figure, panels = axes(3, 1, size=(9.0, 5.2))
    scales = next(e for e in entries if e.dtype == "F32" and e.name.endswith("_scale_inv"))
    views = {
        f"the whole of {entries[0].file.name}": (0, entries[-1].stop),
        "its first 5,000 bytes: the header ends where the numbers begin": (0, 5000),
        "100 bytes in its middle: a matrix ends, and its scales follow": (scales.start - 50, scales.start + 50),
    }
    spans = {"length and header": (GREY, [(0, entries[0].start)])}
    for name, colour in TYPES.items():
        spans[name] = colour, [(e.start, e.stop - e.start) for e in entries if e.dtype == name]
    for ax, (title, (begin, end)) in zip(panels, views.items(), strict=True):
        for name, (colour, pieces) in spans.items():
            ax.broken_barh(pieces, (0, 1), color=colour, edgecolor="white", linewidth=0.4, label=name)
        ax.set(yticks=[], xlim=(begin, end))
        ax.set_title(title, loc="left", fontsize=11)
        ax.ticklabel_format(useOffset=False, style="plain")
    panels[-1].set_xlabel("byte of the file")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=11, loc="outside lower center", ncols=4)
    figure.suptitle("Weights fill the file: header and scales show only enlarged", fontsize=13)
    return figure


def by_layer(rows: Iterable[Row]) -> "Figure":
    """Gigabytes of each layer by group, embedding and head at the ends."""
    sizes: dict[str, Counter[str]] = {name: Counter() for name in GROUPS}
    for row in rows:
        sizes[group(row)][place(row)] += row.nbytes
    order = {"embedding": -1, "head": LAST}
    places = sorted({p for found in sizes.values() for p in found}, key=lambda p: order.get(p) or int(p))
    figure, (ax,) = axes(size=(9.5, 4.0))
    below = [0.0] * len(places)
    for name, (_, colour) in GROUPS.items():
        heights = [sizes[name][p] / 1e9 for p in places]
        ax.bar(range(len(places)), heights, bottom=below, color=colour, label=name, width=0.85)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    last = len(places) - 2
    shown = [i for i, p in enumerate(places) if p.isdigit() and (i == last or (int(p) % 10 == 0 and i < last - 2))]
    ax.set(xlabel="layer; the embedding before, the head after", ylabel="GB")
    ax.set_xticks(shown, [places[i] for i in shown])
    figure.legend(fontsize=11, loc="outside lower center", ncols=4)
    figure.suptitle("Nearly all of R1 lies in the routed experts of 58 layers", fontsize=13)
    return figure


def shares(rows: Iterable[Row]) -> "Figure":
    """How the tensors are stored: the share of their number, and of their bytes."""
    number: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for row in rows:
        number[stored(row)] += 1
        nbytes[stored(row)] += row.nbytes
    figure, (ax,) = axes(size=(9.0, 2.6))
    left = [0.0, 0.0]
    for name, colour in STORED.items():
        widths = [100 * nbytes[name] / nbytes.total(), 100 * number[name] / number.total()]
        ax.barh(["of the bytes", "of the tensors"], widths, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    ax.set(xlabel="share, %", xlim=(0, 100))
    figure.legend(fontsize=11, loc="outside lower center", ncols=4)
    figure.suptitle("Half of R1's tensors are scales, and hold 0.02 % of its bytes", fontsize=13)
    return figure


def notices(found: Mapping[str, Mapping[str, bool]]) -> "Figure":
    """Which check (a column) notices which damage (a row)."""
    checks = list(next(iter(found.values())))
    figure, (ax,) = axes(size=(8.0, 0.55 * len(found) + 1.4))
    ax.imshow([[caught[c] for c in checks] for caught in found.values()], cmap=_two(), vmin=0, vmax=1, aspect="auto")
    for i, caught in enumerate(found.values()):
        for j, check in enumerate(checks):
            text = "notices" if caught[check] else "passes"
            ax.text(j, i, text, ha="center", va="center", fontsize=12)
    ax.set_xticks(range(len(checks)), checks)
    ax.set_yticks(range(len(found)), list(found))
    ax.tick_params(length=0, labelsize=12, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    figure.suptitle("Only the hash notices a flipped bit", fontsize=13)
    return figure


def _two() -> "ListedColormap":
    """Light grey for false, light blue for true."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(["#eeeeee", SKY])


def layer_table(rows: Iterable[Row], layer: str) -> str:
    """The tensors of one layer, equal ones of the experts together: how many, shape, type, MB."""
    found: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    nbytes: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    for row in rows:
        if place(row) == layer:
            key = re.sub(r"\.experts\.\d+\.", ".experts.*.", row.hf), row.shape, row.kind
            found[key] += 1
            nbytes[key] += row.nbytes
    lines = [f"{'number':>6}  {'tensor':58}{'shape':>16}  {'type':5}{'MB':>10}"]
    for (name, shape, kind), number in found.items():
        size = nbytes[name, shape, kind] / 1e6
        lines.append(f"{number:6,}  {name:58}{' x '.join(map(str, shape)):>16}  {kind:5}{size:10,.3f}")
    lines.append(f"{found.total():6,}  {'together':81}{nbytes.total() / 1e6:10,.3f}")
    return "\n".join(lines)
