"""A small real model out of a big checkpoint: chosen layers and experts, renumbered, by reading only their bytes."""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .checkpoint import ours, read
from .checkpoint.plan import Move, Out, Plan
from .checkpoint.stored import open_model
from .checkpoint.write import execute
from .config import ModelConfig
from .layout import Row, layout
from .outside import small_json
from .quantized import LEFT

SHARD = 5_000_000_000  # bytes of an output file, about
MOST = 1_000_000  # layers or experts on a command line


def cut_out(source: Path, target: Path, layers: list[int], experts: list[int]) -> None:
    """Write the model that has only ``layers`` and, in each of them, only ``experts`` of the one in ``source``.

    Args:
        layers: their numbers in the source; one behind the last is the first MTP layer.
        experts: numbers of routed experts. Groups stay if each keeps as many; otherwise there is one group.

    Raises:
        ValueError: a number that the source does not have, or nothing left to compute with.
    """
    ours.check_separate(source, target)
    execute(plan(source, layers, experts), target)


def plan(source: Path, layers: list[int], experts: list[int]) -> Plan:
    """What ``cut_out`` will write."""
    said = ModelConfig.load(source)
    stored = open_model(source, said)
    old, found = stored.cfg, stored.found
    layers, experts = sorted(set(layers)), sorted(set(experts))
    for what, chosen, n in (
        ("layer", layers, old.n_layers + old.n_mtp_layers),
        ("expert", experts, old.n_routed_experts),
    ):
        outside = [i for i in chosen if not 0 <= i < n]
        if outside:
            raise ValueError(f"{source}: has no {what} {outside[0]}; they are 0 to {n - 1}")
    if not any(i < old.n_layers for i in layers) or not experts:
        raise ValueError("choose at least one layer (MTP layers do not count) and one expert")
    cfg = _config(old, layers, experts)
    rows = [row for row in layout(cfg) if _old_name(row.hf, layers, experts) in found]
    what, choice = f"slice of {len(layers)} layers and {len(experts)} experts", f"{layers} {experts}"
    result = Plan(what, choice=choice, notes=stored.notes)
    result.sources = list(dict.fromkeys(found[_old_name(r.hf, layers, experts)].file for r in rows))
    total = sum(r.nbytes for r in rows)
    n_files = -(-total // SHARD)
    files: dict[str, list[Row]] = {}
    at = 0
    for row in rows:
        files.setdefault(f"model-{at // SHARD + 1:05d}-of-{n_files:06d}.safetensors", []).append(row)
        at += row.nbytes
    for name, held in files.items():
        olds = [found[_old_name(r.hf, layers, experts)] for r in held]
        offsets = result.file(name, (Out(r.hf, e.dtype, r.shape) for r, e in zip(held, olds, strict=True)))
        for row, entry in zip(held, olds, strict=True):
            result.fill(_moves(row, entry, experts, name, offsets[row.hf]))
    result.index({r.hf: name for name, held in files.items() for r in held}, total)
    result.carry_over(source, skip=("config.json",))
    hf = small_json(source / "config.json")
    quantization = hf.get("quantization_config")
    if isinstance(quantization, dict):
        left = {name: quantization.get(name) for name in LEFT}
        lists = {name: _renumbered(modules, layers) for name, modules in left.items() if isinstance(modules, list)}
        hf["quantization_config"] = quantization | lists
    result.json("config.json", hf | _changes(said, cfg))
    return result


def _config(old: ModelConfig, layers: list[int], experts: list[int]) -> ModelConfig:
    per_group = Counter(e // (old.n_routed_experts // old.n_expert_groups) for e in experts)
    even = len(per_group) == old.n_expert_groups and len(set(per_group.values())) == 1 and per_group[0] > 1
    groups, limited = (old.n_expert_groups, old.n_limited_groups) if even else (1, 1)
    return replace(
        old,
        n_layers=sum(i < old.n_layers for i in layers),
        n_dense_layers=sum(i < old.n_dense_layers for i in layers),
        n_mtp_layers=sum(i >= old.n_layers for i in layers),
        n_routed_experts=len(experts),
        n_expert_groups=groups,
        n_limited_groups=limited,
        n_activated_experts=min(old.n_activated_experts, len(experts) // groups * limited),
    )


def _changes(old: ModelConfig, new: ModelConfig) -> dict[str, int]:
    before = old.to_hf()
    return {name: value for name, value in new.to_hf().items() if value != before[name]}


def _renumbered(modules: list[object], layers: list[int]) -> list[str]:
    """Names of modules as the slice has them, without those of layers that it lacks."""
    new = {str(old): str(i) for i, old in enumerate(layers)}
    found = []
    for name in map(str, modules):
        number = re.search(r"(?<=layers\.)\d+", name)
        if number is None or number[0] in new:
            found.append(re.sub(r"(?<=layers\.)\d+", lambda m: new[m[0]], name, count=1))
    return found


def _old_name(name: str, layers: list[int], experts: list[int]) -> str:
    """The source's name of what is ``name`` in the slice."""
    name = re.sub(r"(?<=\.layers\.)\d+", lambda m: str(layers[int(m[0])]), name)
    return re.sub(r"(?<=\.experts\.)\d+", lambda m: str(experts[int(m[0])]), name)


def _moves(row: Row, entry: read.Entry, experts: list[int], file: str, at: int) -> Iterator[Move]:
    """The gate keeps a row for each chosen expert; everything else is copied whole."""
    if ".gate." not in row.name:
        yield Move(entry.file, entry.start, entry.stop - entry.start, file, at)
        return
    line = (entry.stop - entry.start) // entry.shape[0]
    for i, expert in enumerate(experts):
        yield Move(entry.file, entry.start + expert * line, line, file, at + i * line)


def numbers(text: str) -> list[int]:
    """``0,3,8-15`` -> 0, 3, 8 to 15.

    Raises:
        argparse.ArgumentTypeError: another form, a range that ends before it begins, or too many.
    """
    if not re.fullmatch(r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*", text):
        raise argparse.ArgumentTypeError(f"{text!r:.60}: write numbers and ranges, such as 0,3,8-15, below a million")
    ranges = [(int(part.split("-")[0]), int(part.split("-")[-1])) for part in text.split(",")]
    for first, last in ranges:
        if first > last:
            raise argparse.ArgumentTypeError(f"{first}-{last}: ends before it begins; write {last}-{first}")
    if sum(last - first + 1 for first, last in ranges) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r:.60}: more than {MOST:,} numbers")
    return [i for first, last in ranges for i in range(first, last + 1)]


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 slice", description=__doc__)
    parser.add_argument("--hf-ckpt-path", type=ours.path, required=True, metavar="IN")
    parser.add_argument("--save-path", type=ours.path, required=True, metavar="OUT")
    parser.add_argument("--layers", type=numbers, required=True, metavar="LIST", help="such as 0,3,4")
    parser.add_argument("--experts", type=numbers, required=True, metavar="LIST", help="such as 0-31")
    args = parser.parse_args(argv)
    cut_out(args.hf_ckpt_path, args.save_path, args.layers, args.experts)


if __name__ == "__main__":
    from .cli import run

    run(main)
