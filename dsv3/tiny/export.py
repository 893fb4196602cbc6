"""Writes a trained tiny-r1 as DeepSeek writes R1: FP8 shards, index, config, tokenizer."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.plan import Make, Out, Plan
from ..checkpoint.write import execute
from ..config import ModelConfig
from ..kernels import reference
from ..layout import Row, layout

SHARDS = 5
SAFETENSORS = {
    "fp8": (torch.float8_e4m3fn, "F8_E4M3"),
    "bf16": (torch.bfloat16, "BF16"),
    "fp32": (torch.float32, "F32"),
}


def hf_config(cfg: ModelConfig) -> dict:
    """``cfg`` as DeepSeek-R1's config.json has it, every field but ``auto_map``: no code comes with the checkpoint."""
    other = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_type": "deepseek_v3",
        "moe_layer_freq": 1,
        "num_key_value_heads": cfg.n_heads,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    return dict(sorted((cfg.to_hf() | other).items()))


def export(weights: dict[str, Tensor], cfg: ModelConfig, tokenizer: Path, target: Path) -> None:
    """Write float32 ``weights`` (names of ``model.py``) to ``target``, quantised block by block.

    Args:
        cfg: with ``dtype="fp8"``.
        tokenizer: the folder that holds the tokenizer's files.
    """
    rows = list(layout(cfg))
    share = sum(r.nbytes for r in rows) / SHARDS
    files: dict[str, list[Row]] = {}
    at = 0
    for row in rows:
        file = f"model-{min(int(at / share), SHARDS - 1) + 1:05d}-of-{SHARDS:06d}.safetensors"
        at += row.nbytes
        files.setdefault(file, []).append(row)
    plan = Plan("export of tiny-r1")
    for file, held in files.items():
        offsets = plan.file(file, (Out(row.hf, SAFETENSORS[row.kind][1], row.shape) for row in held))
        plan.fill(Make(partial(_stored, row, weights), row.nbytes, file, offsets[row.hf]) for row in held)
    plan.index({row.hf: file for file, held in files.items() for row in held}, sum(r.nbytes for r in rows))
    plan.json("config.json", hf_config(cfg))
    plan.json(
        "generation_config.json",
        {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "do_sample": False},
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        plan.texts[name] = (tokenizer / name).read_bytes()
    execute(plan, target, workers=1)


def _stored(row: Row, weights: dict[str, Tensor]) -> memoryview:
    shared = {"model.embed_tokens.weight": "embed.weight", "lm_head.weight": "head.weight"}
    if row.is_scale:
        value = reference.weight_quant(weights[row.name.removesuffix("scale") + "weight"])[1]
    elif row.kind == "fp8":
        value = reference.weight_quant(weights[row.name])[0]
    else:
        value = weights[shared[row.copy_of] if row.copy_of else row.name]
    value = value.to(SAFETENSORS[row.kind][0]).contiguous()
    return value.view(torch.uint8).numpy().data.cast("B")
