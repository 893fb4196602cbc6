"""``Fast`` on a GPU: the same model in the operations of ``kernels``, of which nothing waits for the device.

A layer of a decode step, from top to bottom::

    add_norm      the last layer's result joins the residual stream, which is normed
    first         one product for query and latent
    latent        the latent is normed, rotated and written into the cache; the query is normed
    wq_b          the query of each head
    absorb        ... times the keys' matrix, so that it can look at latents
    mla_parts     attention over the cache
    unfold        ... times the values' matrix
    wo            this layer's attention
    add_norm      joins the residual stream, which is normed again
    gate_logits, route, sort_slots     which experts, and their tokens side by side
    experts_gemm, silu_mul, experts_gemm     all of them at once; the next add_norm weighs and adds

FP8 is one more result of the operation before, never one of its own. Prompts go through the same layers; only attention
unfolds their latents into keys and values, which is less work for many new tokens. ``graph.py`` captures a step.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..cache import Cache
from ..config import BLOCK, ModelConfig
from ..kernels import reference
from ..kernels.reference import Slots
from ..model import rotate, turns
from .fast import Fast, FastBlock, FastDense, FastMLA, FastMLP, FastMoE, Matrix, Norm, narrow

Quantised = tuple[Tensor, Tensor]  # [M, X] FP8 numbers and [M, X / 128] scales
Part = tuple[Tensor, tuple[Tensor, Tensor] | None]  # what a layer adds; rows of experts with rank and weight of each

# The fastest first: of 2,048 tokens and 128 heads, 0.43, 0.81 and 1.30 ms on an H100 (torch 2.11).
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
ROUND = 128  # cuDNN makes a plan for each new number of tokens: rounded up there are few
UNFOLDED = 2**14  # tokens of whole sequences whose keys and values are there at once: 2.7 GB for 128 heads
MANY = 512  # new tokens from which torch's grouped product is asked, where it has one


def lacking(fast: Fast) -> str | None:
    """Why ``Step`` cannot compute this model; None if it can."""
    run = fast.run
    if run.device.type == "cuda" and run.kernels is reference:
        return "Triton's kernels are not there"
    if run.device.type == "cuda" and run.dtype != torch.bfloat16:
        return f"its kernels are written for BF16, not for {run.dtype}"
    blocks = [*fast.layers, *(mtp.block for mtp in fast.mtp)]
    matrices = [matrix for block in blocks for matrix in _matrices(block)]
    if not all(isinstance(matrix, Matrix) for matrix in matrices):
        return "FP8 blocks do not line up"
    if run.gemm == "w8a16" and any(cast(Matrix, matrix).scale is not None for matrix in matrices):
        return "w8a16 dequantises each matrix when it is multiplied"
    for block in blocks:
        if isinstance(block.ffn, FastMoE):
            experts = [cast(Matrix, m) for mlp in block.ffn.experts.values() for m in (mlp.up, mlp.down)]
            if len({m.weight.dtype for m in experts}) != 1:
                return "a rank has no experts, or some are FP8 and some not"
    return None


def _matrices(block: FastBlock) -> list[object]:
    attn, ffn = block.attn, block.ffn
    mlps = [*ffn.experts.values(), ffn.shared] if isinstance(ffn, FastMoE) else [ffn.many]
    return [
        attn.first,
        attn.wo,
        *([attn.wq_b] if attn.cfg.q_lora_rank else []),
        *(m for p in mlps for m in (p.up, p.down)),
    ]


class Experts:
    """``FastMoE`` with the weights of all experts as one tensor each: [E, 2 W, D] and [E, D, W].

    On one rank the shared experts follow the routed ones as experts E, E + 1, ... Several ranks cut them differently:
    there they stay a layer of their own.
    """

    def __init__(self, moe: FastMoE, n_shared: int):
        self.mine, self.bias, self.gate = moe.mine, moe.gate.bias, narrow(moe.gate.weight.data)
        ups = [cast(Matrix, mlp.up) for mlp in moe.experts.values()]
        downs = [mlp.down for mlp in moe.experts.values()]
        shared = moe.shared
        up, down = cast(Matrix, shared.up), shared.down
        joins = moe.run.tp.size == 1 and up.weight.dtype == ups[0].weight.dtype
        self.n_shared = n = n_shared if joins else 0
        self.shared = shared if shared.width and not joins else None
        self.up = torch.stack([*(m.weight for m in ups), *_rows(up.weight, n)])
        self.down = torch.stack([*(m.weight for m in downs), *_columns(down.weight, n)])
        self.up_scale = self.down_scale = None
        if up.scale is not None and down.scale is not None:
            self.up_scale = torch.stack([*_scales(ups), *_rows(up.scale, n)])
            self.down_scale = torch.stack([*_scales(downs), *_columns(down.scale, n)])


def _scales(matrices: list[Matrix]) -> list[Tensor]:
    return [m.scale for m in matrices if m.scale is not None]


def _rows(up: Tensor, n: int) -> list[Tensor]:
    """[2 n W, D], ``w1`` of n experts above their ``w3`` -> n times [2 W, D]."""
    w1, w3 = up.chunk(2)
    return [torch.cat(pair) for pair in zip(w1.chunk(n), w3.chunk(n), strict=True)] if n else []


def _columns(down: Tensor, n: int) -> list[Tensor]:
    """[D, n W] -> n times [D, W]."""
    return list(down.chunk(n, dim=1)) if n else []


class Layer:
    """``FastBlock``, its experts side by side."""

    def __init__(self, block: FastBlock, n_shared: int):
        self.attn, self.attn_norm, self.ffn_norm = block.attn, block.attn_norm, block.ffn_norm
        moe = isinstance(block.ffn, FastMoE)
        self.ffn = Experts(cast(FastMoE, block.ffn), n_shared) if moe else cast(FastDense, block.ffn).many


@dataclass(frozen=True)
class Here:
    """Where the new tokens stand, those of a sequence side by side.

    Attributes:
        cache: has room for them; ``end`` is one past the last one.
        at: [M] int32, each token's position; a negative one is nobody's, and is not written.
        turns: [positions, R / 2, 2] float32, cosine and sine.
        reads: whether the tokens are prompts', which all begin at one place: attention then unfolds the latents.
    """

    cache: Cache
    batch: int
    end: int
    at: Tensor
    turns: Tensor
    reads: bool

    @cached_property
    def lengths(self) -> Tensor:
        """[M] int32, what each token sees of its sequence, itself included."""
        return (self.at + 1).clamp(min=0)


def positions(first: Tensor, new: int) -> Tensor:
    """[B] int32 places of the first of ``new`` tokens -> [B * new], those of all; -``new`` stays below 0 throughout."""
    return (first.unsqueeze(1) + torch.arange(new, dtype=torch.int32, device=first.device)).flatten()


class Step:
    """A ``Fast``, taken apart. Methods, arguments and results as ``Transformer``'s.

    A ``start`` that is a number reads prompts, [B] numbers decode: the same function in two forms, unfolded and
    absorbed. Peak memory beside the model: one layer's experts.
    """

    def __init__(self, fast: Fast):
        self.cfg: ModelConfig = fast.cfg
        self.run, self.embed, self.frequencies, self.norm = fast.run, fast.embed, fast.frequencies, fast.norm
        self.head = narrow(fast.head.weight)
        shared = self.cfg.n_shared_experts
        self.layers = [Layer(fast.layers.pop(0), shared) for _ in range(len(fast.layers))]
        self.mtp, self.mtp_layers = fast.mtp, [Layer(mtp.block, shared) for mtp in fast.mtp]
        for mtp in fast.mtp:
            del mtp.block
        self.turns = self.turned(256)

    def __call__(self, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """As ``Transformer.forward``: [B, S] token ids -> [B, S, D]."""
        return self.forward(tokens, self.place(tokens, start, cache))

    def predict(self, h: Tensor, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """As ``Transformer.predict``: the first MTP layer, [B, S, D] and [B, S] -> [B, S, D]."""
        return self.guess(h, tokens, self.place(tokens, start, cache))

    def logits(self, h: Tensor) -> Tensor:
        """As ``Transformer.logits``: [..., D] -> [..., V] float32."""
        scores = self.run.kernels.head_logits(h.flatten(0, -2), self.head)
        return self.run.tp.all_gather(scores.unflatten(0, h.shape[:-1]), self.cfg.vocab_size)

    def place(self, tokens: Tensor, start: int | Tensor, cache: Cache | None) -> Here:
        """Where ``tokens`` [B, S] stand."""
        (batch, new), device = tokens.shape, tokens.device
        reads = isinstance(start, int)
        end = (start if isinstance(start, int) else int(start.max())) + new
        if len(self.turns) < end:
            self.turns = self.turned(2 * end)
        first = torch.as_tensor(start, dtype=torch.int32, device=device).expand(batch)
        return Here(cache or Cache(), batch, end, positions(first, new), self.turns, reads)

    def turned(self, length: int) -> Tensor:
        """[length, R / 2, 2] float32: cosine and sine of each rotated pair at each position."""
        places = torch.arange(length, device=self.run.device)
        return torch.view_as_real(turns(self.cfg, self.frequencies, places)).contiguous()

    # --------------------------------------------------------------------------------------------- the step itself

    def forward(self, tokens: Tensor, here: Here) -> Tensor:
        """[B, S] -> [B, S, D], after the last norm. When decoding, the host never waits for the device."""
        h, part = self.through(self.layers, self.embed(tokens).flatten(0, 1), here)
        return self.normed(h, part, self.norm).view(*tokens.shape, -1)

    def guess(self, h: Tensor, tokens: Tensor, here: Here) -> Tensor:
        """The first MTP layer: ``predict`` where ``here`` is known."""
        mtp = self.mtp[0]
        e, h = self.embed(tokens).flatten(0, 1), h.flatten(0, 1)
        both = torch.cat([self.normed(e, None, mtp.enorm), self.normed(h, None, mtp.hnorm)], dim=-1)
        h, part = self.through(self.mtp_layers[:1], self.times(both, mtp.eh_proj), here)
        return self.normed(h, part, mtp.norm).view(*tokens.shape, -1)

    def through(self, layers: list[Layer], h: Tensor, here: Here) -> tuple[Tensor, Part | None]:
        """The residual stream [M, D] through ``layers`` -> the stream, and what the last layer has still to add."""
        part: Part | None = None
        for layer in layers:
            attn, ffn = layer.attn, layer.ffn
            h, x, fp8 = self.add_norm(h, part, layer.attn_norm, cast(Matrix, attn.first).scale is not None)
            part = self.sum(self.attention(attn, x if fp8 is None else fp8, here)), None
            if isinstance(ffn, Experts):
                h, x, fp8 = self.add_norm(h, part, layer.ffn_norm, ffn.up_scale is not None)
                part = self.experts(ffn, x, fp8)
            else:
                h, x, fp8 = self.add_norm(h, part, layer.ffn_norm, cast(Matrix, ffn.up).scale is not None)
                part = self.sum(self.mlp(ffn, x if fp8 is None else fp8)), None
        return h, part

    def add_norm(
        self, h: Tensor, part: Part | None, norm: Norm, fp8: bool = False
    ) -> tuple[Tensor, Tensor, Quantised | None]:
        """-> the stream with ``part`` added, its norm, and its norm in FP8 if ``fp8``."""
        added, slots = part or (None, None)
        fmt = self.cfg.scale_fmt
        return self.run.kernels.add_norm(h, added, norm.weight, norm.eps, slots=slots, fp8=fp8, scale_fmt=fmt)

    def normed(self, h: Tensor, part: Part | None, norm: Norm) -> Tensor:
        return self.add_norm(h, part, norm)[1]

    def sum(self, part: Tensor) -> Tensor:
        """Over the ranks, in float32."""
        return part if self.run.tp.size == 1 else self.run.tp.all_reduce(part.float())

    def times(self, x: Tensor | Quantised, matrix: Matrix) -> Tensor:
        """[M, in] times ``matrix`` -> [M, out]; ``x`` is quantised if and only if the matrix is."""
        if isinstance(x, tuple):
            return self.run.kernels.fp8_gemm(*x, matrix.weight, matrix.scale, BLOCK, self.run.dtype)
        return F.linear(x, matrix.weight)

    def attention(self, mla: FastMLA, x: Tensor | Quantised, here: Here) -> Tensor:
        """[M, D] -> [M, D], this rank's heads; what is new goes into the cache on the way."""
        kernels, cfg = self.run.kernels, self.cfg
        first = self.times(x, cast(Matrix, mla.first))
        (kept,) = here.cache.room(mla.layer, here.end, first.new_empty(here.batch, 0, sum(mla.widths[1:])))
        q_norm, q_fp8 = (mla.q_norm.weight, mla.wq_b.scale is not None) if cfg.q_lora_rank else (None, False)
        norms = {"kv_norm": mla.kv_norm.weight, "eps": mla.kv_norm.eps, "q_norm": q_norm}
        latent = kernels.latent(first, here.turns, here.at, kept, **norms, fp8=q_fp8, scale_fmt=cfg.scale_fmt)
        q = first[:, : mla.widths[0]] if latent is None else self.times(latent, mla.wq_b)
        fp8 = mla.wo.scale is not None
        if here.reads:
            mixed = self.unfolded(mla, q, kept[:, : here.end], here)
            return self.times(kernels.act_quant(mixed, BLOCK, cfg.scale_fmt, columns=True) if fp8 else mixed, mla.wo)
        q_c, q_pe = kernels.absorb(q, here.turns, here.at, mla.key)
        c, k_pe = kept.split(mla.widths[1:], dim=-1)
        part, lse = kernels.mla_parts(q_c, q_pe, c, k_pe, here.lengths, mla.scale)
        return self.times(kernels.unfold(part, lse, mla.value, fp8=fp8, scale_fmt=cfg.scale_fmt), mla.wo)

    def unfolded(self, mla: FastMLA, q: Tensor, kept: Tensor, here: Here) -> Tensor:
        """Attention of prompts: [M, H * (N + R)] queries over the cache [B, T, C + R] -> [M, H * P].

        Each latent is unfolded into every head's key and value, as many sequences at a time as memory allows.
        """
        heads, (_, rank, _) = mla.heads, mla.widths
        nope = self.cfg.qk_nope_head_dim
        q = q.unflatten(-1, (heads, -1)).unflatten(0, (here.batch, -1))
        turned = torch.view_as_complex(here.turns)[here.end - q.shape[1] : here.end].unsqueeze(0)
        q[..., nope:] = rotate(q[..., nope:], turned)
        mixed, some = [], max(1, UNFOLDED // here.end)
        for queries, latents in zip(q.split(some), kept.split(some), strict=True):
            c, rows = latents[..., :rank].flatten(0, 1), latents.shape[:2]
            k = c.new_empty(len(c), heads, q.shape[-1])
            # Each head's keys go where they belong, beside the part that all heads share.
            torch.bmm(c.expand(heads, -1, -1), mla.key, out=k[..., :nope].transpose(0, 1))
            k[..., nope:] = latents[..., rank:].flatten(0, 1).unsqueeze(1)
            v = F.linear(c, mla.value.flatten(0, 1)).unflatten(-1, (heads, -1))
            mixed.append(causal(queries, k.unflatten(0, rows), v.unflatten(0, rows), mla.scale))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).flatten(2).flatten(0, 1)

    def mlp(self, mlp: FastMLP, x: Tensor | Quantised) -> Tensor:
        """[M, D] -> [M, D], this rank's part."""
        up = self.times(x, cast(Matrix, mlp.up))
        fp8 = mlp.down.scale is not None
        return self.times(self.run.kernels.silu_mul(up, fp8=fp8, scale_fmt=self.cfg.scale_fmt), mlp.down)

    def experts(self, ffn: Experts, x: Tensor, fp8: Quantised | None) -> Part:
        """[M, D], and the same in FP8 -> each token's rows, and where they are; with several ranks the whole sum."""
        kernels, cfg = self.run.kernels, self.cfg
        weights, ids = kernels.route(
            kernels.gate_logits(x, ffn.gate), ffn.bias, cfg.n_activated_experts, softmax=cfg.score_func == "softmax",
            groups=cfg.n_expert_groups if cfg.grouped else 1, kept=cfg.n_limited_groups if cfg.grouped else 1,
            normalise=cfg.norm_topk_prob, scale=cfg.route_scale, shared=ffn.n_shared,
        )  # fmt: skip
        ids = ids - ffn.mine.start if ffn.mine.start else ids
        slots = kernels.sort_slots(ids, len(ffn.up))
        up = self.grouped(x if fp8 is None else fp8, ffn.up, ffn.up_scale, slots, gather=True)
        hidden = kernels.silu_mul(up, fp8=ffn.down_scale is not None, scale_fmt=cfg.scale_fmt)
        rows = self.grouped(hidden, ffn.down, ffn.down_scale, slots, gather=False)
        if self.run.tp.size == 1 and ffn.shared is None:
            return rows, (slots.rank, weights)
        total = kernels.weighted_sum(rows, slots.rank, weights)
        if ffn.shared is not None:
            quantised = cast(Matrix, ffn.shared.up).scale is not None
            total = total + self.mlp(ffn.shared, cast(Quantised, fp8) if quantised else x).float()
        return self.sum(total), None

    def grouped(
        self, x: Tensor | Quantised, weight: Tensor, scale: Tensor | None, slots: Slots, gather: bool
    ) -> Tensor:
        """``experts_gemm``; for many tokens torch's own product, where it has one that does not wait."""
        if isinstance(x, Tensor) and len(slots.rank) >= MANY and has_grouped_mm(x, weight):
            return grouped_mm(x, weight, slots, gather)
        return self.run.kernels.experts_gemm(x, weight, slots, scale, gather=gather, dtype=self.run.dtype)


