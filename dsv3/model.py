"""DeepSeek-V3 (and V2), top to bottom: linear layers, positions, attention, experts, blocks, MTP, the model.

Letters: B sequences, S new tokens, T all tokens so far, D model width, H heads, C latent rank, R rotary width, N and P
a head's key width without position and value width, V vocabulary, E experts, K experts per token.
Equations are those of the DeepSeek-V3 technical report (arXiv 2412.19437). Modules take ``(cfg, run)`` and nothing else
from outside; parameters start uninitialised and are filled by ``inference.weights``.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import Cache
from .config import BLOCK, ModelConfig
from .runtime import Runtime

LATENT_EPS = 1e-6  # of the norms inside attention, whatever rms_norm_eps says (DeepSeek's modeling_deepseek.py)

# ----------------------------------------------------------------------------------------------- linear layers


class Linear(nn.Module):
    """``x @ weight.T``: [..., in] -> [..., out].

    FP8 weights (``cfg.fp8``, and ``run.gemm`` keeps them) have a ``scale`` beside them, one per 128x128 block. With
    ``"fp8"`` the input is quantised, too (section 3.3.2). ``dtype`` overrides the weight's.
    """

    def __init__(self, cfg: ModelConfig, run: Runtime, n_in: int, n_out: int, dtype: torch.dtype | None = None):
        super().__init__()
        self.run, self.scale_fmt = run, cfg.scale_fmt
        fp8 = cfg.fp8 and run.gemm != "bf16" and dtype is None
        dtype = torch.float8_e4m3fn if fp8 else dtype or run.dtype
        self.weight = parameter(run, n_out, n_in, dtype=dtype)
        self.scale = (
            parameter(run, math.ceil(n_out / BLOCK), math.ceil(n_in / BLOCK), dtype=torch.float32) if fp8 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        return product(self.run, x, self.weight, self.scale, self.scale_fmt)


def product(run: Runtime, x: Tensor, weight: Tensor, scale: Tensor | None, scale_fmt: str | None) -> Tensor:
    """[..., in] times [out, in] -> [..., out], by the kernels that ``run`` names if there is a ``scale``."""
    if scale is None:
        return F.linear(x.to(weight.dtype), weight)
    if run.gemm == "w8a16":
        return F.linear(x, run.kernels.weight_dequant(weight, scale, BLOCK, run.dtype))
    q, x_scale = run.kernels.act_quant(x, BLOCK, scale_fmt)
    return run.kernels.fp8_gemm(q, x_scale, weight, scale, BLOCK, run.dtype)


class RowLinear(Linear):
    """A linear layer whose input is cut over the ranks: each multiplies its part; the parts are summed, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.run.tp.size == 1 else self.run.tp.all_reduce(y.to(self.run.numerics.sum)).to(y.dtype)


