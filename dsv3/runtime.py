"""How a model runs here: ``Runtime``. What it is, is ``config.py``."""

import os
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import torch

from .kernels import reference
from .ranks.parallel import Parallel

# OpenMP's threads do not live on in a forked process, which would wait for them for ever at its first product.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Number formats in the three places where BF16 changes answers: the router, the sum of the experts, the head."""

    router: torch.dtype = torch.float32
    sum: torch.dtype = torch.float32
    head: torch.dtype = torch.float32


NUMERICS = {
    "exact": Numerics(),
    "hf": Numerics(sum=torch.bfloat16, head=torch.bfloat16),  # as transformers' DeepseekV3ForCausalLM
    "demo": Numerics(router=torch.bfloat16, sum=torch.bfloat16, head=torch.bfloat16),  # as inference/model.py
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Everything a module needs besides the config, handed to each one: no globals, so two models can differ.

    Attributes:
        tp: this rank's place in the tensor-parallel group.
        kernels: the module that holds ``act_quant``, ``weight_dequant``, ``fp8_gemm``.
        gemm: what becomes of FP8 weights. ``"fp8"`` multiplies them with quantised activations; ``"w8a16"`` keeps them,
            too, and dequantises them in each product; ``"bf16"`` dequantises them once, at loading.
        attn: ``"absorb"`` caches the latent, ``"naive"`` caches full keys and values.
        dtype: of activations and of weights that are not FP8.
        numerics: of router, expert sum and head; ``NUMERICS`` has the public implementations' choices.
    """

    tp: Parallel = field(default_factory=Parallel)
    kernels: ModuleType = reference
    gemm: Literal["fp8", "w8a16", "bf16"] = "bf16"
    attn: Literal["naive", "absorb"] = "absorb"
    dtype: torch.dtype = torch.bfloat16
    numerics: Numerics = Numerics()
    device: torch.device = torch.device("cpu")
