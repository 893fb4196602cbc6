"""Reads safetensors folders: index, headers, byte ranges. No torch, nothing trusted, nothing unpickled."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..outside import open_regular, parse_json, small, some

if TYPE_CHECKING:
    from ..layout import Row

INDEX = "model.safetensors.index.json"
UNFINISHED = ".dsv3-unfinished"  # the journal of a run; while a folder holds it, it is no checkpoint yet
ITEMSIZE = {"F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
# Further types of the format, which only others read: bits of one number.
BITS = {name: 8 * size for name, size in ITEMSIZE.items()} | {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "I8": 8,
    "U16": 16, "I16": 16, "U32": 32, "I32": 32, "F64": 64, "U64": 64, "I64": 64, "C64": 64,
}  # fmt: skip
DTYPE = {
    "fp8": ("F8_E4M3",),
    "bf16": ("BF16", "F16", "F32"),
    "fp32": ("F32", "BF16"),
}  # what a Row's kind may be stored as
MAX_HEADER = 100_000_000  # safetensors' own limit


class Entry(NamedTuple):
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

    def read(self, name: str, dim0: slice | None = None, into: memoryview | None = None) -> bytearray | memoryview:
        """The bytes of a tensor, or of the rows ``dim0`` of it; written to ``into`` if that is given.

        Raises:
            ValueError: the file ends before the tensor does.
        """
        entry = self[name]
        start, stop = entry.start, entry.stop
        if dim0:
            row = (stop - start) // entry.shape[0]
            start, stop = start + dim0.start * row, start + dim0.stop * row
        data = bytearray(stop - start) if into is None else into
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
    if (folder / UNFINISHED).exists():
        raise ValueError(f"{folder}: unfinished; run the command that writes it again, it goes on where it stopped")
    index = folder / INDEX
    if not os.path.lexists(index):
        return open_files(folder, sorted(folder.glob("*.safetensors")))
    data = small(index, MAX_HEADER)
    try:
        where = parse_json(data)["weight_map"]
        files = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: not an index of safetensors (no JSON object with 'weight_map')") from None
    outside = [
        f
        for f in files
        if type(f) is not str or not re.fullmatch(r"[^/\\]{1,200}\.safetensors", f) or not f.isprintable()
    ]
    if outside:
        raise ValueError(f"{index}: not the name of a .safetensors file in the folder: {outside[0]!r:.200}")
    missing = [f for f in files if not (folder / f).exists()]
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
    """The tensors of ``files`` together; a link must not lead out of ``where`` (or of the hub cache it is part of)."""
    if not files:
        raise FileNotFoundError(f"{where}: no .safetensors files")
    entries: dict[str, Entry] = {}
    for file in files:
        check_link(where, file)
        for entry in header(file):
            if entry.name in entries:
                raise ValueError(f"{entry.name} is both in {entries[entry.name].file} and in {file}")
            entries[entry.name] = entry
    return Checkpoint(where, entries.values())


def roots(folder: Path) -> tuple[Path, ...]:
    """Where a link in ``folder`` may lead."""
    root = folder.resolve()
    # The hub's cache keeps snapshots/REVISION/NAME as links to blobs/HASH.
    return (root, root.parents[1] / "blobs") if root.parent.name == "snapshots" else (root,)


def check_link(folder: Path, file: Path) -> None:
    """Whether ``file``, if it is a link, stays in ``folder`` or in the hub cache that the folder is part of.

    Raises:
        ValueError: it leads elsewhere.
    """
    if not file.is_symlink():
        return
    to = Path(os.path.realpath(file))  # resolve() fails on links that go round in a circle
    if not any(to.is_relative_to(root) for root in roots(folder)):
        raise ValueError(f"{file}: a link out of the folder, to {to}; copy the file here")


def header(file: Path) -> Iterator[Entry]:
    """The entries of one safetensors file, in the file's order, each checked against the file's size.

    Raises:
        ValueError: what is wrong with the file.
    """
    with open_regular(file) as f:
        size = os.fstat(f.fileno()).st_size
        first = f.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            if first == b"version ":
                raise ValueError(f"{file}: a git-LFS pointer, not the file itself; fetch it with git lfs pull")
            if first.lstrip()[:1] == b"<":
                raise ValueError(f"{file}: a web page, not the file itself; fetch it again")
            raise ValueError(f"{file}: not a safetensors file, or truncated ({size} bytes); fetch it again")
        try:
            described = parse_json(f.read(length))
            described.pop("__metadata__", None)
            for name, tensor in described.items():
                if type(tensor) is not dict or not tensor.keys() >= {"dtype", "shape", "data_offsets"}:
                    raise ValueError(f"entry of {name!r}")
            tensors = sorted(described.items(), key=lambda item: item[1]["data_offsets"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: the safetensors header is invalid ({error}); fetch it again") from None
    at, begin = 0, 8 + length
    for name, tensor in tensors:
        dtype, shape = tensor["dtype"], tensor["shape"]
        stop = _stop(at, tensor["data_offsets"], dtype, shape)
        if stop is None:
            raise ValueError(
                f"{file}: header entry of {name!r} is invalid, overlaps another, "
                f"or its dtype is not of {', '.join(BITS)}"
            )
        if begin + stop > size:
            raise ValueError(
                f"{file}: truncated: {name} ends at byte {begin + stop}, the file has {size}; fetch it again"
            )
        yield Entry(name, dtype, tuple(shape), file, begin + at, begin + stop)
        at = stop
    if begin + at != size:
        raise ValueError(f"{file}: {size - begin - at} bytes behind the last tensor; fetch it again")


def _stop(at: int, offsets: object, dtype: object, shape: object) -> int | None:
    """Where a tensor ends that must begin at ``at``: the format allows no holes; None if its entry is wrong."""
    bits = BITS.get(dtype) if type(dtype) is str else None
    if bits is None or type(shape) is not list or len(shape) > 8:
        return None
    for n in shape:
        if type(n) is not int or not 0 <= n < 2**48:
            return None
        bits *= n
    if bits % 8:
        return None
    stop = at + bits // 8
    return stop if offsets == [at, stop] and type(offsets[0]) is type(offsets[1]) is int else None


def converted_name(kind: Literal["model", "mtp"], rank: int, size: int) -> str:
    """The name of a rank's converted file: the official tool's, and ``mtp...`` for the layer that it drops."""
    return f"{kind}{rank}-mp{size}.safetensors"


def converted_for(folder: Path) -> set[int]:
    """The rank counts that the folder holds converted files for; empty for a Hugging Face folder."""
    names = (re.fullmatch(r"model\d+-mp(\d+)\.safetensors", f.name) for f in folder.glob("model*-mp*.safetensors"))
    return {int(m[1]) for m in names if m}


def open_model(folder: Path, rows: Iterable["Row"], known: Iterable["Row"] = ()) -> Checkpoint:
    """The Hugging Face checkpoint in ``folder``, which must be what the table of tensors says.

    Args:
        rows: of the table (``layout.layout``); all must be there.
        known: others that may be there, too.

    Raises:
        OSError, ValueError: as ``open_folder`` and ``check``.
    """
    found = open_folder(folder)
    wanted = {r.hf: (r.shape, r.kind) for r in rows}
    check(found, wanted, {*wanted, *(r.hf for r in known)})
    return found


def check(found: Checkpoint, wanted: Mapping[str, tuple[tuple[int, ...], str]], known: set[str]) -> None:
    """Whether all ``wanted`` tensors (name -> shape, Row kind) are there, and none that is not ``known``.

    Raises:
        ValueError: the first few that are missing, unknown or of another shape or type, with both values.
    """

    def hint(names: list[str], of_mtp: str) -> str:
        return of_mtp if any(".eh_proj." in n for n in names) else "is config.json this checkpoint's?"

    missing = [n for n in wanted if n not in found]
    if missing:
        what = hint(missing, "for one without its MTP layer set num_nextn_predict_layers to 0 in config.json")
        raise ValueError(f"{found.where}: {some(missing)} of {len(wanted)} tensors missing; {what}")
    unknown = [n for n in found if n not in known]
    if unknown:
        what = hint(unknown, "for an MTP layer set num_nextn_predict_layers in config.json")
        raise ValueError(f"{found.where}: {some(unknown)} not in the architecture of config.json; {what}")
    for name, (shape, kind) in wanted.items():
        entry = found[name]
        if entry.shape != shape or entry.dtype not in DTYPE[kind]:
            is_, should = f"{entry.dtype} {list(entry.shape)}", f"{DTYPE[kind][0]} {list(shape)}"
            raise ValueError(f"{entry.file}: {name} is {is_}, but config.json says {should}")


def digest(file: Path, algorithm: str = "sha256", prefix: bytes = b"") -> str:
    """The hash of a file's bytes, ``prefix`` before them, in hexadecimal."""
    seen = hashlib.new(algorithm, prefix)
    with file.open("rb") as f:
        while data := f.read(1 << 20):
            seen.update(data)
    return seen.hexdigest()


def amount(nbytes: float) -> str:
    """Bytes for people: ``1.20 GB``, ``35.00 MB``, ``0.50 kB``."""
    unit, name = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if nbytes >= unit[0]), (1e3, "kB"))
    return f"{nbytes / unit:.2f} {name}"
