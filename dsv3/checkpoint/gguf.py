"""Reads what a GGUF file says of itself: its architecture, its values, its tensors. No weights, nothing trusted.

Source: docs/gguf.md of ggml; block sizes from ggml-common.h.
"""

import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..outside import open_regular, printable

MAGIC = b"GGUF"
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MOST_HEADER = 512 << 20  # bytes in front of the weights; R1's have 8 MB, with its vocabulary
MOST_THINGS = 1_000_000  # values, tensors, or strings in an array
MOST_TEXT = 16 << 20  # bytes of one string
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
# ggml's number of a type -> its name, weights in a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip


class Weight(NamedTuple):
    """A tensor: ``shape`` as ggml has it, the contiguous dimension first; ``kind`` is ggml's type, a number if new."""

    name: str
    shape: tuple[int, ...]
    kind: str
    nbytes: int | None

    @property
    def routed(self) -> bool:
        """Whether it holds routed experts, of one layer and one matrix."""
        return "_exps." in self.name


class Gguf(NamedTuple):
    """What a file, or all files of a split one, say.

    Attributes:
        values: numbers and texts by name; of an array its length alone.
        nbytes: of the files.
    """

    files: tuple[Path, ...]
    values: dict[str, Any]
    weights: tuple[Weight, ...]
    nbytes: int

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def number(self, name: str) -> int:
        """One of the architecture's numbers, such as ``context_length``; 0 where the file does not say."""
        value = self.values.get(f"{self.architecture}.{name}")
        return value if isinstance(value, int) and value > 0 else 0


def is_meant(path: Path) -> bool:
    """Whether a GGUF file is meant: its name says so, or it is a file at all."""
    return path.suffix == ".gguf" or os.path.isfile(path)


def open_gguf(file: Path) -> Gguf:
    """A GGUF file, with the other files of a split one, whichever of them is named.

    Raises:
        FileNotFoundError: it, or a file of the split, is not there.
        ValueError: not a file, not a GGUF file, one that is truncated, or one that claims what no such file has.
    """
    files = _all_of(file)
    missing = [each.name for each in files if not each.is_file()]
    if missing and len(files) == 1:
        if os.path.lexists(file):
            raise ValueError(f"{file}: not a file, nor a link that leads to one")
        raise FileNotFoundError(f"{file}: no such file")
    if missing:
        raise FileNotFoundError(
            f"{file}: one of {len(files)} files, and {len(missing)} are not there: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; fetch them into the same folder"
        )
    values: dict[str, Any] = {}
    weights: list[Weight] = []
    for each in files:
        with open_regular(each) as f:
            found, tensors = _Reader(f, each).header()
        values = found | values
        weights += tensors
    return Gguf(files, values, tuple(weights), sum(each.stat().st_size for each in files))


def _all_of(file: Path) -> tuple[Path, ...]:
    """The files of a split one, in order; the file itself otherwise."""
    split = SPLIT.fullmatch(file.name)
    if not split or not 1 <= int(split[3]) <= 1000:
        return (file,)
    return tuple(file.with_name(f"{split[1]}-{i:05}-of-{split[3]}.gguf") for i in range(1, int(split[3]) + 1))


class _Reader:
    """Reads one header, front to back, within bounds."""

    def __init__(self, f: BinaryIO, file: Path):
        self.f, self.file, self.size, self.at = f, file, os.fstat(f.fileno()).st_size, 0

    def header(self) -> tuple[dict[str, Any], list[Weight]]:
        if self.take(4) != MAGIC:
            raise ValueError(f"{self.file}: not a GGUF file")
        version = self.number("<I")
        if version not in (2, 3):
            raise ValueError(f"{self.file}: GGUF version {version}; 2 and 3 are known")
        tensors, values = self.number("<Q"), self.number("<Q")
        if max(tensors, values) > MOST_THINGS:
            raise ValueError(f"{self.file}: claims {max(tensors, values):,} tensors or values; damaged, fetch it again")
        found = {}
        for _ in range(values):
            key = self.text()
            found[key] = self.value(self.number("<I"))
        weights = [self.weight() for _ in range(tensors)]
        self.check_end(found, weights)
        return found, [weight for weight, _ in weights]

    def take(self, n: int) -> bytes:
        self.at += n
        if self.at > min(self.size, MOST_HEADER):
            raise ValueError(f"{self.file}: ends, or goes on too long, before its tensors; damaged, fetch it again")
        return self.f.read(n)

    def number(self, kind: str) -> Any:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        n = self.number("<Q")
        if n > MOST_TEXT:
            raise ValueError(f"{self.file}: claims a text of {n:,} bytes; damaged, fetch it again")
        return self.take(n).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, n = self.number("<I"), self.number("<Q")
            if n > MOST_THINGS or inner == ARRAY:
                raise ValueError(f"{self.file}: claims an array of {n:,} values; damaged, fetch it again")
            if inner == STRING:
                for _ in range(n):
                    self.text()
            else:
                self.take(n * struct.calcsize(self.scalar(inner)))
            return n
        return self.number(self.scalar(kind))

    def scalar(self, kind: int) -> str:
        if kind not in SCALARS:
            raise ValueError(f"{self.file}: has a value of type {kind}, which GGUF does not know; damaged")
        return SCALARS[kind]

    def weight(self) -> tuple[Weight, int]:
        """A tensor, and where its bytes begin behind the header."""
        name, dims = self.text(), self.number("<I")
        if dims > 8:
            raise ValueError(f"{self.file}: {printable(name, 60)} has {dims} dimensions; damaged, fetch it again")
        shape = tuple(self.number("<Q") for _ in range(dims))
        kind, offset = self.number("<I"), self.number("<Q")
        label, block, nbytes = TYPES.get(kind, (str(kind), 1, 0))
        numel = 1
        for each in shape:
            numel *= each
        return Weight(name, shape, label, numel // block * nbytes if kind in TYPES else None), offset

    def check_end(self, values: dict[str, Any], weights: list[tuple[Weight, int]]) -> None:
        align = values.get("general.alignment", 32)
        if not isinstance(align, int) or not 1 <= align <= 1 << 20:
            raise ValueError(f"{self.file}: general.alignment is {printable(align, 60)}; damaged, fetch it again")
        begin = -(-self.at // align) * align
        end = max((begin + offset + (weight.nbytes or 0) for weight, offset in weights), default=0)
        if end > self.size:
            raise ValueError(f"{self.file}: {self.size:,} bytes, and its tensors need {end:,}; fetch it again")
