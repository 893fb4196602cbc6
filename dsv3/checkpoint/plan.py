"""What will be written, before any of it is: file headers, sizes, and the steps that fill the files.

``convert``, ``fp8_cast_bf16`` and the others each make a ``Plan``; ``write`` carries it out, ``compare`` holds a folder
against it. A step knows where its bytes go, so steps can be done in any order, by several threads, and again.
"""

import gc
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

from ..outside import SMALL, TOKENIZER, printable, small
from .read import INDEX, ITEMSIZE, Entry, check_link

CHUNK = 1 << 20  # bytes that each thread reads at a time; larger ones would not fit into a CPU's cache
STEP = 256 << 20  # bytes written by one step, about; with smaller ones, threads write to and fro: a third slower
WHOLE = 16 << 20  # bytes; a source up to this size is hashed whole, of a longer one only samples (``sample``)
# The only files beside the tensors that are copied: any other file there may be somebody's secret.
SIDE_FILES = (
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)

Chunks = Iterator[tuple[str, int, bytes | bytearray | memoryview]]  # (file, offset in it, bytes)


class Sources:
    """The files that are read, opened once; ``pread`` may be called by several threads."""

    def __init__(self, files: Iterable[Path]):
        self.open = {file: os.open(file, os.O_RDONLY) for file in files}

    def read(self, file: Path, start: int, nbytes: int) -> bytes:
        """``nbytes`` of ``file`` from ``start`` on.

        Raises:
            ValueError: the file ends early.
        """
        data = os.pread(self.open[file], nbytes, start)
        if len(data) != nbytes:
            raise ValueError(f"{file}: ends at byte {start + len(data)}; it changed while it was read")
        return data

    def close(self) -> None:
        for fd in self.open.values():
            os.close(fd)


class Op(Protocol):
    """Something that makes bytes of the output; the same bytes whenever it is asked."""

    @property
    def nbytes(self) -> int:
        """How many it writes."""
        ...

    @property
    def targets(self) -> Set[str]:
        """The output files that it writes to."""
        ...

    def chunks(self, sources: Sources) -> Chunks:
        """What it writes, piece by piece."""
        ...


class Move(NamedTuple):
    """``nbytes`` of ``source`` from ``start`` on, to ``target`` at ``at``."""

    source: Path
    start: int
    nbytes: int
    target: str
    at: int

    @property
    def targets(self) -> set[str]:
        return {self.target}

    def chunks(self, sources: Sources) -> Chunks:
        for done in range(0, self.nbytes, CHUNK):
            size = min(CHUNK, self.nbytes - done)
            yield self.target, self.at + done, sources.read(self.source, self.start + done, size)


