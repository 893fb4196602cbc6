"""Lesson 08's kernels in tiny-r1: every FP8 product, the latent's up-projection, and all attention, in the interpreter.

The interpreter is slow, so no whole answer is generated. The model reads a question and most of its answer with the
reference's kernels; the last tokens are given to the learner's, all at once. For each, the model must say the next one.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache
from ..checkpoint import read
from ..config import BLOCK
from ..inference.weights import tensor
from ..kernels import reference
from ..llm import load
from ..model import MLA, Block, Place, Transformer, rotate
from ..paths import TINY_R1
from ..tiny import data, tokenizer
from . import apart
from .mine import source_of
from .part import Transplant
from .transplant import plain_model, transplanted

LONGEST = 300  # seconds
KERNELS = ("launched", "quant", "dequant", "gemm", "piece", "merge")
LAST = 16  # tokens of an answer that the learner's kernels compute
PIECES = 2  # into which each token's context is cut


def products(parts: SimpleNamespace) -> SimpleNamespace:
    """What ``Runtime.kernels`` needs of FP8, by the parts' kernels."""

    def act_quant(x: Tensor, block: int, scale_fmt: str | None) -> tuple[Tensor, Tensor]:
        q, scale = torch.empty(x.shape, dtype=torch.float8_e4m3fn), torch.empty(*x.shape[:-1], x.shape[-1] // block)
        parts.quant[(scale.numel(),)](x.contiguous(), q, scale, BLOCK=block)
        return q, scale

    def weight_dequant(w: Tensor, scale: Tensor, block: int, dtype: torch.dtype) -> Tensor:
        out, (M, N) = torch.empty(w.shape, dtype=dtype), w.shape
        parts.dequant[(-(-M // block), -(-N // block))](w, scale, out, M, N, BLOCK=block)
        return out

    def fp8_gemm(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, block: int, dtype: torch.dtype) -> Tensor:
        (N, K), M = b.shape, a.numel() // b.shape[1]
        y = torch.empty(*a.shape[:-1], N, dtype=dtype)
        tile = {"BLOCK_M": 64 if M > 16 else 16, "BLOCK_N": block, "BLOCK": block}
        grid = -(-M // tile["BLOCK_M"]), -(-N // block)
        parts.gemm[grid](a, a_scale, b, b_scale, y, M, N, K, **tile)
        return y

    return SimpleNamespace(act_quant=act_quant, weight_dequant=weight_dequant, fp8_gemm=fp8_gemm)


def decode(parts: SimpleNamespace, q: Tensor, cache: Tensor, lengths: Tensor, scale: float, C: int) -> Tensor:
    """q [M, H, C + R], cache [T, C + R] -> [M, H, C], by the kernels ``piece`` and ``merge``."""
    (M, H, width), out_type = q.shape, q.dtype
    out, lse = torch.empty(M, PIECES, H, C), torch.empty(M, PIECES, H)
    sizes = {"C": C, "R": width - C, "BLOCK_H": 16, "BLOCK_T": 64}
    parts.piece[(M, PIECES)](q, cache, lengths, out, lse, scale, H, PIECES, **sizes)
    y = torch.empty(M, H, C, dtype=out_type)
    parts.merge[(M, H)](out, lse, y, H, PIECES, C=C, PIECES=PIECES)
    return y


def attention(parts: SimpleNamespace) -> Any:
    """A ``forward`` for the model's MLA layers: each token attends to those before it as if it were being decoded."""

    def forward(mla: MLA, x: Tensor, place: Place) -> Tensor:
        cfg = mla.cfg
        N, R, C = cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.kv_lora_rank
        q_nope, q_pe = mla.wq_b(mla.q_norm(mla.wq_a(x))).unflatten(-1, (mla.heads, -1)).split([N, R], dim=-1)
        c, k_pe = mla.wkv_a(x).split([C, R], dim=-1)
        assert place.cache is not None, "the transplant reads with a cache"
        (cache,) = place.cache.update(
            mla.layer, place.positions, place.end, torch.cat([mla.kv_norm(c), rotate(k_pe, place.turns)], dim=-1)
        )
        key, value = mla.wkv_b.weight.unflatten(0, (mla.heads, -1)).split([N, cfg.v_head_dim], dim=1)
        q = torch.cat([torch.einsum("bshn,hnc->bshc", q_nope, key), rotate(q_pe, place.turns)], dim=-1)
        lengths = (place.positions[0] + 1).to(torch.int32)
        mixed = decode(parts, q[0].contiguous(), cache[0].contiguous(), lengths, mla.softmax_scale, C)
        return mla.wo(torch.einsum("shc,hpc->shp", mixed, value).flatten(1)[None])

    return forward


def question() -> tuple[str, str]:
    """A question that training never saw, as a prompt, and its right answer, word for word."""
    problem, asked = data.held_out_set(20)[7]  # 19 + 3 = ?: short
    return tokenizer.conversation([data.solve(problem, asked, data.is_chinese(asked))])


def scored(parts: SimpleNamespace) -> tuple[int, int]:
    """How many of the last tokens of a right answer tiny-r1 says with these kernels, and of how many; interpreted."""
    llm = load("tiny-r1", model="plain", gemm="fp8")
    model, cache, ours = plain_model(llm), Cache(), products(parts)
    tokens = torch.tensor([token for text in question() for token in llm.tokenizer.encode(text)])
    with torch.inference_mode():
        _use(model, reference)
        model(tokens[None, : -LAST - 1], 0, cache)  # what comes before is read by the reference
        _use(model, ours)
        files = read.open_folder(TINY_R1)
        layers = [block for block in model.layers if isinstance(block, Block)]
        for i, block in enumerate(layers):
            name = f"model.layers.{i}.self_attn.kv_b_proj.weight"
            w, scale = tensor(files, name), tensor(files, f"{name}_scale_inv")
            block.attn.wkv_b.weight.copy_(ours.weight_dequant(w, scale, BLOCK, torch.bfloat16))
        with transplanted((block.attn for block in layers), attention(parts)):
            h = model(tokens[None, -LAST - 1 : -1], len(tokens) - LAST - 1, cache)
        return int((model.logits(h)[0].argmax(-1) == tokens[-LAST:]).sum()), LAST


def _use(model: Transformer, kernels: Any) -> None:
    for module in model.modules():
        if hasattr(module, "run"):
            vars(module)["run"] = SimpleNamespace(**vars(module.run) | {"kernels": kernels})


def score(parts: SimpleNamespace) -> int:
    """How many tokens of a right answer tiny-r1 says with these kernels: run apart, so that nothing else is stopped.

    Raises:
        ValueError: a kernel raised an error, or did not come to its end.
    """
    found = apart.ask(True, LONGEST, "score", __name__, {name: source_of(getattr(parts, name)) for name in KERNELS})
    if isinstance(found, Exception):
        raise ValueError(str(found))
    return found[0]


TRANSPLANTS = [
    Transplant("all FP8 products and all attention", score, 16, ("gemm", "rescaled once")),
    Transplant("attention in pieces", score, 16, ("merge", "plain mean")),
]
