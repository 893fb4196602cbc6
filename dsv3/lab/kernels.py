"""Kernels where there may be no GPU and no Triton: written in a lesson, and what was measured of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..kernels import why_no_triton


def triton_here() -> tuple[Any, Any]:
    """``triton`` and ``triton.language``; where Triton cannot be used, stand-ins with which a kernel can be defined."""
    if why_no_triton():
        return SimpleNamespace(jit=lambda function: function), SimpleNamespace(constexpr=int)
    import triton
    import triton.language as tl

    return triton, tl


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The documents that ``make gpu`` wrote into ``folder``, one for each GPU; empty while nothing was measured."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [document for document in found if document.get("rows")]


def kernel_table(folder: Path, group: str) -> str:
    """The times of a group of kernels (``benchmarks/gpu_cases.py``), a line each; empty where nothing was measured."""
    lines = []
    for document in recorded(folder):
        rows = [row for row in document["rows"] if row["group"] == group and "us" in row]
        if rows:
            lines.append(f"{document['device']}, torch {document['torch']}, {document['date']}:")
        for r in rows:
            rate = f"{r['tflops']:8,.1f} TFLOPS" if r["tflops"] else ""
            lines.append(f"  {r['shape']:34}{r['us']:8,.1f} us{r['gb_per_s']:8,.0f} GB/s{rate}")
    return "\n".join(lines)


# A run of experiments in JSON lines, under the names that its scripts gave to models and to what they changed.
RUN_MODELS = {"v3": "V3x5", "v2lite": "V2-Lite"}
RUN_STEPS = {
    "official": "DeepSeek's demo",
    "transformers": "transformers",
    "ours": "dsv3, launch by launch",
    "graph": "the same in a CUDA graph",
    "+head": "+ head in BF16",
    "+fuse": "+ sum and norm in one kernel",
    "+rope": "+ latent, RoPE, cache in one",
    "+route": "+ all experts in one",
}


def step_table(folder: Path) -> str:
    """Milliseconds of a decode step by who, model and batch: ``make gpu``'s documents in ``folder``, then the runs.

    A line each; ``-`` where something was not measured, and no line at all where nothing was.
    """
    times: dict[str, dict[tuple[str, int], float]] = {}
    for document in recorded(folder):
        for row in document["rows"]:
            if row["group"].startswith("decode, ") and "ms" in row:
                column = row["group"].removeprefix("decode, "), int(row["shape"].removeprefix("batch "))
                for who, ms in {"dsv3": row["ms"], **row["ms_of"]}.items():
                    times.setdefault(f"{who}, {document['date']}", {})[column] = ms
    for file in sorted(folder.glob("*.jsonl")):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            who, ms = row.get("rung", row["who"]), row.get("ms", row.get("ms_per_step"))
            if who in RUN_STEPS and ms and "batch" in row:
                times.setdefault(RUN_STEPS[who], {})[RUN_MODELS[row["model"]], row["batch"]] = ms
    columns = sorted({column for row in times.values() for column in row}, key=lambda c: (c[0] != "V3x5", *c))
    if not columns:
        return ""
    lines = [" " * 28 + "".join(f"{f'{model}, {batch}':>12}" for model, batch in columns)]
    for who in times:
        cells = (f"{times[who][column]:12.2f}" if column in times[who] else f"{'-':>12}" for column in columns)
        lines.append(f"{who:28}{''.join(cells)}")
    return "\n".join(lines)


def prefill_table(folder: Path) -> str:
    """Milliseconds and tokens/s of prefill, before and after the experiments, from the runs in ``folder``."""
    lines = []
    for file in sorted(folder.glob("*.jsonl")):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if "after_ms" in row:
                cells = (f"{row[f'{w}_ms']:7.1f} ({row[f'{w}_tok_s']:6,})" for w in ("before", "after"))
                lines.append(
                    (f"{RUN_MODELS[row['model']]:8}", row["prefill"], "".join(f"{cell:>20}" for cell in cells))
                )
    table = [f"{model} {tokens:5,} tokens{cells}" for model, tokens, cells in sorted(lines, reverse=True)]
    return "\n".join([f"{'':20}{'before':>20}{'after':>20}", *table[::-1]]) if table else ""


def measured(document: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(group and shape, FLOP for each byte, TFLOPS) of a document's products and attention that were timed."""
    rows = [row for row in document["rows"] if row.get("tflops") and row.get("gb_per_s")]
    return [(f"{r['group']} {r['shape']}", 1e3 * r["tflops"] / r["gb_per_s"], r["tflops"]) for r in rows]
