"""Kernels where there may be no GPU and no Triton: written in a lesson, and what was measured of them."""

import json
from collections.abc import Iterable, Iterator, Mapping
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
    "ours": "dsv3 before the experiments",
    "graph": "dsv3 before, in a CUDA graph",
    "+head": "+ head in BF16",
    "+fuse": "+ sum and norm in one kernel",
    "+rope": "+ latent, RoPE, cache in one",
    "+route": "+ all experts in one",
}
RUN_PREFILLS = {"before": "dsv3 before", "after": "experiment"}


def _timed(folder: Path, work: str) -> Iterator[tuple[str, tuple[str, int], float]]:
    """Who took how many milliseconds, where: (model, batch or tokens). ``work`` is "decode" or "prefill"."""
    for document in recorded(folder):
        for row in document["rows"]:
            if row["group"].startswith(f"{work}, ") and "ms" in row:
                size = int(row["shape"].removeprefix("batch ").removesuffix(" tokens"))
                where = row["group"].removeprefix(f"{work}, "), size
                for who, ms in {"dsv3": row["ms"], **row["ms_of"]}.items():
                    yield f"{who}, {document['date']}", where, ms


def _run_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())


def _in_order(where: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Each (model, size) once, V3x5 first."""
    return sorted(set(where), key=lambda w: (w[0] != "V3x5", w[0] != "V2-Lite", *w))


def step_table(folder: Path) -> str:
    """Milliseconds of a decode step by who, model and batch: ``make gpu``'s documents in ``folder``, then the runs.

    A line each; ``-`` where something was not measured, and no line at all where nothing was.
    """
    times: dict[str, dict[tuple[str, int], float]] = {}
    for who, where, ms in _timed(folder, "decode"):
        times.setdefault(who, {})[where] = ms
    for row in _run_rows(folder):
        changed, taken = row.get("rung", row["who"]), row.get("ms", row.get("ms_per_step"))
        if changed in RUN_STEPS and taken and "batch" in row:
            times.setdefault(RUN_STEPS[changed], {})[RUN_MODELS[row["model"]], row["batch"]] = taken
    if not times:
        return ""
    columns = _in_order(column for found in times.values() for column in found)
    models = [model for model, _ in columns]
    named = ("" if model in models[:i] else model for i, model in enumerate(models))
    lines = [" " * 28 + "".join(f"{name:>9}" for name in named)]
    lines.append(f"{'batch':28}{''.join(f'{batch:9}' for _, batch in columns)}")
    for who, found in times.items():
        cells = (f"{found[column]:9.2f}" if column in found else f"{'-':>9}" for column in columns)
        lines.append(f"{who:28}{''.join(cells)}")
    return "\n".join(lines)


def prefill_table(folder: Path) -> str:
    """Milliseconds and tokens/s of prefill: before the experiments and in them, from the runs in ``folder``; then
    ``make gpu``'s documents. ``-`` where something was not measured, and no line at all where nothing was.
    """
    columns: dict[str, dict[tuple[str, int], str]] = {}
    for row in _run_rows(folder):
        for name, who in RUN_PREFILLS.items():
            if f"{name}_ms" in row:
                cell = f"{row[f'{name}_ms']:.1f} ({row[f'{name}_tok_s']:6,})"
                columns.setdefault(who, {})[RUN_MODELS[row["model"]], row["prefill"]] = cell
    for who, (model, tokens), ms in _timed(folder, "prefill"):
        columns.setdefault(who, {})[model, tokens] = f"{ms:.1f} ({1e3 * tokens / ms:6,.0f})"
    if not columns:
        return ""
    lines = [" " * 21 + "".join(f"{who:>22}" for who in columns)]
    for where in _in_order(where for column in columns.values() for where in column):
        cells = (f"{column.get(where, '-'):>22}" for column in columns.values())
        lines.append(f"{where[0]:8}{where[1]:6,} tokens{''.join(cells)}")
    return "\n".join(lines)


def measured(document: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(group and shape, FLOP for each byte, TFLOPS) of a document's products and attention that were timed."""
    rows = [row for row in document["rows"] if row.get("tflops") and row.get("gb_per_s")]
    return [(f"{r['group']} {r['shape']}", 1e3 * r["tflops"] / r["gb_per_s"], r["tflops"]) for r in rows]
