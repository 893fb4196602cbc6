"""Tests of dsv3/quantized: what a quantization_config says, and the bytes that a checkpoint made like that has."""

import json
import math
import time
from pathlib import Path

import pytest

from dsv3 import quantized
from dsv3.checkpoint.read import BITS, header
from dsv3.config import ModelConfig
from dsv3.layout import layout
from dsv3.quantized.names import Names
from dsv3.sizing.needs import Split, weights
from dsv3.sizing.planner import plan, stored_as, subject

SMALL = {
    "model_type": "deepseek_v3", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512,
    "moe_intermediate_size": 256, "num_hidden_layers": 3, "first_k_dense_replace": 1, "num_attention_heads": 2,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 1.0, "q_lora_rank": 256, "kv_lora_rank": 128, "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 4096,
}  # fmt: skip


def integers(bits: int, group: int, **more) -> dict:
    scheme = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": True} | more
    return {"group_0": {"targets": ["Linear"], "weights": scheme}}


def compressed(style: str, **weights_) -> dict:
    group = {"targets": ["Linear"], "weights": weights_, "input_activations": {"num_bits": 8}}
    return {"quant_method": "compressed-tensors", "format": style, "config_groups": {"g": group}, "ignore": ["lm_head"]}


THINKING = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": integers(4, 32),
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
}  # fmt: skip
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
LEAVES_ATTENTION = {"exclude_modules": ["lm_head", "*self_attn*"]}
MIXED = {"model.layers.*.self_attn*": {"quant_algo": "FP8"}, "model.layers.*.mlp.experts*": {"quant_algo": "NVFP4"}}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
BLOCKS = FP8 | {"weight_block_size": [128, 128]}
QUARK4 = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


