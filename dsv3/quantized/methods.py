"""The ways in which weights are quantised, told apart by what their ``quantization_config`` says of bits and groups.

Source: what the writers and the engines do. compressed-tensors, AutoAWQ, GPTQModel, AutoRound, ModelOpt, Quark,
bitsandbytes, msModelSlim, transformers (``utils/quantization_config.py``); vLLM and SGLang (``layers/quantization``).
"""

from collections.abc import Callable, Iterable
from typing import Any

from ..said import Said
from .fields import group_size, names_in, objects, whole
from .names import Names
from .storage import Kind, Storage

EXPERTS = ("mlp.experts",)
Read = Iterable[tuple[Names, Storage]]
ALL = Names(everything=True)
FP8_BLOCKS = Storage("fp8", 8, 32, (128, 128))


def _packed(bits: int, scale: int, block: tuple[int | None, int | None], **more: int) -> Storage:
    return Storage("int8" if bits > 4 else "int4", bits, scale, block, **more)


def _awq(config: dict[str, Any]) -> Read:
    bits = whole(config, "bits" if "bits" in config else "w_bit", 4, most=8)
    return [(ALL, _packed(bits, 16 + bits, (1, group_size(config, "group_size", "q_group_size", default=128))))]


def _gptq(config: dict[str, Any]) -> Read:
    bits = whole(config, "bits", 4, most=8)
    if not all(name.startswith("-:") for name in objects(config, "dynamic")):
        return []  # some have bits of their own
    return [(ALL, _packed(bits, 16 + bits, (1, group_size(config, "group_size", default=128)), column=32))]


def _auto_round(config: dict[str, Any]) -> Read:
    if config.get("data_type", "int") != "int" or "config_groups" in config:
        return _compressed(config)
    as_gptq = "gptq" in str(config.get("packing_format"))
    return _gptq(config) if as_gptq else _awq(config)


def _fp8(config: dict[str, Any]) -> Read:
    block = config.get("weight_block_size")
    static = 32 * (config.get("activation_scheme") == "static")
    if block is None:
        return [(ALL, Storage("fp8", 8, 32, (None, None), matrix=static))]
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise ValueError(f"quantization_config: weight_block_size = {block!r:.60}: must be two whole numbers")
    return [(ALL, Storage("fp8", 8, 32, (block[0], block[1]), matrix=static))]


def _w4afp8(config: dict[str, Any]) -> Read:
    group = group_size(config, "group_size", default=128)
    return [(Names.of(EXPERTS), Storage("int4", 4, 16, (1, group), matrix=16)), (ALL, FP8_BLOCKS)]


ALGOS = {  # ModelOpt's quant_algo; the group of NVFP4 comes from the file
    "FP8": Storage("fp8", 8, 32, (None, None), matrix=32),
    "FP8_PB_WO": FP8_BLOCKS,
    "FP8_PB_REAL": FP8_BLOCKS,
    "FP8_PER_CHANNEL_PER_TOKEN": Storage("fp8", 8, 32),
    "W8A16": Storage("int8", 8, 16),
    "W8A8_SQ_PER_CHANNEL": Storage("int8", 8, 32, matrix=32, column=16),
    "W4A16_AWQ": Storage("int4", 4, 16, (1, 128), column=16),
    "W4A8_AWQ": Storage("int4", 4, 16, (1, 128), matrix=64, column=16),
    "NVFP4": Storage("nvfp4", 4, 8, (1, 16), matrix=64),
    "NVFP4_AWQ": Storage("nvfp4", 4, 8, (1, 16), matrix=64, column=16),
    "W4A16_NVFP4": Storage("nvfp4", 4, 8, (1, 16), matrix=32),
    "W4A8_NVFP4_FP8": Storage("nvfp4", 4, 8, (1, 16), matrix=64),
    "MXFP4": Storage("mxfp4", 4, 8, (1, 32)),
    "W4A8_MXFP4_FP8": Storage("mxfp4", 4, 8, (1, 32), matrix=32),
    "MXFP8": Storage("fp8", 8, 8, (1, 32)),
}