class Embedding(nn.Module):
    """[...] token ids -> [..., D]. Each rank holds a run of the vocabulary and adds zeros for the rest."""

    def __init__(self, cfg: ModelConfig, run: Runtime):
        super().__init__()
        self.run, self.mine = run, run.tp.mine(cfg.vocab_size)
        self.weight = parameter(run, len(self.mine), cfg.dim, dtype=run.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.run.tp.size == 1:
            return F.embedding(tokens, self.weight)
        here = (tokens >= self.mine.start) & (tokens < self.mine.stop)
        local = torch.where(here, tokens - self.mine.start, 0)
        return self.run.tp.all_reduce(F.embedding(local, self.weight) * here.unsqueeze(-1))


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last dimension, in float32."""

    def __init__(self, run: Runtime, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = parameter(run, dim, dtype=run.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def parameter(run: Runtime, *shape: int, dtype: torch.dtype) -> nn.Parameter:
    """An uninitialised parameter on the runtime's device; gradients are switched on by who trains."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=run.device), requires_grad=False)


# --------------------------------------------------------------------------------------------------- positions


def mscale(factor: float, weight: float) -> float:
    """YaRN's correction of the attention's temperature for a context stretched by ``factor``."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def inverse_frequencies(cfg: ModelConfig) -> Tensor:
    """[R / 2] float32: radians per position of each rotated pair, after YaRN.

    Slow pairs, which turn less than ``beta_slow`` times in ``original_seq_len``, are slowed by ``rope_factor``; fast
    ones stay; between, a linear ramp. YaRN depends on the config alone, never on how long the cache is.

    Source: YaRN (arXiv 2309.00071), section 3.2; inference/model.py precompute_freqs_cis.
    """
    dim, base = cfg.qk_rope_head_dim, cfg.rope_theta
    frequencies = base ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)

    def pair_that_turns(times: float) -> float:
        return dim * math.log(cfg.original_seq_len / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(cfg.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(cfg.beta_slow)), dim - 1)
    ramp = ((torch.arange(dim // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies * (1 - ramp) + frequencies / cfg.rope_factor * ramp


def turns(cfg: ModelConfig, frequencies: Tensor, positions: Tensor) -> Tensor:
    """[...] positions -> [..., R / 2] complex: how far each rotated pair is turned there."""
    angles = positions.unsqueeze(-1) * frequencies
    # YaRN may also lengthen the rotated part; for DeepSeek's own configs the ratio is 1.
    length = mscale(cfg.rope_factor, cfg.mscale) / mscale(cfg.rope_factor, cfg.mscale_all_dim)
    return torch.polar(torch.full_like(angles, length), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of neighbours in [B, S, ..., R] by [B, S, R / 2] complex numbers (RoPE, interleaved pairs)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turns = turns.view(*turns.shape[:2], *[1] * (x.dim() - 3), -1)
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class Place:
    """Where the new tokens stand; every layer gets the same one.

    Attributes:
        positions: [B, S].
        end: one past the last position; T, where there is a cache.
        turns: [B, S, R / 2] complex, how far each rotated pair is turned.
        mask: [B, 1, S, T] float32, 0 where a query may look and -inf where the key comes after it.
        cache: what came before; None if the new tokens are all there is (T = S).
    """

    positions: Tensor
    end: int
    turns: Tensor
    mask: Tensor
    cache: Cache | None


def place(cfg: ModelConfig, frequencies: Tensor, tokens: Tensor, start: int | Tensor, cache: Cache | None) -> Place:
    """The ``Place`` of tokens [B, S] whose first stands at ``start``, one for all or [B]."""
    first = torch.as_tensor(start, device=tokens.device).expand(tokens.shape[0])
    positions = first.unsqueeze(1) + torch.arange(tokens.shape[1], device=tokens.device)
    end = int(first.max()) + tokens.shape[1]
    keys = positions.unsqueeze(1) if cache is None else torch.arange(end, device=tokens.device)
    later = keys > positions.unsqueeze(2)
    mask = torch.zeros(later.shape, device=tokens.device).masked_fill(later, -math.inf).unsqueeze(1)
    return Place(positions, end, turns(cfg, frequencies, positions), mask, cache)


# --------------------------------------------------------------------------------------------------- attention


class MLA(nn.Module):
    """Multi-head latent attention (section 2.1.1): keys and values of all heads come from one latent per token."""

    def __init__(self, cfg: ModelConfig, run: Runtime, layer: int):
        super().__init__()
        self.cfg, self.run, self.layer = cfg, run, layer
        self.heads = run.tp.share(cfg.n_heads, "n_heads")
        self.softmax_scale = cfg.qk_head_dim**-0.5 * mscale(cfg.rope_factor, cfg.mscale_all_dim) ** 2
        if cfg.q_lora_rank:
            self.wq_a = Linear(cfg, run, cfg.dim, cfg.q_lora_rank)
            self.q_norm = RMSNorm(run, cfg.q_lora_rank, LATENT_EPS)
            self.wq_b = Linear(cfg, run, cfg.q_lora_rank, self.heads * cfg.qk_head_dim)
        else:
            self.wq = Linear(cfg, run, cfg.dim, self.heads * cfg.qk_head_dim)
        self.wkv_a = Linear(cfg, run, cfg.dim, cfg.kv_lora_rank + cfg.qk_rope_head_dim)
        self.kv_norm = RMSNorm(run, cfg.kv_lora_rank, LATENT_EPS)
        # The absorbed form multiplies with this matrix in two halves, so it stays out of the FP8 products.
        absorbed = run.dtype if run.attn == "absorb" else None
        width = self.heads * (cfg.qk_nope_head_dim + cfg.v_head_dim)
        self.wkv_b = Linear(cfg, run, cfg.kv_lora_rank, width, dtype=absorbed)
        self.wo = RowLinear(cfg, run, self.heads * cfg.v_head_dim, cfg.dim)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        cfg = self.cfg
        q = self.wq_b(self.q_norm(self.wq_a(x))) if cfg.q_lora_rank else self.wq(x)
        q_nope, q_pe = q.unflatten(-1, (self.heads, -1)).split([cfg.qk_nope_head_dim, cfg.qk_rope_head_dim], dim=-1)
        c, k_pe = self.wkv_a(x).split([cfg.kv_lora_rank, cfg.qk_rope_head_dim], dim=-1)
        q_pe, k_pe, c = rotate(q_pe, place.turns), rotate(k_pe, place.turns), self.kv_norm(c)
        attend = self.absorbed if self.run.attn == "absorb" else self.naive
        return self.wo(attend(q_nope, q_pe, c, k_pe, place).flatten(2))

    def naive(self, q_nope: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, place: Place) -> Tensor:
        """Unfold the latent into every head's keys and values, and attend as usual (eqs. 1 to 11) -> [B, S, H, P]."""
        cfg = self.cfg
        kv = self.wkv_b(c).unflatten(-1, (self.heads, -1))
        k_nope, v = kv.split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=-1)
        k = torch.cat([k_nope, k_pe.unsqueeze(2).expand(*k_nope.shape[:3], -1)], dim=-1)
        if place.cache is not None:
            k, v = place.cache.update(self.layer, place.positions, place.end, k, v)
        scores = torch.einsum("bshd,bthd->bhst", torch.cat([q_nope, q_pe], dim=-1), k)
        return torch.einsum("bhst,bthp->bshp", self.softmax(scores, place.mask), v)

    def absorbed(self, q_nope: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, place: Place) -> Tensor:
        """Never unfold: the key's matrix moves to the query and the value's behind the sum -> [B, S, H, P].

        (W q)^T (U c) = (U^T W q)^T c: the same scores, but only the latent is kept (DeepSeek-V2 report, section 2.1.2).
        """
        cfg = self.cfg
        if place.cache is not None:
            side_by_side = torch.cat([c, k_pe], dim=-1)
            (kept,) = place.cache.update(self.layer, place.positions, place.end, side_by_side)
            c, k_pe = kept.split([cfg.kv_lora_rank, cfg.qk_rope_head_dim], dim=-1)
        unfold = self.wkv_b.weight.unflatten(0, (self.heads, -1))
        key, value = unfold.split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=1)
        q_c = torch.einsum("bshn,hnc->bshc", q_nope, key)
        scores = torch.einsum("bshc,btc->bhst", q_c, c) + torch.einsum("bshr,btr->bhst", q_pe, k_pe)
        mixed = torch.einsum("bhst,btc->bshc", self.softmax(scores, place.mask), c)
        return torch.einsum("bshc,hpc->bshp", mixed, value)

    def softmax(self, scores: Tensor, mask: Tensor) -> Tensor:
        """[B, H, S, T] scores -> weights, in float32."""
        return (scores.float() * self.softmax_scale + mask).softmax(dim=-1).to(scores.dtype)


