"""Reads safetensors folders: index, headers, byte ranges. No torch, nothing trusted, nothing unpickled."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

INDEX = "model.safetensors.index.json"
ITEMSIZE = {"F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
DTYPE = {
    "fp8": ("F8_E4M3",),
    "bf16": ("BF16", "F16", "F32"),
    "fp32": ("F32", "BF16"),
}  # what a Row's kind may be stored as
MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``file``'s bytes ``start`` to ``stop``, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int


class Checkpoint(dict[str, Entry]):
    """The tensors of a folder or of some files, by name; reading it touches only headers."""

    def __init__(self, where: Path, entries: Iterable[Entry]):
        super().__init__((e.name, e) for e in entries)
        self.where = where

    def read(self, name: str, dim0: slice | None = None) -> bytearray:
        """The bytes of a tensor, or of the rows ``dim0`` of it.

        Raises:
            ValueError: the file ends before the tensor does.
        """
        entry = self[name]
        row = (entry.stop - entry.start) // entry.shape[0] if dim0 else 0
        start, stop = (
            (entry.start + dim0.start * row, entry.start + dim0.stop * row) if dim0 else (entry.start, entry.stop)
        )
        data = bytearray(stop - start)
        with entry.file.open("rb") as f:
            f.seek(start)
            if f.readinto(data) != len(data):
                raise ValueError(f"{entry.file}: ends inside {name}; the file is truncated, fetch it again")
        return data


def open_folder(folder: Path) -> Checkpoint:
    """The Hugging Face checkpoint in ``folder``, with an index or without.

    Raises:
        FileNotFoundError: no such folder, or a file that the index names is missing.
        ValueError: a file is truncated or not safetensors, or a tensor is missing or there twice.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    index = folder / INDEX
    if not index.is_file():
        return open_files(folder, sorted(folder.glob("*.safetensors")))
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: not an index of safetensors (no JSON object with 'weight_map')") from None
    outside = [f for f in files if Path(f).name != f]
    if outside:
        raise ValueError(f"{index}: names a file outside the folder: {outside[0]}")
    missing = [f for f in files if not (folder / f).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: {some(missing)} of {len(files)} files named in {INDEX} missing; download again"
        )
    found = open_files(folder, [folder / f for f in files])
    lost = [n for n, f in where.items() if n not in found or found[n].file.name != f]
    if lost:
        raise ValueError(f"{folder}: {some(lost)} not in the file that {INDEX} names")
    return found


def open_files(where: Path, files: list[Path]) -> Checkpoint:
    """The tensors of ``files`` together."""
    if not files:
        raise FileNotFoundError(f"{where}: no .safetensors files")
    entries: dict[str, Entry] = {}
    for file in files:
        for entry in header(file):
            if entry.name in entries:
                raise ValueError(f"{entry.name} is both in {entries[entry.name].file} and in {file}")
            entries[entry.name] = entry
    return Checkpoint(where, entries.values())


def header(file: Path) -> Iterator[Entry]:
    """The entries of one safetensors file, each checked against the file's size.

    Raises:
        ValueError: what is wrong with the file.
    """
    size = file.stat().st_size
    with file.open("rb") as f:
        start = f.read(8)
        length = int.from_bytes(start, "little")
        if start[:8] == b"version ":
            raise ValueError(
                f"{file}: a git-LFS pointer, not the file itself; fetch it with git lfs pull or dsv3 download"
            )
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError(f"{file}: not a safetensors file, or truncated ({size} bytes); fetch it again")
        try:
            described = json.loads(f.read(length))
            described.pop("__metadata__", None)
        except (ValueError, AttributeError):
            raise ValueError(f"{file}: the safetensors header is not JSON; fetch it again") from None
    for name, tensor in described.items():
        try:
            dtype, shape, (a, b) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
            right = 0 <= a <= b and all(type(n) is int and n >= 0 for n in shape)
            right = right and b - a == math.prod(shape) * ITEMSIZE.get(dtype, -1)
        except (KeyError, TypeError, ValueError):
            right = False
        if not right:
            raise ValueError(
                f"{file}: header entry of {name!r} is invalid, or its dtype is not of {', '.join(ITEMSIZE)}"
            )
        if 8 + length + b > size:
            raise ValueError(
                f"{file}: truncated: {name} ends at byte {8 + length + b}, the file has {size}; fetch it again"
            )
        yield Entry(name, dtype, shape, file, 8 + length + a, 8 + length + b)


def converted_name(kind: Literal["model", "mtp"], rank: int, size: int) -> str:
    """The name of a rank's converted file: the official tool's, and ``mtp...`` for the layer that it drops."""
    return f"{kind}{rank}-mp{size}.safetensors"


def converted_for(folder: Path) -> set[int]:
    """The rank counts that the folder holds converted files for; empty for a Hugging Face folder."""
    names = (re.fullmatch(r"model\d+-mp(\d+)\.safetensors", f.name) for f in folder.glob("model*-mp*.safetensors"))
    return {int(m[1]) for m in names if m}


def check(found: Checkpoint, wanted: dict[str, tuple[tuple[int, ...], str]], known: set[str]) -> None:
    """Whether all ``wanted`` tensors (name -> shape, Row kind) are there, and none that is not ``known``.

    Raises:
        ValueError: the first few that are missing, unknown or of another shape or type, with both values.
    """
    missing = [n for n in wanted if n not in found]
    if missing:
        raise ValueError(
            f"{found.where}: {some(missing)} of {len(wanted)} tensors missing; is config.json this checkpoint's?"
        )
    unknown = [n for n in found if n not in known]
    if unknown:
        raise ValueError(f"{found.where}: {some(unknown)} not in the architecture that config.json describes")
    for name, (shape, kind) in wanted.items():
        entry = found[name]
        if entry.shape != shape or entry.dtype not in DTYPE[kind]:
            is_, should = f"{entry.dtype} {list(entry.shape)}", f"{DTYPE[kind][0]} {list(shape)}"
            raise ValueError(f"{entry.file}: {name} is {is_}, but config.json says {should}")


def some(names: list[str]) -> str:
    """``a, b, c and 7 more``."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