def _algo(config: dict[str, Any]) -> Storage | None:
    found = ALGOS.get(str(config.get("quant_algo")).upper())
    group = group_size(config, "group_size", default=-1)
    return found._replace(block=(1, group)) if found and found.block[0] == 1 and found.block[1] and group else found


def _modelopt(config: dict[str, Any]) -> Read:
    layers = objects(config, "quantized_layers")
    if layers:
        grouped: dict[Storage, list[str]] = {}
        for name, how in layers.items():
            storage = _algo(how)
            if storage is None:
                return []
            grouped.setdefault(storage, []).append(name)
        return [(Names.of(names), storage) for storage, names in grouped.items()]
    if config.get("quant_algo") == "MIXED_PRECISION":  # without a list: as SGLang and TensorRT-LLM take DeepSeek's
        return _w4afp8(config)
    storage = _algo(config)
    return [(ALL, storage)] if storage else []


def _strategy(weights: dict[str, Any]) -> tuple[int | None, int | None] | None:
    """Rows and columns that share a scale, as compressed-tensors says."""
    strategy, block = weights.get("strategy"), weights.get("block_structure")
    if strategy == "block" and isinstance(block, list) and len(block) == 2:
        high, wide = (whole({"block_structure": n}, "block_structure") for n in block)
        return high, wide
    group = group_size(weights, "group_size")
    if strategy is None:
        return (1, group) if group else (None, None)
    by_name = {"tensor": (None, None), "channel": (1, None), "group": (1, group), "tensor_group": (1, group)}
    return by_name.get(str(strategy))


def _compressed(config: dict[str, Any]) -> Read:
    found = []
    for name, group in objects(config, "config_groups").items():
        weights, targets = group.get("weights"), names_in(group, "targets")
        if not isinstance(weights, dict):
            raise ValueError(f"quantization_config: config_groups.{name:.60}.weights must be an object")
        style = group.get("format") or config.get("format")
        storage = _scheme(weights, str(style), bool(group.get("input_activations")))
        if storage is None:
            return []
        found.append((ALL if "Linear" in targets.exact or not targets else targets, storage))
    return found


def _scheme(weights: dict[str, Any], style: str, activations: bool) -> Storage | None:
    bits, block = whole(weights, "num_bits", 8, most=16), _strategy(weights)
    if block is None or block == (1, None) and weights.get("strategy") in ("group", "tensor_group"):
        return None
    if style == "nvfp4-pack-quantized":
        return Storage("nvfp4", 4, 8, block, matrix=64 if activations else 32)
    if style == "mxfp4-pack-quantized":
        return Storage("mxfp4", 4, 8, block)
    zero = 0 if weights.get("symmetric", True) else bits
    if style == "pack-quantized":
        return _packed(bits, 16 + zero, block, matrix=128, column=32 * (weights.get("actorder") in ("group", True)))
    if bits == 8 and style in ("int-quantized", "float-quantized", "naive-quantized"):
        return Storage("fp8" if weights.get("type") == "float" else "int8", 8, 16 + zero, block)
    return None


QUARK: dict[str, tuple[Kind, int]] = {
    "fp4": ("mxfp4", 4),
    "int4": ("int4", 4),
    "uint4": ("int4", 4),
    "int8": ("int8", 8),
    "uint8": ("int8", 8),
    "fp8_e4m3": ("fp8", 8),
}


def _quark(config: dict[str, Any]) -> Read:
    layers = list(objects(config, "layer_quant_config").items())
    schemes = [*layers, ("*", config.get("global_quant_config") or {})]
    found = []
    for name, scheme in schemes:
        weight = scheme.get("weight") if isinstance(scheme, dict) else None
        weight = weight[-1] if isinstance(weight, list) and weight else weight
        if not isinstance(weight, dict) or str(weight.get("dtype")) not in QUARK:
            return []
        kind, bits = QUARK[str(weight["dtype"])]
        scheme_of = {"per_group": (1, group_size(weight, "group_size")), "per_channel": (1, None)}
        block = scheme_of.get(str(weight.get("qscheme")), (None, None))
        scale = 8 if kind == "mxfp4" else 32
        found.append((ALL if name == "*" else Names.of([name]), Storage(kind, bits, scale, block)))
    return found


