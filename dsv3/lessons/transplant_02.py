"""Lesson 02's parts as a downloader: it fetches a checkpoint from a hub, checks it, and mends it. Imports no torch."""

import gc
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.request import urlopen

from ..checkpoint import read
from ..lab.hub import MODEL, FakeHub
from ..lab.remote import address, getter
from ..paths import TINY_R1
from .part import Transplant

MIXED = ("model-00002-of-000005.safetensors", "model-00004-of-000005.safetensors")
ROUNDS = 3  # in which what is wrong is fetched again


class Came(NamedTuple):
    """What a download brought.

    Attributes:
        wrong: files that are not as the hub lists them.
        missing, extra: tensors, of the index against the files' headers.
        nbytes: of all tensors, computed from types and shapes.
    """

    wrong: list[str]
    missing: set[str]
    extra: set[str]
    nbytes: int


def download(parts: SimpleNamespace, hub: str, folder: Path, model: str = MODEL) -> Came:
    """Fetch ``model`` from ``hub`` into ``folder`` with the five parts; go on with what is there.

    Raises:
        ValueError: the hub lists a name that leads out of the folder.
    """
    with urlopen(f"{hub}/api/v1/models/{model}/repo/files?Revision=master&Recursive=true", timeout=10) as answer:
        rows = json.load(answer)["Data"]["Files"]
    if outside := [row["Path"] for row in rows if parts.leads_out(row["Path"])]:
        raise ValueError(f"the hub lists {outside[0]!r}, which leads out of the folder; nothing was fetched")
    wrong = [row for row in rows if not _is_right(parts, folder / row["Path"], row)]
    for _ in range(ROUNDS):
        for row in wrong:
            _bring(parts, address(model, row["Path"], hub), folder / row["Path"], row["Size"])
        wrong = [row for row in wrong if not _is_right(parts, folder / row["Path"], row)]
    return Came([row["Path"] for row in wrong], *_tensors(parts, folder))


def _is_right(parts: SimpleNamespace, file: Path, row: dict) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as f:
        return parts.as_listed(f, row["Size"], row["Sha256"])


def _bring(parts: SimpleNamespace, url: str, file: Path, size: int) -> None:
    if file.exists() and file.stat().st_size >= size:
        file.unlink()  # all bytes are there, and they are wrong
    file.touch()
    with file.open("r+b") as f:
        try:
            parts.fetch(getter(url), f, size)
        except OSError as error:
            print(f"{file.name}: {error}")


def _tensors(parts: SimpleNamespace, folder: Path) -> tuple[set[str], set[str], int]:
    """Missing and extra tensors, and the bytes of all that are there."""
    found = headers(parts, folder.glob("*.safetensors"))
    try:
        weight_map = json.loads((folder / read.INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError):  # not there, or not what it should be
        weight_map = {}
    missing, extra = parts.misplaced(weight_map, found)
    entries = {name: entry for file in found.values() for name, entry in file.items()}
    weights = [entry for name, entry in entries.items() if not name.endswith("_scale_inv")]
    return missing, extra, sum(parts.stored(dtype, shape) for dtype, shape, *_ in weights)


def headers(parts: SimpleNamespace, files: Iterable[Path]) -> dict[str, dict[str, tuple]]:
    """Each file's tensors, as the part ``header`` reads them; nothing of a file where that fails."""
    found: dict[str, dict[str, tuple]] = {}
    for file in sorted(files):
        with file.open("rb") as f:
            try:
                found[file.name] = parts.header(f)
            except Exception:  # a damaged header, or a wrong part: any error may come
                found[file.name] = {}
    return found


# ---------------------------------------------------------------------------------------------------- the scores


def listed_rightly(parts: SimpleNamespace) -> int:
    """Of tiny-r1's 383 tensors, how many the part ``header`` describes as the package does."""
    found: dict[str, tuple] = {}
    for tensors in headers(parts, TINY_R1.glob("*.safetensors")).values():
        found |= tensors
    return sum(found.get(e.name) == (e.dtype, e.shape, e.start, e.stop) for e in read.open_folder(TINY_R1).values())


def bad_hub() -> FakeHub:
    """A hub on this machine with tiny-r1, at which almost every file's first transfer goes wrong."""
    hub = FakeHub.of_folder(TINY_R1)
    shards = sorted(name for name in hub.files if name.endswith(".safetensors"))
    hub.faults = {name: [fault] for name, fault in zip(shards, ("cut", "flip", "503", "short", "pointer"), strict=True)}
    hub.faults[shards[0]] = ["cut", "cut"]
    hub.faults |= {"tokenizer.json": ["html"], "config.json": ["503", "503"]}
    return hub


def mixed_hub() -> FakeHub:
    """A hub that has two shards under each other's names, with hashes that fit: its own mistake."""
    hub = FakeHub.of_folder(TINY_R1)
    one, other = MIXED
    hub.files[one], hub.files[other] = hub.files[other], hub.files[one]
    return hub


def score(parts: SimpleNamespace) -> int:
    """Of 14 things that a download must bring, how many came out.

    Eleven files, equal byte for byte, from ``bad_hub``; no tensor missing; the sum of bytes that the index says; and
    all the tensors named that ``mixed_hub`` has in the wrong files.
    """
    files = [file for file in TINY_R1.iterdir() if file.is_file() and not file.name.startswith(".")]
    where = json.loads((TINY_R1 / read.INDEX).read_text(encoding="utf-8"))
    swapped = {name for name, file in where["weight_map"].items() if file in MIXED}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with bad_hub().serving() as hub:
            came = download(parts, hub.url, folder)
        right = sum((folder / f.name).read_bytes() == f.read_bytes() for f in files if (folder / f.name).is_file())
        shutil.rmtree(folder)
        folder.mkdir()
        with mixed_hub().serving() as hub:
            mixed = download(parts, hub.url, folder)
    gc.collect()  # a hub and its handler hold each other, with a copy of the model
    whole = (came.missing, came.extra) == (set(), set())
    return right + whole + (came.nbytes == where["metadata"]["total_size"]) + (mixed.missing == mixed.extra == swapped)


TRANSPLANTS = [
    Transplant("all headers of tiny-r1", listed_rightly, 383, ("header", "file's first byte")),
    Transplant("a download from a hub that breaks and lies", score, 14, ("as_listed", "size alone")),
]
