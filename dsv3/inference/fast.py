"""The model of ``model.py`` laid out for speed: the same function of the same weights in fewer, larger operations.

``Fast`` takes a filled ``Transformer`` apart and offers its three methods, so what generates does not care which of the
two it has. Read ``model.py`` for what is computed; here is how it is computed quickly:

- matrices that multiply the same input are joined (``wq_a`` and ``wkv_a``; ``w1`` and ``w3``);
- on a CPU, a few tokens are multiplied by ``kernels/native.c``, where there is a C compiler;
- ``wkv_b`` is laid out as the two halves that the absorbed form multiplies with;
- what only depends on the position is looked up; a single new token needs no mask;
- of the experts, only the chosen ones are touched, one by one for a few tokens, sorted by expert for many.

A GPU that has what it takes runs ``step.py`` instead, which takes this one apart in turn.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache import Cache
from ..config import BLOCK, ModelConfig
from ..kernels import native, reference
from ..model import MLA, MLP, MTP, Block, Gate, Linear, MoE, RMSNorm, Transformer, product, rotate, turns

Function = Callable[[Tensor], Tensor]  # [n, in] -> [n, out]; n tokens, of all sequences


class Matrix:
    """``x @ weight.T`` of linear layers with one input, their outputs side by side. Takes the weights from them."""

    def __init__(self, *linears: Linear):
        first = linears[0]
        self.run, self.scale_fmt = first.run, first.scale_fmt
        weights: list[Tensor] = [part.weight for part in linears]
        self.weight = torch.cat(weights) if len(weights) > 1 else first.weight.data
        scales: list[Tensor] = [part.scale for part in linears if part.scale is not None]
        self.scale = torch.cat(scales) if scales else None
        for part in linears:
            release(part)
        quantised = self.scale is not None and self.run.gemm == "fp8"
        fits = self.run.dtype == torch.bfloat16 and self.weight.dtype != torch.float32 and not quantised
        self.native = fits and self.run.device.type == "cpu" and native.library() is not None

    def __call__(self, x: Tensor) -> Tensor:
        if self.native and x.shape[0] <= native.MOST_TOKENS:
            return native.linear(x, self.weight, self.scale)
        if self.native and self.scale is not None:
            return F.linear(x, native.weight_dequant(self.weight, self.scale))
        return product(self.run, x, self.weight, self.scale, self.scale_fmt)


def release(linear: Linear) -> None:
    """Free the weights of a layer that another one has taken over."""
    for name in dict(linear.named_parameters()):
        linear.register_parameter(name, None)


def joined(*linears: Linear) -> Function:
    """One ``Matrix`` of them, unless FP8 blocks would not line up, or only some are FP8."""
    ragged = linears[0].scale is not None and any(part.weight.shape[0] % BLOCK for part in linears[:-1])
    if ragged or len({part.weight.dtype for part in linears}) > 1:
        parts = [Matrix(part) for part in linears]
        return lambda x: torch.cat([part(x) for part in parts], dim=-1)
    return Matrix(*linears)


def narrow(weight: Tensor) -> Tensor:
    """A float32 weight as the BF16 numbers that it holds, if it holds no others: half the bytes, the same products."""
    short = weight.to(torch.bfloat16)
    same = all(torch.equal(a, b.float()) for a, b in zip(weight.split(4096), short.split(4096), strict=True))
    return short if same else weight


class Head:
    """The last matrix: [..., D] -> [..., V] float32. Takes the weights from the layer.

    They are held in float32, but mostly stored in BF16: then, on a CPU, half the bytes give the same products, summed
    in float32, too, in another order.
    """

    def __init__(self, layer: Linear):
        self.run, self.weight = layer.run, layer.weight.data
        release(layer)
        fits = self.run.dtype == torch.bfloat16 and self.weight.dtype == torch.float32
        if fits and self.run.device.type == "cpu" and native.library() is not None:
            self.weight = narrow(self.weight)
        self.native = fits and self.weight.dtype == torch.bfloat16

    def __call__(self, h: Tensor) -> Tensor:
        if not self.native:
            return product(self.run, h, self.weight, None, None).float()
        return native.logits(h.reshape(-1, h.shape[-1]), self.weight).view(*h.shape[:-1], -1)


class Norm:
    """``RMSNorm`` in few operations: ``hypot`` brings epsilon under the root."""

    def __init__(self, layer: RMSNorm):
        self.weight, self.eps = layer.weight.float(), layer.eps
        n = len(self.weight)
        self.scaled = self.weight * n**0.5
        self.least = torch.full((), (n * layer.eps) ** 0.5, device=self.weight.device)
        cpu = self.weight.device.type == "cpu" and layer.weight.dtype == torch.bfloat16
        self.native = cpu and native.library() is not None

    def __call__(self, x: Tensor) -> Tensor:
        if self.native and x.shape[0] <= native.MOST_TOKENS:
            return native.rms_norm(x, self.weight, self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x * self.scaled).div_(length.hypot_(self.least)).to(x.dtype)


@dataclass(frozen=True)
class Here:
    """Where the new tokens stand, as ``model.Place``: ``start`` is a number where all sequences are equally long."""

    batch: int
    start: int | Tensor
    end: int
    turns: Tensor  # [1, n, R / 2] complex
    lengths: Tensor  # [n] int64, what each token sees of its sequence, itself included
    cache: Cache

    @property
    def one_each(self) -> bool:
        """Whether each sequence has one new token."""
        return len(self.lengths) == self.batch

    @cached_property
    def mask(self) -> Tensor | None:
        """[B, 1, S, T] bool, True where a query may look; None if all may look everywhere."""
        if self.one_each and isinstance(self.start, int):
            return None
        lengths = self.lengths.view(self.batch, 1, -1, 1)
        return torch.arange(self.end, device=lengths.device) < lengths

    def write(self, layer: int, new: Tensor) -> Tensor:
        """[n, C + R] into the cache -> all up to ``end``, [B, T, C + R]."""
        new = new.view(self.batch, -1, new.shape[-1])
        (kept,) = self.cache.room(layer, self.end, new)
        if isinstance(self.start, int):
            kept[:, self.start : self.end] = new
        else:
            rows = torch.arange(self.batch, device=new.device).unsqueeze(1)
            kept[rows, self.start.unsqueeze(1) + torch.arange(new.shape[1], device=new.device)] = new
        return kept[:, : self.end]


class FastMLA:
    """``MLA.absorbed``."""

    def __init__(self, mla: MLA):
        cfg = self.cfg = mla.cfg
        self.layer, self.heads, self.scale = mla.layer, mla.heads, mla.softmax_scale
        self.first = joined(mla.wq_a if cfg.q_lora_rank else mla.wq, mla.wkv_a)
        self.widths = [cfg.q_lora_rank or self.heads * cfg.qk_head_dim, cfg.kv_lora_rank, cfg.qk_rope_head_dim]
        if cfg.q_lora_rank:
            self.q_norm, self.wq_b = Norm(mla.q_norm), Matrix(mla.wq_b)
        self.kv_norm = Norm(mla.kv_norm)
        unfold = mla.wkv_b.weight.data.unflatten(0, (self.heads, -1))
        key, value = unfold.split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=1)
        self.key, self.value = key.transpose(1, 2).contiguous(), value.contiguous()  # [H, C, N], [H, P, C]
        release(mla.wkv_b)
        self.wo = Matrix(mla.wo)
        self.few = self.few_tokens()

    def few_tokens(self) -> native.Asking | None:
        """``ask`` in one call."""
        if not (isinstance(self.first, Matrix) and self.first.native and self.kv_norm.native):
            return None
        first, norm = (self.first.weight, self.first.scale), self.kv_norm
        if not self.cfg.q_lora_rank:
            return native.Asking(self.cfg, first, None, self.key, None, norm.weight, norm.eps)
        second = (self.wq_b.weight, self.wq_b.scale)
        return native.Asking(self.cfg, first, second, self.key, self.q_norm.weight, norm.weight, norm.eps)

    def __call__(self, x: Tensor, here: Here) -> Tensor:
        """[n, D] -> [n, D], this rank's heads."""
        few = self.few if x.shape[0] <= native.MOST_TOKENS else None
        query, entry = few(x, here.turns) if few else self.ask(x, here)
        mixed = self.attend(query, here.write(self.layer, entry), here)
        return self.wo(self.heads_times(mixed, self.value).flatten(1))

    def ask(self, x: Tensor, here: Here) -> tuple[Tensor, Tensor]:
        """[n, D] -> queries of the latent's width [n, H, C + R], and [n, C + R] for the cache."""
        cfg, heads = self.cfg, self.heads
        q, c, k_pe = self.first(x).split(self.widths, dim=-1)
        if cfg.q_lora_rank:
            q = self.wq_b(self.q_norm(q))
        q_nope, q_pe = q.unflatten(-1, (heads, -1)).split([cfg.qk_nope_head_dim, cfg.qk_rope_head_dim], dim=-1)
        turned = rotate(torch.cat([q_pe, k_pe.unsqueeze(1)], dim=1).unsqueeze(0), here.turns)[0]
        query = torch.cat([self.heads_times(q_nope, self.key), turned[:, :heads]], dim=-1)
        return query, torch.cat([self.kv_norm(c), turned[:, heads]], dim=-1)

    def heads_times(self, x: Tensor, matrices: Tensor) -> Tensor:
        """[n, H, in], each head with its own of ``matrices`` [H, out, in] -> [n, H, out]."""
        if self.wo.native and x.shape[0] <= native.MOST_TOKENS:
            return native.linear(x, matrices)
        return torch.bmm(x.transpose(0, 1), matrices.transpose(1, 2)).transpose(0, 1)

    def attend(self, q: Tensor, kept: Tensor, here: Here) -> Tensor:
        """[n, H, C + R] queries over the cache [B, T, C + R] -> [n, H, C].

        All heads look at the same cache. It serves as keys and values at once; what the rotary part adds to the values
        is dropped.
        """
        if self.wo.native and q.shape[0] <= native.MOST_TOKENS and self.heads <= native.MOST_HEADS:
            return native.attend(q, kept, here.lengths, self.cfg.kv_lora_rank, self.scale)
        kept = kept.unsqueeze(1)
        if here.one_each:  # heads in place of tokens: all of them attend to the same cache
            mixed = F.scaled_dot_product_attention(q.unsqueeze(1), kept, kept, here.mask, scale=self.scale)
        else:
            q = q.unflatten(0, (here.batch, -1)).transpose(1, 2)
            kept = kept.expand(-1, self.heads, -1, -1)
            mixed = F.scaled_dot_product_attention(q, kept, kept, here.mask, scale=self.scale).transpose(1, 2)
        return mixed.reshape(-1, self.heads, mixed.shape[-1])[..., : self.cfg.kv_lora_rank]


