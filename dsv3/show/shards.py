"""Conversion made visible: which rank holds what of each tensor, what that weighs, and what converting takes."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoint import read
from ..checkpoint.plan import Move, Out, Plan
from ..checkpoint.write import execute
from ..config import ModelConfig
from ..hubs.catalogue import find_model, models
from ..layout import Row, check_ranks, layout
from .style import BLUE, GREEN, GREY, HEAT, ORANGE, RED, SKY, axes, ipywidgets, png

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

# How a tensor gets to the ranks -> its colour.
WAYS = {"whole experts": BLUE, "cut by rows": ORANGE, "cut by columns": GREEN, "a copy for every rank": GREY}


def way(row: Row) -> str:
    """One of ``WAYS``."""
    if row.expert is not None:
        return "whole experts"
    return {None: "a copy for every rank", 0: "cut by rows", 1: "cut by columns"}[row.cut]


def held(cfg: ModelConfig, ranks: int) -> list[Counter]:
    """Bytes that each rank holds of the main model after a conversion, by ``way``."""
    found = [Counter() for _ in range(ranks)]
    for row in layout(replace(cfg, n_mtp_layers=0)):
        for rank in row.holders(ranks, cfg.n_routed_experts):
            share = 1.0
            for part, n in zip(row.local(rank, ranks), row.shape, strict=True):
                share *= (part.stop - part.start) / n
            found[rank][way(row)] += round(row.nbytes * share)
    return found


class Segment(NamedTuple):
    """A piece of a tensor, from ``begin`` to ``end`` (shares of its length, 0 to 1), that ``rank`` holds."""

    rank: int
    begin: float
    end: float


def segments(cfg: ModelConfig, ranks: int) -> dict[str, list[Segment]]:
    """How the tensors of a dense and of a MoE layer, embedding and head are cut: label -> pieces.

    No pieces: every rank holds a copy. All routed experts of the layer are one line.
    """
    wanted = replace(cfg, n_layers=cfg.n_dense_layers + 1, n_mtp_layers=0)
    lines: dict[str, list[Segment]] = {}
    for row in layout(wanted):
        layer = re.match(r"layers\.(\d+)\.(.+)", row.name)
        dense = layer and int(layer[1]) < cfg.n_dense_layers
        if row.is_scale or "norm" in row.name or (dense and (int(layer[1]) or "attn" in row.name)):
            continue
        name = (layer[2] if layer else row.name).removesuffix(".weight")
        if row.expert is not None:
            (rank,) = row.holders(ranks, cfg.n_routed_experts)
            n, name = cfg.n_routed_experts, f"{cfg.n_routed_experts} experts, each whole"
            pieces = [Segment(rank, row.expert / n, (row.expert + 1) / n)] if row.name.endswith("w1.weight") else []
        elif row.cut is None:
            name, pieces = f"{name}: copies", []
        else:
            parts = [row.local(rank, ranks)[row.cut] for rank in range(ranks)]
            n = row.shape[row.cut]
            pieces = [Segment(rank, p.start / n, p.stop / n) for rank, p in enumerate(parts) if p.stop > p.start]
            name = f"{name}: {('rows', 'columns')[row.cut]}"
        lines.setdefault(name, []).extend(pieces)
    return lines


# --------------------------------------------------------------------------------------------------- figures


def shard_map(cfg: ModelConfig, ranks: int) -> "Figure":
    """A bar for each tensor of ``segments``, cut as it is cut, a colour for each rank; grey for copies."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    lines = segments(cfg, ranks)
    fig, (ax,) = axes(size=(9.0, 1.2 + 0.3 * len(lines)))
    colour = colormaps[HEAT].resampled(ranks)
    for at, pieces in enumerate(lines.values()):
        for piece in pieces:
            bar = {"color": colour(piece.rank), "edgecolor": "white", "linewidth": 0.4 if len(pieces) > 40 else 1.2}
            ax.barh(at, piece.end - piece.begin, left=piece.begin, height=0.8, **bar)
        if not pieces:
            ax.barh(at, 1, height=0.8, color="#dddddd", hatch="///", edgecolor=GREY, linewidth=0)
    ax.set(yticks=range(len(lines)), yticklabels=list(lines), xlim=(0, 1), xlabel="share of the tensor along its cut")
    ax.invert_yaxis()
    scale = ScalarMappable(BoundaryNorm([r - 0.5 for r in range(ranks + 1)], ranks), colour)
    ticks = range(ranks) if ranks <= 16 else range(0, ranks, ranks // 8)
    fig.colorbar(scale, ax=ax, label="rank; grey: every rank", ticks=list(ticks), fraction=0.04)
    return fig


def weights(cfg: ModelConfig, ranks: int, memory: int | None = None, kind: str = "") -> "Figure":
    """What each rank holds, stacked by ``way``; a line at the ``memory`` in bytes of a GPU of that ``kind``."""
    found = held(cfg, ranks)
    unit, word = (1e9, "GB") if sum(found[0].values()) > 1e9 else (1e6, "MB")
    fig, (ax,) = axes(size=(8.5, 3.4))
    below = [0.0] * ranks
    for name, colour in WAYS.items():
        heights = [of[name] / unit for of in found]
        ax.bar(range(ranks), heights, bottom=below, color=colour, label=name)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    if memory:
        ax.axhline(memory / unit, color="black", linestyle="--", label=kind)
    ax.set(xlabel="rank", ylabel=f"{word} of weights")
    if ranks <= 16:
        ax.set_xticks(range(ranks))
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def memory(of: Mapping[str, Sequence[tuple[float, float]]], marks: Mapping[str, float]) -> "Figure":
    """Peak memory against the checkpoint's size, both in bytes, on logarithmic axes; ``marks`` are sizes with names."""
    fig, (ax,) = axes(size=(8.5, 4.0))
    looks = {"here": "-", "recorded": ":"}
    for i, (name, points) in enumerate(of.items()):
        colour = (RED, BLUE, ORANGE, SKY)[i]
        style = looks["recorded" if "recorded" in name else "here"]
        ax.plot([x / 1e9 for x, _ in points], [y / 1e9 for _, y in points], style, marker="o", color=colour, label=name)
    for name, size in marks.items():
        ax.axvline(size / 1e9, color=GREY, linestyle="--")
        ax.text(size / 1e9 * 0.85, 0.5, name, rotation=90, ha="right", va="center", transform=ax.get_xaxis_transform())
    ends = [min(x for points in of.values() for x, _ in points) / 1e9, max(marks.values()) / 1e9]
    ax.plot(ends, ends, color=GREY, linewidth=1, label="memory = checkpoint")
    ax.set(xscale="log", yscale="log", xlabel="checkpoint, GB", ylabel="peak memory, GB")
    fig.legend(fontsize=11, loc="outside lower center", ncols=2)
    return fig


def explorer(model: str = "DeepSeek-R1", precision: str = "fp8", ranks: int = 16) -> "VBox":
    """How a model is cut over a number of ranks, or why it cannot be. Its ``children``: choices, text, two pictures.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    names = [m.name for m in models() if m.runs == "dsv3 generate" and m.load_config() is not None]
    choices = (
        widgets.Dropdown(options=names, value=model, description="model"),
        widgets.Dropdown(options=["fp8", "bf16"], value=precision, description="precision"),
        widgets.BoundedIntText(value=ranks, min=1, max=128, description="ranks"),
    )
    answer, cuts, sizes = widgets.HTML(), widgets.Image(format="png"), widgets.Image(format="png")

    def show(_: object = None) -> None:
        name, precision, ranks = (choice.value for choice in choices)
        cfg = replace(find_model(name).load_config(), dtype=precision)
        try:
            check_ranks(cfg, ranks)
        except ValueError as error:
            text = str(error)
        else:
            totals = [sum(of.values()) / 1e9 for of in held(cfg, ranks)]
            text = (
                f"{ranks} ranks: {min(totals):.3f} to {max(totals):.3f} GB of weights each, {sum(totals):,.3f} in all"
            )
            cuts.value, sizes.value = png(shard_map(cfg, ranks)), png(weights(cfg, ranks))
        answer.value = f"<pre>{escape(text)}</pre>"
        cuts.layout.display = sizes.layout.display = None if text.startswith(f"{ranks} ranks") else "none"

    for choice in choices:
        choice.observe(show, names="value")
    show()
    return widgets.VBox([widgets.HBox(choices), answer, cuts, sizes])


# ------------------------------------------------------------------------------------- checkpoints to convert


def repeated(source: Path, target: Path, times: int, shards: int = 4) -> None:
    """Write ``source`` with each routed expert ``times`` times: as large as you like, and good for moving only."""
    old = ModelConfig.load(source)
    cfg = replace(old, n_routed_experts=times * old.n_routed_experts)
    found, rows = read.open_folder(source), list(layout(cfg))
    result = Plan(f"every expert {times} times", sources=list(dict.fromkeys(e.file for e in found.values())))
    share = sum(row.nbytes for row in rows) / shards * (1 + 1e-9)
    files: dict[str, list[tuple[Row, read.Entry]]] = {}
    at = 0
    for row in rows:
        entry = found[re.sub(r"(?<=\.experts\.)\d+", lambda m: str(int(m[0]) % old.n_routed_experts), row.hf)]
        name = f"model-{int(at / share) + 1:05d}-of-{shards:06d}.safetensors"
        files.setdefault(name, []).append((row, entry))
        at += row.nbytes
    for name, pairs in files.items():
        offsets = result.file(name, (Out(row.hf, e.dtype, row.shape) for row, e in pairs))
        for row, e in pairs:
            size = e.stop - e.start  # of the gate a part, of anything else the whole
            copies = row.numel * read.ITEMSIZE[e.dtype] // size
            result.fill(Move(e.file, e.start, size, name, offsets[row.hf] + i * size) for i in range(copies))
    result.index({row.hf: name for name, pairs in files.items() for row, _ in pairs}, at)
    result.carry_over(source, skip=("config.json",))
    hf = json.loads((source / "config.json").read_text(encoding="utf-8"))
    result.json("config.json", hf | {"n_routed_experts": cfg.n_routed_experts})
    execute(result, target)


# A process inherits its parent's peak, so a small one stands between.
METER = """
import os, resource, subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], stderr=subprocess.PIPE)
said = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
sys.stderr.buffer.write(said)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(status != 0)
"""


def peak_memory(code: str, *arguments: object) -> int:
    """Bytes of memory that a Python process running ``code`` held at most.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-c", METER, code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])
