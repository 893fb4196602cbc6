"""One program of a kernel, watched in Triton's interpreter: which elements it loads and stores.

For lessons and their checks: a mask that lets an access leave its tensor is an error with a name, not a crash.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .launch import Launch


@dataclass(frozen=True)
class Access:
    """One ``tl.load`` or ``tl.store``.

    Attributes:
        argument: the tensor, by the name of its pointer in the kernel.
        elements: which, counted in memory from the tensor's first, in the shape of the kernel's tile.
        mask: the elements that were really touched.
    """

    kind: Literal["load", "store"]
    argument: str
    elements: np.ndarray
    mask: np.ndarray
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes moved, each element once even if several threads ask for it."""
        return len(np.unique(self.elements[self.mask])) * self.itemsize


@dataclass(frozen=True)
class Trace:
    """All accesses of one program, in order."""

    launch: Launch
    program: tuple[int, int, int]
    accesses: list[Access]

    def counts(self, argument: str, kind: Literal["load", "store"]) -> np.ndarray:
        """How often each element of an argument was loaded or stored, in the argument's shape: a picture's data.

        Raises:
            ValueError: no such tensor, listing those there are.
        """
        tensors = {name: x for name, x in self.launch.args.items() if isinstance(x, Tensor)}
        if argument not in tensors:
            raise ValueError(f"{self.launch.name} has no tensor {argument!r}; it has {', '.join(tensors)}")
        x = tensors[argument]
        found = [a.elements[a.mask] for a in self.accesses if (a.argument, a.kind) == (argument, kind)]
        touched = np.concatenate(found) if found else np.empty(0, np.int64)
        memory = np.bincount(touched, minlength=_extent(x))
        return np.lib.stride_tricks.as_strided(memory, x.shape, [s * memory.itemsize for s in x.stride()]).copy()

    def table(self) -> list[dict[str, Any]]:
        """A row per argument and kind: accesses, elements and bytes (each once), and how many the mask kept out."""
        rows = []
        for kind, argument in dict.fromkeys((a.kind, a.argument) for a in self.accesses):
            mine = [a for a in self.accesses if (a.kind, a.argument) == (kind, argument)]
            elements = np.unique(np.concatenate([a.elements[a.mask] for a in mine]))
            masked = sum(int((~a.mask).sum()) for a in mine)
            row = {"kind": kind, "argument": argument, "accesses": len(mine), "elements": len(elements)}
            rows.append(row | {"bytes": len(elements) * mine[0].itemsize, "masked": masked})
        return rows


def run_program(launch: Launch, program: int | tuple[int, ...] = 0) -> Trace:
    """Run one program of a launch and watch its memory; its stores are real, those of the other programs missing.

    Args:
        launch: from a ``plan_...`` function, or your own: ``Launch(my_kernel, (n,), {"x_ptr": x, "BLOCK": 128})``.
        program: its place in the grid.

    Raises:
        ValueError: the kernel was not decorated under TRITON_INTERPRET=1, a tensor is not on the CPU, there is no such
            program, or an access leaves its tensor.
    """
    i, j, k = (*((program,) if isinstance(program, int) else program), 0, 0)[:3]
    where = (i, j, k)
    grid = (*launch.grid, *[1] * (3 - len(launch.grid)))
    if not launch.interpreted:
        raise ValueError(f"{launch.name} is compiled: set TRITON_INTERPRET=1 before Python starts (restart the kernel)")
    if any(not 0 <= i < n for i, n in zip(where, grid, strict=True)):
        raise ValueError(f"{launch.name} has a grid of {launch.grid}; there is no program {program}")
    for name, x in launch.args.items():
        if isinstance(x, Tensor) and x.device.type != "cpu":
            raise ValueError(f"{launch.name}: {name} is on {x.device}; only tensors on the CPU can be watched")
    accesses: list[Access] = []
    with _watched(launch, where, grid, accesses):
        try:
            replace(launch, grid=(1, 1, 1)).run()
        except Exception as error:
            if isinstance(error.__cause__, IndexError):
                raise ValueError(f"{launch.name}, program {where}: {error.__cause__}") from None
            raise
    return Trace(launch, where, accesses)


def _extent(x: Tensor) -> int:
    """How many elements of memory lie between the tensor's first and last, both counted."""
    return sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1 if x.numel() else 0


@contextmanager
def _watched(launch: Launch, program: tuple, grid: tuple, accesses: list[Access]) -> Iterator[None]:
    """The interpreter with one program's place, and with loads and stores that are checked and noted down."""
    from triton.runtime.interpreter import InterpreterBuilder

    names = ("create_masked_load", "create_masked_store", "create_get_program_id", "create_get_num_programs")
    saved = {name: getattr(InterpreterBuilder, name) for name in names}

    def constant(values: tuple) -> Callable[..., Any]:
        def get(self: Any, axis: int) -> Any:
            handle = saved["create_get_program_id"](self, axis)
            handle.data[:] = values[axis]
            return handle

        return get

    def load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        accesses.append(_note("load", launch, ptrs, mask))
        return saved["create_masked_load"](self, ptrs, mask, *rest)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        accesses.append(_note("store", launch, ptrs, mask))
        return saved["create_masked_store"](self, ptrs, value, mask, *rest)

    try:
        for name, function in zip(names, (load, store, constant(program), constant(grid)), strict=True):
            setattr(InterpreterBuilder, name, function)
        yield
    finally:
        for name, function in saved.items():
            setattr(InterpreterBuilder, name, function)


def _note(kind: Literal["load", "store"], launch: Launch, ptrs: Any, mask: Any) -> Access:
    """Which elements of which tensor the addresses of one ``tl.load`` or ``tl.store`` are.

    Raises:
        IndexError: an address that the mask lets through lies in none of the tensors.
    """
    address = ptrs.data.astype(np.int64)
    allowed = np.broadcast_to(mask.data, address.shape).astype(bool)
    touched = address[allowed] if allowed.any() else address.reshape(-1)

    def holds(x: Tensor) -> np.ndarray:
        return (touched >= x.data_ptr()) & (touched < x.data_ptr() + _extent(x) * x.itemsize)

    tensors = {name: x for name, x in launch.args.items() if isinstance(x, Tensor)}
    name, x = max(tensors.items(), key=lambda item: holds(item[1]).sum())
    if allowed.any() and not holds(x).all():
        out = (touched[~holds(x)] - x.data_ptr()) // x.itemsize
        others = f" and {len(out) - 1} others" if len(out) > 1 else ""
        raise IndexError(f"tl.{kind} leaves {name}: element {out[0]} of {_extent(x)}{others}; check the mask")
    return Access(kind, name, (address - x.data_ptr()) // x.itemsize, allowed, x.itemsize)
