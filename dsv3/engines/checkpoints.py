"""What is known of the model that an engine is given: its config, its precision, and whether its folder is whole."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import quantized
from ..checkpoint import read
from ..checkpoint.gguf import Gguf, is_meant, open_gguf
from ..checkpoint.stored import open_model
from ..cli import describe
from ..config import BLOCK, ModelConfig
from ..hubs.catalogue import find_model
from ..outside import printable, small_json
from ..quantized import Quantized
from ..said import Said
from ..sizing.gpus import GPU
from ..sizing.needs import PRECISIONS, Precision

PLAIN = {"BF16", "F16", "F32"}
# Files of which one at least holds a tokenizer; Kimi's and Moonlight's is tiktoken's.
TOKENIZERS = ("tokenizer.json", "tiktoken.model", "tokenizer.model", "vocab.json")
# Who reads which quantisation, of the checkpoint's own. Sources: layers/quantization/__init__.py of vLLM 0.33.0 and
# SGLang 0.5.23; pytorch/config.py and supported_models.md of LMDeploy 0.18.0; TensorRT-LLM's page of the model;
# vllm_ascend/quantization/; KTransformers' guide. A method that is not here, and what is in doubt, is left to the
# engine.
READERS: dict[str, tuple[str, ...]] = {
    "fp8": ("sglang", "vllm", "lmdeploy", "trtllm", "ktransformers"),
    "awq": ("sglang", "vllm", "ascend"),  # LMDeploy, too, but not for this model
    "gptq": ("sglang", "vllm", "ascend"),
    "auto-round": ("sglang", "vllm"),
    "compressed-tensors": ("sglang", "vllm", "lmdeploy", "trtllm", "ascend"),
    "modelopt": ("sglang", "vllm", "trtllm"),
    "modelopt_fp4": ("sglang", "vllm", "trtllm"),
    "modelopt_fp8": ("sglang", "vllm", "trtllm"),
    "quark": ("sglang", "vllm"),
    "mxfp4": ("sglang", "vllm"),
    "w4afp8": ("sglang", "trtllm"),
    "w8a8_fp8": ("sglang",),
    "w8a8_int8": ("sglang",),
    "blockwise_int8": ("sglang",),
    "ascend": ("ascend",),
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model to serve.

    Attributes:
        cfg: None where nothing here says: an id that the catalogue lacks, or another architecture.
        unread: why a folder's config.json gives no ``cfg``; empty where it does.
        precision: of the weights; None likewise, or for one that the planner does not know.
        stored: how the folder says that its weights are quantised; None: not at all, or not known.
        lacks_mtp: the config names an MTP layer, and the weights have none, or not the whole of it.
        notes: what of the weights is not as config.json says, and stands in no one's way.
        wrong: what is wrong with the folder, each with what to do.
        gguf: what a GGUF file says; None: it is none.
    """

    name: str
    cfg: ModelConfig | None = None
    unread: str = ""
    precision: Precision | None = None
    stored: Quantized | None = None
    lacks_mtp: bool = False
    notes: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    gguf: Gguf | None = None

    @property
    def blocks(self) -> bool:
        """Whether it has FP8 weights in blocks, as DeepSeek publishes them."""
        return self.stored.in_blocks_of(BLOCK) if self.stored else self.precision == "fp8"


def look(model: str) -> Served:
    """What ``model`` is: a folder if there is one, else an id, else a folder of another machine, of which nothing is
    known."""
    folder = Path(model)
    if folder.is_dir():
        return _folder(folder)
    if is_meant(folder):
        return _gguf(folder)
    known = find_model(model) if is_id(model) else None
    if known is None:
        return Served(name=folder.name)
    stored, precision = quantized.of(known.quantization), _precision(known.precision)
    return Served(name=folder.name, cfg=known.load_config(), precision=precision, stored=stored)


