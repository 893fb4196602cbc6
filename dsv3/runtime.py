"""How a model runs here: ``Runtime``. What it is, is ``config.py``."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import torch

from .kernels import reference
from .parallel import Parallel


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Everything a module needs besides the config, handed to each one: no globals, so two models can differ.

    Attributes:
        tp: this rank's place in the tensor-parallel group.
        kernels: the module that holds ``act_quant``, ``weight_dequant``, ``fp8_gemm``.
        gemm: ``"fp8"`` keeps FP8 weights and quantises activations; ``"bf16"`` dequantises weights once, at loading.
        attn: ``"absorb"`` caches the latent, ``"naive"`` caches full keys and values.
        dtype: of activations and of weights that are not FP8.
    """

    tp: Parallel = field(default_factory=Parallel)
    kernels: ModuleType = reference
    gemm: Literal["fp8", "bf16"] = "bf16"
    attn: Literal["naive", "absorb"] = "absorb"
    dtype: torch.dtype = torch.bfloat16
    device: torch.device = torch.device("cpu")
