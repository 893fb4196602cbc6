"""Learners' Triton kernels, run apart: in a process that waits for sources and runs each in a fork, with a time limit.

Apart, since a kernel is interpreted only where Triton was imported under ``TRITON_INTERPRET=1``, and compiled only
where it was not; and since it may never end, or crash. The process is ``python -m dsv3.lessons.apart``.
"""

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

from ..kernels import why_no_triton
from .judge import Refused
from .mine import source_of
from .part import Part, Witness, load, plain

if TYPE_CHECKING:
    from ..kernels.inspect import Compiled

LONGEST = 30  # seconds for all inputs of a part; a right answer takes less than one
COMPILING = 120  # seconds for one target, or for measuring
KNOWN: dict[tuple[str, str, str], list[Any]] = {}  # what sources gave
RUNNING: dict[bool, "subprocess.Popen[bytes]"] = {}  # interpreting or compiling


def outcomes(number: str, answer: Any, witnesses: Sequence[Witness]) -> list[Any]:
    """What an answer gives for its part's witnesses, in the interpreter: ``Part.together`` of a lesson on kernels.

    Raises:
        NotImplementedError: the stub; or no kernel runs on this machine, which a line says.
    """
    source, name = source_of(answer), plain(answer).__name__
    if "raise NotImplementedError" in source:
        raise NotImplementedError
    if lacking := why_no_triton():
        print(f"{name}: no kernel runs here, so nothing is judged ({lacking}).", end=" ")
        raise NotImplementedError
    key = number, name, source
    if key not in KNOWN:
        found = ask(True, LONGEST, "judge", *key)
        KNOWN[key] = [Refused(str(found))] * len(witnesses) if isinstance(found, Exception) else found
    return KNOWN[key]


def compiled(
    kernel: Any, args: dict[str, Any], targets: Sequence[str], num_warps: int = 4, num_stages: int = 3
) -> "dict[str, Compiled | str]":
    """What a kernel of the notebook becomes on each target, or why it does not; needs Triton, and no GPU.

    Args:
        args: all arguments by name; of tensors only the type counts.
    """
    if lacking := why_no_triton():
        return dict.fromkeys(targets, lacking)
    types = {name: x.new_empty(0) if hasattr(x, "new_empty") else x for name, x in args.items()}
    job = source_of(kernel), plain(kernel).__name__, _packed(types)
    found = (ask(False, COMPILING, "compile", *job, target, num_warps, num_stages) for target in targets)
    return {target: str(x) if isinstance(x, Exception) else x for target, x in zip(targets, found, strict=True)}


def microseconds(
    kernel: Any, grid: tuple[int, ...], args: dict[str, Any], num_warps: int = 4, num_stages: int = 3
) -> "float | str":
    """How long a launch takes on this machine's GPU (``triton.testing.do_bench``), or a line that says why not."""
    import torch

    if lacking := why_no_triton() or ("" if torch.cuda.is_available() else "no GPU here"):
        return lacking
    job = source_of(kernel), plain(kernel).__name__, grid, _packed(args)
    found = ask(False, COMPILING, "time", *job, num_warps, num_stages)
    return str(found) if isinstance(found, Exception) else found


def _packed(args: dict[str, Any]) -> dict[str, Any]:
    """Tensors as their type and bytes: FP8 cannot be pickled."""
    import torch

    return {k: (x.dtype, x.view(torch.uint8)) if isinstance(x, torch.Tensor) else x for k, x in args.items()}


def _unpacked(args: dict[str, Any]) -> dict[str, Any]:
    return {k: x[1].view(x[0]) if isinstance(x, tuple) else x for k, x in args.items()}