def _gguf(file: Path) -> Served:
    """A GGUF file; one that holds no language model, or not all of it, is wrong."""
    try:
        found = open_gguf(file)
    except (ValueError, OSError) as error:
        return Served(name=file.name, wrong=(describe(error),))
    kind = str(found.values.get("general.type", "model"))
    if kind != "model" or not any(weight.name == "token_embd.weight" for weight in found.weights):
        what = f"{printable(found.architecture, 30) or 'no architecture'}, {printable(kind, 30)}"
        return Served(name=file.name, wrong=(f"{file}: no language model ({what}); take the file with its weights",))
    return Served(name=file.name, gguf=found)


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
    try:
        stored, entries = quantized.read(folder), _entries(folder)
    except (ValueError, OSError) as error:
        return Served(name=name, wrong=(*_tokenizer(folder), describe(error)))
    as_config = stored is None or stored.in_blocks_of(BLOCK)
    cfg, unread = None, ""
    try:
        cfg = ModelConfig.from_hf({k: v for k, v in values.items() if as_config or k != "quantization_config"})
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # another one, which engines may well run
        unread = f"lacks {error}" if isinstance(error, KeyError) else describe(error)
    wrong = [*_tokenizer(folder), *_types(config, entries, stored), *_lost_fields(config, cfg, values)]
    lacks_mtp, notes = False, tuple[str, ...]()
    if cfg and as_config and entries and not wrong:
        try:
            found = open_model(folder, cfg)
            lacks_mtp, notes = found.cfg.n_mtp_layers < cfg.n_mtp_layers, found.notes
        except (ValueError, OSError) as error:
            wrong.append(describe(error))
    return Served(
        name=name,
        cfg=cfg,
        unread=unread,
        precision=_precision(stored.kind if stored else "bf16"),
        stored=stored,
        lacks_mtp=lacks_mtp,
        notes=notes,
        wrong=tuple(wrong),
    )


def _precision(kind: str | None) -> Precision | None:
    """What the planner calls it, where it knows it."""
    return next((p for p in PRECISIONS if p == kind), None)


def _entries(folder: Path) -> Mapping[str, read.Entry]:
    """The tensors; none where they are in files of another kind, which some engines read."""
    return read.open_folder(folder, whole=False) if any(folder.glob("*.safetensors*")) else {}


def _tokenizer(folder: Path) -> Iterable[str]:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        yield f"{folder}: no tokenizer.json, nor another tokenizer; copy it from the folder that the weights came from"


def _types(config: Path, entries: Mapping[str, read.Entry], stored: Quantized | None) -> Iterable[str]:
    """A config that says that the weights are quantised, and weights that are not, or the other way round: an engine
    would compute with wrong numbers."""
    types = {e.dtype for e in entries.values()}
    if stored and types and types <= PLAIN:
        fp8, kinds = stored.method == "fp8", " and ".join(sorted(types - {"F32"} or types))
        what = "has a quantization_config" if fp8 else f"says {stored.words}, by itself or in a file beside it"
        cure = "remove it, or cast with dsv3 fp8_cast_bf16, which does" if fp8 else "take the one of these weights"
        yield f"{config}: {what}, but the weights are {kinds}, as the official cast leaves it: {cure}"
    if stored is None and "F8_E4M3" in types:
        yield f"{config}: has no quantization_config, but the weights are FP8: take the original one"


def _lost_fields(config: Path, cfg: ModelConfig | None, values: dict[str, Any]) -> Iterable[str]:
    """Fields without which engines load a DeepSeek-V3 wrongly or not at all; transformers 5 does not write them."""
    lost = [name for name in ("topk_method", "scoring_func") if values.get(name) is None]
    if cfg and values.get("model_type") == "deepseek_v3" and lost:
        yield f'{config}: lacks {" and ".join(lost)}; add "topk_method": "noaux_tc", "scoring_func": "sigmoid"'


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
    return "" if precision != "fp8" or gpu.fp8_units else Said("FP8 weights, products in BF16 (Marlin)")
