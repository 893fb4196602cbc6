"""The Triton kernels under the names of ``reference``, which they equal; ``kernels.pick`` chooses between the two."""

from .gemm import fp8_gemm, grouped_gemm
from .mla import mla_decode
from .quant import act_quant, weight_dequant
from .reference import sort_by_expert

__all__ = ["act_quant", "fp8_gemm", "grouped_gemm", "mla_decode", "sort_by_expert", "weight_dequant"]
