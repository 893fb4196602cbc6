"""ModelScope and Hugging Face through their own clients, each call in a process of its own.

A client's threads, bars and environment then stay out of ours, and it can be stopped at once. The process runs
``main``: it prints one JSON document, and ends when the one that started it does.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Hub = Literal["modelscope", "huggingface"]
HUBS: tuple[Hub, ...] = ("modelscope", "huggingface")
CACHE = ".cache"  # beside the files: what the clients keep for themselves
WORKERS = 8  # files that are fetched at the same time
FINAL = (401, 403, 404)  # answers to a request for the list: no such model, or not for everybody
MOST_FILES, LONGEST_NAME = 100_000, 1000  # that a list may have
MOST_MEMORY = 4 << 30  # bytes for reading a list
NO_LIST = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError)


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it; ``git_sha1`` is git's hash, of files that are not in LFS."""

    name: str
    nbytes: int | None
    sha256: str | None
    git_sha1: str | None = None


def listing(hub: Hub, model: str) -> tuple[str, list[HubFile]]:
    """The revision that the hub offers now, and its files. Imports the client.

    Raises:
        ValueError: what the hub lists are no files.
    """
    rows: list[tuple[Any, Any, Any, Any]]  # name, size, sha256, git's hash: not looked at yet
    revision: Any
    if hub == "modelscope":
        from modelscope_hub.api import HubApi  # modelscope's own get_model_files leaves the hashes out

        found = HubApi().list_repo_files(model, "model", revision="master")
        revision, rows = "master", [(r.path, r.size, r.sha256, None) for r in found if r.type != "tree"]
    else:
        from huggingface_hub import HfApi

        info = HfApi().model_info(model, files_metadata=True)
        # Files in LFS have their sha256, the others git's hash.
        files = info.siblings or []
        rows = [(s.rfilename, s.size, s.lfs and s.lfs.sha256, None if s.lfs else s.blob_id) for s in files]
        revision = info.sha
    if not 0 < len(rows) <= MOST_FILES:
        raise ValueError(f"{len(rows)} files, should be 1 to {MOST_FILES}")
    if not (type(revision) is str and re.fullmatch(r"[\w.-]{1,100}", revision)):
        raise ValueError(f"not a revision: {_shown(revision)}")
    return revision, [hub_file(*row) for row in rows]


def hub_file(name: Any, nbytes: Any, sha256: Any, git_sha1: Any = None) -> HubFile:
    """A row of the hub's list: its size as a number, its hash in small letters.

    Raises:
        ValueError: a name, a size or a hash that is none.
    """
    if type(name) is not str or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"not a file name: {_shown(name)}")
    if type(nbytes) is str and re.fullmatch("[0-9]{1,19}", nbytes):
        nbytes = int(nbytes)
    # ModelScope's client says 0 where it cannot read the size.
    unread = nbytes == 0 and type(sha256) is str and sha256.lower() not in ("", hashlib.sha256().hexdigest())
    if nbytes is not None and not (type(nbytes) is int and 0 <= nbytes < 1 << 60) or unread:
        raise ValueError(f"{_shown(name)}: not a size: {_shown(nbytes)}")
    for value, digits in ((sha256, 64), (git_sha1, 40)):
        if value and not (type(value) is str and re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value)):
            raise ValueError(f"{_shown(name)}: not a hash: {_shown(value)}")
    return HubFile(name, nbytes, (sha256 or "").lower() or None, (git_sha1 or "").lower() or None)


def _shown(value: Any) -> str:
    return f"{value[:100] if type(value) is str else value!r:.102}"


def fetch(hub: Hub, model: str, revision: str, files: list[HubFile], folder: Path) -> None:
    """Fetch ``files`` into ``folder``, going on from what is there. Imports the client."""
    if hub == "modelscope":
        from modelscope_hub.api import HubApi

        # Our list, with hashes in small letters: the client takes a hash in capitals for another one.
        rows = [{"Path": f.name, "Size": f.nbytes, "Sha256": f.sha256} for f in files]
        HubApi().download_repo(model, "model", revision=revision, local_dir=folder, file_list=rows, max_workers=WORKERS)
    else:
        from huggingface_hub import snapshot_download

        exactly = [glob.escape(f.name) for f in files]
        snapshot_download(model, revision=revision, local_dir=folder, allow_patterns=exactly, max_workers=WORKERS)


