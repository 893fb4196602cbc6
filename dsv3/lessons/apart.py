"""Learners' Triton kernels, run apart: in a process that waits for sources and runs each in a fork, with a time limit.

Apart, since a kernel is interpreted only where Triton was imported under ``TRITON_INTERPRET=1``, and compiled only
where it was not; and since it may never end, or crash. The process is ``python -m dsv3.lessons.apart``.
"""

import atexit
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from ..kernels import why_no_triton
from ..said import Said
from .judge import Refused
from .mine import source_of
from .part import Part, Witness, load, plain

if TYPE_CHECKING:
    from ..kernels.inspect import Compiled

LONGEST = 30  # seconds for all inputs of a part; a right answer takes less than one
COMPILING = 120  # seconds for one target, or for measuring


def outcomes(number: str, answer: Any, witnesses: Sequence[Witness]) -> list[Any]:
    """What an answer gives for its part's witnesses, in the interpreter: ``Part.together`` of a lesson on kernels.

    Raises:
        NotImplementedError: the stub; or no kernel runs on this machine, and it says why.
    """
    source, name = source_of(answer), plain(answer).__name__
    if "raise NotImplementedError" in source:
        raise NotImplementedError
    if lacking := why_no_triton():
        raise NotImplementedError(Said("no kernel runs here, so nothing is judged ({lacking})", lacking=lacking))
    found = _judged(number, name, source)
    return [Refused(found.args[0])] * len(witnesses) if isinstance(found, Exception) else found


@cache
def _judged(number: str, name: str, source: str) -> Any:
    """What a source gives; the same source gives the same."""
    return ask(True, LONGEST, "judge", number, name, source)


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
    job = source_of(kernel), plain(kernel).__name__, types
    found = (ask(False, COMPILING, "compile", *job, target, num_warps, num_stages) for target in targets)
    return {target: str(x) if isinstance(x, Exception) else x for target, x in zip(targets, found, strict=True)}


def microseconds(
    kernel: Any, grid: tuple[int, ...], args: dict[str, Any], num_warps: int = 4, num_stages: int = 3
) -> "float | str":
    """How long a launch takes on this machine's GPU (``triton.testing.do_bench``), or a line that says why not."""
    import torch

    if lacking := why_no_triton() or ("" if torch.cuda.is_available() else "no GPU here"):
        return lacking
    job = source_of(kernel), plain(kernel).__name__, grid, args
    found = ask(False, COMPILING, "time", *job, num_warps, num_stages)
    return str(found) if isinstance(found, Exception) else found


class Worker:
    """The process that waits for tasks; started when it is asked, and again after it has ended."""

    def __init__(self, interpreted: bool):
        self.interpreted, self.process = interpreted, self._start(interpreted)

    @staticmethod
    def _start(interpreted: bool) -> "subprocess.Popen[bytes]":
        env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        env |= {"TRITON_INTERPRET": "1"} if interpreted else {}
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        atexit.register(process.kill)
        return process

    def ask(self, *request: Any) -> Any:
        """Its answer to (limit, task, arguments)."""
        from .wire import pack, receive, send, unpack

        if self.process.poll() is not None:
            self.process = self._start(self.interpreted)
        assert self.process.stdin
        assert self.process.stdout
        try:
            send(self.process.stdin, pack(request))
            return unpack(receive(self.process.stdout))
        except BaseException as error:  # also an interrupt: the answer to come would be taken for the next one's
            self.process.kill()
            self.process.wait()
            if isinstance(error, (EOFError, OSError)):
                return RuntimeError(Said("the process that runs kernels came to an end; run the cell again"))
            raise


@cache
def worker(interpreted: bool) -> Worker:
    """The one that interprets, and the one that compiles and measures."""
    return Worker(interpreted)


def ask(interpreted: bool, limit: float, task: str, *args: Any) -> Any:
    """Have the process do a task of ``TASKS``; an exception that it gives is returned, not raised."""
    return worker(interpreted).ask(limit, task, args)


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
    return compile_for(Launch(kernel, (1,), args, warps, stages), named(target))


def time_one(source: str, name: str, grid: tuple[int, ...], args: dict[str, Any], warps: int, stages: int) -> float:
    """Microseconds of a launch on the GPU."""
    from triton.testing import do_bench

    kernel = load(source, name, {"__name__": "answer"})
    there = {key: x.cuda() if hasattr(x, "cuda") else x for key, x in args.items()}
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

    from .wire import receive, send, unpack

    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # what a learner prints is no reply
        while True:
            try:
                limit, task, args = unpack(receive(sys.stdin.buffer))
            except EOFError:
                return
            send(replies, _forked(limit, task, args))


def _forked(limit: float, task: str, args: tuple[Any, ...]) -> bytes:
    """The packed result of a task, or of an exception that says why there is none."""
    from .wire import pack

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
        says = "your code was stopped after {limit:g} seconds: does its loop end?"
        return pack(TimeoutError(Said(says, limit=limit)))
    died = signal.Signals(status).name if status in set(signal.Signals) else f"status {status}"
    says = "your code stopped the interpreter ({died}): does an address leave its tensor?"
    return pack(RuntimeError(Said(says, died=died)))


def _send(pipe: IO[bytes], task: str, args: tuple[Any, ...]) -> None:
    from .wire import pack

    try:
        data = pack(TASKS[task](*args))
    except BaseException as error:  # the learner's code may raise anything
        says = str(error).strip().splitlines()
        data = pack(ValueError(f"{type(error).__name__}: {says[-1]}" if says else type(error).__name__))
    pipe.write(data)


if __name__ == "__main__":
    main()
