"""Holds a folder against a ``Plan``: is it, byte for byte, what the plan would write?"""

import json
import os
from bisect import bisect_right
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..outside import some
from .ours import RECORD, read_record, strangers
from .plan import Op, Plan, Sources
from .read import check_link
from .write import WORKERS

MISSING = "missing"
STRANGER = "not of this checkpoint"
NO_FILE = ("a link out of the folder", "not a regular file")


@dataclass
class Differences:
    """What is not as planned.

    Attributes:
        files: file -> what is wrong with it as a whole: missing, another size, another header, other text, not planned.
        tensors: names of tensors whose bytes differ, with their file.
    """

    files: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.files or self.tensors)

    def __str__(self) -> str:
        wrong = [f"{name}: {what}" for name, what in self.files.items()]
        wrong += [f"{file}: {name} differs" for name, file in self.tensors.items()]
        return some(wrong)


def compare(plan: Plan, folder: Path, workers: int = WORKERS) -> Differences:
    """Read ``folder`` and the plan's sources, and find what differs. Memory: the plan and a chunk for each worker."""
    found = Differences()
    for name, head in plan.heads.items():
        problem = _whole_file(folder, name, plan.sizes[name], head)
        if problem:
            found.files[name] = problem
    for name, text in plan.texts.items():
        problem = _whole_file(folder, name, len(text), text)
        if problem:
            found.files[name] = problem if problem in (MISSING, *NO_FILE) else "other content"
    known = [*plan.sizes, *plan.texts, *([RECORD] if read_record(folder) else [])]
    found.files |= dict.fromkeys(strangers(folder, known), STRANGER)
    sources = Sources([*plan.sources, *(folder / n for n in plan.sizes if n not in found.files)])
    differing: dict[str, set[int]] = defaultdict(set)

    def step(ops: list[Op]) -> None:
        for op in ops:
            for name, at, data in op.chunks(sources):
                if name not in found.files and sources.read(folder / name, at, len(data)) != data:
                    differing[name] |= _where(data, sources.read(folder / name, at, len(data)), at)

    try:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(step, plan.steps):
                pass
    finally:
        sources.close()
    for name, places in sorted(differing.items()):
        found.tensors |= dict.fromkeys(_names(plan.heads[name], places), name)
    return found


def _whole_file(folder: Path, name: str, size: int, head: bytes) -> str | None:
    file = folder / name
    try:
        check_link(folder, file)
    except ValueError:
        return NO_FILE[0]
    if not file.is_file():
        return NO_FILE[1] if os.path.lexists(file) else MISSING
    if file.stat().st_size != size:
        return f"{file.stat().st_size} bytes, should be {size}"
    with file.open("rb") as f:
        return None if f.read(len(head)) == head else "another header"


def _where(expected: bytes | bytearray | memoryview, there: bytes, at: int) -> set[int]:
    """Offsets of differing bytes, one for each stretch of them that a tensor could begin in."""
    import numpy as np

    wrong = np.flatnonzero(np.frombuffer(expected, np.uint8) != np.frombuffer(there, np.uint8)) + at
    return set(wrong.tolist()) if len(wrong) < 1000 else {int(w) for w in wrong[:: len(wrong) // 1000]}


def _names(head: bytes, places: set[int]) -> list[str]:
    """The tensors that lie at the offsets ``places`` of the file that begins with ``head``."""
    described = json.loads(head[8:])
    described.pop("__metadata__")
    names = [n for n, t in described.items() if t["data_offsets"][0] < t["data_offsets"][1]]
    begins = [len(head) + described[n]["data_offsets"][0] for n in names]
    return sorted({names[bisect_right(begins, place) - 1] for place in places})
