"""Public models' configs, what they differ in, and how they are shrunk until a test can hold them.

Not told apart here, for they have the same numbers: DeepSeek-R1, R1-0528 and V3.1 (only its FP8 scales differ) from
DeepSeek-V3; V2-Chat from V2; the -Chat, -Base and -Instruct forms of each. Fields that ``shrink`` replaces (widths,
heads, vocabulary) are left out.
"""

YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
# config.json of deepseek-ai/DeepSeek-V3.
V3 = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "first_k_dense_replace": 3, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc",
    "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "rope_scaling": YARN, "max_position_embeddings": 163840, "num_nextn_predict_layers": 1,
}  # fmt: skip
# config.json of deepseek-ai/DeepSeek-V2.5; V2 (May 2024) has another mscale, V2-Lite no query latent and one group.
V2_5 = V3 | {
    "model_type": "deepseek_v2", "num_hidden_layers": 60, "first_k_dense_replace": 1, "n_routed_experts": 160,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "topk_group": 3, "topk_method": "group_limited_greedy",
    "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 16.0, "num_nextn_predict_layers": 0,
}  # fmt: skip
V2_YARN = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
# config.json of moonshotai/Kimi-K2-Instruct; with beta_fast = beta_slow YaRN's ramp is a step.
KIMI_YARN = YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0}
KIMI = V3 | {
    "model_type": "kimi_k2", "first_k_dense_replace": 1, "n_routed_experts": 384, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 2.827, "rope_theta": 50000.0, "rope_scaling": KIMI_YARN,
    "max_position_embeddings": 131072, "num_nextn_predict_layers": 0,
}  # fmt: skip
PUBLIC = {
    "DeepSeek-V3": V3,
    "DeepSeek-V2.5": V2_5,
    "DeepSeek-V2": V2_5 | {"rope_scaling": V2_YARN},
    # config.json of deepseek-ai/DeepSeek-V2-Lite and of DeepSeek-Coder-V2-Lite-Base.
    "DeepSeek-V2-Lite, Coder-V2-Lite": V2_5 | {
        "num_hidden_layers": 27, "n_routed_experts": 64, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
        "routed_scaling_factor": 1.0, "q_lora_rank": None, "rope_scaling": V2_YARN,
    },
    # config.json of deepseek-ai/ESFT-token-intent-lite: V2-Lite before its context was stretched.
    "ESFT-lite": V2_5 | {
        "num_hidden_layers": 27, "n_routed_experts": 64, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
        "routed_scaling_factor": 1.0, "q_lora_rank": None, "rope_scaling": None, "max_position_embeddings": 4096,
    },
    "Kimi-K2-Instruct": KIMI,
    "Kimi-K2-Instruct-0905": KIMI | {
        "rope_scaling": KIMI_YARN | {"factor": 64.0}, "max_position_embeddings": 262144,
    },
    # config.json of moonshotai/Moonlight-16B-A3B-Instruct at 4e735b0: no query latent, no YaRN, a larger epsilon.
    "Moonlight-16B-A3B": V3 | {
        "num_hidden_layers": 27, "first_k_dense_replace": 1, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446, "q_lora_rank": None,
        "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "rope_scaling": None, "max_position_embeddings": 8192,
        "num_nextn_predict_layers": 0,
    },
    # ikawrakow/ik_llama.cpp#995 (values are wider than keys), ggml-org/llama.cpp#17420 (26 layers, no query latent),
    # huggingface/optimum-intel#1608 (an MTP layer behind them). Its RoPE and its router's numbers are not confirmed.
    "GigaChat3-10B-A1.8B": V3 | {
        "num_hidden_layers": 26, "first_k_dense_replace": 1, "n_routed_experts": 64, "num_experts_per_tok": 4,
        "n_group": 1, "topk_group": 1, "q_lora_rank": None, "v_head_dim": 192, "rope_theta": 100000.0,
        "rope_scaling": YARN | {"factor": 64.0}, "max_position_embeddings": 262144,
    },
    # config.json of mmnga/DeepSeek-V3-slice-jp64: a quarter of V3's experts, half as many of them chosen.
    "DeepSeek-V3-slice-jp64": V3 | {"n_routed_experts": 64, "num_experts_per_tok": 4},
    # config.json of trl-internal-testing/tiny-DeepseekV3ForCausalLM: transformers' defaults on 2 layers, all of them
    # dense; and of asrith05/slm, which is trained like that, has no experts at all, and says so.
    "tiny-DeepseekV3ForCausalLM": V3 | {
        "num_hidden_layers": 2, "rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 4096,
    },
    "asrith05/slm": V3 | {
        "num_hidden_layers": 4, "first_k_dense_replace": 4, "n_routed_experts": 0, "rope_theta": 10000.0,
        "rope_scaling": None, "max_position_embeddings": 4096, "num_nextn_predict_layers": 0,
    },
}  # fmt: skip
NEIGHBOURS = {  # no public model, but each a single step away from one
    "embeddings tied": V3 | {"tie_word_embeddings": True},
    "no shared expert": V3 | {"n_shared_experts": 0},
    "one expert a token": V3 | {"num_experts_per_tok": 1},
    "no dense layer": V2_5 | {"first_k_dense_replace": 0},
    # What transformers 5 makes of asrith05/slm: its default is one MTP layer, of which it saves nothing.
    "no experts, but an MTP layer": PUBLIC["asrith05/slm"] | {"num_nextn_predict_layers": 1},
    "weights of V3's router as they are": V3 | {"norm_topk_prob": False},
    "YaRN without mscale": V3 | {"rope_scaling": {k: v for k, v in YARN.items() if not k.startswith("mscale")}},
    "YaRN without betas": V3 | {"rope_scaling": {k: v for k, v in YARN.items() if not k.startswith("beta")}},
}
SHORTER = 32  # contexts, YaRN's original one among them, are divided by this


def shrink(public: dict) -> dict:
    """The same model, small: what a row of ``PUBLIC`` says beside sizes stays, and sizes keep their proportions.

    Three layers at most, and one dense in front where there were some, all where all were; heads a quarter as wide,
    4 of them; an eighth of a group's experts, but 4 at least; contexts of a 32nd. Other widths are the same for all.
    """
    layers, groups, experts = (public[name] for name in ("num_hidden_layers", "n_group", "n_routed_experts"))
    dense, rope = public["first_k_dense_replace"], public["rope_scaling"]
    sizes = {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32,
        "q_lora_rank": public["q_lora_rank"] and 24,
        "num_hidden_layers": min(layers, 3), "first_k_dense_replace": min(dense, 1) if dense < layers else dense,
        "n_routed_experts": groups * max(experts // groups // 8, 4) if experts else 0,
        "max_position_embeddings": public["max_position_embeddings"] // SHORTER,
    }  # fmt: skip
    sizes |= {name: public[name] // 4 for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    if rope:
        original = rope["original_max_position_embeddings"] // SHORTER
        sizes["rope_scaling"] = rope | {"original_max_position_embeddings": original}
    return public | sizes