def ask(interpreted: bool, limit: float, task: str, *args: Any) -> Any:
    """Have the process do a task of ``TASKS``; an exception that it gives is returned, not raised."""
    process = RUNNING.get(interpreted)
    if process is None or process.poll() is not None:
        env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        env |= {"TRITON_INTERPRET": "1"} if interpreted else {}
        process = RUNNING[interpreted] = subprocess.Popen(
            [sys.executable, "-m", __name__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        atexit.register(process.kill)
    assert process.stdin
    assert process.stdout
    try:
        pickle.dump((limit, task, args), process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except BaseException as error:  # also an interrupt: the answer to come would be taken for the next one's
        process.kill()
        RUNNING.pop(interpreted).wait()
        if isinstance(error, (EOFError, OSError)):
            return RuntimeError("the process that runs kernels came to an end; run the cell again")
        raise


# ------------------------------------------------------------------------------------------ in the other process


def judge(number: str, name: str, source: str) -> list[Any]:
    """An answer's outcomes for the witnesses of its part, in the repaired interpreter."""
    from ..kernels.interpreter import exact
    from .judge import outcome

    (part,) = (part for part in _parts(number) if part.name == name)
    answer = load(source, name, {"__name__": "answer"})
    with exact():
        return [outcome(answer, witness) for witness in part.witnesses]


def _parts(number: str) -> list[Part]:
    from .lesson import parts_of

    return sum(parts_of(number), [])


def compile_one(source: str, name: str, args: dict[str, Any], target: str, warps: int, stages: int) -> "Compiled":
    """A kernel's machine code."""
    from ..kernels.hardware import named
    from ..kernels.inspect import compile_for
    from ..kernels.launch import Launch

    kernel = load(source, name, {"__name__": "answer"})
    return compile_for(Launch(kernel, (1,), _unpacked(args), warps, stages), named(target))


def time_one(source: str, name: str, grid: tuple[int, ...], args: dict[str, Any], warps: int, stages: int) -> float:
    """Microseconds of a launch on the GPU."""
    from triton.testing import do_bench

    kernel = load(source, name, {"__name__": "answer"})
    there = {key: x.cuda() if hasattr(x, "cuda") else x for key, x in _unpacked(args).items()}
    return 1e3 * do_bench(lambda: kernel[grid](**there, num_warps=warps, num_stages=stages))


def score(module: str, sources: dict[str, str]) -> Any:
    """``scored`` of a transplant's module, with parts made from their sources."""
    import importlib
    from types import SimpleNamespace

    from ..kernels.interpreter import exact

    parts = {name: load(source, name, {"__name__": "answer"}) for name, source in sources.items()}
    with exact():
        return importlib.import_module(module).scored(SimpleNamespace(**parts))


TASKS: dict[str, Callable[..., Any]] = {"judge": judge, "compile": compile_one, "time": time_one, "score": score}


def main() -> None:
    """Do tasks until nobody asks any more."""
    import torch

    torch.set_num_threads(1)  # a fork does not take a pool of threads along
    torch.use_deterministic_algorithms(True)  # so that ``torch.empty`` is full of NaN
    import triton  # noqa: F401 (once, not in every fork)

    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what a learner prints is no reply
        while True:
            try:
                limit, task, args = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            replies.write(_forked(limit, task, args))
            replies.flush()


def _forked(limit: float, task: str, args: tuple[Any, ...]) -> bytes:
    """The pickled result of a task, or of an exception that says why there is none."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            _send(pipe, task, args)
        os._exit(0)
    os.close(writing)
    end, data, whole = time.monotonic() + limit, b"", False
    while not whole and select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(reading, 1 << 20)
        data, whole = data + piece, not piece
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if whole and data:
        return data
    if not whole:
        return pickle.dumps(TimeoutError(f"your code was stopped after {limit:g} seconds: does its loop end?"))
    died = signal.Signals(status).name if status in set(signal.Signals) else f"status {status}"
    return pickle.dumps(RuntimeError(f"your code stopped the interpreter ({died}): does an address leave its tensor?"))


def _send(pipe: IO[bytes], task: str, args: tuple[Any, ...]) -> None:
    try:
        data = pickle.dumps(TASKS[task](*args))
    except BaseException as error:  # the learner's code may raise anything
        says = str(error).strip().splitlines()
        data = pickle.dumps(ValueError(f"{type(error).__name__}: {says[-1] if says else 'no words'}"))
    pipe.write(data)


if __name__ == "__main__":
    main()
