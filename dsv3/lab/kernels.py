"""Kernels where there may be no GPU and no Triton: run in the interpreter, compiled to machine code, measured."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ..kernels import why_no_triton

if TYPE_CHECKING:
    from ..kernels.inspect import Compiled


def triton_here() -> tuple[Any, Any]:
    """``triton`` and ``triton.language``; where Triton cannot be used, stand-ins with which a kernel can be defined."""
    if why_no_triton():
        return SimpleNamespace(jit=lambda function: function), SimpleNamespace(constexpr=int)
    import triton
    import triton.language as tl

    return triton, tl


def interpret(kernel: Callable[..., Any], grid: tuple[int, ...], **args: Any) -> bool:
    """Run every program of a kernel in the interpreter, its faults repaired; False, and a line, where Triton lacks.

    Raises:
        ValueError: the kernel was not decorated under ``TRITON_INTERPRET=1``.
    """
    if lacking := why_no_triton():
        print(f"not run: {lacking}. The torch reference goes on instead.")
        return False
    from ..kernels.launch import Launch

    Launch(kernel, grid, args).run()
    return True


class Sizes(TypedDict, total=False):
    """What a kernel is compiled for, where it is not the usual (``dsv3.compile``)."""

    rows: int
    context: int


def machine_code(kernel: str, targets: Sequence[str], **sizes: Unpack[Sizes]) -> "dict[str, list[Compiled] | str]":
    """What a kernel becomes on each target (``dsv3.compile``), or why it does not; two are compiled at a time."""
    from ..compile import machine_code as for_one

    def one(target: str) -> "list[Compiled] | str":
        try:
            return for_one(kernel, target, **sizes)
        except (ValueError, ImportError) as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(targets, pool.map(one, targets), strict=True))


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The documents that ``make gpu`` wrote into ``folder``, one for each GPU; empty while nothing was measured."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [document for document in found if document.get("rows")]


def measured(document: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(group and shape, FLOP for each byte, TFLOPS) of a document's products and attention that were timed."""
    rows = [row for row in document["rows"] if row.get("tflops") and row.get("gb_per_s")]
    return [(f"{r['group']} {r['shape']}", 1e3 * r["tflops"] / r["gb_per_s"], r["tflops"]) for r in rows]
