"""A small configuration with every part of the model; conftest.py makes its checkpoints."""

from dsv3.config import ModelConfig

# 576 rows in wkv_a make ragged FP8 blocks; every cut over 2 ranks falls on a block.
SMALL = ModelConfig(
    vocab_size=512, dim=128, inter_dim=256, moe_inter_dim=128, n_layers=2, n_dense_layers=1, n_heads=4,
    n_routed_experts=8, n_shared_experts=2, n_activated_experts=2, n_expert_groups=4, n_limited_groups=2,
    score_func="sigmoid", route_scale=2.5, q_lora_rank=128, n_mtp_layers=1, dtype="fp8",
)  # fmt: skip
