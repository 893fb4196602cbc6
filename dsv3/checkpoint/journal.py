"""The journal of a run: what it makes, and what of that is done. ``write`` keeps it; here is what it says."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from . import ours
from .read import UNFINISHED

HEAD = b'{"what": '  # how a journal begins
NAMING = "naming"  # the line that is written before files get their final names


@dataclass
class Journal:
    """What a run is about, in a first line, and what of it is done, a line each.

    Attributes:
        fd: to append to.
        what: the run in words.
        plan: its fingerprint.
        files: all that it makes; each, and each with ``.part`` behind it, is ours.
        replace: whatever is there under their names shall be replaced: a person asked for a repair.
        boot: the start of the machine, and the folder (device and inode), that the steps were done in; under another
            start, or in a copy of the folder, they count no more.
        done: numbers of the plan's steps.
        new: no run before this one has worked under it.
        naming: the files are getting their final names; what is no longer a ``.part`` has its.
    """

    fd: int
    what: str
    plan: str
    boot: str
    files: list[str] = field(default_factory=list)
    replace: bool = False
    done: set[int] = field(default_factory=set)
    naming: bool = False
    new: bool = False

    def add(self, line: object) -> None:
        """One write of one line: it is there whole or, if the process dies, torn and then ignored."""
        end = os.fstat(self.fd).st_size
        try:
            write_all(self.fd, f"{line}\n".encode())
        except OSError:  # a full disk: half a line must not stay, or the next one would be joined to it
            os.ftruncate(self.fd, end)
            raise


def read_journal(target: Path) -> Journal | None:
    """What the journal in ``target`` says; None if there is none, or none yet.

    Raises:
        FileExistsError: something else bears its name.
    """
    path = target / UNFINISHED
    if not os.path.lexists(path):
        return None
    if not ours.is_writable(path):
        raise FileExistsError(f"{path}: a link or no regular file, so no journal of dsv3; move it away")
    try:
        text = ours.read_small(path)
    except ValueError:  # longer than any journal: parse calls it damaged
        text = b"\n"
    torn = b"\n" not in text and text[: len(HEAD)] == HEAD[: len(text)]
    return None if torn else parse(path, text)


def parse(path: Path, text: bytes) -> Journal:
    """The journal that ``text``, the content of ``path``, is.

    Raises:
        FileExistsError: ``text`` is not what a journal holds.
    """
    try:
        first, *lines = text.decode().split("\n")[:-1]
        journal = Journal(-1, **{"files": [], "replace": False} | json.loads(first))
        kinds = {"what": str, "plan": str, "boot": str, "files": list, "replace": bool, "done": set, "naming": bool}
        if any(type(getattr(journal, name)) is not kind for name, kind in kinds.items()):
            raise ValueError
        if not all(map(ours.inside, journal.files)):
            raise ValueError
        for line in lines:
            if line == NAMING:
                journal.naming = True
            elif line.startswith("boot "):
                journal.boot, journal.done, journal.naming = line.removeprefix("boot "), set(), False
            elif line.startswith("again "):
                journal.done -= set(map(int, line.split()[1:]))
            else:
                journal.done.add(int(line))
    except (ValueError, TypeError, RecursionError):
        raise FileExistsError(
            f"{path}: damaged, or no journal of this version; nothing was changed; "
            "move it and the .part files beside it away, then run the same command again"
        ) from None
    return journal


def check_same(journal: Journal, what: str, fingerprint: str, target: Path) -> None:
    """Whether the journal was begun by this run: ``what`` it is, and its plan's ``fingerprint``.

    Raises:
        FileExistsError: the journal is another run's.
    """
    if journal.plan != fingerprint:
        changed = "its input changed since, or is another one; " if journal.what == what else ""
        rest = "the folder" if journal.naming else f"{UNFINISHED} and the .part files there"
        raise FileExistsError(
            f"{target}: holds unfinished work of another run ({journal.what}); {changed}"
            f"finish that with the same command and the same input, or remove {rest}"
        )


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
