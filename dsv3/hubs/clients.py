"""ModelScope and Hugging Face through their own clients, each call in a process of its own.

A client's threads, bars and environment then stay out of ours, and it can be stopped at once. The process runs
``main``: it prints one JSON document, and ends when the one that started it does.
"""

import errno
import glob
import json
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Hub = Literal["modelscope", "huggingface"]
HUBS: tuple[Hub, ...] = ("modelscope", "huggingface")
CACHE = ".cache"  # in the target: what the clients keep for themselves
WORKERS = 8  # files at once
FINAL = (401, 403, 404)  # of a listing: no such model, or not for everybody


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it; ``git_sha1`` is git's hash, of files that are not in LFS."""

    name: str
    nbytes: int | None
    sha256: str | None
    git_sha1: str | None = None


def listing(hub: Hub, model: str) -> tuple[str, list[HubFile]]:
    """The revision that the hub offers now, and its files. Imports the client."""
    if hub == "modelscope":
        from modelscope_hub.api import HubApi  # modelscope's own get_model_files leaves the hashes out

        rows = HubApi().list_repo_files(model, "model", revision="master")
        return "master", [HubFile(r.path, r.size, r.sha256) for r in rows if r.type != "tree"]
    from huggingface_hub import HfApi

    info = HfApi().model_info(model, files_metadata=True)
    return info.sha, [_of_sibling(s.rfilename, s.size, s.lfs, s.blob_id) for s in info.siblings]


def _of_sibling(name: str, nbytes: int, lfs: Any, blob_id: str) -> HubFile:
    """LFS files have their sha256, the others git's hash."""
    return HubFile(name, nbytes, lfs.sha256) if lfs else HubFile(name, nbytes, None, blob_id)


def fetch(hub: Hub, model: str, revision: str, names: Iterable[str], target: Path) -> None:
    """Fetch the files ``names`` into ``target``, going on from what is there. Imports the client."""
    if hub == "modelscope":
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download

    exactly = [glob.escape(name) for name in names]
    snapshot_download(model, revision=revision, local_dir=str(target), allow_patterns=exactly, max_workers=WORKERS)


def environment(target: Path) -> dict[str, str]:
    """The environment of the client's process: quiet, and nothing written outside ``target``."""
    inside = target / CACHE
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
    # A file's address may expire (403) and be given anew; a listing's answer stands.
    return verb == "list" and bool(codes & set(FINAL))


def one_line(error: BaseException) -> str:
    """One line; for a failed snapshot the first file's own reason."""
    if isinstance(error, ImportError):
        return str(error)
    failed = getattr(error, "failed_files", None) or {}
    for name, reason in failed.items():
        return f"{name}: {one_line(reason)}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main() -> None:
    """``list HUB MODEL`` or ``fetch HUB MODEL REVISION TARGET``, names as one JSON line on stdin."""
    sys.modules["torch"] = None  # modelscope would import it: 200 MB for nothing
    verb, hub, model, *rest = sys.argv[1:]
    names = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    try:
        if verb == "list":
            revision, files = listing(hub, model)
            answer = {"revision": revision, "files": [asdict(f) for f in files]}
        else:
            fetch(hub, model, rest[0], names, Path(rest[1]))
            answer = {}
    except Exception as error:  # whatever a client raises becomes one line; the caller decides about another try
        first = next(iter((getattr(error, "failed_files", None) or {}).values()), error)
        answer = {"error": one_line(error), "final": is_final(error, verb) or is_final(first, verb)}
        if isinstance(error, ImportError):
            package = {"modelscope": "modelscope", "huggingface": "huggingface_hub"}[hub]
            answer = {"error": f"{package} is not installed: pip install {package}", "final": True, "uninstalled": True}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # without waiting for a client's threads


if __name__ == "__main__":
    main()