# What each tool writes for a matrix of n rows and k columns: suffix, dtype, shape.
def awq(n, k):
    return [("qweight", "I32", k, n // 8), ("qzeros", "I32", k // 128, n // 8), ("scales", "F16", k // 128, n)]


def gptq(n, k):
    scales = [("qzeros", "I32", k // 128, n // 8), ("scales", "F16", k // 128, n)]
    return [("qweight", "I32", k // 8, n), *scales, ("g_idx", "I32", k)]


def packed(n, k):
    return [("weight_packed", "I32", n, k // 8), ("weight_scale", "BF16", n, k // 32), ("weight_shape", "I64", 2)]


def rows_of(dtype, scale, name="weight_scale"):
    return lambda n, k: [("weight", dtype, n, k), (name, scale, n, 1)]


def blocks_of(dtype, scale, name="weight_scale_inv"):
    return lambda n, k: [("weight", dtype, n, k), (name, scale, -(-n // 128), -(-k // 128))]


def one_scale(n, k):
    return [("weight", "F8_E4M3", n, k), ("weight_scale", "F32")]


def two_scales(n, k):
    return [*one_scale(n, k), ("input_scale", "F32")]


def fours(group, scale="F8_E4M3", weight="weight", extra=()):
    return lambda n, k: [(weight, "U8", n, k // 2), ("weight_scale", scale, n, k // group), *extra]


def bnb8(n, k):
    return [("weight", "I8", n, k), ("SCB", "F32", n), ("weight_format", "U8")]


def bnb4(n, k):
    state = [("weight.quant_map", "F32", 16), ("weight.quant_state.bitsandbytes__nf4", "U8", 90)]
    return [("weight", "U8", n * k // 2, 1), ("weight.absmax", "F32", n * k // 64), *state]


def ascend(n, k):
    return [("weight", "I8", n, k), ("weight_scale", "F32", n, 1), ("weight_offset", "F32", n, 1)]


def w4(n, k):
    return [("weight", "I8", n, k // 2), ("weight_scale_inv", "BF16", n, k // 128), ("input_scale", "BF16", 1)]


GLOBALS = (("weight_scale_2", "F32"), ("input_scale", "F32"))
PACKED_GLOBALS = (("weight_global_scale", "F32", 1), ("input_global_scale", "F32", 1))
EVERYTHING, EXPERTS, NO_ATTENTION, NO_KV_B = "", ".experts.", "mlp.", "!kv_b_proj"
MADE = {
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 128}, awq, EVERYTHING, "int4"),
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, gptq, EVERYTHING, "int4"),
    "AutoRound": (
        {"quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_gptq"},
        gptq, EVERYTHING, "int4",
    ),
    "experts in INT4 alone": (THINKING, packed, EXPERTS, "int4"),
    "W8A8": (
        compressed("int-quantized", num_bits=8, type="int", strategy="channel"), rows_of("I8", "BF16"),
        EVERYTHING, "int8",
    ),
    "FP8 by row": (
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        rows_of("F8_E4M3", "BF16"), EVERYTHING, "fp8",
    ),
    "FP8 by block, compressed-tensors": (
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[128, 128]),
        blocks_of("F8_E4M3", "BF16", "weight_scale"), EVERYTHING, "fp8",
    ),
    "NVFP4, compressed-tensors": (
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
        fours(16, weight="weight_packed", extra=PACKED_GLOBALS), EVERYTHING, "nvfp4",
    ),
    "MXFP4, compressed-tensors": (
        compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32),
        fours(32, "U8", weight="weight_packed"), EVERYTHING, "mxfp4",
    ),
    "NVFP4": (NVFP4 | {"ignore": ["lm_head"]}, fours(16, extra=GLOBALS), EVERYTHING, "nvfp4"),
    "NVFP4 without attention": (NVFP4 | LEAVES_ATTENTION, fours(16, extra=GLOBALS), NO_ATTENTION, "nvfp4"),
    "FP8 of ModelOpt": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        two_scales, EVERYTHING, "fp8",
    ),
    "FP8 by matrix": (FP8, one_scale, EVERYTHING, "fp8"),
    "FP8, some left": (
        BLOCKS | {"modules_to_not_convert": ["lm_head", "kv_b_proj"]}, blocks_of("F8_E4M3", "F32"), NO_KV_B, "fp8",
    ),
    "INT8 by block": ({"quant_method": "blockwise_int8"}, blocks_of("I8", "F32"), EVERYTHING, "int8"),
    "INT8 by row": ({"quant_method": "w8a8_int8"}, rows_of("I8", "F32"), EVERYTHING, "int8"),
    "MXFP4 of Quark": (
        {"quant_method": "quark", "global_quant_config": {"weight": QUARK4}, "exclude": ["lm_head", "*self_attn*"]},
        fours(32, "U8"), NO_ATTENTION, "mxfp4",
    ),
    "bitsandbytes, 8 bits": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bnb8, EVERYTHING, "int8"),
    "bitsandbytes, 4 bits": (NF4, bnb4, EVERYTHING, "int4"),
}  # fmt: skip


def tensors(make, which: str) -> dict[str, tuple[str, list[int]]]:
    """Every tensor of the small model with the matrices that ``which`` names made by ``make``, the rest in BF16."""
    made: dict[str, tuple[str, list[int]]] = {}
    matrices = {
        row.hf for row in layout(ModelConfig.from_hf(SMALL | {"quantization_config": BLOCKS})) if row.kind == "fp8"
    }
    for row in layout(ModelConfig.from_hf(SMALL)):
        inside = which[1:] not in row.hf if which.startswith("!") else which in row.hf
        if row.hf in matrices and inside:
            module = row.hf.removesuffix("weight")
            made |= {module + name: (dtype, shape) for name, dtype, *shape in make(*row.shape)}
        else:
            made[row.hf] = ("F32" if row.kind == "fp32" else "BF16", list(row.shape))
    return made


def write(folder: Path, stored: dict[str, tuple[str, list[int]]], config: dict) -> None:
    """A checkpoint with these tensors, all zero, and without a byte of them on the disk."""
    described, at = {}, 0
    for name, (dtype, shape) in stored.items():
        size = math.prod(shape) * BITS[dtype] // 8
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(described).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        f.truncate(8 + len(head) + at)
    (folder / "config.json").write_text(json.dumps(config))


def in_the_files(folder: Path) -> int:
    return sum(e.stop - e.start for e in header(folder / "model.safetensors"))


@pytest.mark.parametrize("name", MADE)
def test_the_sum_is_what_the_files_hold(name, tmp_path):
    config, make, which, kind = MADE[name]
    write(tmp_path, tensors(make, which), SMALL | {"quantization_config": config})
    model = subject(str(tmp_path))
    assert model.published == kind
    held = weights(stored_as(model, model.published), Split())[0]
    assert held.total() == in_the_files(tmp_path)
    two = weights(stored_as(model, model.published), Split(tp=2, ep=2))
    assert held["routed"] == sum(rank["routed"] for rank in two), "experts are shared out whole"


def test_experts_in_int4_and_the_rest_in_fp8(tmp_path):
    stored = tensors(w4, EXPERTS)
    others = tensors(blocks_of("F8_E4M3", "F32"), "!.experts.")
    made = {n: v for n, v in stored.items() if EXPERTS in n} | {n: v for n, v in others.items() if EXPERTS not in n}
    write(tmp_path, made, SMALL | {"quantization_config": {"quant_method": "w4afp8"}})
    model = subject(str(tmp_path))
    assert weights(stored_as(model, "int4"), Split())[0].total() == in_the_files(tmp_path)


@pytest.mark.parametrize(
    ("file", "told", "make", "which"),
    [
        (
            "hf_quant_config.json",
            {"producer": {"name": "modelopt"}, "quantization": NVFP4 | LEAVES_ATTENTION},
            fours(16, extra=GLOBALS), NO_ATTENTION,
        ),
        (
            "quant_model_description.json",
            {n: "W8A8_DYNAMIC" if n.endswith("_proj.weight") and "kv_b" not in n else "FLOAT"
             for n in tensors(awq, "nothing")} | {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight": "W8A8_DYNAMIC"},
            ascend, None,
        ),
    ],
)  # fmt: skip
def test_files_beside_the_config(file, told, make, which, tmp_path):
    quantised = {n for n, kind in told.items() if kind == "W8A8_DYNAMIC"}
    made = tensors(make, which) if which else {}
    for name, (dtype, shape) in tensors(make, "nothing").items() if not which else ():
        parts = make(*shape) if name in quantised else []
        made |= {name.removesuffix("weight") + part: (kind, size) for part, kind, *size in parts} or {
            name: (dtype, shape)
        }
    write(tmp_path, made, SMALL)
    (tmp_path / file).write_text(json.dumps(told))
    model = subject(str(tmp_path))
    assert weights(stored_as(model, model.published), Split())[0].total() == in_the_files(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: .*(modelopt|ascend).*dsv3 generate does not run.*vLLM"):
        ModelConfig.load(tmp_path)


BITS_OF = {  # bits of a weight of a 256 x 256 matrix, scales included
    4 + 20 / 128: {"quant_method": "awq"},
    4 + 20 / 64: {"quant_method": "awq", "w_bit": 4, "q_group_size": 64},
    8 + 24 / 128 + 32 / 256: {"quant_method": "gptq", "bits": 8, "group_size": 128},
    3 + 19 / 256 + 32 / 256: {"quant_method": "GPTQ", "bits": 3, "group_size": -1},
    8 + 32 / 64**2: FP8 | {"weight_block_size": [64, 64]},
    8 + 8 / 32: {"quant_method": "modelopt", "quant_algo": "MXFP8"},
    4 + 8 / 16 + 32 / 256**2: {"quant_algo": "W4A16_NVFP4"},
    4 + 16 / 128 + 16 / 256: {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 128},
    4 + 16 / 32 + 128 / 256**2: {"config_groups": integers(4, 32), "format": "pack-quantized"},
    4 + 20 / 32 + 128 / 256**2: {"config_groups": integers(4, 32, symmetric=False), "format": "pack-quantized"},
    4 + 32 / 64: {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
}


@pytest.mark.parametrize(("bits", "config"), BITS_OF.items())
def test_bits(bits, config):
    storage = quantized.of(config).storage("model.layers.3.mlp.experts.7.up_proj")
    assert storage.nbytes((256, 256)) == math.ceil(bits * 256 * 256 / 8)
    assert storage.nbytes((0, 256)) == 0


def test_each_module_by_its_own_entry():
    found = quantized.of({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": MIXED})
    kinds = {
        "model.layers.3.self_attn.o_proj": "fp8", "model.layers.3.mlp.experts.9.up_proj": "nvfp4",
        "model.layers.3.mlp.shared_experts.up_proj": None, "lm_head": None,
    }  # fmt: skip
    assert {name: (s := found.storage(name)) and s.kind for name in kinds} == kinds
    assert found.kind == "nvfp4", "the narrowest"


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("torchao", {}), ("gguf", {}), ("aqlm", {}), ("something-new", {}), ("ascend", {}),
        ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}),
        ("modelopt", {"quant_algo": "NVFP9"}),
        ("compressed-tensors", {"format": "marlin-24", "config_groups": integers(4, 128)}),
        ("quark", {"global_quant_config": {"weight": {"dtype": ["int4"]}}}),
        ("awq", {"ignore": ["re:(a+)+$"]}),  # expressions that could take time without end are not matched
        ("awq", {"ignore": ["re:(.*a.*)"]}),
        ("awq", {"ignore": ["re:(?!a).*"]}),
        ("awq", {"ignore": ["re:" + "a" * 5000]}),
        ("awq", {"ignore": [f"{i}*" for i in range(999)]}),
    ],
)  # fmt: skip
def test_bits_that_are_not_known_are_not_guessed(method, more, tmp_path):
    write(tmp_path, {}, SMALL | {"quantization_config": {"quant_method": method} | more})
    assert quantized.read(tmp_path).kind is None
    with pytest.raises(ValueError, match="bits not known here.*cannot be counted"):
        subject(str(tmp_path))
    with pytest.raises(ValueError, match=f"'{method}': weights are stored as .* dsv3 generate does not run"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("left", [["re:(a+)+$"], ["re:(?!a).*"], [f"{i}*" for i in range(999)]])
def test_fp8_in_blocks_is_read_by_its_tensors_whatever_list_it_has(left, tmp_path):
    write(tmp_path, {}, SMALL | {"quantization_config": BLOCKS | {"modules_to_not_convert": left}})
    assert ModelConfig.load(tmp_path).dtype == "fp8"
    with pytest.raises(ValueError, match="bits not known here.*cannot be counted"):
        subject(str(tmp_path))


@pytest.mark.parametrize(
    ("left", "kept", "taken"),
    [
        (["lm_head"], ["lm_head"], ["model.layers.0.mlp.up_proj"]),
        (["mlp.gate"], ["model.layers.3.mlp.gate"], ["model.layers.3.mlp.gate_proj"]),
        (["model.layers.1"], ["model.layers.1.mlp.up_proj"], ["model.layers.11.mlp.up_proj"]),
        (["self_attn"], ["model.layers.9.self_attn.o_proj"], ["model.layers.9.mlp.up_proj"]),
        (["model.layers.61*"], ["model.layers.61.mlp.up_proj"], ["model.layers.6.mlp.up_proj"]),
        ([r"re:.*mlp\.experts\.\d+\.(up|gate)_proj$"], ["model.layers.3.mlp.experts.12.up_proj"],
         ["model.layers.3.mlp.experts.12.down_proj", "model.layers.3.mlp.experts.12.up_proj.x"]),
        (["re:model.layers.[0-2]+.mlp.*"], ["model.layers.1.mlp.up_proj"], ["model.layers.3.mlp.up_proj"]),
    ],
)  # fmt: skip
def test_what_is_left(left, kept, taken):
    names = Names.of(left)
    assert [name in names for name in kept + taken] == [True] * len(kept) + [False] * len(taken)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["awq"], "must be an object"),
        ({"bits": 4}, "quant_method = None: must be a name"),
        ({"quant_method": ["awq"]}, "quant_method = .'awq'.: must be a name"),
        ({"quant_method": "awq", "bits": "four"}, "bits = 'four': must be a whole number, 1 to 8"),
        ({"quant_method": "awq", "bits": True}, "bits = True"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 10**30}, "group_size = 10000"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size = .128.: must be two whole numbers"),
        (
            {"quant_method": "awq", "modules_to_not_convert": [7]},
            "modules_to_not_convert = .7.: must be a list of names",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {}}},
            "config_groups.g.weights must be an object",
        ),
    ],
)
def test_nonsense_is_one_line(config, message):
    with pytest.raises(ValueError, match=message) as error:
        quantized.of(config)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_names_are_matched_in_bounded_time():
    names = Names.of(["re:" + ".*a" * 40 + "$", "*a" * 100] + [f"*{i}*b" for i in range(200)])
    begin = time.perf_counter()
    for _ in range(20):
        assert "a" * 100 + "c" not in names
    assert time.perf_counter() - begin < 2


def test_another_precision_of_a_quantised_folder_is_another_checkpoint(tmp_path):
    write(tmp_path, {}, SMALL | {"quantization_config": MADE["AWQ"][0]})
    with pytest.raises(ValueError, match="stored as AWQ .4 bits.*in BF16 it is another checkpoint"):
        stored_as(subject(str(tmp_path)), "bf16")
    write(tmp_path, {}, SMALL | {"quantization_config": MADE["FP8, some left"][0]})
    assert weights(stored_as(subject(str(tmp_path)), "bf16"), Split())[0].total() > 0, "FP8 in blocks is cast"


def test_the_plan_says_how_it_is_stored(tmp_path):
    from dsv3.sizing.gpus import find_gpu
    from dsv3.sizing.report import text

    write(tmp_path, {}, SMALL | {"quantization_config": THINKING})
    told = text(plan(subject(str(tmp_path)), find_gpu("H100"), Split()), [])
    assert "in INT4 on 1 x H100" in told
    assert "stored as compressed-tensors (4 bits and a scale for 32 weights; not quantised: lm_head, " in told


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "awq"}, "'awq': weights are stored as AWQ"),
        (NVFP4, "'modelopt': weights are stored as ModelOpt's NVFP4"),
        (FP8, "'fp8': weights are stored as FP8 .8 bits and a scale for a matrix"),
        ({"quant_method": "blockwise_int8"}, "INT8 in blocks .8 bits"),
    ],
)
def test_what_generate_says(config, named):
    with pytest.raises(ValueError, match=f"{named}.*does not run; dsv3 serve does, by .*SGLang"):
        ModelConfig.from_hf(SMALL | {"quantization_config": config})
