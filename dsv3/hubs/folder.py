"""The folder that a download fills: which names may stand there, and what lies there already that is not ours.

The hub's client works in a folder of its own inside it (``STAGING``), so that nothing it does can touch another file.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from ..checkpoint import ours, read
from ..checkpoint.write import read_journal
from .clients import CACHE, HubFile

STAGING = ".dsv3-fetch"
NO_FOLDERS = (".git", CACHE, "lost+found", "._____temp")  # others keep files there: git, the hubs' clients, the system
MISSING = "missing"


def check_names(files: Iterable[HubFile], target: Path) -> None:
    """Whether ``files`` can be put into ``target`` under the names that the hub gives them.

    Raises:
        ValueError: a name leads out of the folder or into a place of others, is no file name on some system, or is
            there twice.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    root = target.resolve()
    for name in (f.name for f in files):
        parts = name.split("/")
        if not all(re.fullmatch(r"[^\\:]{1,200}", p) and p.isprintable() and p not in (".", "..") for p in parts):
            raise ValueError(f"the hub lists a file that leads out of the folder: {name[:200]!r}; nothing was fetched")
        if not (target / name).resolve().is_relative_to(root):
            raise ValueError(f"{target / name}: a link there leads out of the folder; nothing was fetched")
        first = parts[0].casefold()
        if first.startswith(".dsv3-") or (len(parts) > 1 and first in NO_FOLDERS):
            raise ValueError(f"the hub lists a file in a place of others: {name[:200]!r}; nothing was fetched")
        # Some file systems take capitals and small letters for the same, and two ways to write an accent.
        path = PurePosixPath(unicodedata.normalize("NFC", name).casefold())
        if str(path) in seen:
            raise ValueError(f"the hub lists a file twice: {name[:200]!r}; nothing was fetched")
        seen.add(str(path))
        folders |= {str(p) for p in path.parents}
    if seen & folders:
        raise ValueError(
            f"the hub lists a file that is a folder, too: {min(seen & folders)[:200]!r}; nothing was fetched"
        )


def check_folder(files: Iterable[HubFile], target: Path, verify_only: bool) -> None:
    """Whether ``target`` may be filled with ``files``: it is new, or ours, or holds only files of this checkpoint.

    Raises:
        FileNotFoundError: nothing there to verify.
        FileExistsError: ``target`` is a file, or holds what is not ours and not of this checkpoint.
    """
    if verify_only and not target.is_dir():
        raise FileNotFoundError(f"{target}: no such folder; leave out --verify-only to fetch it")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: exists and is not a folder")
    listed = {f.name for f in files}
    others = sorted(f.name for f in target.glob("*.safetensors") if f.name not in listed)
    if others:
        raise FileExistsError(f"{target}: holds another checkpoint ({others[0]}); give an empty folder or remove it")
    check_places(files, target)
    journal, record = read_journal(target), ours.read_record(target)
    made = {*(journal.files if journal else ()), *([ours.RECORD] if record else ())}
    known = {*listed, *made, read.UNFINISHED}
    others = [name for name in ours.strangers(target, known) if not _of_a_client(target, name)]
    if made:  # the folder is ours, so what people added since is harmless, except under names that we use
        others = [name for name in others if name.startswith(".dsv3-") and name.strip("/") not in made]
    ours.refuse(target, others)


def _of_a_client(target: Path, name: str) -> bool:
    """Whether ``name`` is what git or a hub's client leaves in a folder that a person filled with it."""
    if name == f"{CACHE}/":
        return {p.name for p in (target / CACHE).iterdir()} <= {"huggingface", "modelscope"}
    return name.startswith((".git", "._____temp/")) or name in (".msc", ".mv", ".mdl")


def check_places(files: Iterable[HubFile], target: Path) -> None:
    """Whether each of ``files`` is a regular file in ``target``, in plain folders, or not there yet.

    Raises:
        FileExistsError: a link or something else where a file or its folder is to be.
    """
    for name in (f.name for f in files):
        for path in (*reversed(PurePosixPath(name).parents[:-1]), PurePosixPath(name)):
            if not os.path.lexists(target / path):
                break
            if not (ours.is_plain(target / path) if str(path) == name else _is_folder(target / path)):
                raise FileExistsError(f"{target / path}: a link, or of another kind than the hub's; move it away")


def _is_folder(path: Path) -> bool:
    """Whether a folder is there, itself and not by a link."""
    return path.is_dir() and not path.is_symlink()


def check_content(todo: dict[str, str], target: Path, made: Collection[str]) -> None:
    """Whether the files ``todo`` (name -> what is wrong) are missing or ours (``made``): others are not replaced.

    Raises:
        FileExistsError: one is there with other content, and we did not make it.
    """
    others = [name for name, why in todo.items() if why != MISSING and name not in made]
    if others:
        way_out = "give an empty folder, or --verify-only to replace it"
        raise FileExistsError(f"{target}: {read.some(others)} not as the hub lists it; {way_out}")


def make_staging(staging: Path) -> None:
    """Make the folder ``staging``, or take the one that an earlier run left.

    Raises:
        FileExistsError: a link or something else bears its name.
    """
    try:
        staging.mkdir()
    except FileExistsError:
        if not _is_folder(staging):
            raise FileExistsError(f"{staging}: not a folder that dsv3 made; move it away") from None
