"""A BF16 checkpoint of DeepSeek-V3's architecture as a GGUF file, for ``decode.py``'s llama.cpp. Without a tokenizer.

PYTHON benchmarks/to_gguf.py FOLDER FILE.gguf [BF16|Q8_0]      PYTHON: one with the packages gguf and numpy

Only ``config.json`` in Hugging Face's spelling, with YaRN and the sigmoid router, as ``make_checkpoint.py`` writes it.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

NAMES = {  # Hugging Face's name behind "model.layers.N." -> llama.cpp's behind "blk.N."
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class Stored:
    """The tensors of a folder by name, in float32."""

    def __init__(self, folder: Path):
        self.at: dict[str, tuple[np.memmap, dict[str, object]]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            data = np.memmap(file, np.uint8, "r")
            size = int(data[:8].view("<u8")[0])
            header = json.loads(bytes(data[8 : 8 + size]))
            header.pop("__metadata__", None)
            self.at |= {name: (data[8 + size :], entry) for name, entry in header.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        data, entry = self.at[name]
        raw = data[slice(*entry["data_offsets"])]
        if entry["dtype"] == "F32":
            return raw.view("<f4").reshape(entry["shape"])
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name}: {entry['dtype']}; give a checkpoint in BF16")
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def tensors(stored: Stored, cfg: dict[str, object]) -> Iterator[tuple[str, np.ndarray]]:
    """llama.cpp's name and numbers of each tensor: experts stacked, ``kv_b`` as the absorbed form multiplies it."""
    for theirs, ours in OUTSIDE.items():
        yield ours, stored[theirs]
    for layer in range(cfg["num_hidden_layers"]):
        here, there = f"model.layers.{layer}.", f"blk.{layer}."
        for theirs, ours in NAMES.items():
            if here + theirs in stored.at:
                yield there + ours, stored[here + theirs]
        unfold = stored[here + "self_attn.kv_b_proj.weight"].reshape(
            cfg["num_attention_heads"], -1, cfg["kv_lora_rank"]
        )
        yield there + "attn_k_b.weight", unfold[:, : cfg["qk_nope_head_dim"]].transpose(0, 2, 1)
        yield there + "attn_v_b.weight", unfold[:, cfg["qk_nope_head_dim"] :]
        if layer >= cfg["first_k_dense_replace"]:
            for part in ("gate", "up", "down"):
                each = (f"{here}mlp.experts.{i}.{part}_proj.weight" for i in range(cfg["n_routed_experts"]))
                yield f"{there}ffn_{part}_exps.weight", np.stack([stored[name] for name in each])


def describe(writer: gguf.GGUFWriter, cfg: dict[str, object]) -> None:
    """The fields that llama.cpp reads for this architecture."""
    rope, latent = cfg["rope_scaling"], cfg["kv_lora_rank"] + cfg["qk_rope_head_dim"]
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(cfg["vocab_size"])
    writer.add_block_count(cfg["num_hidden_layers"])
    writer.add_context_length(cfg["max_position_embeddings"])
    writer.add_embedding_length(cfg["hidden_size"])
    writer.add_feed_forward_length(cfg["intermediate_size"])
    writer.add_layer_norm_rms_eps(cfg["rms_norm_eps"])
    writer.add_head_count(cfg["num_attention_heads"])
    writer.add_head_count_kv(1)  # the latent, shared by all heads
    writer.add_q_lora_rank(cfg["q_lora_rank"])
    writer.add_kv_lora_rank(cfg["kv_lora_rank"])
    writer.add_key_length(latent)
    writer.add_value_length(cfg["kv_lora_rank"])
    writer.add_key_length_mla(cfg["qk_nope_head_dim"] + cfg["qk_rope_head_dim"])
    writer.add_value_length_mla(cfg["v_head_dim"])
    writer.add_rope_dimension_count(cfg["qk_rope_head_dim"])
    writer.add_rope_freq_base(cfg["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])  # as llama.cpp's own converter
    writer.add_leading_dense_block_count(cfg["first_k_dense_replace"])
    writer.add_expert_count(cfg["n_routed_experts"])
    writer.add_expert_used_count(cfg["num_experts_per_tok"])
    writer.add_expert_shared_count(cfg["n_shared_experts"])
    writer.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
    writer.add_expert_group_count(cfg["n_group"])
    writer.add_expert_group_used_count(cfg["topk_group"])
    writer.add_expert_weights_scale(cfg["routed_scaling_factor"])
    writer.add_expert_weights_norm(cfg["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def convert(folder: Path, file: Path, kind: gguf.GGMLQuantizationType) -> None:
    """Write ``file``; vectors and the router in float32, as llama.cpp's converter leaves them, matrices as ``kind``."""
    cfg = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(file, "deepseek2", use_temp_file=True)
    describe(writer, cfg)
    for name, values in tensors(Stored(folder), cfg):
        plain = values.ndim == 1 or "ffn_gate_inp" in name
        as_kind = gguf.GGMLQuantizationType.F32 if plain else kind
        writer.add_tensor(name, quantize(np.ascontiguousarray(values), as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), gguf.GGMLQuantizationType[sys.argv[3]])
