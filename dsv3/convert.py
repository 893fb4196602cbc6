"""Hugging Face checkpoint -> one file per rank, interchangeable with the official converter's."""

import argparse
import sys
from functools import partial
from pathlib import Path

from .checkpoint import read
from .checkpoint.write import Folder, Out, check_separate
from .config import ModelConfig
from .layout import Row, check_ranks, layout


def convert(source: Path, target: Path, ranks: int) -> None:
    """Cut the checkpoint in ``source`` into ``ranks`` parts under ``target``.

    ``model{rank}-mp{ranks}.safetensors`` hold the main model under the official names, and
    ``mtp{rank}-mp{ranks}.safetensors`` the MTP layer, without its copies of embedding and head. Bytes are moved, never
    computed. Tokenizer, config and generation config are copied beside them.

    Raises:
        ValueError: the model cannot be cut over ``ranks``, or the checkpoint is not what its config says.
    """
    check_separate(source, target)
    cfg = ModelConfig.load(source)
    check_ranks(cfg, ranks)
    found = read.open_folder(source)
    rows = list(layout(cfg))
    read.check(found, {r.hf: (r.shape, r.kind) for r in rows}, {r.hf for r in rows})
    for row in rows:
        if row.copy_of and found.read(row.hf) != found.read(row.copy_of):
            raise ValueError(f"{source}: {row.hf} differs from {row.copy_of}, which it should repeat")
    files: dict[str, list[Out]] = {}
    for rank in range(ranks):
        for row in rows:
            part = row.local(rank, ranks, cfg.n_routed_experts)
            if part is None or row.copy_of:
                continue
            name = read.converted_name("mtp" if row.part == "mtp" else "model", rank, ranks)
            shape = tuple(s.stop - s.start for s in part)
            files.setdefault(name, []).append(
                Out(row.name, found[row.hf].dtype, shape, partial(_cut, found, row, part))
            )
    with Folder(target, files) as folder:
        for name, tensors in files.items():
            print(f"{name}: {len(tensors)} tensors, {sum(t.nbytes for t in tensors) / 1e6:,.1f} MB", file=sys.stderr)
            folder.safetensors(name, tensors)
        folder.copy_side_files(source)
        folder.finish()


def _cut(found: read.Checkpoint, row: Row, part: tuple[slice, ...]) -> bytes | bytearray:
    """The bytes of a rank's slices: whole rows are a range of the file, columns are gathered from it."""
    data = found.read(row.hf, part[0])
    if len(part) == 1 or (part[1].start, part[1].stop) == (0, row.shape[1]):
        return data
    n_rows = part[0].stop - part[0].start
    item = len(data) // (n_rows * row.shape[1])
    width, a, b = row.shape[1] * item, part[1].start * item, part[1].stop * item
    view = memoryview(data)
    return b"".join(view[i * width + a : i * width + b] for i in range(n_rows))


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    parser = argparse.ArgumentParser(prog="dsv3 convert", description=__doc__)
    parser.add_argument("--hf-ckpt-path", type=Path, required=True, metavar="IN")
    parser.add_argument("--save-path", type=Path, required=True, metavar="OUT")
    parser.add_argument("--n-experts", type=int, required=True, help="routed experts; must be the config's")
    parser.add_argument("--model-parallel", type=int, required=True, metavar="N", help="ranks to cut for")
    args = parser.parse_args(argv)
    experts = ModelConfig.load(args.hf_ckpt_path).n_routed_experts
    if args.n_experts != experts:
        raise ValueError(f"--n-experts {args.n_experts}: {args.hf_ckpt_path} has {experts}; say --n-experts {experts}")
    convert(args.hf_ckpt_path, args.save_path, args.model_parallel)


if __name__ == "__main__":
    from .cli import run

    run(main)