# ----------------------------------------------------------------------------------------------------- experts


class MLP(nn.Module):
    """The gated feed-forward layer, its width cut over the ranks; ``RowLinear`` as its last sums the ranks' parts."""

    def __init__(self, cfg: ModelConfig, run: Runtime, width: int, linear_out: type[Linear] = RowLinear):
        super().__init__()
        self.w1 = Linear(cfg, run, cfg.dim, width)
        self.w2 = linear_out(cfg, run, width, cfg.dim)
        self.w3 = Linear(cfg, run, cfg.dim, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Gate(nn.Module):
    """The router (section 2.1.2): which K of E experts see a token, and with which weight; in float32."""

    def __init__(self, cfg: ModelConfig, run: Runtime):
        super().__init__()
        self.cfg, self.dtype = cfg, run.numerics.router
        self.weight = parameter(run, cfg.n_routed_experts, cfg.dim, dtype=torch.float32)
        self.bias = parameter(run, cfg.n_routed_experts, dtype=torch.float32) if cfg.route_bias else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, D] -> weights [n, K] and expert ids [n, K]."""
        cfg = self.cfg
        logits = F.linear(x.to(self.dtype), self.weight.to(self.dtype))
        scores = logits.softmax(dim=-1) if cfg.score_func == "softmax" else logits.sigmoid()
        choice = scores if self.bias is None else scores + self.bias
        if cfg.grouped:
            groups = choice.unflatten(-1, (cfg.n_expert_groups, -1))
            # V3 scores a group by its best two experts, V2 by its best one.
            group_scores = groups.topk(2, dim=-1)[0].sum(-1) if cfg.route_bias else groups.amax(-1)
            kept = group_scores.topk(cfg.n_limited_groups, dim=-1)[1]
            out = torch.ones_like(group_scores, dtype=torch.bool).scatter_(-1, kept, False)
            choice = groups.masked_fill(out.unsqueeze(-1), -math.inf).flatten(-2)
        experts = choice.topk(cfg.n_activated_experts, dim=-1)[1]
        weights = scores.gather(-1, experts)
        if cfg.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)  # finite also when all scores underflow
        return weights * cfg.route_scale, experts


class MoE(nn.Module):
    """K routed experts per token, and the shared ones for every token; each rank holds a run of whole experts."""

    def __init__(self, cfg: ModelConfig, run: Runtime):
        super().__init__()
        self.run, self.n_experts = run, cfg.n_routed_experts
        self.gate = Gate(cfg, run)
        mine = run.tp.mine(cfg.n_routed_experts)
        self.experts = nn.ModuleDict({str(i): MLP(cfg, run, cfg.moe_inter_dim, Linear) for i in mine})
        shared = run.tp.mine(cfg.n_shared_experts * cfg.moe_inter_dim, cfg.cut_unit)
        self.shared_experts = MLP(cfg, run, len(shared), Linear)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]. Experts are summed in float32, over the ranks in one all-reduce."""
        flat, dtype = x.flatten(0, 1), self.run.numerics.sum
        weights, chosen = self.gate(flat)
        y = self.shared_experts(flat).to(dtype)
        counts = torch.bincount(chosen.flatten(), minlength=self.n_experts).tolist()
        for name, expert in self.experts.items():
            if counts[int(name)]:
                token, slot = torch.where(chosen == int(name))
                part = expert(flat.index_select(0, token)) * weights[token, slot].unsqueeze(-1)
                y = y.index_add(0, token, part.to(dtype))
        return self.run.tp.all_reduce(y).to(x.dtype).view_as(x)


