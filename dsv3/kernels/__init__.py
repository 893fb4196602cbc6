"""FP8, attention and expert kernels: ``reference`` is torch, ``triton`` the same for a GPU; ``pick`` chooses, once."""

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from .hardware import OLDEST_TRITON

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Choice:
    """Which kernels run, in which number format the matrices are multiplied, and why."""

    kernels: ModuleType
    gemm: Literal["fp8", "bf16"]
    why: str


def pick(device: "torch.device") -> Choice:
    """The kernels for ``device``, chosen once, by the program that loads a model.

    With FP8 units (sm_89 and later) FP8 weights stay FP8. Without (a CPU, an A100) they are dequantised once, when they
    are loaded. ``TRITON_INTERPRET=1`` runs the Triton kernels anywhere, in Triton's interpreter, slowly. Where Triton
    cannot run, ``reference`` takes its place; ``hardware.KNOWN`` is the table behind the choice.

    Raises:
        ValueError: ``TRITON_INTERPRET=1`` without a usable Triton, or set after Triton was imported.
    """
    from . import hardware, reference

    if os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "on", "true", "y", "yes"):
        if lacking := why_no_triton():
            raise ValueError(f"TRITON_INTERPRET is set, but {lacking}")
        from . import triton
        from .interpreter import check_import

        check_import()

        return Choice(triton, "fp8", "TRITON_INTERPRET=1: Triton's kernels, interpreted on the CPU; exact, and slow")
    dequantised = "FP8 weights are dequantised once, at loading"
    if device.type != "cuda":
        return Choice(reference, "bf16", f"{device.type} has no FP8 units: {dequantised}")
    seen = hardware.hardware_of(device)
    lacking = why_no_triton() or why_no_launcher()
    kernels: ModuleType = reference
    whose = f"the torch reference, for {lacking}"
    if not lacking:
        from . import triton

        kernels, whose = triton, "Triton"
    units = f"has FP8 units: weights stay FP8; kernels: {whose}"
    if not seen.fp8:
        units = f"has no units for DeepSeek's FP8: {dequantised}; kernels: {whose}"
    return Choice(kernels, seen.gemm, f"{seen.chips} ({seen.name}) {units}")


def why_no_triton() -> str | None:
    """Why the Triton kernels cannot be used here; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton (Linux only)"
    import triton

    version = triton.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"Triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}, the oldest that is tested"
    return None


def why_no_launcher() -> str | None:
    """Why kernels cannot be started on a GPU: Triton compiles the C code that does; None if it can."""
    if os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang"))):
        return None
    return "Triton finds no C compiler: install gcc"
