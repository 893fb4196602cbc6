"""Configs of both forms, and what is refused."""

import json

import pytest

from dsv3.config import _HF_NAMES, _YARN_NAMES, CONFIGS, QUANTIZATION, REAL, TENSORS, WHOLE, ModelConfig
from dsv3.layout import layout

# DeepSeek-R1's and DeepSeek-V2-Lite's config.json, the fields that describe the architecture.
R1 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False, "ep_size": 1,
    "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False,
    "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
V2_LITE = R1 | {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "first_k_dense_replace": 1,
    "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_group": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_nextn_predict_layers": 0, "q_lora_rank": None,
    "quantization_config": None, "routed_scaling_factor": 1.0,
    "scoring_func": "softmax", "topk_group": 1, "topk_method": "greedy", "vocab_size": 102400,
    "rope_scaling": R1["rope_scaling"] | {"mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip


def same(a: ModelConfig, b: ModelConfig, but: set[str]) -> dict:
    return {f: (getattr(a, f), getattr(b, f)) for f in vars(a) if f not in but and getattr(a, f) != getattr(b, f)}


def test_r1_from_hugging_face_is_the_demos_671b():
    assert same(ModelConfig.from_hf(R1), ModelConfig.load("config_671B.json"), {"max_seq_len"}) == {}


def test_v3_1_differs_in_the_scales_alone():
    hf = ModelConfig.from_hf(R1 | {"quantization_config": R1["quantization_config"] | {"scale_fmt": "ue8m0"}})
    assert same(hf, ModelConfig.load("config_v3.1.json"), {"max_seq_len"}) == {}
    assert same(hf, ModelConfig.from_hf(R1), set()) == {"scale_fmt": ("ue8m0", None)}


def test_transformers_5_names_the_ordinary_scales():
    fp8 = R1["quantization_config"] | {"scale_fmt": "float", "dequantize": False, "modules_to_not_convert": None}
    assert ModelConfig.from_hf(R1 | {"quantization_config": fp8}) == ModelConfig.from_hf(R1)


def test_v2_lite_from_hugging_face_is_the_demos_16b():
    # With one group, greedy and group-limited choose alike.
    assert same(ModelConfig.from_hf(V2_LITE), ModelConfig.load("config_16B.json"), {"max_seq_len", "topk_method"}) == {}


def test_v2_names_its_rules():
    v2 = ModelConfig.load("config_236B.json")
    assert (v2.score_func, v2.topk_method, v2.norm_topk_prob, v2.route_bias) == (
        "softmax", "group_limited_greedy", False, False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["config_671B.json", "configs/config_671B.json"])
def test_shipped_configs_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ModelConfig.load(name).dim == 7168


def test_every_shipped_config_loads():
    assert sorted(p.name for p in CONFIGS.glob("*.json")) == [
        "config_16B.json", "config_236B.json", "config_671B.json", "config_kimi_k2.json", "config_moonlight.json",
        "config_v3.1.json",
    ]  # fmt: skip
    for file in CONFIGS.glob("*.json"):
        ModelConfig.load(file)


def test_an_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config_670B\.json: not found.*config_16B\.json.*config_v3\.1\.json"):
        ModelConfig.load(tmp_path / "config_670B.json")
    with pytest.raises(FileNotFoundError, match=r"config\.json: not found"):
        ModelConfig.load(tmp_path)


def test_rope_parameters_of_transformers_5_are_read():
    rope = R1["rope_scaling"] | {"rope_type": "yarn", "rope_theta": 10000.0}
    hf = {k: v for k, v in R1.items() if k not in ("rope_scaling", "rope_theta")} | {"rope_parameters": rope}
    assert ModelConfig.from_hf(hf) == ModelConfig.from_hf(R1)


@pytest.mark.parametrize(
    "hf",
    [R1, V2_LITE, R1 | {"rope_scaling": None}, R1 | {"quantization_config": QUANTIZATION | {"scale_fmt": "ue8m0"}}],
)
def test_there_and_back(hf):
    cfg = ModelConfig.from_hf(hf)
    assert hf | cfg.to_hf() == hf
    assert ModelConfig.from_hf(cfg.to_hf() | {"model_type": hf["model_type"]}) == cfg


def test_without_rope_scaling_there_is_no_yarn():
    assert ModelConfig.from_hf(R1 | {"rope_scaling": None}).rope_factor == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'.*distillations"),
        ({"model_type": ["deepseek_v3"]}, r"model_type is \['deepseek_v3'\]"),
        ({"moe_layer_freq": 2}, "moe_layer_freq = 2: only 1"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"attention_bias": True}, "attention_bias = True: only False"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "type 'linear'"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq'"),
        ({"n_group": 7}, "n_routed_experts = 256 does not divide into n_group = 7"),
        ({"topk_group": 9}, "topk_group = 9: must lie between 1 and n_group = 8"),
        ({"num_experts_per_tok": 200}, "num_experts_per_tok = 200: the chosen groups hold 128"),
        ({"scoring_func": "tanh"}, "scoring_func = 'tanh'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: must be a whole number from 1 to 2,000"),
        ({"qk_rope_head_dim": 63}, "qk_rope_head_dim = 63"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf(R1 | change)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="lacks kv_lora_rank"):
        ModelConfig.from_hf({k: v for k, v in R1.items() if k != "kv_lora_rank"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: "),
        ("[1]", "not a JSON object"),
        (json.dumps({"dim": "x"}), "config.json"),
        ('{"a": 1}', "unknown fields a"),
        (json.dumps(R1 | {"rope_scaling": {"type": "yarn"}}), "config.json: lacks 'factor'"),
        (json.dumps(R1 | {"quantization_config": ["fp8"]}), "config.json: "),
    ],
)
def test_files_that_are_no_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        ModelConfig.load(tmp_path)


ODD = [True, "8", [8], {"a": 1}, -1, 10**4000, float("nan"), float("inf")]


@pytest.mark.parametrize("value", [*ODD, 8.0], ids=lambda v: repr(v)[:9])
@pytest.mark.parametrize("name", [theirs for theirs, ours in _HF_NAMES.items() if ours in WHOLE | REAL])
def test_every_number_of_a_hugging_face_config_is_checked(name, value):
    if _HF_NAMES[name] in REAL and value == 8.0:
        value = 1e16
    with pytest.raises(ValueError, match=f"^{name} = ") as error:
        ModelConfig.from_hf(R1 | {name: value})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", ODD, ids=lambda v: repr(v)[:9])
@pytest.mark.parametrize("name", _YARN_NAMES)
def test_every_number_of_yarn_is_checked(name, value):
    with pytest.raises(ValueError, match=f"^rope_scaling.{name} = "):
        ModelConfig.from_hf(R1 | {"rope_scaling": R1["rope_scaling"] | {name: value}})


@pytest.mark.parametrize("name", [*WHOLE, *REAL])
@pytest.mark.parametrize("value", ODD, ids=lambda v: repr(v)[:9])
def test_every_number_of_a_demo_config_is_checked(name, value, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=rf"config.json: {name} = .*must be a (whole )?number from"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_null_is_no_number(name):
    with pytest.raises(ValueError, match=f"{name}: null"):
        ModelConfig.from_hf(R1 | {name: None})


def test_the_number_of_tensors_is_bounded():
    large = ModelConfig.from_hf(R1 | {"n_routed_experts": 1024, "num_hidden_layers": 80})
    assert sum(1 for _ in layout(large)) < TENSORS
    with pytest.raises(ValueError, match="num_hidden_layers = 2000.*n_routed_experts = 256: together more"):
        ModelConfig.from_hf(R1 | {"num_hidden_layers": 2000})
