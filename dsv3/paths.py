"""Where things live: the one place that knows. ``DSV3_HOME``, else the AutoDL data disk, else the user's cache.

Any user may ask: without a home folder, with one that is read-only, and where other folders are closed.
"""

import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
TINY_R1 = ASSETS / "tiny-r1"
# Folders of the system: in a report they say nothing about a person.
SYSTEM = ("/bin/", "/dev/", "/etc/", "/lib/", "/lib64/", "/opt/conda/", "/proc/", "/sbin/", "/sys/", "/usr/")
AUTODL_DATA = Path("/root/autodl-tmp")  # the data disk of an AutoDL instance: large, fast, not saved in an image
AUTODL_SHARED = Path("/root/autodl-fs")  # network disk, shared by a region's instances
AUTODL_PROXY = Path("/etc/network_turbo")  # sets the proxy that speeds up GitHub and Hugging Face


def home(env: Mapping[str, str] = os.environ, data_disk: Path = AUTODL_DATA) -> Path:
    """The folder for checkpoints and what is made of them; it need not exist.

    Raises:
        ValueError: ``DSV3_HOME`` begins with ``~``, and there is no user's folder.
        PermissionError: there is no place but a temporary folder that somebody else has made.
    """
    if env.get("DSV3_HOME"):
        return expand(env["DSV3_HOME"], "DSV3_HOME")
    if can_write(data_disk):
        return data_disk / "dsv3"
    user = user_folder()
    if sys.platform == "win32":
        cache = env.get("LOCALAPPDATA") or user and user / "AppData" / "Local"
    else:
        cache = env.get("XDG_CACHE_HOME") or user and user / ".cache"
    return _writable(Path(cache) / "dsv3" if cache else None)


def checkpoint(name: str) -> Path:
    """Where the checkpoint ``name`` belongs: ``DeepSeek-R1``, ``DeepSeek-R1-bf16``."""
    return home() / name


def user_folder() -> Path | None:
    """The user's folder, which need not exist; None for a user without one."""
    try:
        return Path.home()
    except RuntimeError:  # HOME is not set, and the system does not know this user
        return None


def can_keep(name: str) -> bool:
    """Whether another program can keep things in ``name`` below the user's folder."""
    user = user_folder()
    return user is not None and can_make(user / name)


def expand(path: str, name: str) -> Path:
    """``path``, a setting called ``name``, with the user's folder for ``~``.

    Raises:
        ValueError: there is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{name} = {path}: this user has no folder ~; give the whole path") from None


def short(path: Path) -> str:
    """The path for people: ``~`` for the user's folder."""
    user = user_folder()
    if user and user != Path(user.anchor) and path.is_relative_to(user):
        return f"~/{path.relative_to(user)}"
    return str(path)


# Below a closed folder, such as /root for everybody else, Path.is_dir and Path.exists raise PermissionError in Python
# 3.11 and 3.12; those of os.path answer no.


def can_write(folder: Path) -> bool:
    """Whether ``folder`` is there, and this user may make files in it."""
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def can_make(folder: Path) -> bool:
    """Whether this user may make files in ``folder``, or make it."""
    folder = folder.absolute()
    return can_write(next(p for p in [folder, *folder.parents] if os.path.exists(p)))


def _writable(cache: Path | None) -> Path:
    """``cache``; for a user who has none, or cannot make one, a temporary folder."""
    if cache and (sys.platform == "win32" or os.path.isdir(cache) or can_make(cache)):
        return cache
    own = Path(tempfile.gettempdir()) / f"dsv3-{os.getuid()}"
    if os.path.lexists(own) and os.lstat(own).st_uid != os.getuid():
        raise PermissionError(f"{own}: somebody else's; set DSV3_HOME to a folder of yours")
    return own


# ------------------------------------------------------------------------------------- a result in a file of its own

KNOWN_BY = 1 << 20  # bytes from which it is told what a file is
# Open no link, and do not wait at a FIFO for somebody at its other end. Windows has neither flag.
PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def check_result(file: Path, known: Callable[[bytes], bool]) -> None:
    """Whether ``write_result`` may write ``file``; to be asked before the work.

    Args:
        known: whether a file that begins with these bytes (``KNOWN_BY`` at most) is such a result, too.

    Raises:
        FileNotFoundError, PermissionError: its folder is not there, or not to be written to.
        FileExistsError: something else bears the name; it stays.
    """
    if not os.path.isdir(file.parent):
        raise FileNotFoundError(f"{file.parent}: no such folder")
    if not can_write(file.parent):
        raise PermissionError(f"{file.parent}: cannot be written to")
    if os.path.lexists(file) and not (stat.S_ISREG(file.lstat().st_mode) and known(beginning(file))):
        raise FileExistsError(
            f"{file}: is there, and no earlier result of this kind; move it away or give another name"
        )


def write_result(file: Path, data: bytes, known: Callable[[bytes], bool]) -> None:
    """Write ``data`` to ``file``, whole or not at all; arguments and errors as in ``check_result``."""
    check_result(file, known)
    part = file.with_name(f".dsv3-{secrets.token_hex(8)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, 0o666)
    try:
        with open(fd, "wb") as f:
            f.write(data)
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def beginning(file: Path) -> bytes:
    """The first ``KNOWN_BY`` bytes of ``file``, itself and not by a link."""
    with open(os.open(file, os.O_RDONLY | PLAIN), "rb") as f:
        return f.read(KNOWN_BY)
