"""Answers that talk to other ranks, judged where they talk: each rank is a process, and none of them is left behind.

Groups of 2, 3 and 4 ranks run side by side, each started once for all its inputs. They are forked, so that no check
waits for an import of torch. A rank that waits for nobody is ended by gloo, one that computes for ever by this module.
"""

import faulthandler
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..said import Said
from .judge import Raised, Refused, _where
from .part import Witness
from .wire import pack, unpack

WAITING = 10  # seconds that a rank waits for another
LIMIT = 3 * WAITING  # that all may take
SECONDARY = ("Connection closed", "Connection reset", "Broken pipe", "Socket closed")
NOT_RUN = Refused(Said("the ranks came to no end before this input"))


def together(answer: Any, witnesses: tuple[Witness, ...]) -> list[Any]:
    """What an answer gives on all ranks, for each witness; its ``given`` are the arguments of rank 0, 1, ..."""
    if not str(getattr(answer, "__module__", "")).startswith("dsv3.lessons.lesson_"):
        return _together(answer, witnesses)
    return _course(answer, witnesses)


@cache
def _course(answer: Any, witnesses: tuple[Witness, ...]) -> list[Any]:
    """Of the course's own answers, which do not change."""
    return _together(answer, witnesses)


def _together(answer: Any, witnesses: tuple[Witness, ...]) -> list[Any]:
    given = [witness.given() for witness in witnesses]
    sizes = {len(ranks) for ranks in given}
    with tempfile.TemporaryDirectory() as folder:
        groups = {
            size: _start(answer, Path(folder) / str(size), size, [g for g in given if len(g) == size]) for size in sizes
        }
        end = time.monotonic() + LIMIT
        told = {n: iter(_outcomes(groups[n], sum(len(g) == n for g in given), end)) for n in sizes}
    found = [next(told[len(ranks)], NOT_RUN) for ranks in given]
    if any(isinstance(each, Raised) and each.kind == "NotImplementedError" for each in found):
        raise NotImplementedError
    return [
        each if isinstance(each, (Raised, Refused)) else witness.use(each, ranks)
        for each, witness, ranks in zip(found, witnesses, given, strict=True)
    ]


def _start(answer: Any, store: Path, size: int, given: list[tuple]) -> list[tuple[Any, Connection]]:
    """The processes of one group of ranks, and the ends of their pipes."""
    fork, started = multiprocessing.get_context("fork"), []
    for rank in range(size):
        here, there = fork.Pipe(duplex=False)
        cases = [ranks[rank] for ranks in given]
        process = fork.Process(target=_rank, args=(answer, store, rank, size, cases, there), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork beside threads
            process.start()
        there.close()
        started.append((process, here))
    return started


def _rank(answer: Callable, store: Path, rank: int, size: int, cases: list[tuple], pipe: Connection) -> None:
    """In a process of its own: what the answer gives for each case, until one goes wrong."""
    import torch.distributed as dist

    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # gloo writes there before it ends a process
    sys.stdout = sys.stderr = os.fdopen(nowhere, "w")  # the notebook's streams belong to its process
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    try:
        file = dist.FileStore(str(store), size)
        file.set_timeout(timedelta(seconds=LIMIT))
        dist.init_process_group("gloo", store=file, rank=rank, world_size=size, timeout=timedelta(seconds=WAITING))
        for case in cases:
            found = _outcome(answer, case)
            pipe.send_bytes(_packed(found))
            if isinstance(found, (Raised, Refused)):
                break
            dist.barrier()
    except Exception as error:  # another rank has gone
        pipe.send_bytes(_packed(Raised("Connection", str(error))))
    os._exit(0)


def _outcome(answer: Callable, case: tuple) -> Any:
    import torch

    try:
        with torch.no_grad():
            return answer(*case)
    except Exception as error:  # the learner's code may raise anything
        text = str(error)
        if "imed out" in text or "timeout" in text.lower():
            says = "a rank waits for a message that nobody sends: it was stopped after {seconds} s"
            return Refused(Said(says, seconds=WAITING))
        kind = "Connection" if any(words in text for words in SECONDARY) else type(error).__name__
        return Raised(kind, _where(error, answer))


def _packed(found: Any) -> bytes:
    try:
        return pack(found)
    except TypeError as error:
        return pack(Refused(Said("it returns what cannot be looked at: {error}", error=str(error))))


def _outcomes(group: list[tuple[Any, Connection]], cases: int, end: float) -> list[Any]:
    """One outcome for each case: a list with every rank's result, or what went wrong first."""
    try:
        ranks = [list(_received(pipe, cases, end)) for _, pipe in group]
    finally:
        for process, pipe in group:
            process.kill()
            process.join()
            pipe.close()
    outcomes: list[Any] = []
    for i in range(max(map(len, ranks))):
        case = [rank[i] for rank in ranks if i < len(rank)]
        wrong = [each for each in case if isinstance(each, (Raised, Refused))]
        # A rank that fails takes others along: its own words come first.
        wrong.sort(key=lambda each: (isinstance(each, Raised) and each.kind == "Connection", isinstance(each, Refused)))
        outcomes.append(wrong[0] if wrong else case)
    return outcomes


def _received(pipe: Connection, cases: int, end: float) -> Iterator[Any]:
    """A rank's outcomes, until it has no more."""
    for _ in range(cases):
        if not pipe.poll(max(0.0, end - time.monotonic())):
            yield Refused(Said("the ranks did not end within {seconds} s and were stopped", seconds=LIMIT))
            return
        try:
            found = unpack(pipe.recv_bytes())
        except EOFError:
            says = "a rank was ended by gloo: a message came that was larger than the tensor that waits for it"
            yield Refused(Said(says))
            return
        yield found
        if isinstance(found, (Raised, Refused)):
            return
