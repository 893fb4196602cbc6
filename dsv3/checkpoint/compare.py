"""Holds a folder against a ``Plan``: is it, byte for byte, what the plan would write?"""

import json
from bisect import bisect_right
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .plan import Plan, Sources
from .read import some
from .write import WORKERS


@dataclass
class Differences:
    """What is not as planned.

    Attributes:
        files: file -> what is wrong with it as a whole: missing, another size, another header, other text.
        tensors: names of tensors whose bytes differ, with their file.
        steps: the plan's steps that would write something else than what is there.
    """

    files: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    steps: set[int] = field(default_factory=set)

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
        problem = _whole_file(folder / name, plan.sizes[name], head)
        if problem:
            found.files[name] = problem
    for name, text in plan.texts.items():
        if not (folder / name).is_file():
            found.files[name] = "missing"
        elif (folder / name).stat().st_size != len(text) or (folder / name).read_bytes() != text:
            found.files[name] = "other content"
    sources = Sources([*plan.sources, *(folder / n for n in plan.sizes if n not in found.files)])
    differing: dict[str, set[int]] = defaultdict(set)

    def step(i: int) -> bool:
        equal = True
        for op in plan.steps[i]:
            for name, at, data in op.chunks(sources):
                if name in found.files:
                    equal = False
                elif sources.read(folder / name, at, len(data)) != data:
                    differing[name] |= _where(data, sources.read(folder / name, at, len(data)), at)
                    equal = False
        return equal

    try:
        with ThreadPoolExecutor(workers) as pool:
            for i, equal in enumerate(pool.map(step, range(len(plan.steps)))):
                if not equal:
                    found.steps.add(i)
    finally:
        sources.close()
    for name, places in sorted(differing.items()):
        found.tensors |= dict.fromkeys(_names(plan.heads[name], places), name)
    return found


def _whole_file(file: Path, size: int, head: bytes) -> str | None:
    if not file.is_file():
        return "missing"
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