# --------------------------------------------------------------------------------------------------- the model


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, cfg: ModelConfig, run: Runtime, layer: int):
        super().__init__()
        self.attn = MLA(cfg, run, layer)
        dense = layer < cfg.n_dense_layers
        self.ffn = MLP(cfg, run, len(run.tp.mine(cfg.inter_dim, cfg.cut_unit))) if dense else MoE(cfg, run)
        self.attn_norm = RMSNorm(run, cfg.dim, cfg.rms_norm_eps)
        self.ffn_norm = RMSNorm(run, cfg.dim, cfg.rms_norm_eps)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        x = x + self.attn(self.attn_norm(x), place)
        return x + self.ffn(self.ffn_norm(x))


class MTP(nn.Module):
    """A multi-token prediction layer (section 2.2): from h_i and the next token's embedding, the token after that."""

    def __init__(self, cfg: ModelConfig, run: Runtime, depth: int):
        super().__init__()
        self.enorm = RMSNorm(run, cfg.dim, cfg.rms_norm_eps)
        self.hnorm = RMSNorm(run, cfg.dim, cfg.rms_norm_eps)
        self.eh_proj = Linear(cfg, run, 2 * cfg.dim, cfg.dim, dtype=run.dtype)
        self.block = Block(cfg, run, cfg.n_layers + depth)
        self.norm = RMSNorm(run, cfg.dim, cfg.rms_norm_eps)

    def forward(self, h: Tensor, e: Tensor, place: Place) -> Tensor:
        """h [B, S, D] for tokens i and e [B, S, D], the embeddings of tokens i + 1 -> [B, S, D]."""
        x = self.eh_proj(torch.cat([self.enorm(e), self.hnorm(h)], dim=-1))
        return self.norm(self.block(x, place))


class Transformer(nn.Module):
    """The whole model. ``forward`` gives the last hidden states; ``logits`` turns those one wants into scores."""

    frequencies: Tensor

    def __init__(self, cfg: ModelConfig, run: Runtime):
        super().__init__()
        self.cfg, self.run = cfg, run
        self.embed = Embedding(cfg, run)
        self.layers = nn.ModuleList(Block(cfg, run, i) for i in range(cfg.n_layers))
        self.norm = RMSNorm(run, cfg.dim, cfg.rms_norm_eps)
        self.head = Linear(cfg, run, cfg.dim, len(run.tp.mine(cfg.vocab_size)), dtype=run.numerics.head)
        self.mtp = nn.ModuleList(MTP(cfg, run, i) for i in range(cfg.n_mtp_layers))
        self.register_buffer("frequencies", inverse_frequencies(cfg).to(run.device), persistent=False)

    def forward(self, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """Hidden states after the last norm, for each new token.

        Args:
            tokens: [B, S] token ids.
            start: position of the first of them, one for all or [B]; what is before comes from ``cache``.

        Returns:
            [B, S, D] in the runtime's dtype.
        """
        here = place(self.cfg, self.frequencies, tokens, start, cache)
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h, here)
        return self.norm(h)

    def predict(self, h: Tensor, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """The first MTP layer: ``forward``'s h [B, S, D] and the tokens after each, [B, S] -> [B, S, D]."""
        return self.mtp[0](h, self.embed(tokens), place(self.cfg, self.frequencies, tokens, start, cache))

    def logits(self, h: Tensor) -> Tensor:
        """[..., D] -> [..., V] float32, whole on every rank."""
        return self.run.tp.all_gather(self.head(h).float(), self.cfg.vocab_size)
