"""Carries out a ``Plan``: in steps, by several threads; interrupted at any moment, the same run again goes on.

Files grow under ``NAME.part`` and get their names together at the end, config.json last. A journal in the folder holds
the steps that are done; while it is there, the folder is no checkpoint.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

from .plan import CHUNK, Move, Op, Plan, Sources
from .read import UNFINISHED

WORKERS = min(4, os.cpu_count() or 1)
NAMING = "naming"  # the journal's line before files get their final names
BOOT = Path("/proc/sys/kernel/random/boot_id")


def execute(plan: Plan, target: Path, workers: int = WORKERS) -> None:
    """Write everything that ``plan`` describes into ``target``, going on from what an earlier run of it left.

    Memory: the plan and ``CHUNK`` bytes for each worker. What was written survives the end of the process, not the end
    of the machine: after a restart of that, the work begins anew.

    Raises:
        FileExistsError: the folder holds another checkpoint, another run's unfinished work, or another run is at it.
        OSError: the disk is too small, or full; what is there stays, and the same run goes on from it.
    """
    began = time.monotonic()
    check_folder(plan, target)
    check_space(plan, target)
    target.mkdir(parents=True, exist_ok=True)
    with open_journal(plan.what, plan.fingerprint, target) as journal:
        sources = Sources(plan.sources)
        outputs: dict[str, int] = {}
        try:
            todo = _prepare(plan, target, journal)
            written = sum(op.nbytes for i in todo for op in plan.steps[i])
            outputs |= {name: os.open(_part(target, name), os.O_WRONLY) for name in _touched(plan, todo)}
            _work(plan, todo, sources, outputs, journal, workers)
            _name(plan, target, journal)
        except KeyboardInterrupt:
            print(f"{target}: stopped; the same command goes on from here", file=sys.stderr)
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                f"{target}: the disk is full; make room and run the same command again, it goes on from here"
            ) from None
        finally:
            sources.close()
            for fd in outputs.values():
                os.close(fd)
    seconds = max(time.monotonic() - began, 0.001)
    rate = f"{written / 1e9:.2f} GB in {seconds:.1f} s, {written / 1e9 / seconds:.2f} GB/s"
    print(f"{target}: {len(plan.sizes)} files, {plan.nbytes / 1e9:.2f} GB ({rate})", file=sys.stderr)


def remake(plan: Plan, target: Path, steps: set[int], files: set[str]) -> None:
    """Prepare ``target``, whole but for ``steps`` and ``files``, so that ``execute`` makes only those again.

    Raises:
        FileExistsError: a run there has not ended.
    """
    if (target / UNFINISHED).exists():
        raise FileExistsError(
            f"{target}: unfinished; run the command that writes it again, it goes on where it stopped"
        )
    with open_journal(plan.what, plan.fingerprint, target) as journal:
        for i in range(len(plan.steps)):
            if i not in steps:
                journal.add(i)
        journal.add(NAMING)
        for name in files & plan.sizes.keys():
            (target / name).unlink(missing_ok=True)


def check_folder(plan: Plan, target: Path) -> None:
    """
    Raises:
        FileExistsError: ``target`` is a file, or holds safetensors that ``plan`` would not replace.
    """
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: exists and is not a folder")
    strangers = sorted(f.name for f in target.glob("*.safetensors") if f.name not in plan.sizes)
    if strangers:
        raise FileExistsError(f"{target}: holds another checkpoint ({strangers[0]}); give an empty folder or remove it")


def missing_bytes(plan: Plan, target: Path) -> int:
    """Bytes that ``plan`` still has to allocate in ``target``."""
    there = 0
    for name in plan.sizes:
        with suppress(FileNotFoundError):
            there += min(_part(target, name).stat().st_blocks * 512, plan.sizes[name])
    return plan.nbytes - there


def disk_usage(target: Path) -> tuple[int, int, int]:
    """Bytes of the disk where ``target`` is or will be: total, used, free."""
    return shutil.disk_usage(next(p for p in [target, *target.absolute().parents] if os.path.exists(p)))


def free_bytes(target: Path) -> int:
    """Bytes free where ``target`` is or will be."""
    return disk_usage(target)[2]


def check_space(plan: Plan, target: Path) -> None:
    """
    Raises:
        OSError: the disk has less room than ``plan`` needs.
    """
    needed, free = missing_bytes(plan, target), free_bytes(target)
    if needed > free:
        raise OSError(f"{target}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; nothing was written")


def show(plan: Plan, target: Path) -> None:
    """Print what ``execute`` would do: files, bytes, room, and minutes at the rate of a short copy to that disk."""
    check_folder(plan, target)
    total, read = plan.nbytes, sum(f.stat().st_size for f in plan.sources)
    rate = _copy_rate(plan.sources[0], target)
    print(f"{plan.what}: {len(plan.sources)} files -> {target}")
    for name, size in plan.sizes.items():
        print(f"  {size / 1e9:10.3f} GB  {name}")
    for name, text in plan.texts.items():
        print(f"  {len(text) / 1e9:10.3f} GB  {name}")
    print(f"read {read / 1e9:.2f} GB, write {total / 1e9:.2f} GB")
    print(f"room needed {missing_bytes(plan, target) / 1e9:.2f} GB, free {free_bytes(target) / 1e9:.2f} GB")
    print(f"about {max(read, total) / rate / 60:.1f} minutes, copying {rate / 1e9:.2f} GB/s as just measured")


def _copy_rate(file: Path, target: Path, most: int = 256 << 20) -> float:
    """Bytes per second of copying the beginning of ``file`` to ``target``'s disk; nothing is left there."""
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("rb") as source, tempfile.TemporaryFile(dir=target) as copy:
            began, done = time.monotonic(), 0
            while done < most and (data := source.read(CHUNK)):
                done += copy.write(data)
            os.fsync(copy.fileno())
            return done / (time.monotonic() - began)
    finally:
        if made:
            target.rmdir()


