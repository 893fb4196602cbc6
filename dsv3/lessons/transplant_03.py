"""Lesson 03's parts cast a whole checkpoint, and take it back."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from ..checkpoint import read
from ..fp8_cast_bf16 import cast as dsv3_cast
from ..inference.weights import tensor
from ..paths import TINY_R1
from .part import Transplant


def cast(source: Path, target: Path, parts: SimpleNamespace) -> None:
    """Write the FP8 checkpoint in ``source`` to the new folder ``target`` in BF16, with these parts.

    A byte becomes a number by ``decode``, a matrix by ``dequantise``; ``pair`` says which scale is which weight's.
    """
    from safetensors.torch import save_file

    found = read.open_folder(source)
    where = {name: entry.file.name for name, entry in found.items()}
    scale_of, index = parts.pair(where, {name: entry.dtype for name, entry in found.items()})  # raises before a byte
    number = torch.tensor([parts.decode(code) for code in range(256)])
    target.mkdir()
    size = 0
    for file in dict.fromkeys(index.values()):
        tensors = {name: tensor(found, name) for name in index if index[name] == file}
        for name in tensors.keys() & scale_of.keys():
            codes = tensors[name].view(torch.uint8)
            tensors[name] = parts.dequantise(number[codes.long()], tensor(found, scale_of[name]))
        save_file(tensors, target / file, metadata={"format": "pt"})
        size += sum(each.nbytes for each in tensors.values())
    (target / read.INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": index}))
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (target / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    for file in source.glob("*token*.json"):
        (target / file.name).write_bytes(file.read_bytes())


def equal(one: Path, other: Path) -> list[str]:
    """The tensors that have the same bytes in both checkpoints."""
    a, b = read.open_folder(one), read.open_folder(other)
    return [name for name in a.keys() & b.keys() if a[name].dtype == b[name].dtype and a.read(name) == b.read(name)]


def there(parts: SimpleNamespace) -> int:
    """Of tiny-r1's 207 tensors, how many come out of these parts' cast with the bytes of ``dsv3.fp8_cast_bf16``."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        dsv3_cast(TINY_R1, Path(folder) / "dsv3")
        cast(TINY_R1, Path(folder) / "parts", parts)
        return len(equal(Path(folder) / "dsv3", Path(folder) / "parts"))


def back(parts: SimpleNamespace) -> int:
    """Of tiny-r1's 176 FP8 weights, how many have their old bytes after a cast to BF16 and back with the old scales."""
    found = read.open_folder(TINY_R1)
    same = 0
    for name in (name for name, entry in found.items() if entry.dtype == "F8_E4M3"):
        codes, scale = tensor(found, name), tensor(found, f"{name}_scale_inv")
        again = parts.requantise(parts.dequantise(codes, scale), scale)
        same += torch.equal(again.view(torch.uint8), codes.view(torch.uint8))
    return same


TRANSPLANTS = [
    Transplant("the cast of tiny-r1, bytes equal", there, 207, ("dequantise", "multiplied")),
    Transplant("the way back, bytes equal", back, 176, ("requantise", "divide by the scale")),
]
