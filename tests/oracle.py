"""transformers as the oracle: drawn configurations, and a mapping of names that is independent of ``layout``."""

import random
import re

import torch
from torch import Tensor

from dsv3.config import ModelConfig
from dsv3.model import Transformer
from dsv3.runtime import Runtime

FLOAT = Runtime(dtype=torch.float32)
TOLERANCE = 1e-4
CASES = [(family, seed) for family in ("v3", "v2") for seed in range(24)]

NAMES = {
    "embed_tokens": "embed", "self_attn": "attn", "mlp": "ffn", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "q_proj": "wq", "q_a_proj": "wq_a", "q_a_layernorm": "q_norm",
    "q_b_proj": "wq_b", "kv_a_proj_with_mqa": "wkv_a", "kv_a_layernorm": "kv_norm", "kv_b_proj": "wkv_b",
    "o_proj": "wo", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3", "e_score_correction_bias": "bias",
    "lm_head": "head",
}  # fmt: skip


def draw_config(family: str, seed: int) -> dict:
    """Arguments of a small ``DeepseekV2Config`` or ``DeepseekV3Config``; every option is drawn."""
    rng = random.Random(f"{family}{seed}")
    layers = rng.randint(1, 4)
    groups = rng.choice([1, 2, 4])
    experts = groups * rng.choice([2, 3, 4])
    chosen = rng.randint(1, groups)
    yarn = {
        "type": "yarn", "factor": rng.choice([4, 40]), "original_max_position_embeddings": rng.choice([16, 64, 4096]),
        "beta_fast": 32, "beta_slow": 1,
    }  # fmt: skip
    weight = rng.choice([None, 0.707, 1.0])
    if weight:
        yarn |= {"mscale": weight, "mscale_all_dim": rng.choice([weight, 1.0])}
    args = {
        "vocab_size": 128, "hidden_size": rng.choice([32, 64]), "intermediate_size": 96, "moe_intermediate_size": 24,
        "num_hidden_layers": layers, "first_k_dense_replace": rng.randint(0, layers), "n_routed_experts": experts,
        "n_shared_experts": rng.choice([1, 2]),
        "num_experts_per_tok": rng.randint(1, min(4, experts // groups * chosen)),
        "n_group": groups, "topk_group": chosen, "routed_scaling_factor": rng.choice([1.0, 2.5, 16.0]),
        "q_lora_rank": rng.choice([None, 24]), "kv_lora_rank": rng.choice([16, 40]),
        "qk_nope_head_dim": rng.choice([8, 24]), "qk_rope_head_dim": rng.choice([8, 16]),
        "v_head_dim": rng.choice([8, 20]), "rms_norm_eps": rng.choice([1e-6, 1e-3]),
        "max_position_embeddings": 4096, "rope_theta": rng.choice([10000.0, 500.0]), "attn_implementation": "eager",
    }  # fmt: skip
    args |= {"num_attention_heads": (heads := rng.choice([2, 4])), "num_key_value_heads": heads}
    if rng.random() < 0.6:
        args["rope_scaling"] = yarn
    if family == "v3":
        args |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": rng.random() < 0.7}
    else:
        # transformers ignores norm_topk_prob for V2, DeepSeek's own code does not; their V2 models have it off.
        method = "group_limited_greedy" if groups > 1 and rng.random() < 0.7 else "greedy"
        args |= {"topk_method": method, "norm_topk_prob": False}
    return args


def oracle(family: str, seed: int):
    """A random ``Deepseek..ForCausalLM`` in float32."""
    return build(family, draw_config(family, seed), seed)


def build(family: str, args: dict, seed: int):
    """The same with the arguments of a config given."""
    import transformers as t

    config, model = (t.DeepseekV3Config, t.DeepseekV3ForCausalLM) if family == "v3" else (
        t.DeepseekV2Config, t.DeepseekV2ForCausalLM)  # fmt: skip
    torch.manual_seed(seed)
    theirs = model(config(**args)).eval()
    with torch.no_grad():
        for name, p in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if name.endswith("norm.weight"):
                p.uniform_(0.5, 1.5)
            elif name.endswith("e_score_correction_bias"):
                p.normal_(0, 0.3)
            elif p.dim() >= 2 and p.numel():
                p.normal_(0, 1.0 if "embed" in name else p.shape[-1] ** -0.5)
    return theirs


def our_weights(theirs) -> dict[str, Tensor]:
    """The oracle's weights under the official demo's names; its fused experts are taken apart."""
    out = {}
    for name, p in theirs.state_dict().items():
        parts = [NAMES.get(part, part) for part in name.removeprefix("model.").split(".")]
        ours = ".".join(parts)
        if fused := re.fullmatch(r"(.*\.experts)\.(gate_up_proj|w2)(?:\.weight)?", ours):
            for e, matrix in enumerate(p):
                if fused[2] == "w2":
                    out[f"{fused[1]}.{e}.w2.weight"] = matrix
                else:
                    out[f"{fused[1]}.{e}.w1.weight"], out[f"{fused[1]}.{e}.w3.weight"] = matrix.chunk(2)
        else:
            out[ours] = p
    return out


def ours(theirs, run: Runtime, **changes) -> Transformer:
    """Our model with the oracle's weights, its config read from the oracle's ``config.json``."""
    hf = theirs.config.to_dict() | changes
    cfg = ModelConfig.from_hf(hf | {"num_nextn_predict_layers": 0})
    model = Transformer(cfg, run)
    model.load_state_dict(our_weights(theirs), strict=True)
    return model


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 128, (batch, length), generator=torch.Generator().manual_seed(seed))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the oracle's largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
