"""Hugging Face checkpoint -> one file per rank, as the official converter's, by moving byte ranges."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from .checkpoint import ours, read
from .checkpoint.plan import Columns, Move, Op, Out, Plan, Same, collector_paused
from .checkpoint.read import Entry
from .checkpoint.stored import open_model
from .checkpoint.write import execute, show
from .config import ModelConfig
from .layout import Row, check_ranks


def convert(source: Path, target: Path, ranks: int) -> None:
    """Cut the checkpoint in ``source`` into ``ranks`` parts under ``target``.

    ``model{rank}-mp{ranks}.safetensors`` hold the main model under the official names, and
    ``mtp{rank}-mp{ranks}.safetensors`` the MTP layer, without its copies of embedding and head. Bytes are moved, never
    computed. Tokenizer, config and generation config are copied beside them. Interrupted, the same call goes on.

    Raises:
        ValueError: the model cannot be cut over ``ranks``, or the checkpoint is not what its config says.
        OSError: no room, or another run is at work there.
    """
    ours.check_separate(source, target)
    execute(plan(source, ranks), target)


@collector_paused()
def plan(source: Path, ranks: int) -> Plan:
    """What ``convert`` will write. Tensors keep the order of the source's bytes, so that long ranges move at once."""
    cfg = ModelConfig.load(source)
    check_ranks(cfg, ranks)
    stored = open_model(source, cfg)
    rows, found = stored.rows, stored.found
    entries = [e for e in found.values() if not rows[e.name].copy_of]
    files = list(dict.fromkeys(e.file for e in found.values()))
    result = Plan(f"convert to {ranks} ranks", sources=files, source=source, notes=stored.notes)
    names = {(kind, rank): read.converted_name(kind, rank, ranks) for kind in ("model", "mtp") for rank in range(ranks)}
    outs: dict[str, list[Out]] = {}
    holders: dict[str, list[tuple[str, Part]]] = {}
    for e in entries:
        row = rows[e.name]
        kind = "mtp" if row.part == "mtp" else "model"
        holders[e.name] = to = []
        for rank in row.holders(ranks, cfg.n_routed_experts):
            name = names[kind, rank]
            part = row.local(rank, ranks)
            to.append((name, part))
            outs.setdefault(name, []).append(Out(row.name, e.dtype, tuple([s.stop - s.start for s in part])))
    offsets = {name: result.file(name, held) for name, held in sorted(outs.items())}
    result.fill(Same(found[r.hf], found[r.copy_of]) for r in rows.values() if r.copy_of)
    result.fill(op for e in entries for op in _ops(e, rows[e.name], holders[e.name], offsets))
    result.carry_over(source)
    return result


Part = tuple[slice, ...]


def _ops(entry: Entry, row: Row, to: list[tuple[str, Part]], offsets: dict[str, dict[str, int]]) -> Iterator[Op]:
    """What brings a tensor's bytes to the files ``to``, to each its slices."""
    if row.cut is None:
        for name, _ in to:
            yield Move(entry.file, entry.start, entry.stop - entry.start, name, offsets[name][row.name])
        return
    line = (entry.stop - entry.start) // row.shape[0]
    if row.cut == 1 and len(to) > 1:
        item = line // row.shape[1]
        pieces = [(part[1].start * item, part[1].stop * item, name, offsets[name][row.name]) for name, part in to]
        yield Columns(entry.file, entry.start, row.shape[0], line, tuple(pieces))
        return
    for name, part in to:
        begin, end = part[0].start * line, part[0].stop * line
        yield Move(entry.file, entry.start + begin, end - begin, name, offsets[name][row.name])


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    parser = argparse.ArgumentParser(prog="dsv3 convert", description=__doc__)
    parser.add_argument("--hf-ckpt-path", type=ours.path, required=True, metavar="IN")
    parser.add_argument("--save-path", type=ours.path, required=True, metavar="OUT")
    parser.add_argument("--n-experts", type=int, required=True, help="routed experts; must be the config's")
    parser.add_argument("--model-parallel", type=int, required=True, metavar="N", help="ranks to cut for")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and how long it may take")
    args = parser.parse_args(argv)
    experts = ModelConfig.load(args.hf_ckpt_path).n_routed_experts
    if args.n_experts != experts:
        raise ValueError(f"--n-experts {args.n_experts}: {args.hf_ckpt_path} has {experts}; say --n-experts {experts}")
    if args.dry_run:
        ours.check_separate(args.hf_ckpt_path, args.save_path)
        show(plan(args.hf_ckpt_path, args.model_parallel), args.save_path)
    else:
        convert(args.hf_ckpt_path, args.save_path, args.model_parallel)


if __name__ == "__main__":
    from .cli import run

    run(main)