def grouped_mm(x: Tensor, weight: Tensor, slots: Slots, gather: bool) -> Tensor:
    """``experts_gemm`` by torch (2.10 and later)."""
    rows = x[slots.order // slots.rank.shape[1]] if gather else x
    return F.grouped_mm(rows, weight.mT, offs=slots.ends)


def has_grouped_mm(x: Tensor, weight: Tensor) -> bool:
    """Whether ``F.grouped_mm`` is there and takes these; but on sm_90 and sm_100 it is a loop on the host."""
    aligned = not (x.shape[-1] * x.itemsize % 16 or weight.shape[1] * weight.itemsize % 16)
    fits = hasattr(F, "grouped_mm") and x.dtype == torch.bfloat16 and aligned
    return fits and x.device.type == "cuda" and torch.cuda.get_device_capability(x.device)[0] in (9, 10)


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of the last S of T tokens: [B, S, H, N + R], [B, T, H, N + R] and [B, T, H, P] -> [B, S, H, P].

    All kernels but cuDNN's want keys as wide as values, and those that stand behind a prefix a mask aligned to the
    lower right.
    """
    from torch.nn.attention.bias import causal_lower_right  # brings torch's compiler along: a second

    new, width = q.shape[1], v.shape[-1]
    more = -new % ROUND if new == k.shape[1] else 0  # tokens behind the last one, which nobody sees
    wide = width if new == k.shape[1] and cudnn_takes(q, k, v) else max(q.shape[-1], width)
    wanted = [(x, (0, max(0, wide - x.shape[-1]), 0, 0, 0, more)) for x in (q, k, v)]
    q, k, v = ((F.pad(x, pads) if any(pads) else x).transpose(1, 2) for x, pads in wanted)
    with sdpa_kernel(ATTENTION, set_priority=True):
        y = F.scaled_dot_product_attention(q, k, v, causal_lower_right(q.shape[2], k.shape[2]), scale=scale)
    return y.transpose(1, 2)[:, :new, :, :width]


def cudnn_takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether cuDNN's attention is there and takes these, [B, S, H, ...] each, with a causal mask."""
    if q.device.type != "cuda":
        return False
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return can_use_cudnn_attention(SDPAParams(q, k, v, None, 0.0, True, False))
