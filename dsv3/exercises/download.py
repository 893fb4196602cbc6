"""Checks of lesson 02: a header read by hand, the files that a layer needs, damage found. Imports no torch."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ..checkpoint import read
from ..config import ModelConfig
from ..layout import layout
from ..paths import TINY_R1
from . import Wrong, exercise

Header = dict[str, tuple[str, tuple[int, ...], int, int]]


@exercise("02", 1)
def check_header(header: Callable[[Path], Header]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        crafted = Path(folder) / "crafted.safetensors"
        _write(crafted)
        for file in (crafted, *sorted(TINY_R1.glob("*.safetensors"))):
            _compare(header(file), file)


def _write(file: Path) -> None:
    """A file with metadata, a padded header, and a header in another order than its tensors."""
    described = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [6, 14]},
        "a": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]},
    }
    text = json.dumps(described).encode() + b"   "
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(14))


def _compare(found: Header, file: Path) -> None:
    wanted = {e.name: (e.dtype, e.shape, e.start, e.stop) for e in read.header(file)}
    if type(found) is not dict:
        raise Wrong(
            f"it returns a {type(found).__name__}, but should return a dict: name -> (dtype, shape, start, stop)"
        )
    if "__metadata__" in found:
        raise Wrong("__metadata__ is no tensor; leave it out")
    if found.keys() != wanted.keys():
        raise Wrong(f"{file.name} holds {len(wanted)} tensors, {next(iter(wanted))} among them; it finds {len(found)}")
    for name, (dtype, shape, start, stop) in wanted.items():
        theirs = found[name]
        if len(theirs) != 4 or theirs[0] != dtype or tuple(theirs[1]) != shape:
            raise Wrong(f"{name} in {file.name} should be ({dtype!r}, {shape}, {start}, {stop}), not {theirs}")
        if tuple(theirs[2:]) != (start, stop):
            hint = "data_offsets count from the end of the header: from byte 8 + N of the file"
            raise Wrong(f"{name} in {file.name} lies at {start} to {stop}, not at {theirs[2]} to {theirs[3]}; {hint}")


SPLIT = {  # a weight's scale begins the next file
    "model.layers.1.mlp.up_proj.weight": "model-00001-of-000002.safetensors",
    "model.layers.1.mlp.up_proj.weight_scale_inv": "model-00002-of-000002.safetensors",
    "model.layers.10.mlp.up_proj.weight": "model-00002-of-000002.safetensors",
}


@exercise("02", 2)
def check_files_needed(files_needed: Callable[[dict[str, str], list[int]], Iterable[str]]) -> None:
    tiny = json.loads((TINY_R1 / read.INDEX).read_text(encoding="utf-8"))["weight_map"]
    cases = [(SPLIT, [1]), (SPLIT, [10]), (tiny, [1]), (tiny, [0, 3]), (tiny, [])]
    full = _full_map()
    cases += [(full, layers) for layers in ([1], [6], [61], [3, 60], [0, 1, 2])]
    for where, layers in cases:
        names = tuple(f"model.layers.{n}." for n in layers)
        wanted = {file for name, file in where.items() if name.startswith(names)}
        found = set(files_needed(where, layers))
        if many := sorted(found - wanted):
            raise Wrong(f"layers {layers} of {len(where):,} tensors: {read.some(many)} not needed; 1 is not 10")
        if few := sorted(wanted - found):
            hint = "a scale may lie in another file than its weight"
            raise Wrong(f"layers {layers} of {len(where):,} tensors: {read.some(few)} needed, too; {hint}")


def _full_map() -> dict[str, str]:
    """All of DeepSeek-R1's tensors in 163 files of equal size; how they are really shared out does not matter here."""
    rows = list(layout(ModelConfig.load("config_671B.json")))
    total, done, where = sum(row.nbytes for row in rows), 0, {}
    for row in rows:
        where[row.hf] = f"model-{done * 163 // total + 1:05}-of-000163.safetensors"
        done += row.nbytes
    return where


@exercise("02", 3)
def check_broken(broken: Callable[[dict[str, tuple[int, str]], Path], Iterable[str]]) -> None:
    data = (TINY_R1 / "config.json").read_bytes()
    damages = {
        "right": data,
        "cut off": data[:-1],
        "one bit flipped": data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
        "empty": b"",
        "one byte too long": data + b"\0",
        "missing": None,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for damage, content in damages.items():
            if content is not None:
                (folder / damage).write_bytes(content)
        (folder / "not listed").write_bytes(b"notes")
        listed = {damage: (len(data), hashlib.sha256(data).hexdigest()) for damage in damages}
        found = set(broken(listed, folder))
        again = set(broken({"right": listed["right"]}, folder))
    if again:
        raise Wrong(f"a folder with nothing wrong in it: it returns {sorted(again)}")
    wanted = damages.keys() - {"right"}
    for damage in sorted(found ^ wanted):
        raise Wrong(f"the file {damage!r} is {'told' if damage in found else 'not told'} as broken")
