"""BF16 -> FP8: the way back from ``fp8_cast_bf16``, bit for bit where the original scales are at hand."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .checkpoint import ours, read
from .checkpoint.plan import CHUNK, Chunks, Move, Op, Out, Plan, Sources
from .checkpoint.read import ITEMSIZE, Entry
from .checkpoint.stored import Stored, open_model
from .checkpoint.write import WORKERS, execute
from .config import BLOCK, QUANTIZATION, ModelConfig
from .fp8_cast_bf16 import single_threaded_torch
from .layout import Row, layout
from .outside import small_json


def cast(source: Path, target: Path, scales: Path | None = None) -> None:
    """Write the BF16 checkpoint in ``source`` to ``target`` in FP8 with a scale for each 128x128 block.

    Args:
        scales: the FP8 checkpoint that ``source`` was cast from; its scales give its bytes again. Without it, a block's
            largest value becomes 448. How far the result is from ``source`` is printed, of one more reading of both.

    Raises:
        ValueError: ``source`` is FP8 already, or ``scales`` belongs to another model.
        OSError: no room, or another run is at work there.
    """
    for folder in filter(None, (source, scales)):
        ours.check_separate(folder, target)
    result = plan(source, scales)
    with single_threaded_torch():
        execute(result, target)
        print(error(source, target), file=sys.stderr)


def plan(source: Path, scales: Path | None) -> Plan:
    """What ``cast`` will write, shard by shard under the same names; a scale stands in its weight's file."""
    stored = open_model(source, ModelConfig.load(source))
    if stored.cfg.fp8:
        raise ValueError(f"{source}: already FP8 (config.json has a quantization_config); nothing to cast")
    found = stored.found
    rows = {row.hf: row for row in layout(replace(stored.cfg, dtype="fp8"))}
    quantization: object = QUANTIZATION
    given: dict[str, Entry] = {}
    if scales:
        of_scales = open_model(scales, ModelConfig.load(scales))
        if not of_scales.cfg.fp8:
            raise ValueError(f"{scales}: is BF16 and has no scales")
        quantization = small_json(scales / "config.json").get("quantization_config")
        given = of_scales.found
        _check_same(source, found, scales, of_scales)
        rows |= of_scales.rows  # what stayed BF16 there stays it here
    files = list(dict.fromkeys(e.file for e in found.values()))
    sources = [*files, *dict.fromkeys(e.file for e in given.values())]
    result = Plan("cast to FP8", sources=sources, notes=stored.notes)
    where: dict[str, str] = {}
    offsets: dict[str, int] = {}
    for file in files:
        outs = []
        for e in (e for e in found.values() if e.file is file):
            fp8 = rows[e.name].kind == "fp8"
            outs.append(Out(e.name, "F8_E4M3" if fp8 else e.dtype, e.shape))
            if fp8:
                scale = rows[e.name].scale()
                outs.append(Out(scale.hf, "F32", scale.shape))
        offsets |= result.file(file.name, outs)
        where |= dict.fromkeys((out.name for out in outs), file.name)

    def op(e: Entry) -> Op:
        if rows[e.name].kind != "fp8":
            return Move(e.file, e.start, e.stop - e.start, e.file.name, offsets[e.name])
        scale = rows[e.name].scale().hf
        return Quantise(e, given.get(scale), e.file.name, offsets[e.name], offsets[scale])

    result.fill(map(op, found.values()))
    result.index(where, sum(result.sizes.values()) - sum(map(len, result.heads.values())))
    result.carry_over(source, skip=("config.json",))
    hf = small_json(source / "config.json")
    result.json("config.json", hf | {"quantization_config": quantization})
    return result


def _check_same(source: Path, found: read.Checkpoint, scales: Path, of_scales: Stored) -> None:
    for name, entry in found.items():
        row = of_scales.rows.get(name)
        if row is None or (row.shape != entry.shape and not row.copy_of):
            raise ValueError(f"{scales}: of another model than {source}: {name} is not there, or of another shape")


