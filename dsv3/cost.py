"""What a model costs: parameters, bytes, KV cache and FLOPs, all summed from ``layout(cfg)`` and the config."""

from collections import Counter
from dataclasses import replace
from typing import Literal

from .config import ModelConfig
from .layout import layout

PARTS = ("embedding", "attention", "dense", "routed", "shared", "gate", "norm", "head", "mtp")


def parameters(cfg: ModelConfig) -> dict[str, int]:
    """Parameters by part, and their sum without MTP as ``"total"``.

    Scales are not parameters, and the MTP layer's copies of embedding and head are counted once, with the originals.
    DeepSeek-V3: 671,026,419,200 in all (published: 671 B), and 11.6 B in its MTP layer (README_WEIGHTS.md says 11.5 B).
    """
    parts = Counter(dict.fromkeys(PARTS, 0))
    for row in layout(cfg):
        if not row.is_scale and row.copy_of is None:
            parts[row.part] += row.numel
    return dict(parts) | {"total": sum(n for part, n in parts.items() if part != "mtp")}


def activated(cfg: ModelConfig) -> dict[str, int]:
    """Parameters that one token is multiplied with, by part, and their sums with and without the head.

    ``routed`` counts K of E experts. The embedding is looked up, not multiplied: it is not in the total.
    README_WEIGHTS.md gives 36.7 B "including 0.9 B for Embedding and 0.9 B for the output Head", the technical report
    37 B; the tensors sum to 36.6 B with the head and without the embedding, and to 37.6 B with both.
    """
    parts = parameters(cfg)
    parts["routed"] = parts["routed"] * cfg.n_activated_experts // cfg.n_routed_experts if parts["routed"] else 0
    used = {part: parts[part] for part in PARTS if part not in ("embedding", "mtp")}
    return used | {"total": sum(used.values()), "with embedding": sum(used.values()) + parts["embedding"]}


def weight_bytes(cfg: ModelConfig, dtype: Literal["bf16", "fp8"]) -> int:
    """Bytes of a Hugging Face checkpoint's tensors in ``"fp8"`` or ``"bf16"``, scales and MTP copies included."""
    return sum(row.nbytes for row in layout(replace(cfg, dtype=dtype)))


def cache_bytes(cfg: ModelConfig, attn: str = "absorb", itemsize: int = 2) -> int:
    """KV-cache bytes per token, all layers (MTP's not counted).

    ``"absorb"``: L (C + R) numbers, the latent and the rotated key. ``"naive"``: L H (N + R + P), full keys and values.
    DeepSeek-V3 in BF16: 61 (512 + 64) 2 = 70,272 against 61 x 128 (192 + 128) 2 = 4,997,120.
    """
    latent = cfg.kv_lora_rank + cfg.qk_rope_head_dim
    full = cfg.n_heads * (cfg.qk_head_dim + cfg.v_head_dim)
    return cfg.n_layers * (latent if attn == "absorb" else full) * itemsize


def flops(cfg: ModelConfig, context: int = 0, attn: str = "absorb") -> int:
    """Floating-point operations to decode one token behind ``context`` others: 2 per multiplied weight, plus attention.

    Attention adds, per layer, head and earlier token, 2 (N + R) + 2 P in the ``"naive"`` form and 2 (C + R) + 2 C in
    the ``"absorb"``ed one. The unfolding of earlier tokens' keys is not counted: the naive cache holds them unfolded.
    """
    return 2 * activated(cfg)["total"] + attention_flops(cfg, context, attn)


def attention_flops(cfg: ModelConfig, context: int, attn: str = "absorb") -> int:
    """What of ``flops`` grows with the context."""
    score = cfg.qk_head_dim if attn == "naive" else cfg.kv_lora_rank + cfg.qk_rope_head_dim
    value = cfg.v_head_dim if attn == "naive" else cfg.kv_lora_rank
    return 2 * cfg.n_layers * cfg.n_heads * (score + value) * context


def touched(cfg: ModelConfig, tokens: int) -> float:
    """The share of the routed experts that ``tokens`` tokens touch, if all are equally likely: 1 - (1 - K/E)^tokens.

    DeepSeek-V3: 0.03 for one token, 0.87 for 64.
    """
    return 1 - (1 - cfg.n_activated_experts / (cfg.n_routed_experts or 1)) ** tokens


def kept_numbers(cfg: ModelConfig) -> dict[str, int]:
    """Numbers that each kind of attention keeps per token and layer, all with the head sizes of ``cfg``.

    Source: DeepSeek-V2 report (arXiv 2405.04434), table 1.
    """
    head = cfg.qk_head_dim + cfg.v_head_dim
    return {
        "MHA": cfg.n_heads * head,
        "GQA, 8 groups": 8 * head,
        "MQA": head,
        "MLA": cfg.kv_lora_rank + cfg.qk_rope_head_dim,
    }