class FastMLP:
    """``MLP``: [n, D] -> [n, D], this rank's part."""

    def __init__(self, mlp: MLP):
        self.width = mlp.w1.weight.shape[0]
        self.up, self.down = joined(mlp.w1, mlp.w3), Matrix(mlp.w2)

    def __call__(self, x: Tensor) -> Tensor:
        up = self.up(x)
        return self.down(F.silu(up[:, : self.width]).mul_(up[:, self.width :]))


def few_tokens(mlps: dict[int, FastMLP], count: int) -> native.MLPs | None:
    """Layers of one input as ``native`` chooses them by number, in one call instead of seven of torch for each."""
    parts: dict[int, tuple[native.Stored, native.Stored]] = {}
    for i, mlp in mlps.items():
        if not isinstance(mlp.up, Matrix) or not mlp.down.native:
            return None
        parts[i] = (mlp.up.weight, mlp.up.scale), (mlp.down.weight, mlp.down.scale)
    return native.MLPs(parts, count)


class FastDense:
    """``MLP`` as a layer of its own."""

    def __init__(self, mlp: MLP):
        self.many = FastMLP(mlp)
        self.few = few_tokens({0: self.many}, 1)
        self.first, self.ones = torch.zeros(native.MOST_TOKENS, 1, dtype=torch.long), torch.ones(native.MOST_TOKENS, 1)

    def __call__(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        if self.few is None or n > native.MOST_TOKENS:
            return self.many(x)
        return self.few(x, self.first[:n], self.ones[:n])


class FastGate:
    """``Gate`` with the shared experts before the others, as number E with weight 1: [n, D] -> twice [n, 1 + K].

    A weight that is stored in BF16 is held once more as such: in few tokens' products that is half the bytes.
    """

    def __init__(self, gate: Gate):
        self.gate, self.native = gate, None
        cfg, fits = gate.cfg, gate.dtype == torch.float32 and gate.weight.device.type == "cpu"
        pairs = not cfg.grouped or cfg.n_routed_experts >= 2 * cfg.n_expert_groups  # of experts, in each group
        if fits and pairs and native.library() is not None:
            weight = narrow(gate.weight.data)
            if weight.dtype == torch.bfloat16:
                self.native = native.Router(cfg, weight, gate.bias)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.native and x.dtype == torch.bfloat16 and x.shape[0] <= native.MOST_TOKENS:
            return self.native(x)
        weights, chosen = self.gate(x)
        return F.pad(weights, (1, 0), value=1.0), F.pad(chosen, (1, 0), value=self.gate.cfg.n_routed_experts)


class FastMoE:
    """``MoE``: [n, D] -> [n, D] float32, this rank's part."""

    def __init__(self, moe: MoE):
        self.run, self.gate, self.n_experts = moe.run, moe.gate, moe.n_experts
        experts = cast("Mapping[str, MLP]", moe.experts)
        self.experts = {int(name): FastMLP(expert) for name, expert in experts.items()}
        self.mine = moe.run.tp.mine(moe.n_experts)
        self.shared, self.all = FastMLP(moe.shared_experts), FastGate(moe.gate)
        self.few = few_tokens(self.experts | {self.n_experts: self.shared}, self.n_experts + 1)

    def __call__(self, x: Tensor) -> Tensor:
        if self.few is not None and x.shape[0] <= native.MOST_TOKENS:
            weights, chosen = self.all(x)
            return self.few(x, chosen, weights.float())
        weights, chosen = self.gate(x)
        y = self.shared(x).float()
        order, offsets = reference.sort_by_expert(chosen, self.n_experts)
        if self.run.tp.size > 1:
            offsets = offsets[self.mine.start : self.mine.stop + 1]
            order = order[offsets[0] : offsets[-1]]
            offsets = offsets - offsets[0]
        token = order // weights.shape[1]
        parts = self.one_by_one(x[token], offsets)
        return y.index_add_(0, token, parts * weights.flatten()[order].unsqueeze(-1))

    def one_by_one(self, x: Tensor, offsets: Tensor) -> Tensor:
        """[m, D] copies of tokens sorted by expert, an expert's from one of ``offsets`` to the next -> [m, D]."""
        parts, bounds = torch.empty_like(x), offsets.tolist()
        for expert, begin, end in zip(self.experts.values(), bounds, bounds[1:], strict=False):
            if begin < end:
                parts[begin:end] = expert(x[begin:end])
        return parts


class FastBlock:
    """``Block``: the ranks' parts are summed in float32."""

    def __init__(self, block: Block):
        self.tp = block.attn.run.tp
        self.attn_norm, self.ffn_norm = Norm(block.attn_norm), Norm(block.ffn_norm)
        self.attn = FastMLA(block.attn)
        self.ffn = FastMoE(block.ffn) if isinstance(block.ffn, MoE) else FastDense(block.ffn)
        if block.attn.run.device.type == "cpu":
            native.give_back()  # the experts' own matrices: too small for what comes next

    def __call__(self, x: Tensor, here: Here) -> Tensor:
        x = x + self.sum(self.attn(self.attn_norm(x), here), x.dtype)
        return x + self.sum(self.ffn(self.ffn_norm(x)), x.dtype)

    def sum(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        return part.to(dtype) if self.tp.size == 1 else self.tp.all_reduce(part.float()).to(dtype)


class FastMTP:
    """``MTP``."""

    def __init__(self, mtp: MTP):
        self.enorm, self.hnorm, self.norm = Norm(mtp.enorm), Norm(mtp.hnorm), Norm(mtp.norm)
        self.eh_proj, self.block = Matrix(mtp.eh_proj), FastBlock(mtp.block)

    def __call__(self, h: Tensor, e: Tensor, here: Here) -> Tensor:
        return self.norm(self.block(self.eh_proj(torch.cat([self.enorm(e), self.hnorm(h)], dim=-1)), here))


class Fast:
    """A ``Transformer`` with ``attn="absorb"``, taken apart: ``model`` gives up its weights, layer by layer.

    Peak memory beside the model: one layer's experts. Methods, arguments and results as ``Transformer``'s.
    """

    def __init__(self, model: Transformer):
        self.cfg: ModelConfig = model.cfg
        self.run = model.run
        self.embed, self.frequencies = model.embed, model.frequencies
        self.layers = [FastBlock(block) for block in cast("Iterable[Block]", model.layers)]
        self.norm, self.head = Norm(model.norm), Head(model.head)
        self.mtp = [FastMTP(mtp) for mtp in cast("Iterable[MTP]", model.mtp)]
        self.turns = turns(self.cfg, self.frequencies, torch.arange(256, device=self.run.device))

    def __call__(self, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """As ``Transformer.forward``: [B, S] token ids -> [B, S, D]."""
        here = self.place(tokens, start, cache)
        h = self.embed(tokens).flatten(0, 1)
        for layer in self.layers:
            h = layer(h, here)
        return self.norm(h).unflatten(0, tokens.shape)

    def predict(self, h: Tensor, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """As ``Transformer.predict``: the first MTP layer, [B, S, D] and [B, S] -> [B, S, D]."""
        here = self.place(tokens, start, cache)
        return self.mtp[0](h.flatten(0, 1), self.embed(tokens).flatten(0, 1), here).unflatten(0, tokens.shape)

    def logits(self, h: Tensor) -> Tensor:
        """As ``Transformer.logits``: [..., D] -> [..., V] float32."""
        return self.run.tp.all_gather(self.head(h), self.cfg.vocab_size)

    def place(self, tokens: Tensor, start: int | Tensor, cache: Cache | None) -> Here:
        batch, new = tokens.shape
        device = tokens.device
        end = (start if isinstance(start, int) else int(start.max())) + new
        if len(self.turns) < end:
            self.turns = turns(self.cfg, self.frequencies, torch.arange(2 * end, device=device))
        if isinstance(start, int):
            turned, lengths = self.turns[start:end], torch.arange(start + 1, end + 1, device=device)
            if batch > 1:
                turned, lengths = turned.repeat(batch, 1), lengths.repeat(batch)
        else:
            lengths = (start.unsqueeze(1) + torch.arange(1, new + 1, device=device)).flatten()
            turned = self.turns[lengths - 1]
        return Here(batch, start, end, turned.unsqueeze(0), lengths, cache or Cache())
