"""Reads safetensors folders: index, headers, byte ranges. No torch, nothing trusted, nothing unpickled."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Literal, NamedTuple

from ..outside import open_regular, parse_json, small, some

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
UNFINISHED = ".dsv3-unfinished"  # the journal of a run; while a folder holds it, it is no checkpoint yet
ITEMSIZE = {"F8_E4M3": 1, "F8_E8M0": 1, "BF16": 2, "F16": 2, "F32": 4}
# Further types of the format, which only others read: bits of one number.
BITS = {name: 8 * size for name, size in ITEMSIZE.items()} | {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "BOOL": 8, "U8": 8, "I8": 8,
    "U16": 16, "I16": 16, "U32": 32, "I32": 32, "F64": 64, "U64": 64, "I64": 64, "C64": 64,
}  # fmt: skip
DTYPE = {
    "fp8": ("F8_E4M3",),
    "bf16": ("BF16", "F16", "F32"),
    "fp32": ("F32", "BF16", "F16", "F8_E8M0"),
}  # what a Row's kind may be stored as
PICKLED = (".bin", ".pt", ".pth")  # never opened: reading them runs what is in them
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
    """The tensors of a folder or of some files, by name; reading it touches only headers.

    Attributes:
        notes: what of the folder is not taken, a line each.
    """

    def __init__(self, where: Path, entries: Iterable[Entry]):
        super().__init__((e.name, e) for e in entries)
        self.where = where
        self.notes: tuple[str, ...] = ()

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


def open_folder(folder: Path, whole: bool = True) -> Checkpoint:
    """The Hugging Face checkpoint in ``folder``, with an index or without.

    Args:
        whole: whether all tensors must be there that the index names; else a note says which are in no file.

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
        return _without_index(folder)
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
    if missing and (folder / SINGLE).is_file():  # saved again in one file, beside the index of the shards before
        return _without_index(folder)
    if missing:
        raise FileNotFoundError(
            f"{folder}: {some(missing)} of {len(files)} files named in {INDEX} missing; download again"
        )
    found = open_files(folder, [folder / f for f in files])
    lost = [n for n, f in where.items() if n in found and found[n].file.name != f]
    absent = [n for n in where if n not in found]
    if lost or whole and absent:
        raise ValueError(f"{folder}: {some(lost or absent)} not in the file that {INDEX} names")
    if absent:
        found.notes = (f"{folder}: {some(absent)} named in {INDEX}, and in no file",)
    if SINGLE not in files and (folder / SINGLE).is_file():  # transformers would take that one, vLLM and SGLang these
        found.notes += (f"{folder}: {SINGLE} left out: not of the files that {INDEX} names",)
    return found


def _without_index(folder: Path) -> Checkpoint:
    """``model.safetensors`` alone, as transformers has it; else whatever there is."""
    files = sorted(folder.glob("*.safetensors"))
    rest = [f.name for f in files if f.name != SINGLE]
    if len(rest) == len(files):
        return open_files(folder, files)
    found = open_files(folder, [folder / SINGLE])
    if rest:
        found.notes = (f"{folder}: {some(rest)} left out: not of this checkpoint; {SINGLE} is",)
    return found


def open_files(where: Path, files: list[Path]) -> Checkpoint:
    """The tensors of ``files`` together. Links are followed, wherever they lead: what is there is only read."""
    if not files:
        others = sorted(f.name for end in PICKLED for f in where.glob(f"*{end}"))
        what = f", but {some(others)}, which is a program: save it as .safetensors" if others else ""
        raise FileNotFoundError(f"{where}: no .safetensors files{what}")
    entries: dict[str, Entry] = {}
    for file in files:
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


def check(found: Checkpoint, wanted: Mapping[str, tuple[tuple[int, ...], str]], known: Set[str]) -> None:
    """Whether all ``wanted`` tensors (name -> shape, Row kind) are there, and none that is not ``known``.

    Raises:
        ValueError: the first few that are missing, unknown or of another shape or type, with both values.
    """
    missing = [n for n in wanted if n not in found]
    unknown = [n for n in found if n not in known]
    hint = next((cure for pattern, cure in HINTS.items() for n in unknown if re.search(pattern, n)), HINT)
    if missing:
        raise ValueError(f"{found.where}: {some(missing)} of {len(wanted)} tensors missing; {hint}")
    if unknown:
        file = found[unknown[0]].file
        raise ValueError(f"{file}: {some(unknown)} not in the architecture of config.json; {hint}")
    for name, (shape, kind) in wanted.items():
        entry = found[name]
        if entry.shape != shape or entry.dtype not in DTYPE[kind]:
            is_, should = f"{entry.dtype} {list(entry.shape)}", f"{DTYPE[kind][0]} {list(shape)}"
            cure = NO_CONFIG if entry.dtype == "F8_E4M3" and kind != "fp8" else ""
            raise ValueError(f"{entry.file}: {name} is {is_}, but config.json says {should}{cure}")


HINT = "is config.json this checkpoint's?"
HINTS = {  # in a name that is not known -> what to do
    r"\.lora_|^base_model\.": "an adapter's: merge it into the model first (peft's merge_and_unload)",
    r"\.mlp\.experts\.(gate_up|down)_proj": "fused experts in another order than transformers': save them one by one"
    " (save_pretrained with save_original_format=True)",
    r"\.indexer\.": "of DeepSeek-V3.2's sparse attention, which dsv3 does not compute; vLLM and SGLang do",
    r"\.(qweight|qzeros|scales|g_idx|weight_(packed|shape|scale|scale_2|offset|zero_point)|input_scale)$": "weights"
    " quantised in a way that dsv3 does not compute with; vLLM and SGLang do: dsv3 serve",
}
NO_CONFIG = ", without a quantization_config; take the original config.json"


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
