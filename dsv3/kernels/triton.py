"""The Triton kernels under the names of ``reference``, which they equal; ``kernels.pick`` chooses between the two."""

from .experts import experts_gemm, gate_logits, route
from .fused import add_norm, latent, silu_mul
from .heads import absorb, unfold
from .library import fp8_gemm, head_logits
from .mla_hopper import mla_decode, mla_parts
from .quant import act_quant, weight_dequant
from .reference import Slots, sort_by_expert, weighted_sum
from .sorting import sort_slots

__all__ = [
    "Slots",
    "absorb",
    "act_quant",
    "add_norm",
    "experts_gemm",
    "fp8_gemm",
    "gate_logits",
    "head_logits",
    "latent",
    "mla_decode",
    "mla_parts",
    "route",
    "silu_mul",
    "sort_by_expert",
    "sort_slots",
    "unfold",
    "weight_dequant",
    "weighted_sum",
]
