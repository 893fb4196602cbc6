"""What is known of the model that an engine is given: its config, its precision, and whether its folder is whole."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import read
from ..cli import describe
from ..config import BLOCK, ModelConfig
from ..hubs.catalogue import find_model
from ..outside import small_json
from ..sizing.gpus import GPU
from ..sizing.needs import PRECISIONS, Precision

METHODS: dict[str, Precision] = {
    "fp8": "fp8",
    "awq": "int4",
    "gptq": "int4",
    "compressed-tensors": "int4",
    "ascend": "int8",
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model to serve.

    Attributes:
        cfg: None where nothing here says: an id that the catalogue lacks, or another architecture.
        precision: of the weights; None likewise.
        wrong: what is wrong with the folder, each with what to do.
    """

    name: str
    cfg: ModelConfig | None = None
    precision: Precision | None = None
    wrong: tuple[str, ...] = ()


def look(model: str) -> Served:
    """What ``model`` is: a folder if there is one, else an id, else a folder of another machine, of which nothing is
    known."""
    folder = Path(model)
    if folder.is_dir():
        return _folder(folder)
    known = find_model(model) if is_id(model) else None
    cfg = known.load_config() if known else None
    precision = next((p for p in PRECISIONS if known and p == known.precision), None)
    return Served(name=folder.name, cfg=cfg, precision=precision)


def is_id(model: str) -> bool:
    """Whether ``model`` can be the id of one on a hub: OWNER/NAME."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) is not None


def _folder(folder: Path) -> Served:
    name = folder.resolve().name
    ranks = read.converted_for(folder)
    if ranks:
        sizes = " or ".join(map(str, sorted(ranks)))
        why = f"{folder}: converted for {sizes} rank(s) of dsv3 generate; engines read the Hugging Face folder"
        return Served(name=name, wrong=(why,))
    config = folder / "config.json"
    if not os.path.lexists(config):
        return Served(name=name, wrong=(f"{config}: not found; engines read a Hugging Face folder",))
    try:
        values = small_json(config)
    except (ValueError, OSError) as error:
        return Served(name=name, wrong=(describe(error),))
    method = _method(values)
    precision = "bf16" if method is None else METHODS.get(method)
    try:
        cfg = ModelConfig.from_hf({k: v for k, v in values.items() if k != "quantization_config" or precision == "fp8"})
    except (ValueError, KeyError, TypeError, AttributeError):
        cfg = None  # another architecture, which engines may well run
    wrong = tuple(_files(folder, cfg, precision)) + tuple(_lost_fields(config, cfg, values))
    return Served(name=name, cfg=cfg, precision=precision, wrong=wrong)


def _method(values: dict[str, Any]) -> str | None:
    found = values.get("quantization_config")
    return str(found.get("quant_method")) if isinstance(found, dict) else None


def _lost_fields(config: Path, cfg: ModelConfig | None, values: dict[str, Any]) -> Iterable[str]:
    """Fields without which engines load a DeepSeek-V3 wrongly or not at all; transformers 5 does not write them."""
    lost = [name for name in ("topk_method", "scoring_func") if name not in values]
    if cfg and values.get("model_type") == "deepseek_v3" and lost:
        yield f'{config}: lacks {" and ".join(lost)}; add "topk_method": "noaux_tc", "scoring_func": "sigmoid"'


def _files(folder: Path, cfg: ModelConfig | None, precision: Precision | None) -> Iterable[str]:
    if not (folder / "tokenizer.json").is_file():
        yield f"{folder}: no tokenizer.json; copy it from the folder that the weights came from"
    if cfg is None or precision not in ("fp8", "bf16"):
        return  # stored in types that dsv3 does not read
    try:
        entries = read.open_folder(folder)
    except (ValueError, OSError) as error:
        yield describe(error)
        return
    stored = {e.dtype for name, e in entries.items() if name.endswith(".o_proj.weight")}
    if precision == "fp8" and "F8_E4M3" not in stored:
        yield (
            f"{folder / 'config.json'}: has a quantization_config, but the weights are {' and '.join(sorted(stored))}, "
            "as the official cast leaves it: remove it, or cast with dsv3 fp8_cast_bf16, which does"
        )
    if precision == "bf16" and "F8_E4M3" in stored:
        yield f"{folder / 'config.json'}: has no quantization_config, but the weights are FP8: take the original one"
    if cfg.n_mtp_layers and not any(f"layers.{cfg.n_layers}.eh_proj" in name for name in entries):
        yield f"{folder / 'config.json'}: names an MTP layer that the weights lack; set num_nextn_predict_layers to 0"


def uncut_blocks(cfg: ModelConfig, tp: int, whole_experts: bool) -> Iterable[str]:
    """Widths whose shares on ``tp`` ranks would end inside an FP8 block.

    Source: create_weights in SGLang 0.5.23 (layers/quantization/fp8.py) and validate_fp8_block_shape in vLLM 0.32.0
    (layers/quantization/utils/fp8_utils.py), which refuse the same.
    """
    widths = {
        "intermediate_size": cfg.inter_dim,
        "rows of q_b_proj": cfg.n_heads * cfg.qk_head_dim,
        "rows of kv_b_proj": cfg.n_heads * (cfg.qk_nope_head_dim + cfg.v_head_dim),
        "columns of o_proj": cfg.n_heads * cfg.v_head_dim,
        "width of the shared experts": cfg.n_shared_experts * cfg.moe_inter_dim,
    }
    if not whole_experts:
        widths["moe_intermediate_size"] = cfg.moe_inter_dim
    for name, width in widths.items():
        if tp > 1 and width % (tp * BLOCK):
            yield f"{name} = {width}: --tp {tp} cuts through FP8 blocks of {BLOCK}; take fewer, and --pp for the rest"


def by_marlin(gpu: GPU, precision: Precision) -> str:
    """What SGLang and vLLM do with FP8 weights on a GPU without units for them; empty where there is nothing to say."""
    return "" if precision != "fp8" or gpu.fp8_units else "FP8 weights, products in BF16 (Marlin)"
