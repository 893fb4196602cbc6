"""Carries out a ``Plan``: in steps, by several threads; interrupted at any moment, the same run again goes on.

Files grow under ``NAME.part`` and get their names together at the end, config.json and the record of what is ours
last. A journal in the folder names them all and holds the steps that are done; while it is there, the folder is no
checkpoint.
"""

import errno
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ..outside import printable
from . import ours
from .journal import NAMING, Journal, check_same, parse, read_journal, write_all
from .ours import RECORD, Record
from .plan import CHUNK, Plan, Sources, sample
from .read import UNFINISHED, amount
from .steps import WORKERS, Bar, work

__all__ = ["WORKERS", "Bar", "Journal", "execute", "open_journal"]
BOOT = Path("/proc/sys/kernel/random/boot_id")


def execute(plan: Plan, target: Path, workers: int = WORKERS, only: set[str] | None = None) -> None:
    """Write everything that ``plan`` describes into ``target``, going on from what an earlier run of it left.

    Memory: the plan and ``CHUNK`` bytes for each worker. What was written survives the end of the process, not the end
    of the machine: after a restart of that, the work begins anew. Where all is made already, nothing is written.

    Args:
        only: files of the plan to make again, whatever is there under their names; the others are as planned already.

    Raises:
        FileExistsError: the folder holds files that are not ours, or another run's unfinished work, or another run is
            at it.
        OSError: the disk is too small, or full; what is there stays, and the same run goes on from it.
    """
    began = time.monotonic()
    check_target(plan, target, only)
    if not only and is_made(plan, target):
        print(_made_already(plan, target), file=sys.stderr)
        return
    plan.tell()
    check_space(plan, target, only)
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(only) if only else _names(plan)
    with open_journal(plan.what, plan.fingerprint, target, files, replace=bool(only)) as journal:
        sources = Sources(plan.sources)
        outputs: dict[str, int] = {}
        try:
            todo = _prepare(plan, target, journal)
            for name in plan.sizes.keys() & journal.files:
                if os.path.lexists(_part(target, name)):
                    outputs[name] = ours.create(_part(target, name), ours=True)
            written = work(plan, todo, sources, outputs, journal, workers)
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
    rate = f"{amount(written)} in {seconds:.1f} s, {amount(written / seconds)}/s"
    print(f"{target}: {len(plan.sizes)} files, {amount(plan.nbytes)} ({rate})", file=sys.stderr)


def record(plan: Plan) -> Record:
    """What a folder says of itself when ``plan`` has been carried out there, but for the samples."""
    sizes = plan.sizes | {name: len(text) for name, text in plan.texts.items()}
    hashes = {name: sha256(text).hexdigest() for name, text in plan.texts.items()}
    return Record(plan.what, plan.origin, sizes, hashes)


def _samples(plan: Plan, target: Path, journal: Journal) -> dict[str, str]:
    """Of each long file: as this run made it, or as the record has it that was there before."""
    made = ours.read_record(target)
    kept = made.samples if made else {}
    samples = {name: kept[name] for name in plan.sizes if name in kept}
    for name in plan.sizes.keys() & journal.files:
        part = _part(target, name)
        samples[name] = sample(part if os.path.lexists(part) else target / name)
    return dict(sorted(samples.items()))


def is_made(plan: Plan, target: Path) -> bool:
    """Whether ``target`` is what ``plan`` makes, by its record and the samples of its files."""
    made, wanted = ours.read_record(target), record(plan)
    if made is None or os.path.lexists(target / UNFINISHED) or replace(made, samples={}) != wanted:
        return False
    return all(ours.is_ours(target, name, made) for name in made.files)


def _made_already(plan: Plan, target: Path) -> str:
    said = f"{target}: made already by this command from this source"
    if plan.source is None:
        return f"{said}; nothing was written"
    command = f"dsv3 verify {shlex.quote(str(target))} --source {shlex.quote(str(plan.source))}"
    return printable(f"{said}; {command} compares every byte")


def _names(plan: Plan) -> list[str]:
    """All files of ``plan``, in the order in which they get their names."""
    return sorted([*plan.sizes, *plan.texts], key=lambda n: n == "config.json") + [RECORD]


