"""Checks of lesson 08: the reader's Triton kernels, each program of them watched, in a process of its own.

Of its own, since a kernel must be decorated under ``TRITON_INTERPRET=1``, may never end, and may crash. The process is
``python -m dsv3.exercises.kernels FILE KERNEL NUMBER``; its last line is what is wrong, as JSON, or null.
"""

import inspect
import itertools
import json
import linecache
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..kernels import why_no_triton
from . import Wrong, exercise

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 120  # seconds; a right answer takes a few


@exercise("08", 1)
def check_swiglu(kernel: Callable[..., Any]) -> None:
    _judge(kernel, 1)


@exercise("08", 2)
def check_dequant(kernel: Callable[..., Any]) -> None:
    _judge(kernel, 2)


@exercise("08", 3)
def check_matvec(kernel: Callable[..., Any]) -> None:
    _judge(kernel, 3)


def _judge(kernel: Callable[..., Any], number: int) -> None:
    """Run the reader's kernel in a process of its own, as exercise ``number``.

    Raises:
        NotImplementedError: a stub.
        Wrong: what the process says, or that it did not come to an end.
    """
    function = getattr(kernel, "fn", kernel)
    if not inspect.isfunction(function):
        raise Wrong(f"give the kernel itself, not a {type(kernel).__name__}")
    if "raise NotImplementedError" in inspect.getsource(function):
        raise NotImplementedError
    if lacking := why_no_triton():
        raise Wrong(f"your kernel cannot be run on this machine: {lacking}")
    if function is kernel:
        raise Wrong("this is a plain Python function: write @triton.jit above it")
    with tempfile.TemporaryDirectory() as folder:
        # All of the cell: the kernel may use what stands beside it. IPython keeps cells where linecache finds them.
        file = Path(folder, "answer.py")
        file.write_text("".join(linecache.getlines(function.__code__.co_filename)), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(file), function.__name__, str(number)]
        env = os.environ | {"TRITON_INTERPRET": "1"}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise Wrong(f"your kernel was stopped after {LONGEST} seconds: does its loop end?") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Wrong(f"your kernel stopped the interpreter: {last[0]}")
    if problem := json.loads(done.stdout.splitlines()[-1]):
        raise Wrong(problem)


# ------------------------------------------------------------------------------------------- in the other process


class Case(NamedTuple):
    """One launch and what it must give.

    Attributes:
        out: the argument that the kernel fills; it begins full of NaN.
        tolerance: relative to the largest number; 0: equal, bit for bit.
    """

    what: str
    grid: tuple[int, ...]
    args: dict[str, Any]
    out: str
    wanted: "Tensor"
    tolerance: float


def _random(*shape: int, seed: int) -> "Tensor":
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def swiglu_cases() -> Iterator[Case]:
    """``silu(a) * b`` of BF16 numbers, in float32, rounded once."""
    import torch

    for seed, (n, block) in enumerate([(64, 32), (100, 32), (5, 16), (1000, 256)]):
        a, b = (4 * _random(n, seed=2 * seed + i).bfloat16() for i in range(2))
        y = torch.full((n,), torch.nan, dtype=torch.bfloat16)
        wanted = torch.nn.functional.silu(a.float()) * b.float()
        args = {"a_ptr": a, "b_ptr": b, "y_ptr": y, "n": n, "BLOCK": block}
        yield Case(f"n = {n}, BLOCK = {block}", (-(-n // block),), args, "y_ptr", wanted.bfloat16(), 2.0**-8)


def dequant_cases() -> Iterator[Case]:
    """Whole and ragged blocks, more rows than columns and the other way round."""
    import torch

    from ..kernels import reference

    for seed, (m, n, block) in enumerate([(64, 64, 32), (96, 32, 32), (70, 100, 32), (20, 200, 128)]):
        w, scale = reference.weight_quant(_random(m, n, seed=seed), block)
        out = torch.full((m, n), torch.nan, dtype=torch.bfloat16)
        wanted = reference.weight_dequant(w, scale, block)
        args = {"w_ptr": w, "scale_ptr": scale, "out_ptr": out, "M": m, "N": n, "BLOCK": block}
        yield Case(f"w [{m}, {n}], BLOCK = {block}", (-(-m // block), -(-n // block)), args, "out_ptr", wanted, 0.0)


def matvec_cases() -> Iterator[Case]:
    """Blocks of very different sizes, so that each scale counts; N ragged."""
    import torch

    from ..kernels import reference

    for seed, (n, k, block) in enumerate([(64, 64, 32), (100, 96, 32), (32, 256, 32), (40, 256, 128)]):
        spread = torch.arange(k).div(block, rounding_mode="floor").sub(1).exp2()
        w, scale = reference.weight_quant(_random(n, k, seed=seed) * spread, block)
        x = _random(k, seed=seed + 50).bfloat16()
        y = torch.full((n,), torch.nan)
        wanted = reference.weight_dequant(w, scale, block, torch.float64) @ x.double()
        args = {"x_ptr": x, "w_ptr": w, "scale_ptr": scale, "y_ptr": y, "N": n, "K": k, "BLOCK": block}
        yield Case(f"w [{n}, {k}], BLOCK = {block}", (-(-n // block),), args, "y_ptr", wanted.float(), 1e-4)


CASES = {1: swiglu_cases, 2: dequant_cases, 3: matvec_cases}


def problem(kernel: Callable[..., Any], cases: Iterator[Case]) -> str | None:
    """What is wrong with a kernel, in one sentence; None if all cases come out right."""
    from ..kernels.launch import Launch
    from ..kernels.trace import run_program

    for case in cases:
        launch = Launch(kernel, case.grid, case.args)
        for program in itertools.product(*map(range, case.grid)):
            try:
                run_program(launch, program)
            except Exception as error:  # the interpreter wraps whatever a kernel raises
                said = (str(error) or repr(error.__cause__ or error)).strip().splitlines()
                return f"{case.what}: {said[0]}" + (f" ... {said[-1].strip()}" if len(said) > 1 else "")
        if wrong := _difference(case):
            return f"{case.what}: {wrong}"
    return None


def _difference(case: Case) -> str | None:
    found, wanted = case.args[case.out].double(), case.wanted.double()
    if found.isnan().any() and not wanted.isnan().any():
        at = found.isnan().nonzero()[0].tolist()
        return f"{case.out} is NaN or was never written at {at}: does your grid's last program store its part?"
    apart = (found - wanted).abs()
    if (apart <= case.tolerance * wanted.abs().max()).all():
        return None
    at = (apart == apart.max()).nonzero()[0].tolist()
    here = tuple(at)
    share = (apart > case.tolerance * wanted.abs().max()).double().mean()
    return f"{share:.0%} of {case.out} differ, most at {at}: {found[here]:.6g} instead of {wanted[here]:.6g}"


def main(file: str, name: str, number: str) -> None:
    """Run the reader's cell and judge one of its kernels."""
    space: dict[str, Any] = {"__name__": "answer"}
    exec(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), space)  # the reader's own code, as in the cell
    print("\n" + json.dumps(problem(space[name], CASES[int(number)]())))


if __name__ == "__main__":
    main(*sys.argv[1:])