def check_separate(source: Path, target: Path) -> None:
    """
    Raises:
        ValueError: both are the same folder.
    """
    if source.resolve() == target.resolve():
        raise ValueError(f"{target}: the output folder is the input folder; give another")


def _part(target: Path, name: str) -> Path:
    return target / f"{name}.part"


# ------------------------------------------------------------------------------------------------------ journal


class Journal:
    """The steps that are done, a line each, behind a first line that names the plan."""

    def __init__(self, fd: int, done: set[int], naming: bool):
        self.fd, self.done, self.naming = fd, done, naming

    def add(self, line: object) -> None:
        """One write of one line: it is there whole or, if the process dies, torn and then ignored."""
        os.write(self.fd, f"{line}\n".encode())


@contextmanager
def open_journal(what: str, fingerprint: str, target: Path) -> Iterator[Journal]:
    """The folder's journal, locked: new, or with what an interrupted run of the same ``fingerprint`` left in it.

    Raises:
        FileExistsError: another run is at work in ``target``, or left something unfinished there.
    """
    path = target / UNFINISHED
    fd = _lock(path)
    try:
        text = path.read_text(encoding="utf-8")
        lines = text.split("\n")[:-1]
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        first = {"what": what, "plan": fingerprint, "boot": boot}
        before = json.loads(lines[0]) if lines else first
        if before["plan"] != first["plan"]:
            raise FileExistsError(
                f"{target}: holds unfinished work of another run ({before['what']}); "
                "finish that with the same command and the same input, or remove the folder"
            )
        journal = Journal(fd, set(), False)
        if not lines or before["boot"] != boot:
            os.ftruncate(fd, 0)
            journal.add(json.dumps(first, ensure_ascii=False))
        else:
            os.ftruncate(fd, len("\n".join(lines).encode()) + 1)
            journal.naming = NAMING in lines
            journal.done = {int(line) for line in lines[1:] if line != NAMING}
        yield journal
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    try:
        import fcntl
    except ImportError:  # Windows has none: two runs in one folder are not told apart there
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise FileExistsError(f"{path.parent}: another run is writing into it; wait for it or stop it") from None
        except FileNotFoundError:
            pass  # a run that ended between the two lines took its journal away
        os.close(fd)


# -------------------------------------------------------------------------------------------------------- steps


def _touched(plan: Plan, steps: list[int]) -> set[str]:
    return {name for i in steps for op in plan.steps[i] for name in op.targets}


def _prepare(plan: Plan, target: Path, journal: Journal) -> list[int]:
    """Lay out the files, so that every step finds its place; the steps that are left."""
    fresh = set()
    for name, head in plan.heads.items():
        part, final = _part(target, name), target / name
        size = plan.sizes[name]
        if journal.done and part.is_file() and part.stat().st_size == size:
            continue
        if journal.naming and not part.exists() and final.is_file() and final.stat().st_size == size:
            continue
        fresh.add(name)
        with part.open("wb") as f:
            f.write(head)
            f.truncate(size)
    todo = [i for i in range(len(plan.steps)) if i not in journal.done or fresh & _touched(plan, [i])]
    for name in _touched(plan, todo):
        if not _part(target, name).exists():
            os.replace(target / name, _part(target, name))
    return todo


def _work(
    plan: Plan, todo: list[int], sources: Sources, outputs: dict[str, int], journal: Journal, workers: int
) -> None:
    def step(i: int) -> int:
        for op in plan.steps[i]:
            _write(op, sources, outputs)
        journal.add(i)
        return sum(op.nbytes for op in plan.steps[i])

    bar = Bar(plan.what, sum(op.nbytes for i in todo for op in plan.steps[i]))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(step, i) for i in todo]
        try:
            for future in as_completed(futures):
                bar.add(future.result())
        finally:
            for future in futures:
                future.cancel()
            bar.close()


def _write(op: Op, sources: Sources, outputs: dict[str, int]) -> None:
    if isinstance(op, Move) and hasattr(os, "copy_file_range"):
        op = _copy(op, sources, outputs)
    for name, at, data in op.chunks(sources):
        view = memoryview(data).cast("B")
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


def _name(plan: Plan, target: Path, journal: Journal) -> None:
    """Everything gets its name; config.json goes first and comes last, so a folder with one is whole."""
    for name, text in plan.texts.items():
        _part(target, name).write_bytes(text)
    if not journal.naming:
        journal.add(NAMING)
    with suppress(FileNotFoundError):
        (target / "config.json").unlink()
    for name in sorted([*plan.sizes, *plan.texts], key=lambda n: n == "config.json"):
        if _part(target, name).exists():
            os.replace(_part(target, name), target / name)
    (target / UNFINISHED).unlink()


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
