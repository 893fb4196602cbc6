"""Does the steps of a ``Plan``, by several threads, into files that are open already."""

import errno
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from .journal import Journal
from .plan import Move, Op, Plan, Sources

WORKERS = min(4, os.cpu_count() or 1)


def work(plan: Plan, todo: list[int], sources: Sources, outputs: dict[str, int], journal: Journal, workers: int) -> int:
    """Do the steps ``todo``, as far as they fill ``outputs``; bytes written."""

    def step(i: int) -> int:
        ops = [op for op in plan.steps[i] if not op.targets or op.targets & outputs.keys()]
        for op in ops:
            _write(op, sources, outputs)
        journal.add(i)
        return sum(op.nbytes for op in ops)

    bar = Bar(plan.what, sum(op.nbytes for i in todo for op in plan.steps[i] if op.targets & outputs.keys()))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(step, i) for i in todo]
        try:
            for future in as_completed(futures):
                bar.add(future.result())
        finally:
            for future in futures:
                future.cancel()
            bar.close()
    return bar.done


def _write(op: Op, sources: Sources, outputs: dict[str, int]) -> None:
    if isinstance(op, Move) and hasattr(os, "copy_file_range"):
        op = _copy(op, sources, outputs)
    for name, at, data in op.chunks(sources):
        view = memoryview(data).cast("B") if name in outputs else None
        while view:
            n = os.pwrite(outputs[name], view, at)
            view, at = view[n:], at + n


def _copy(op: Move, sources: Sources, outputs: dict[str, int]) -> Move:
    """Let the kernel copy; what is left to do by hand, if the two file systems cannot."""
    while op.nbytes:
        try:
            n = os.copy_file_range(sources.open[op.source], outputs[op.target], op.nbytes, op.start, op.at)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                return op
            raise
        if n == 0:
            return op
        op = op._replace(start=op.start + n, nbytes=op.nbytes - n, at=op.at + n)
    return op


class Bar:
    """Progress on a terminal: share, rate, time left. Silent anywhere else."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.began = self.shown = time.monotonic()
        self.on = sys.stderr.isatty()

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        now = time.monotonic()
        if self.on and self.done and now - self.shown > 0.2:
            self.shown = now
            rate = self.done / (now - self.began)
            left = (self.total - self.done) / rate
            text = f"{self.done / self.total:4.0%}  {rate / 1e9:.2f} GB/s  {left // 60:.0f}:{left % 60:02.0f} left"
            print(f"\r{self.what}  {text}\033[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