def environment(folder: Path) -> dict[str, str]:
    """The environment of the client's process: quiet, and nothing written outside ``folder``."""
    inside = folder / CACHE
    ours = {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_XET_CACHE": str(inside / "xet"),
        "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0",  # it would hold up to 10 GB beside the files
        "MODELSCOPE_CACHE": str(inside / "modelscope"),
        "MODELSCOPE_HOME": str(inside / "modelscope"),  # not the user's: it keeps a login there, and unpickles it
        "MODELSCOPE_LOG_LEVEL": "40",
        "PYTHONUNBUFFERED": "1",
    }
    return os.environ | ours


def is_final(error: BaseException, verb: str) -> bool:
    """Whether another try would fail in the same way."""
    if isinstance(error, ImportError):
        return True
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        return True
    codes = {getattr(error, "status_code", None), getattr(getattr(error, "response", None), "status_code", None)}
    # While fetching, 403 may mean that a file's address has expired; the next try gets a new one.
    return verb == "list" and (bool(codes & set(FINAL)) or _is_no_list(error))


def _is_no_list(error: BaseException) -> bool:
    """Whether the client could not make sense of the hub's list; a page that is no JSON may be a network's login."""
    return isinstance(error, NO_LIST) and not isinstance(error, (json.JSONDecodeError, OSError))


def one_line(error: BaseException) -> str:
    """One line; for a failed snapshot the first file's own reason."""
    if isinstance(error, ImportError):
        return str(error)
    failed = getattr(error, "failed_files", None) or {}
    for name, reason in failed.items():
        return f"{name}: {one_line(reason)}"
    text = "".join(c if c.isprintable() else " " for c in str(error)[:10_000])
    return f"{type(error).__name__}: {without_secrets(' '.join(text.split()))[:300]}"


def without_secrets(text: str) -> str:
    """``text`` without logins and queries of addresses, and without tokens."""
    text = re.sub(r"//[^\s/'\"]*@", "//***@", text)
    text = re.sub(r"\?[^\s'\"()<>]*=[^\s'\"()<>]*", "?***", text)
    text = re.sub(r"\b(hf_\w{20}|ms-[\w-]{20}|sk-[\w-]{20}|Bearer )[\w.-]*", "***", text)
    for name, value in os.environ.items():
        if re.search("TOKEN|KEY|SECRET|PASSWORD|COOKIE", name, re.IGNORECASE) and len(value) >= 8:
            text = text.replace(value, "***")
    return text


def _limit_memory() -> None:
    """A list may be of any length; where the system cannot limit, nothing is limited."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def main() -> None:
    """``list HUB MODEL`` or ``fetch HUB MODEL REVISION FOLDER``, the files as one JSON line on stdin."""
    verb, name, model, *rest = sys.argv[1:]
    hub = next(hub for hub in HUBS if hub == name)
    answer: dict[str, Any] = {}
    files = [HubFile(**f) for f in json.loads(sys.stdin.readline())]
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    try:
        if verb == "list":
            _limit_memory()
            revision, found = listing(hub, model)
            answer = {"revision": revision, "files": [asdict(f) for f in found]}
        else:
            fetch(hub, model, rest[0], files, Path(rest[1]))
    except Exception as error:  # clients raise anything; the process that started this one decides about another try
        first = next(iter((getattr(error, "failed_files", None) or {}).values()), error)
        said = "the hub's list makes no sense: " if verb == "list" and _is_no_list(error) else ""
        answer = {"error": said + one_line(error), "final": is_final(error, verb) or is_final(first, verb)}
        if isinstance(error, ImportError):
            package = {"modelscope": "modelscope", "huggingface": "huggingface_hub"}[hub]
            answer = {"error": f"{package} is not installed: pip install {package}", "final": True, "uninstalled": True}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # a client's threads may still be at work: do not wait for them


if __name__ == "__main__":
    main()