def _bitsandbytes(config: dict[str, Any]) -> Read:
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        nested = bool(config.get("bnb_4bit_use_double_quant"))
        return [(ALL, Storage("int4", 4, 8 if nested else 32, (1, 64), matrix=8 * (64 + 90 + 1028 * nested)))]
    return [(ALL, Storage("int8", 8, 32, matrix=8))]


def _hqq(config: dict[str, Any]) -> Read:
    params = objects(config, "quant_config").get("weight_quant_params", {})
    return [(ALL, _packed(whole(params, "nbits", 4, most=8), 32, (1, group_size(params, "group_size", default=64))))]


ASCEND = {"W8A8": 64 + 96, "W8A8_DYNAMIC": 64, "W8A16": 64, "W4A8_DYNAMIC": 64, "W4A16": 64}  # bits for each row


def _ascend(config: dict[str, Any]) -> Read:
    described = config.get("description")
    if not isinstance(described, dict):
        return []
    kinds: dict[str, list[str]] = {}
    for tensor, kind in described.items():
        if isinstance(kind, str) and tensor.endswith(".weight"):
            kinds.setdefault(kind, []).append(tensor.removesuffix(".weight"))
    quantised = {kind: names for kind, names in kinds.items() if kind != "FLOAT"}
    if not quantised or not quantised.keys() <= ASCEND.keys():
        return []
    return [(Names.of(names), _packed(int(kind[1]), ASCEND[kind], (1, None))) for kind, names in quantised.items()]


BOTH = "vLLM and SGLang"
NVIDIA = "TensorRT-LLM, vLLM and SGLang"
# Names that some writers and engines have for the same.
ALIASES = {"intel/auto-round": "auto-round", "gptqmodel": "gptq", "gptq_marlin": "gptq", "awq_marlin": "awq"}
METHODS: dict[str, tuple[str, str, Callable[[dict[str, Any]], Read] | None]] = {
    "fp8": ("FP8", BOTH, _fp8),
    "fbgemm_fp8": (
        Said("FP8 for each row (FBGEMM)"),
        "vLLM and transformers",
        lambda _: [(ALL, Storage("fp8", 8, 32))],
    ),
    "w8a8_fp8": (Said("FP8 for each row"), "SGLang", lambda _: [(ALL, Storage("fp8", 8, 32))]),
    "w8a8_int8": (Said("INT8 for each row"), "SGLang", lambda _: [(ALL, Storage("int8", 8, 32))]),
    "blockwise_int8": (Said("INT8 in blocks"), "SGLang", lambda _: [(ALL, Storage("int8", 8, 32, (128, 128)))]),
    "awq": ("AWQ", BOTH, _awq),
    "gptq": ("GPTQ", BOTH, _gptq),
    "auto-round": ("AutoRound", BOTH, _auto_round),
    "compressed-tensors": ("compressed-tensors", BOTH, _compressed),
    "modelopt": ("ModelOpt", NVIDIA, _modelopt),
    "modelopt_fp4": (Said("ModelOpt's NVFP4"), NVIDIA, lambda config: _modelopt({"quant_algo": "NVFP4"} | config)),
    "modelopt_fp8": (Said("ModelOpt's FP8"), NVIDIA, lambda config: _modelopt({"quant_algo": "FP8"} | config)),
    "mxfp4": ("MXFP4", BOTH, lambda _: [(Names.of(EXPERTS), Storage("mxfp4", 4, 8, (1, 32)))]),
    "quark": ("Quark", BOTH, _quark),
    "w4afp8": (Said("W4AFP8, experts in INT4 and the rest in FP8"), BOTH, _w4afp8),
    "bitsandbytes": ("bitsandbytes", "vLLM and transformers", _bitsandbytes),
    "hqq": ("HQQ", "transformers", _hqq),
    "ascend": (Said("Ascend's (msModelSlim)"), "vLLM-Ascend", _ascend),
    "torchao": ("torchao", "vLLM and transformers", None),
    "aqlm": ("AQLM", "transformers", None),
    "quanto": ("Quanto", "transformers", None),
    "eetq": ("EETQ", "transformers", None),
    "exl3": ("EXL3", "ExLlamaV3", None),
    "gguf": ("GGUF", "llama.cpp", None),
}
