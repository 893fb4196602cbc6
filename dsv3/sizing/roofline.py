"""The roofline: what a kernel's call computes and moves, and which of both a GPU waits for."""

from dataclasses import dataclass

from ..config import BLOCK, ModelConfig
from .gpus import GPU


@dataclass(frozen=True)
class Work:
    """What one call of a kernel computes, and the bytes that it must move at least; ``fp8`` says with which units."""

    name: str
    flops: int
    nbytes: int
    fp8: bool

    @property
    def intensity(self) -> float:
        """FLOP for each byte."""
        return self.flops / self.nbytes


def gemm(m: int, n: int, k: int, fp8: bool = True) -> Work:
    """``fp8_gemm`` of m tokens with an [n, k] weight, scales included; without FP8 units all operands are BF16."""
    operands = (m + n) * k * (1 if fp8 else 2)
    scales = 4 * (m + -(-n // BLOCK)) * (k // BLOCK) if fp8 else 0
    return Work(f"product, {m:,} token{'s' * (m > 1)}", 2 * m * n * k, operands + scales + 2 * m * n, fp8)


def latent_attention(cfg: ModelConfig, heads: int, context: int, queries: int = 1) -> Work:
    """``mla_decode`` of one sequence: ``heads`` heads, ``queries`` new tokens, one latent cache in BF16 for all."""
    width = cfg.kv_lora_rank + cfg.qk_rope_head_dim
    looks = heads * queries
    flops = 2 * looks * (width + cfg.kv_lora_rank) * context
    return Work(f"MLA, {looks} queries", flops, 2 * (width * context + looks * (width + cfg.kv_lora_rank)), fp8=False)


def usual_attention(cfg: ModelConfig, heads: int, context: int) -> Work:
    """The same with keys and values of its own for each head, also in BF16: the naive form."""
    width = cfg.qk_head_dim + cfg.v_head_dim
    return Work(f"naive, {heads} heads", 2 * heads * width * context, 2 * heads * width * (context + 1), fp8=False)


def seconds(work: Work, gpu: GPU) -> float:
    """The least time: the longer of computing and moving bytes."""
    return max(work.flops / (1e12 * gpu.tflops(work.fp8)), work.nbytes / (1e9 * gpu.bandwidth_gb_s))
