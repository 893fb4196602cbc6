"""``--compile``: the step of one sequence as one function of tensors, which ``torch.compile`` turns into few loops.

What ``fast.py`` decides in Python is arithmetic here: the position is a tensor, the mask is a comparison, the chosen
experts are looked up in the tensor of all. So one compiled function serves every position. Vectors are [D]: one token.
"""

import shutil
from types import FunctionType, MethodType

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import Cache
from .inference.fast import Fast, FastBlock, FastDense, FastMLA, FastMoE, Norm
from .model import Transformer


def times(x: Tensor, w: Tensor) -> Tensor:
    """x [..., in] with w [..., out, in] -> [..., out], summed in float32; compiled, w is read once."""
    return (w.float() * x.float().unsqueeze(-2)).sum(-1).to(x.dtype)


def normalised(x: Tensor, norm: Norm) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean() + norm.eps) * norm.weight).to(x.dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``model.rotate`` without complex numbers: x [h, R], cos and sin [R / 2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)


def attention(mla: FastMLA, x: Tensor, position: Tensor, cos: Tensor, sin: Tensor, kept: Tensor) -> Tensor:
    """``FastMLA``: x [D] at ``position`` [1], with the cache [T, C + R] -> [D]."""
    cfg, heads = mla.cfg, mla.heads
    q, c, k_pe = times(x, mla.first.weight).split(mla.widths)
    if cfg.q_lora_rank:
        q = times(normalised(q, mla.q_norm), mla.wq_b.weight)
    q_nope, q_pe = q.unflatten(0, (heads, -1)).split([cfg.qk_nope_head_dim, cfg.qk_rope_head_dim], dim=-1)
    turned = rotated(torch.cat([q_pe, k_pe.unsqueeze(0)]), cos, sin)
    kept.index_copy_(0, position, torch.cat([normalised(c, mla.kv_norm), turned[heads]]).unsqueeze(0))
    whole = torch.cat([times(q_nope, mla.key), turned[:heads]], dim=-1)
    scores = (whole.float().unsqueeze(1) * kept.float()).sum(-1) * mla.scale  # [H, T]
    seen = torch.arange(kept.shape[0], device=x.device) <= position
    weights = torch.where(seen, scores, -torch.inf).softmax(-1)
    mixed = (weights.unsqueeze(-1) * kept[:, : cfg.kv_lora_rank].float()).sum(1).to(x.dtype)
    return times(times(mixed, mla.value).flatten(), mla.wo.weight)


def gated(up: Tensor) -> Tensor:
    gate, value = up.chunk(2, dim=-1)
    return F.silu(gate) * value


def feed_forward(ffn: FastDense | FastMoE, x: Tensor) -> Tensor:
    """[D] -> [D] float32."""
    if isinstance(ffn, FastDense):
        return times(gated(times(x, ffn.many.up.weight)), ffn.many.down.weight).float()
    weights, chosen = ffn.gate(x.unsqueeze(0))
    parts = times(gated(times(x, ffn.up[chosen[0]])), ffn.down[chosen[0]])  # [K, D]
    return feed_forward(ffn.shared, x) + (parts.float() * weights[0].unsqueeze(-1)).sum(0)


def block(layer: FastBlock, x: Tensor, position: Tensor, cos: Tensor, sin: Tensor, kept: Tensor) -> Tensor:
    x = x + attention(layer.attn, normalised(x, layer.attn_norm), position, cos, sin, kept)
    return x + feed_forward(layer.ffn, normalised(x, layer.ffn_norm)).to(x.dtype)


class Compiled(Fast):
    """``Fast`` with a compiled step for one sequence and one new token; everything else as there.

    Raises:
        ValueError: what cannot be compiled: FP8 weights, several ranks, or a CPU without a C++ compiler.
    """

    def __init__(self, model: Transformer):
        run = model.run
        if run.tp.size > 1:
            raise ValueError("compile is for a single rank; leave it out on several")
        if model.cfg.fp8 and run.gemm != "bf16":
            raise ValueError(f"compile multiplies in BF16, not with gemm {run.gemm}; choose gemm bf16")
        if run.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise ValueError("compile needs a C++ compiler (g++); install one, or leave compile out")
        super().__init__(model)
        self.length = float(self.turns[0, 0].abs())  # of the turns; YaRN's
        self.entry = self.embed.weight.new_empty(1, 1, self.cfg.kv_lora_rank + self.cfg.qk_rope_head_dim)  # of a cache
        self.is_compiled = False
        # torch.compile keeps its results with the code: a copy of it for each model keeps models apart. And before each
        # step it would look at every weight, but those of one model do not change.
        step = MethodType(FunctionType(Compiled._step.__code__.replace(), globals()), self)
        options = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        self.step = torch.compile(step, dynamic=False, fullgraph=True, options=options)

    def __call__(self, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        if tokens.shape != (1, 1) or not isinstance(start, int) or cache is None:
            return super().__call__(tokens, start, cache)
        kept = [cache.room(layer.attn.layer, start + 1, self.entry)[0][0] for layer in self.layers]
        if not self.is_compiled:  # the first call compiles, for caches of any length
            self.is_compiled = True
            for own in kept:
                torch._dynamo.mark_dynamic(own, 0)
        return self.step(tokens[0], torch.tensor([start], device=tokens.device), kept).view(1, 1, -1)

    def _step(self, token: Tensor, position: Tensor, kept: list[Tensor]) -> Tensor:
        """token [1] at ``position`` [1], with each layer's cache -> [D]."""
        angles = position * self.frequencies
        cos, sin = angles.cos() * self.length, angles.sin() * self.length
        x = self.embed(token)[0]
        for layer, own in zip(self.layers, kept, strict=True):
            x = block(layer, x, position, cos, sin, own)
        return normalised(x, self.norm)
