"""THE table of the architecture's tensors: both names, shape, kind, cut dimension, expert.

Loader, converter, caster, verifier and the cost tables all read it; nothing else knows a tensor's name or shape.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from .config import BLOCK, ModelConfig

NBYTES = {"fp8": 1, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Row:
    """One tensor of a checkpoint.

    Attributes:
        name: in ``model.py`` and in converted files: ``layers.3.attn.wq_b.weight``.
        hf: in a Hugging Face folder: ``model.layers.3.self_attn.q_b_proj.weight``.
        shape: of the whole tensor.
        kind: how it is stored. ``fp8`` is float8_e4m3fn and has a row of its own for its ``scale``.
        part: which sum of the parameter count it belongs to.
        cut: the dimension that is shared out over the ranks; None if every rank holds all of it.
        expert: the routed expert that it belongs to; it lives on one rank, whole.
        copy_of: the HF name of the tensor that it repeats (MTP's embedding and head); only HF folders hold it.
    """

    name: str
    hf: str
    shape: tuple[int, ...]
    kind: Literal["fp8", "bf16", "fp32"]
    part: str
    cut: int | None = None
    expert: int | None = None
    copy_of: str | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * NBYTES[self.kind]

    @property
    def is_scale(self) -> bool:
        return self.name.endswith(".scale")

    def scale(self) -> "Row":
        """The row of an ``fp8`` row's scales: one float32 per 128x128 block, ragged blocks counted."""
        return replace(
            self,
            name=self.name.removesuffix("weight") + "scale",
            hf=self.hf + "_scale_inv",  # the checkpoint's name; it multiplies all the same
            shape=tuple(math.ceil(n / BLOCK) for n in self.shape),
            kind="fp32",
        )

    def local(self, rank: int, size: int, n_experts: int) -> tuple[slice, ...] | None:
        """The slices of the whole tensor that a rank of ``size`` holds; None if it holds nothing of it."""
        whole = tuple(slice(0, n) for n in self.shape)
        if self.expert is not None:
            return whole if self.expert // (n_experts // size) == rank else None
        if self.cut is None:
            return whole
        share = self.shape[self.cut] // size
        return tuple(slice(rank * share, (rank + 1) * share) if i == self.cut else s for i, s in enumerate(whole))


def layout(cfg: ModelConfig) -> Iterator[Row]:
    """Every tensor of the model's Hugging Face checkpoint, once, in the model's order.

    91,991 rows for DeepSeek-V3/R1, MTP layer included.

    Source: README_WEIGHTS.md and inference/convert.py (``mapping``).
    """
    vocab = (cfg.vocab_size, cfg.dim)
    yield Row("embed.weight", "model.embed_tokens.weight", vocab, "bf16", "embedding", 0)
    for i in range(cfg.n_layers):
        yield from _block(cfg, f"layers.{i}", f"model.layers.{i}", dense=i < cfg.n_dense_layers, mtp=False)
    yield Row("norm.weight", "model.norm.weight", (cfg.dim,), "bf16", "norm")
    yield Row("head.weight", "lm_head.weight", vocab, "bf16", "head", 0)
    for i in range(cfg.n_mtp_layers):
        ours, theirs = f"mtp.{i}", f"model.layers.{cfg.n_layers + i}"
        embed, head = f"{theirs}.embed_tokens.weight", f"{theirs}.shared_head.head.weight"
        yield Row(f"{ours}.embed.weight", embed, vocab, "bf16", "mtp", 0, copy_of="model.embed_tokens.weight")
        for name in ("enorm", "hnorm"):
            yield Row(f"{ours}.{name}.weight", f"{theirs}.{name}.weight", (cfg.dim,), "bf16", "mtp")
        yield Row(f"{ours}.eh_proj.weight", f"{theirs}.eh_proj.weight", (cfg.dim, 2 * cfg.dim), "bf16", "mtp")
        yield from _block(cfg, f"{ours}.block", theirs, dense=cfg.n_layers + i < cfg.n_dense_layers, mtp=True)
        yield Row(f"{ours}.norm.weight", f"{theirs}.shared_head.norm.weight", (cfg.dim,), "bf16", "mtp")
        yield Row(f"{ours}.head.weight", head, vocab, "bf16", "mtp", 0, copy_of="lm_head.weight")


def _block(cfg: ModelConfig, ours: str, theirs: str, *, dense: bool, mtp: bool) -> Iterator[Row]:
    def matrix(name: str, hf: str, n_out: int, n_in: int, part: str, cut: int | None, expert: int | None = None):  # noqa: ANN202
        kind = "fp8" if cfg.fp8 else "bf16"
        part = "mtp" if mtp else part
        row = Row(f"{ours}.{name}.weight", f"{theirs}.{hf}.weight", (n_out, n_in), kind, part, cut, expert)
        yield row
        if cfg.fp8:
            yield row.scale()

    def norm(name: str, hf: str, n: int, part: str) -> Row:
        return Row(f"{ours}.{name}.weight", f"{theirs}.{hf}.weight", (n,), "bf16", "mtp" if mtp else part)

    def mlp(name: str, hf: str, width: int, part: str, cut: bool, expert: int | None = None) -> Iterator[Row]:
        yield from matrix(f"{name}.w1", f"{hf}.gate_proj", width, cfg.dim, part, 0 if cut else None, expert)
        yield from matrix(f"{name}.w2", f"{hf}.down_proj", cfg.dim, width, part, 1 if cut else None, expert)
        yield from matrix(f"{name}.w3", f"{hf}.up_proj", width, cfg.dim, part, 0 if cut else None, expert)

    queries = cfg.n_heads * cfg.qk_head_dim
    if cfg.q_lora_rank:
        yield from matrix("attn.wq_a", "self_attn.q_a_proj", cfg.q_lora_rank, cfg.dim, "attention", None)
        yield norm("attn.q_norm", "self_attn.q_a_layernorm", cfg.q_lora_rank, "attention")
        yield from matrix("attn.wq_b", "self_attn.q_b_proj", queries, cfg.q_lora_rank, "attention", 0)
    else:
        yield from matrix("attn.wq", "self_attn.q_proj", queries, cfg.dim, "attention", 0)
    latent = cfg.kv_lora_rank + cfg.qk_rope_head_dim
    keys_and_values = cfg.n_heads * (cfg.qk_nope_head_dim + cfg.v_head_dim)
    yield from matrix("attn.wkv_a", "self_attn.kv_a_proj_with_mqa", latent, cfg.dim, "attention", None)
    yield norm("attn.kv_norm", "self_attn.kv_a_layernorm", cfg.kv_lora_rank, "attention")
    yield from matrix("attn.wkv_b", "self_attn.kv_b_proj", keys_and_values, cfg.kv_lora_rank, "attention", 0)
    yield from matrix("attn.wo", "self_attn.o_proj", cfg.dim, cfg.n_heads * cfg.v_head_dim, "attention", 1)
    yield norm("attn_norm", "input_layernorm", cfg.dim, "norm")
    yield norm("ffn_norm", "post_attention_layernorm", cfg.dim, "norm")
    if dense:
        yield from mlp("ffn", "mlp", cfg.inter_dim, "dense", cut=True)
        return
    part = "mtp" if mtp else "gate"
    experts = cfg.n_routed_experts
    yield Row(f"{ours}.ffn.gate.weight", f"{theirs}.mlp.gate.weight", (experts, cfg.dim), "bf16", part)
    if cfg.route_bias:
        bias = f"{theirs}.mlp.gate.e_score_correction_bias"
        yield Row(f"{ours}.ffn.gate.bias", bias, (experts,), "fp32", part)
    for e in range(experts):
        name, hf = f"ffn.experts.{e}", f"mlp.experts.{e}"
        yield from mlp(name, hf, cfg.moe_inter_dim, "routed", cut=False, expert=e)
    shared = cfg.n_shared_experts * cfg.moe_inter_dim
    yield from mlp("ffn.shared_experts", "mlp.shared_experts", shared, "shared", cut=True)


def check_ranks(cfg: ModelConfig, size: int) -> None:
    """Whether the model's stored tensors can be cut over ``size`` ranks.

    Raises:
        ValueError: heads, experts, a dimension or an FP8 block would be cut through; names it and the counts that work.
    """
    problem = _cannot_cut(cfg, size)
    if problem is None:
        return
    works = [n for n in range(1, cfg.n_heads + 1) if _cannot_cut(cfg, n) is None]
    hint = f"; counts that work: {', '.join(map(str, works))}"
    if cfg.fp8:
        in_bf16 = replace(cfg, dtype="bf16")
        more = [n for n in range(1, cfg.n_heads + 1) if _cannot_cut(in_bf16, n) is None]
        hint += f" (after a cast to BF16: {', '.join(map(str, more))})" if more != works else ""
    raise ValueError(f"cannot split over {size} ranks: {problem}{hint}")


def _cannot_cut(cfg: ModelConfig, size: int) -> str | None:
    """Why ``size`` ranks do not work, or None."""
    if size < 1:
        return "the number of ranks must be 1 or more"
    for name in ("n_heads", "n_routed_experts", "vocab_size"):
        if getattr(cfg, name) % size:
            return f"{name} = {getattr(cfg, name)} does not divide by {size}"
    for row in layout(replace(cfg, n_routed_experts=cfg.n_expert_groups * 2, n_mtp_layers=0, n_activated_experts=1)):
        if row.cut is None or row.is_scale or size == 1:
            continue
        share, rest = divmod(row.shape[row.cut], size)
        if rest:
            return f"{row.name} has {row.shape[row.cut]} along dimension {row.cut}, which does not divide by {size}"
        if row.kind == "fp8" and share % BLOCK:
            of = f"{share} of {row.shape[row.cut]} along dimension {row.cut}"
            return f"{row.name} would have {of}, not whole FP8 blocks of {BLOCK}"
    return None
