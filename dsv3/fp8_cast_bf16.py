"""FP8 -> BF16: what transformers, and engines on cards without FP8 units, load. Tensor by tensor, on a CPU."""

import argparse
import json
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

from .checkpoint import read
from .checkpoint.write import Folder, Out, check_separate
from .config import ModelConfig
from .layout import layout


def cast(source: Path, target: Path) -> None:
    """Write the FP8 checkpoint in ``source`` to ``target`` in BF16, shard by shard under the same file names.

    Each value is ``bf16(float32(fp8) * scale)``, rounded once. ``config.json`` loses its ``quantization_config``,
    scales disappear, the index is rebuilt, tokenizer and generation config are carried over. In memory: a few tensors.

    Raises:
        ValueError: ``source`` is not FP8, or a tensor or its scale is missing; nothing is written then.
    """
    check_separate(source, target)
    cfg = ModelConfig.load(source)
    if not cfg.fp8:
        raise ValueError(f"{source}: already BF16 (config.json has no FP8 quantization_config); nothing to cast")
    found = read.open_folder(source)
    rows = {r.hf: r for r in layout(cfg)}
    read.check(found, {r.hf: (r.shape, r.kind) for r in rows.values()}, set(rows))
    files: dict[str, list[Out]] = defaultdict(list)
    for row in rows.values():
        entry = found[row.hf]
        if row.kind == "fp8":
            out = Out(row.hf, "BF16", row.shape, partial(_dequantised, found, row.hf, row.scale().hf))
        elif row.is_scale:
            continue
        else:
            out = Out(row.hf, entry.dtype, row.shape, partial(found.read, row.hf))
        files[entry.file.name].append(out)
    hf = json.loads((source / "config.json").read_text(encoding="utf-8"))
    hf.pop("quantization_config")
    with Folder(target, files) as folder:
        for name, tensors in files.items():
            print(f"{name}: {len(tensors)} tensors", file=sys.stderr)
            folder.safetensors(name, tensors)
        where = {t.name: name for name, tensors in files.items() for t in tensors}
        folder.index(where, sum(t.nbytes for tensors in files.values() for t in tensors))
        folder.copy_side_files(source, skip=("config.json",))
        folder.json("config.json", hf | {"torch_dtype": "bfloat16"})
        folder.finish()


def _dequantised(found: read.Checkpoint, name: str, scale: str) -> memoryview:
    import torch

    from .checkpoint.load import tensor
    from .kernels.reference import weight_dequant

    w = weight_dequant(tensor(found, name), tensor(found, scale))
    return memoryview(w.contiguous().view(torch.uint8).numpy()).cast("B")


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    parser = argparse.ArgumentParser(prog="dsv3 fp8_cast_bf16", description=__doc__)
    parser.add_argument("--input-fp8-hf-path", type=Path, required=True, metavar="IN")
    parser.add_argument("--output-bf16-hf-path", type=Path, required=True, metavar="OUT")
    args = parser.parse_args(argv)
    cast(args.input_fp8_hf_path, args.output_bf16_hf_path)


if __name__ == "__main__":
    from .cli import run

    run(main)
