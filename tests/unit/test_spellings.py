"""One architecture, many spellings of its config.json: releases of transformers, round trips, other tools."""

import pytest
from public import KIMI, PUBLIC, V2_5, V3, shrink

from dsv3.config import ModelConfig

BASES = {
    "V3": shrink(V3), "V2.5": shrink(V2_5), "Kimi": shrink(KIMI), "Moonlight": shrink(PUBLIC["Moonlight-16B-A3B"]),
    "V2-Lite": shrink(PUBLIC["DeepSeek-V2-Lite, Coder-V2-Lite"]),
}  # fmt: skip
GONE = ...  # in place of a value: the field is not there


def yarn(base: str, **changes) -> dict:
    return {k: v for k, v in (BASES[base]["rope_scaling"] | changes).items() if v is not GONE}


def parameters(base: str, **changes) -> dict:
    """YaRN and theta as transformers 5 has them, in one object."""
    theta = {"rope_theta": BASES[base]["rope_theta"], "rope_type": "yarn"}
    return {"rope_scaling": GONE, "rope_theta": GONE, "rope_parameters": yarn(base, **theta | changes)}


SAME = [  # what differs in config.json, and where
    # how weights are stored and who saved them
    ({"torch_dtype": "bfloat16"}, "V3"),
    ({"dtype": "float32", "transformers_version": "5.23.0"}, "V3"),
    ({"architectures": ["DeepseekV3ForCausalLM"], "auto_map": {"AutoConfig": "configuration_deepseek.X"}}, "V3"),
    ({"aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1, "pretraining_tp": 1, "initializer_range": 0.02,
      "attention_dropout": 0.0, "use_cache": True, "pad_token_id": None, "eos_token_id": [1, 2]}, "V3"),
    ({"head_dim": 16, "qk_head_dim": 48, "output_router_logits": False, "rope_interleave": True}, "V3"),
    ({"moe_layer_freq": 1, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}, "V2.5"),
    # DeepSeek's MLA has as many of these as heads, and old tiny models say another number
    ({"num_key_value_heads": 2}, "V3"),
    ({"num_key_value_heads": GONE}, "V3"),
    ({"num_key_value_heads": None}, "V3"),
    ({"a_field_of_next_year": {"x": [1]}}, "V3"),
    ({"quantization_config": None}, "V3"),
    ({"quantization_config": {}}, "V3"),
    ({"model_type": "deepseek_v3"}, "Kimi"),
    # RoPE
    ({"rope_scaling": yarn("V3", rope_type="yarn")}, "V3"),
    ({"rope_scaling": yarn("V3", rope_type="yarn", type=GONE)}, "V3"),
    ({"rope_scaling": yarn("V3", rope_theta=10000)}, "V3"),
    (parameters("V3"), "V3"),
    (parameters("V3", type=GONE), "V3"),
    (parameters("Kimi", type=GONE), "Kimi"),
    (parameters("V2-Lite"), "V2-Lite"),
    ({"rope_scaling": None} | {"rope_parameters": parameters("V3")["rope_parameters"]}, "V3"),
    ({"rope_scaling": GONE}, "Moonlight"),
    ({"rope_scaling": {"type": "default"}}, "Moonlight"),
    ({"rope_scaling": {"rope_type": "default"}}, "Moonlight"),
    ({"rope_scaling": GONE, "rope_theta": GONE,
      "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}, "Moonlight"),
    ({"rope_theta": 10000.0}, "V3"),
    ({"rope_theta": GONE}, "V3"),
    ({"rope_theta": None}, "V3"),
    ({"rope_scaling": yarn("V3", beta_fast=GONE, beta_slow=GONE)}, "V3"),
    ({"rope_scaling": yarn("V3", beta_fast=None, beta_slow=None)}, "V3"),
    ({"rope_scaling": yarn("V3", attention_factor=None)}, "V3"),
    ({"rope_scaling": yarn("V3", factor=40.0, beta_fast=32.0, beta_slow=1.0, mscale=1)}, "V3"),
    # defaults of a model_type, left out or null
    ({"scoring_func": GONE, "topk_method": GONE, "norm_topk_prob": GONE}, "V3"),
    ({"topk_method": None, "norm_topk_prob": None}, "V3"),
    ({"scoring_func": None}, "V3"),
    ({"scoring_func": GONE, "norm_topk_prob": GONE}, "V2.5"),
    ({"scoring_func": None, "norm_topk_prob": None}, "V2.5"),
    ({"topk_method": GONE}, "V2-Lite"),
    ({"topk_method": None}, "V2-Lite"),
    ({"topk_method": "gready"}, "V2-Lite"),
    ({"n_group": GONE, "topk_group": GONE}, "V2-Lite"),
    ({"n_group": None, "topk_group": None}, "V2-Lite"),
    ({"n_group": None, "topk_group": None}, "Kimi"),
    ({"q_lora_rank": GONE}, "Moonlight"),
    ({"q_lora_rank": 0}, "Moonlight"),
    ({"num_nextn_predict_layers": GONE}, "Kimi"),
    ({"num_nextn_predict_layers": None}, "Kimi"),
    ({"rms_norm_eps": GONE}, "V3"),
    ({"rms_norm_eps": None}, "V3"),
    *(({name: None}, "V3") for name in (
        "moe_layer_freq", "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings", "rope_interleave")),
    ({"routed_scaling_factor": 1}, "V2-Lite"),
    ({"moe_layer_freq": 1.0}, "V3"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "base"), SAME, ids=str)
def test_another_spelling_is_the_same_model(base, change):
    hf = {name: value for name, value in (BASES[base] | change).items() if value is not GONE}
    assert ModelConfig.from_hf(hf) == ModelConfig.from_hf(BASES[base])


@pytest.mark.parametrize(
    "field", [{"attention_factor": 1.3}, {"truncate": False}, {"partial_rotary_factor": 0.5}], ids=str
)
@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_what_changes_yarn_and_is_not_computed_is_refused(where, field):
    """transformers reads these three from the object of RoPE's numbers; no DeepSeek model has them."""
    change = {where: yarn("V3", **field)} if where == "rope_scaling" else parameters("V3", **field)
    hf = {name: value for name, value in (BASES["V3"] | change).items() if value is not GONE}
    with pytest.raises(ValueError, match=next(iter(field))):
        ModelConfig.from_hf(hf)
