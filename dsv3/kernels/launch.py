"""A kernel launch as data: what runs, on which grid, with which arguments. It can be run, compiled, or looked into."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from .. import paths

if "TRITON_HOME" not in os.environ and not paths.can_keep(".triton"):
    os.environ["TRITON_HOME"] = str(paths.home())  # where Triton keeps what it compiles, else in the user's folder


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel.

    Attributes:
        kernel: what ``@triton.jit`` made, for a GPU or for the interpreter.
        grid: programs along each axis.
        args: every argument by name, compile-time constants included.
        num_warps: of 32 threads, per program.
        num_stages: how many tiles are being loaded ahead.
        registers: of a thread at most, where the compiler is to be told.
    """

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    registers: int | None = None

    @property
    def name(self) -> str:
        """The kernel's function name."""
        return self.kernel.__name__

    @property
    def interpreted(self) -> bool:
        """Whether the kernel was decorated under ``TRITON_INTERPRET=1``."""
        return not isinstance(self.kernel, triton.JITFunction)

    @property
    def options(self) -> dict[str, int | bool]:
        """What the compiler is told. A fused multiply-add is said aloud: Triton 3.10 changes the default."""
        told = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}
        return told if self.registers is None else told | {"maxnreg": self.registers}

    def run(self) -> None:
        """Run it, on the device of its tensors, or in the interpreter with its faults repaired.

        Raises:
            ValueError: its tensors are on the CPU, and Triton was not imported under ``TRITON_INTERPRET=1``.
        """
        if not prod(self.grid):
            return
        if self.interpreted:
            from .interpreter import exact

            with exact():
                self.kernel[self.grid](**self.args)
            return
        device = next(x.device for x in self.args.values() if isinstance(x, Tensor))
        if device.type != "cuda":
            raise ValueError(
                f"{self.name}: its tensors are on {device.type}, and Triton needs a GPU; to interpret it on a CPU, set "
                "TRITON_INTERPRET=1 before Python starts"
            )
        with torch.cuda.device(device):
            self.kernel[self.grid](**self.args, **self.options)


def run(launches: Iterable[Launch]) -> None:
    """Run them in order."""
    for launch in launches:
        launch.run()
