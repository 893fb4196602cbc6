"""What is ours: a file that our journal names, or that is still as our record says. Nothing else is changed or removed.

A run names all files that it will make in the first line of its journal, before it makes any (``write.open_journal``).
When it ends it leaves a record in the folder. Links and special files are never ours. Everything that writes a
checkpoint asks here.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..outside import small, some
from .plan import sample

RECORD = ".dsv3-made"
OVERLOOKED = "lost+found"  # every new ext4 disk has such a folder; it does not count as somebody's
MOST = 4 << 20  # bytes of a record or journal; ours are far smaller
# Open no link, and do not wait at a FIFO for somebody at its other end. Windows has neither flag.
PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Record:
    """What a run that has ended made.

    Attributes:
        what: the run in words, as in its plan.
        origin: of what: the hash of the sources, as in its plan.
        files: name -> bytes, of everything it made.
        texts: name -> sha256, of the small files among them.
        samples: name -> ``plan.sample``, of the others: one that differs is somebody's own.
    """

    what: str
    origin: str
    files: dict[str, int]
    texts: dict[str, str]
    samples: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()


def read_record(folder: Path) -> Record | None:
    """The folder's record; None if there is none, or something else bears its name."""
    try:
        value = json.loads(read_small(folder / RECORD))
        record = Record(**value)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    strings = [record.what, record.origin]
    maps = [(record.files, int), (record.texts, str), (record.samples, str)]
    well_typed = all(type(s) is str for s in strings) and all(
        type(m) is dict and all(inside(k) and type(v) is kind for k, v in m.items()) for m, kind in maps
    )
    named = well_typed and record.texts.keys() | record.samples.keys() <= record.files.keys()
    return record if named else None


def read_small(path: Path) -> bytes:
    """The content of a journal or a record.

    Raises:
        OSError, ValueError: no regular file itself, or longer than ``MOST``.
    """
    if not is_plain(path):
        raise ValueError(f"{path}: not a regular file")
    return small(path, MOST)


def inside(name: Any) -> bool:
    """Whether ``name`` is a path that stays in the folder it is joined to."""
    if type(name) is not str or name in ("", ".") or name[0] == "/":
        return False
    return ".." not in name.split("/") and "\0" not in name


def is_plain(path: Path) -> bool:
    """Whether a regular file is there, itself and not by a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_writable(path: Path) -> bool:
    """Whether a regular file is there that is nowhere else, so that writing to it changes nothing else."""
    return is_plain(path) and path.lstat().st_nlink == 1


def is_ours(folder: Path, name: str, record: Record | None) -> bool:
    """Whether the file ``name`` is there as ``record`` says that we left it; long files are read in samples."""
    file = folder / name
    if record is None or not is_plain(file):
        return False
    if name in record.texts:
        return has_digest(file, record.files[name], record.texts[name])
    if name in record.samples:
        return file.lstat().st_size == record.files[name] and sample(file) == record.samples[name]
    return name == RECORD


def has_digest(path: Path, nbytes: int, sha256: str) -> bool:
    """Whether the regular file ``path`` has this size and hash."""
    if not is_plain(path) or path.lstat().st_size != nbytes:
        return False
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() == sha256


def strangers(folder: Path, known: Iterable[str]) -> list[str]:
    """What lies in ``folder`` beside the files ``known`` (paths with ``/``), sorted.

    Sub-folders with known files are looked into; of another one only the name is said.
    """
    known = set(known)
    parents = {str(p) for name in known for p in PurePosixPath(name).parents} - {"."}
    found, look = [], [""]
    for under in look:
        if not os.path.lexists(folder / under):
            continue
        for entry in os.scandir(folder / under):
            name = under + entry.name
            if entry.is_dir(follow_symlinks=False):
                if name in parents:
                    look.append(f"{name}/")
                elif name != OVERLOOKED:
                    found.append(f"{name}/")
            elif name not in known:
                found.append(name)
    return sorted(found)


def refuse(folder: Path, names: list[str]) -> None:
    """Stop if there are ``names``: what lies in ``folder`` and is not ours.

    Raises:
        FileExistsError: there are ``names``: files in ``folder`` that are not ours.
    """
    if names:
        shown = some([f"{name} (damaged)" if name == RECORD else name for name in names])
        if any(name.endswith(".safetensors") for name in names):
            shown = f"another checkpoint ({shown})"
        raise FileExistsError(
            f"{folder}: holds {shown}, which dsv3 did not make or somebody changed since; "
            "give an empty folder or move them away; nothing was written"
        )


def create(path: Path, ours: bool) -> int:
    """A file descriptor to write to: of a new file, or, where the journal says that it is ours, of the one there.

    Raises:
        FileExistsError: something else bears the name; it stays.
    """
    if not ours or not os.path.lexists(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAIN, 0o666)
    if is_writable(path):
        fd = os.open(path, os.O_RDWR | PLAIN)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    raise FileExistsError(f"{path}: a link or no regular file; move it away")


def check_separate(source: Path, target: Path) -> None:
    """Whether the output goes into another folder than the input comes from.

    Raises:
        ValueError: both are the same folder, by whatever path, link or mount.
    """
    same = source.resolve() == target.resolve() or (
        source.exists() and target.exists() and os.path.samefile(source, target)
    )
    if same:
        raise ValueError(f"{target}: the output folder is the input folder; give another")


def path(text: str) -> Path:
    """A path on the command line, for argparse: ``Path("")`` would be the current folder.

    Raises:
        FileNotFoundError: it is empty.
    """
    if not text.strip():
        raise FileNotFoundError("a path is empty (is a variable unset?); for the current folder write .")
    return Path(text)