class Quantise(NamedTuple):
    """A matrix to FP8 at ``at`` and its scales at ``scale_at``; ``scale`` gives them, or they are derived."""

    weight: Entry
    scale: Entry | None
    target: str
    at: int
    scale_at: int

    @property
    def targets(self) -> set[str]:
        return {self.target}

    @property
    def nbytes(self) -> int:
        return (self.weight.stop - self.weight.start) // ITEMSIZE[self.weight.dtype]

    def chunks(self, sources: Sources) -> Chunks:
        import torch

        from .inference.weights import TORCH, scales
        from .kernels import reference

        n_rows, width = self.weight.shape
        item, blocks = ITEMSIZE[self.weight.dtype], -(-width // BLOCK)
        step = max(BLOCK, CHUNK // (item * width) // BLOCK * BLOCK)
        for row in range(0, n_rows, step):
            rows = min(step, n_rows - row)
            data = sources.read(self.weight.file, self.weight.start + item * row * width, item * rows * width)
            w = torch.frombuffer(bytearray(data), dtype=TORCH[self.weight.dtype]).view(rows, width)
            of_scale, n_scales = row // BLOCK * blocks * 4, -(-rows // BLOCK) * blocks
            s = None
            if self.scale:
                scale = ITEMSIZE[self.scale.dtype]
                data = sources.read(self.scale.file, self.scale.start + of_scale // 4 * scale, scale * n_scales)
                s = scales(data, self.scale.dtype, (-1, blocks))
            q, s = reference.weight_quant(w, BLOCK, scale=s)
            yield self.target, self.at + row * width, q.view(torch.uint8).numpy().data.cast("B")
            yield self.target, self.scale_at + of_scale, s.numpy().data.cast("B")


def error(source: Path, target: Path) -> str:
    """How far the FP8 weights in ``target`` are from the BF16 ones in ``source``, over all values, in words."""
    before = open_model(source, ModelConfig.load(source)).found
    made = open_model(target, ModelConfig.load(target))
    after, rows = made.found, [row for row in made.rows.values() if row.kind == "fp8"]
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(lambda row: _squares(before, after, row), rows))
    changed, squares = (sum(column) for column in zip(*parts, strict=True))
    count = sum(row.numel for row in rows)
    if changed == 0:
        return f"{count} values, all exact"
    return f"{count} values, {(changed / squares) ** 0.5:.2%} relative error (root mean square)"


def _squares(before: read.Checkpoint, after: read.Checkpoint, row: Row) -> tuple[float, float]:
    """Two sums over the matrix ``row``: the squares of what quantisation changed, and of the values themselves."""
    from .inference.weights import tensor
    from .kernels import native

    n_rows, width = row.shape
    scale = tensor(after, row.scale().hf)
    step = max(BLOCK, CHUNK // (2 * width) // BLOCK * BLOCK)
    changed = squares = 0.0
    for begin in range(0, n_rows, step):
        part = (slice(begin, min(begin + step, n_rows)), slice(None))
        w, q = tensor(before, row.hf, part).double(), tensor(after, row.hf, part)
        there = native.weight_dequant(q, scale[begin // BLOCK : -(-part[0].stop // BLOCK)]).double()
        changed += (there - w).square().sum().item()
        squares += w.square().sum().item()
    return changed, squares


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 bf16_cast_fp8", description=__doc__)
    parser.add_argument("--input-bf16-hf-path", type=ours.path, required=True, metavar="IN")
    parser.add_argument("--output-fp8-hf-path", type=ours.path, required=True, metavar="OUT")
    parser.add_argument("--scales-from", type=ours.path, metavar="FP8", help="the FP8 checkpoint that IN was cast from")
    args = parser.parse_args(argv)
    cast(args.input_bf16_hf_path, args.output_fp8_hf_path, args.scales_from)


if __name__ == "__main__":
    from .cli import run

    run(main)