class Columns(NamedTuple):
    """A matrix of ``rows`` rows of ``width`` bytes, cut into columns: each of ``pieces`` is (a, b, target, at).

    It takes the bytes ``a`` to ``b`` of every row. The matrix is read once, whatever the number of pieces.
    """

    source: Path
    start: int
    rows: int
    width: int
    pieces: tuple[tuple[int, int, str, int], ...]

    @property
    def targets(self) -> set[str]:
        return {target for _, _, target, _ in self.pieces}

    @property
    def nbytes(self) -> int:
        return sum(self.rows * (b - a) for a, b, _, _ in self.pieces)

    def chunks(self, sources: Sources) -> Chunks:
        import numpy as np

        step = max(1, CHUNK // self.width)
        for row in range(0, self.rows, step):
            rows = min(step, self.rows - row)
            data = sources.read(self.source, self.start + row * self.width, rows * self.width)
            matrix = np.frombuffer(data, np.uint8).reshape(rows, self.width)
            for a, b, target, at in self.pieces:
                yield target, at + row * (b - a), matrix[:, a:b].tobytes()


class Same(NamedTuple):
    """Writes nothing; says so where a tensor which is left out does not repeat the one that stays."""

    copy: Entry
    original: Entry
    nbytes: int = 0
    targets: frozenset[str] = frozenset()

    def chunks(self, sources: Sources) -> Chunks:
        """Compare the two; there is nothing to write."""
        size = self.copy.stop - self.copy.start
        for at in range(0, size, CHUNK):
            n = min(CHUNK, size - at)
            one = sources.read(self.copy.file, self.copy.start + at, n)
            if one != sources.read(self.original.file, self.original.start + at, n):
                what = f"{self.copy.file}: {self.copy.name} is left out, though not equal to {self.original.name}"
                print(printable(f"{what}: MTP guesses with that one, which changes no answer"), file=sys.stderr)
                return
        return
        yield  # never reached: it makes this function a generator


class Make(NamedTuple):
    """Bytes that a function makes."""

    data: Callable[[], bytes | bytearray | memoryview]
    nbytes: int
    target: str
    at: int

    @property
    def targets(self) -> set[str]:
        return {self.target}

    def chunks(self, sources: Sources) -> Chunks:
        """What the function made, in one piece.

        Raises:
            ValueError: the function made more or fewer bytes than were planned.
        """
        data = self.data()
        if len(data) != self.nbytes:
            raise ValueError(f"{self.target}: {len(data)} bytes for a place of {self.nbytes}")
        yield self.target, self.at, data


class Out(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass
class Plan:
    """The whole output of one run.

    Attributes:
        what: the run in words, for messages.
        heads: output file -> its first bytes: the length and the JSON of its safetensors header.
        sizes: output file -> bytes.
        steps: operations that fill the files behind their heads.
        texts: small files beside them -> content.
        sources: the files that the steps read.
        choice: what of the sources is taken, if the sizes do not tell.
        source: the folder that ``dsv3 verify`` can hold the output against.
        notes: what is not taken as it stands in the sources, a line each.
    """

    what: str
    heads: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    steps: list[list[Op]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)
    choice: str = ""
    source: Path | None = None
    notes: tuple[str, ...] = ()

    def file(self, name: str, tensors: Iterable[Out]) -> dict[str, int]:
        """Lay out a safetensors file of ``tensors`` in this order; tensor name -> its offset in the file."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offsets, at = {}, 0
        for t in tensors:
            stop = at + t.nbytes
            header[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": (at, stop)}
            offsets[t.name], at = at, stop
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.heads[name] = len(text).to_bytes(8, "little") + text
        begin = len(self.heads[name])
        self.sizes[name] = begin + at
        return {tensor: begin + offset for tensor, offset in offsets.items()}

    def fill(self, ops: Iterable[Op]) -> None:
        """Group ``ops`` into steps; moves that go on where the last one ended become one move, long ones several."""
        step: list[Op] = []
        size = 0
        for op in chain.from_iterable((op,) if op.nbytes <= STEP else _pieces(op) for op in ops):
            last = step[-1] if step else None
            if isinstance(op, Move) and isinstance(last, Move) and _goes_on(last, op):
                step[-1] = last._replace(nbytes=last.nbytes + op.nbytes)
            else:
                step.append(op)
            size += op.nbytes
            if size >= STEP:
                self.steps.append(step)
                step, size = [], 0
        if step:
            self.steps.append(step)

    def index(self, where: dict[str, str], total: int) -> None:
        """The index: tensor name -> file name, and the bytes of all tensors."""
        self.json(INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})

    def json(self, name: str, value: object) -> None:
        self.texts[name] = (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    def carry_over(self, source: Path, skip: tuple[str, ...] = ()) -> None:
        """Config, generation config, tokenizer and chat template: what a checkpoint needs beside its tensors.

        Raises:
            OSError, ValueError: one of them is a link out of the folder, no regular file, or far too long.
        """
        for name in SIDE_FILES:
            file = source / name
            if name not in skip and os.path.lexists(file):
                check_link(source, file)
                self.texts[name] = small(file, TOKENIZER if name == "tokenizer.json" else SMALL)

    def tell(self) -> None:
        """Print the notes."""
        for note in self.notes:
            print(printable(note), file=sys.stderr)

    @property
    def nbytes(self) -> int:
        """Bytes of all output files."""
        return sum(self.sizes.values()) + sum(map(len, self.texts.values()))

    @cached_property
    def origin(self) -> str:
        """A hash of the sources' names, sizes and contents, of the long ones in samples, and of ``choice``."""
        with ThreadPoolExecutor(8) as pool:  # more threads than cores: they mostly wait for the disk
            lines = [f"{h} {f.name}\n" for h, f in zip(pool.map(sample, self.sources), self.sources, strict=True)]
        return hashlib.sha256("".join([*lines, self.choice]).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Two plans with one fingerprint write the same bytes: the same layout from the same, unchanged files."""
        seen = hashlib.sha256(f"{self.what}\n{self.origin}\n".encode())
        for file in self.sources:
            seen.update(f"{file.resolve()} {file.stat().st_mtime_ns}\n".encode())
        for name, text in [*self.heads.items(), *self.texts.items()]:
            seen.update(name.encode() + b"\n" + text)
        seen.update(str(len(self.steps)).encode())
        return seen.hexdigest()


def sample(file: Path) -> str:
    """A hash of a file's size and content; of more than ``WHOLE`` bytes only its ends and 64 pieces between them."""
    size = file.stat().st_size
    pieces = [(at, CHUNK) for at in range(0, min(size, WHOLE), CHUNK)]
    if size > WHOLE:
        pieces = [(0, CHUNK), *((size * i // 65, 4096) for i in range(1, 65)), (size - CHUNK, CHUNK)]
    seen = hashlib.sha256(str(size).encode())
    with file.open("rb") as f:
        for start, nbytes in pieces:
            f.seek(start)
            seen.update(f.read(nbytes))
    return seen.hexdigest()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Planning makes a million small objects and no cycles; looking for cycles would take half of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _pieces(op: Op) -> Iterator[Op]:
    if not isinstance(op, Move):
        yield op
        return
    for done in range(0, op.nbytes, STEP):
        yield op._replace(start=op.start + done, nbytes=min(STEP, op.nbytes - done), at=op.at + done)


def _goes_on(last: Move, op: Move) -> bool:
    same = op.source is last.source and op.target == last.target
    return same and op.start == last.start + last.nbytes and op.at == last.at + last.nbytes
