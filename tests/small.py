"""A small configuration with every part of the model; conftest.py makes its checkpoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from dsv3.checkpoint.ours import RECORD
from dsv3.checkpoint.read import INDEX
from dsv3.config import ModelConfig

# 576 rows in wkv_a make ragged FP8 blocks; every cut over 2 ranks falls on a block.
SMALL = ModelConfig(
    vocab_size=512, dim=128, inter_dim=256, moe_inter_dim=128, n_layers=2, n_dense_layers=1, n_heads=4,
    n_routed_experts=8, n_shared_experts=2, n_activated_experts=2, n_expert_groups=4, n_limited_groups=2,
    score_func="sigmoid", route_scale=2.5, q_lora_rank=128, n_mtp_layers=1, dtype="fp8",
)  # fmt: skip


def rewrite(source: Path, target: Path, change: Callable[[dict], None], config: dict | None = None) -> Path:
    """A copy of a checkpoint in one file, after ``change`` of its tensors and with other fields in its config.json."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name not in (INDEX, RECORD):
            shutil.copy(file, target)
    tensors = {name: w for file in sorted(source.glob("*.safetensors")) for name, w in load_file(file).items()}
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((source / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(settings))
    return target
