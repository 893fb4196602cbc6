"""Checkpoints made for a measurement: one with a flipped bit, one as large as you like."""

import json
import re
from dataclasses import replace
from pathlib import Path

from ..checkpoint import read
from ..checkpoint.plan import Move, Out, Plan
from ..checkpoint.write import execute
from ..config import ModelConfig
from ..layout import Row, layout


def flip_a_bit(folder: Path, name: str) -> None:
    """Change the last bit of the first number of tensor ``name`` in a Hugging Face folder."""
    entry = read.open_folder(folder)[name]
    with entry.file.open("r+b") as file:
        file.seek(entry.start)
        first = file.read(1)[0]
        file.seek(entry.start)
        file.write(bytes([first ^ 1]))


def repeated(source: Path, target: Path, times: int, shards: int = 4) -> None:
    """Write ``source`` with each routed expert ``times`` times: as large as you like, and good for moving only."""
    old = ModelConfig.load(source)
    cfg = replace(old, n_routed_experts=times * old.n_routed_experts)
    found, rows = read.open_folder(source), list(layout(cfg))
    result = Plan(f"every expert {times} times", sources=list(dict.fromkeys(e.file for e in found.values())))
    share = sum(row.nbytes for row in rows) / shards * (1 + 1e-9)
    files: dict[str, list[tuple[Row, read.Entry]]] = {}
    at = 0
    for row in rows:
        entry = found[re.sub(r"(?<=\.experts\.)\d+", lambda m: str(int(m[0]) % old.n_routed_experts), row.hf)]
        name = f"model-{int(at / share) + 1:05d}-of-{shards:06d}.safetensors"
        files.setdefault(name, []).append((row, entry))
        at += row.nbytes
    for name, pairs in files.items():
        offsets = result.file(name, (Out(row.hf, e.dtype, row.shape) for row, e in pairs))
        for row, e in pairs:
            size = e.stop - e.start  # of the gate a part, of anything else the whole
            copies = row.numel * read.ITEMSIZE[e.dtype] // size
            result.fill(Move(e.file, e.start, size, name, offsets[row.hf] + i * size) for i in range(copies))
    result.index({row.hf: name for name, pairs in files.items() for row, _ in pairs}, at)
    result.carry_over(source, skip=("config.json",))
    hf = json.loads((source / "config.json").read_text(encoding="utf-8"))
    result.json("config.json", hf | {"n_routed_experts": cfg.n_routed_experts})
    execute(result, target)