def check_target(plan: Plan, target: Path, only: set[str] | None = None) -> None:
    """Whether ``plan``, or ``only`` some files of it, may be written into ``target`` without touching what is not ours.

    Raises:
        FileExistsError: ``target`` is no folder, or holds something that neither its journal nor its record says we
            made, or that another run made.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise FileExistsError(f"{target}: exists and is not a folder")
    found = ours.strangers(target, [])
    journal, made = read_journal(target), ours.read_record(target)
    if journal:
        check_same(journal, plan.what, plan.fingerprint, target)
    if made and made.what != plan.what:
        raise FileExistsError(f"{target}: holds another checkpoint ({made.what}); give another folder")
    known = {*_names(plan), UNFINISHED, *(_part(target, n).name for n in (journal.files if journal else ()))}
    if made is None and RECORD in found:
        known.remove(RECORD)  # the file of that name cannot be read as a record, so it is not ours
    foreign = [n for n in found if n not in known]
    foreign += [n for n in found if n in known and n.endswith(".part") and not ours.is_writable(target / n)]
    ours.refuse(target, foreign + _changed(plan, target, journal, only))


def _changed(plan: Plan, target: Path, journal: Journal | None, only: Iterable[str] | None = None) -> list[str]:
    """The plan's files that are there but neither as it would write them nor ours to replace."""
    made = ours.read_record(target)
    again = {*(only or ()), *(journal.files if journal and journal.replace else ())}
    changed = []
    for name in _names(plan):
        file = target / name
        if not os.path.lexists(file) or ours.is_ours(target, name, made) or _is_text(file, plan.texts.get(name)):
            continue
        named = journal and journal.naming and name in journal.files and not os.path.lexists(_part(target, name))
        # A small file is empty if the machine stopped after its renaming, before its bytes were on the disk.
        whole = name in plan.sizes or (ours.is_plain(file) and file.lstat().st_size == 0)
        if not ours.is_plain(file) or not (name in again or (named and whole)):
            changed.append(name)
    return changed


def _is_text(file: Path, text: bytes | None) -> bool:
    """Whether ``file`` is a regular one with exactly this content."""
    return text is not None and ours.has_digest(file, len(text), sha256(text).hexdigest())


def missing_bytes(plan: Plan, target: Path, only: set[str] | None = None) -> int:
    """Bytes that ``plan``, or ``only`` some files of it, still have to be allocated in ``target``."""
    journal, sizes = read_journal(target), record(plan).files
    names = journal.files if journal else only or sizes
    missing = 0
    for name in names:
        size = sizes.get(name, 0)
        there = 0
        with suppress(FileNotFoundError):
            if journal and ours.is_plain(_part(target, name)):
                there = getattr(_part(target, name).lstat(), "st_blocks", 0) * 512
            elif journal and journal.naming:
                there = (target / name).lstat().st_size
        missing += size - min(there, size)
    return missing


def disk_usage(target: Path) -> tuple[int, int, int]:
    """Bytes of the disk where ``target`` is or will be: total, used, free."""
    return shutil.disk_usage(_nearest(target))


def free_bytes(target: Path) -> int:
    """Bytes free where ``target`` is or will be."""
    return disk_usage(target)[2]


def _nearest(target: Path) -> Path:
    """``target``, or the folder above it that is there already."""
    return next(p for p in [target, *target.absolute().parents] if p.exists())


def check_space(plan: Plan, target: Path, only: set[str] | None = None) -> None:
    """Whether the disk has room for what ``plan``, or ``only`` some files of it, still needs.

    Raises:
        OSError: not; with both figures.
    """
    needed, free = missing_bytes(plan, target, only), free_bytes(target)
    if needed > free:
        raise OSError(f"{target}: needs {amount(needed)}, {amount(free)} are free; nothing was written")


def show(plan: Plan, target: Path) -> None:
    """Print what ``execute`` would do: files, bytes, room, and minutes at the rate of a short copy to that disk.

    Raises:
        OSError: what ``execute`` would raise before it writes.
    """
    check_target(plan, target)
    if is_made(plan, target):
        print(_made_already(plan, target))
        return
    plan.tell()
    if os.path.lexists(target / UNFINISHED):
        os.close(_lock(target / UNFINISHED))
    total, read = plan.nbytes, sum(f.stat().st_size for f in plan.sources)
    rate = _copy_rate(plan.sources[0], _nearest(target))
    print(f"{plan.what}: {len(plan.sources)} files -> {target}")
    for name, size in plan.sizes.items():
        print(f"  {amount(size):>13}  {printable(name)}")
    made = replace(record(plan), samples=dict.fromkeys(plan.sizes, "0" * 64))  # as long as with the real ones
    for name, text in (plan.texts | {RECORD: made.to_json()}).items():
        print(f"  {amount(len(text)):>13}  {printable(name)}")
    print(f"read {amount(read)}, write {amount(total)}")
    print(f"room needed {amount(missing_bytes(plan, target))}, free {amount(free_bytes(target))}")
    print(f"about {max(read, total) / rate / 60:.1f} minutes, copying {amount(rate)}/s as just measured")
    check_space(plan, target)


