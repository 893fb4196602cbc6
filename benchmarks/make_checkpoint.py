"""Test checkpoints in DeepSeek's FP8 format: ``many`` has R1's 91,991 tensors, small, ``large`` few of R1's sizes.

python benchmarks/make_checkpoint.py many DIR      3.3 GB in 163 files
python benchmarks/make_checkpoint.py large DIR     5.9 GB in 5 files, 237 tensors
python benchmarks/make_checkpoint.py billion DIR   1.0 GB: a model of 1 billion parameters, 0.2 of them activated
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dsv3.checkpoint.plan import Make, Out, Plan
from dsv3.checkpoint.write import execute
from dsv3.cli import run
from dsv3.config import ModelConfig
from dsv3.layout import Row, layout
from dsv3.tiny.export import hf_config

DTYPE = {"fp8": "F8_E4M3", "bf16": "BF16", "fp32": "F32"}
POOL = 1 << 24  # random bytes that all tensors of a kind are filled from
WIDTHS = {
    # Every name of R1 and every cut over 8 ranks, but narrow.
    "many": {
        "vocab_size": 8192, "dim": 512, "inter_dim": 1024, "moe_inter_dim": 128, "n_shared_experts": 8, "n_heads": 16,
        "q_lora_rank": 128,
    },
    "large": {"n_layers": 2, "n_dense_layers": 1, "n_routed_experts": 32, "n_mtp_layers": 0},
    "billion": {
        "vocab_size": 16384, "dim": 1024, "inter_dim": 4096, "moe_inter_dim": 512, "n_layers": 12, "n_dense_layers": 1,
        "n_heads": 8, "n_routed_experts": 48, "n_expert_groups": 4, "n_limited_groups": 2, "n_activated_experts": 4,
        "n_shared_experts": 2, "q_lora_rank": 512, "n_mtp_layers": 0,
    },
}  # fmt: skip
SHARDS = {"many": 163, "large": 6, "billion": 2}  # of about one size; a tensor larger than that takes the place of two


def config(kind: str) -> ModelConfig:
    """R1's architecture with the kind's widths."""
    return replace(ModelConfig.load("config_671B.json"), **WIDTHS[kind])


def pools(seed: int = 0) -> dict[str, bytes]:
    """kind of row -> random bytes: FP8 of a normal distribution, weights of about 0.02, scales of about 2e-4."""
    rng = np.random.default_rng(seed)
    normal = torch.from_numpy(rng.normal(0, 100, POOL).astype(np.float32))
    codes = normal.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    floats = rng.normal(0, 0.02, POOL // 4).astype(np.float32)
    bf16 = (floats.view(np.uint32) >> 16).astype(np.uint16)
    scales = rng.uniform(1e-4, 3e-4, POOL // 4).astype(np.float32)
    return {"fp8": codes.tobytes(), "bf16": bf16.tobytes(), "fp32": scales.tobytes()}


def fill(row: Row, pool: bytes) -> bytes:
    """A tensor's bytes: the pool, again and again, from a place that depends on the name."""
    at = 4 * (sum(row.hf.encode()) % 1000)
    if at + row.nbytes <= len(pool):
        return pool[at : at + row.nbytes]
    return (pool[at:] + pool * (row.nbytes // len(pool)))[: row.nbytes]


def plan(kind: str) -> Plan:
    """The checkpoint: shards of equal size in the model's order, inside each the order of the safetensors library."""
    cfg, filling = config(kind), pools()
    rows = list(layout(cfg))
    share = sum(r.nbytes for r in rows) / SHARDS[kind] * (1 + 1e-9)
    shards: dict[int, list[Row]] = {}
    at = 0
    for row in rows:
        shards.setdefault(int(at / share), []).append(row)
        at += row.nbytes
    originals = {r.hf: r for r in rows}
    result = Plan(f"make a checkpoint: {kind}")
    files: dict[str, list[Row]] = {}
    for number, held in enumerate(shards.values(), 1):
        file = f"model-{number:05d}-of-{len(shards):06d}.safetensors"
        files[file] = held
        held.sort(key=lambda r: (("fp32", "bf16", "fp8").index(r.kind), r.hf))
        offsets = result.file(file, (Out(r.hf, DTYPE[r.kind], r.shape) for r in held))

        def data(row: Row) -> Callable[[], bytes]:
            return partial(fill, originals.get(row.copy_of, row), filling[row.kind])

        result.fill(Make(data(r), r.nbytes, file, offsets[r.hf]) for r in held)
    result.index({r.hf: file for file, held in files.items() for r in held}, sum(r.nbytes for r in rows))
    result.json("config.json", hf_config(cfg))
    return result


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=WIDTHS)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    execute(plan(args.kind), args.folder)


if __name__ == "__main__":
    run(main)