def _copy_rate(file: Path, folder: Path, most: int = 256 << 20) -> float:
    """Bytes per second of copying the beginning of ``file`` to ``folder``'s disk; nothing is left there."""
    most = min(most, free_bytes(folder) // 2)
    with file.open("rb") as source, tempfile.TemporaryFile(dir=folder) as copy:
        began, done = time.monotonic(), 0
        while done < most and (data := source.read(CHUNK)):
            done += copy.write(data)
        os.fsync(copy.fileno())
        return max(done, 1) / (time.monotonic() - began)


def _part(target: Path, name: str) -> Path:
    return target / f"{name}.part"


# ------------------------------------------------------------------------------------------------------ journal


@contextmanager
def open_journal(
    what: str, fingerprint: str, target: Path, files: Iterable[str] = (), replace: bool = False
) -> Iterator[Journal]:
    """The folder's journal, locked: new, or with what an interrupted run of the same ``fingerprint`` left in it.

    Raises:
        FileExistsError: another run is at work in ``target``, or left something unfinished there; or the journal is
            damaged.
    """
    path = target / UNFINISHED
    folder = target.stat()
    boot = f"{BOOT.read_text().strip() if BOOT.exists() else ''} {folder.st_dev} {folder.st_ino}"
    fd = _lock(path)
    fresh = Journal(fd, what, fingerprint, boot, list(files), replace, new=True)
    first = {"what": what, "plan": fingerprint, "boot": boot, "files": fresh.files, "replace": replace}
    line = f"{json.dumps(first, ensure_ascii=False)}\n".encode()
    try:
        text = ours.read_small(path)
        if b"\n" not in text and line.startswith(text):  # new, or its first line was never finished
            os.ftruncate(fd, 0)
            try:
                write_all(fd, line)
            except OSError:
                path.unlink()
                raise
            yield fresh
            return
        journal = parse(path, text)
        check_same(journal, what, fingerprint, target)
        journal.fd = fd
        os.ftruncate(fd, text.rindex(b"\n") + 1)
        # After a restart of the machine what was written may be lost, and a copy of the folder that was made while a
        # run was at it may lack what its journal says: begin anew.
        if journal.boot != boot:
            for name in journal.files if journal.naming else ():
                if os.path.lexists(target / name) and not os.path.lexists(_part(target, name)):
                    os.replace(target / name, _part(target, name))
            journal.add(f"boot {boot}")
            journal.done, journal.naming = set(), False
        yield journal
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | ours.PLAIN
    try:
        import fcntl
    except ImportError:  # Windows has none: two runs in one folder are not told apart there
        return os.open(path, flags, 0o644)
    while True:
        fd = os.open(path, flags, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise FileExistsError(f"{path.parent}: another run is writing into it; wait for it or stop it") from None
        except FileNotFoundError:
            pass  # a run that was ending removed the journal after we had opened it
        os.close(fd)


# -------------------------------------------------------------------------------------------------------- steps


def _touched(plan: Plan, i: int) -> set[str]:
    return {name for op in plan.steps[i] for name in op.targets}


def _prepare(plan: Plan, target: Path, journal: Journal) -> list[int]:
    """Lay out the files, so that every step finds its place; the steps that are left."""
    wanted = plan.sizes.keys() & journal.files
    fresh = {name for name in wanted if not _laid_out(target, name, plan.sizes[name], journal)}
    again = [i for i in journal.done if i < len(plan.steps) and _touched(plan, i) & fresh]
    if again:
        journal.add(f"again {' '.join(map(str, again))}")
        journal.done -= set(again)
    for name in sorted(fresh):
        part, final = _part(target, name), target / name
        if journal.naming and os.path.lexists(final) and not os.path.lexists(part):
            os.replace(final, part)  # it had its final name already, but is not as it was left
        try:
            _put(part, plan.heads[name], plan.sizes[name], journal.new)
        except FileExistsError:
            if journal.new:  # somebody else made that file since our check: the journal must not call it ours
                (target / UNFINISHED).unlink()
            raise
    todo = {i: _touched(plan, i) for i in range(len(plan.steps)) if i not in journal.done}
    return [i for i, touched in todo.items() if not touched or touched & wanted]


def _laid_out(target: Path, name: str, size: int, journal: Journal) -> bool:
    """Whether what the steps that are done wrote to ``name`` is there."""
    part, final = _part(target, name), target / name
    there, counts = (part, bool(journal.done)) if os.path.lexists(part) else (final, journal.naming)
    return counts and ours.is_plain(there) and there.lstat().st_size == size


def _put(path: Path, data: bytes, size: int, new: bool = False) -> None:
    """Make ``path``, which must not be there if it is ``new``, begin with ``data`` and be ``size`` bytes long."""
    fd = ours.create(path, ours=not new)
    try:
        os.ftruncate(fd, 0)
        write_all(fd, data)
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _name(plan: Plan, target: Path, journal: Journal) -> None:
    """Everything gets its name, by renaming alone; config.json and the record come last."""
    made = replace(record(plan), samples=_samples(plan, target, journal))
    for name, text in (plan.texts | {RECORD: made.to_json()}).items():
        if name in journal.files and not _is_text(target / name, text):
            _put(_part(target, name), text, len(text))
    ours.refuse(target, _changed(plan, target, journal))  # somebody may have changed them meanwhile
    if not journal.naming:
        journal.add(NAMING)
    for name in _names(plan):
        if name in journal.files and os.path.lexists(_part(target, name)):
            os.replace(_part(target, name), target / name)
    (target / UNFINISHED).unlink()
