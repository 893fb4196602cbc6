"""THE table of the architecture's tensors: both names, shape, kind, cut dimension, expert.

Loader, converter, caster, verifier and the cost tables all read it; nothing else knows a tensor's name or shape.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from .config import BLOCK, ModelConfig

NBYTES = {"fp8": 1, "bf16": 2, "fp32": 4}


def shared_out(n: int, rank: int, size: int, unit: int = 1) -> range:
    """The indices in ``range(n)`` that belong to ``rank`` of ``size``: whole units, as evenly as they divide."""
    units = -(-n // unit)
    return range(min(rank * units // size * unit, n), min((rank + 1) * units // size * unit, n))


def owner(i: int, n: int, size: int) -> int:
    """The inverse: which of ``size`` ranks has ``i`` among its ``shared_out(n, rank, size)``."""
    return ((i + 1) * size - 1) // n


class Row(NamedTuple):
    """One tensor of a checkpoint.

    Attributes:
        name: in ``model.py`` and in converted files: ``layers.3.attn.wq_b.weight``.
        hf: in a Hugging Face folder: ``model.layers.3.self_attn.q_b_proj.weight``.
        shape: of the whole tensor.
        kind: how it is stored. ``fp8`` is float8_e4m3fn and has a row of its own for its ``scale``.
        part: which sum of the parameter count it belongs to.
        cut: the dimension that is shared out over the ranks; None if every rank holds all of it.
        unit: the least that a rank takes along it: a head's rows, an FP8 block, or one.
        expert: the routed expert that it belongs to; it lives on one rank, whole.
        copy_of: the HF name of the tensor that it repeats (MTP's embedding and head); only HF folders hold it.
        scales: the row whose blocks' scales these are; None for a weight.
    """

    name: str
    hf: str
    shape: tuple[int, ...]
    kind: Literal["fp8", "bf16", "fp32"]
    part: str
    cut: int | None = None
    unit: int = 1
    expert: int | None = None
    copy_of: str | None = None
    scales: "Row | None" = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * NBYTES[self.kind]

    @property
    def is_scale(self) -> bool:
        return self.scales is not None

    def scale(self) -> "Row":
        """The row of an ``fp8`` row's scales: one float32 per 128x128 block, ragged blocks counted."""
        return Row(
            self.name.removesuffix("weight") + "scale",
            self.hf + "_scale_inv",  # the checkpoint's name; it multiplies all the same
            tuple([-(-n // BLOCK) for n in self.shape]),
            "fp32",
            self.part,
            self.cut,
            expert=self.expert,
            scales=self,
        )

    def holders(self, size: int, n_experts: int) -> range:
        """The ranks of ``size`` that hold the tensor or a part of it; the part may be empty."""
        if self.expert is None:
            return range(size)
        rank = owner(self.expert, n_experts, size)
        return range(rank, rank + 1)

    def local(self, rank: int, size: int) -> tuple[slice, ...]:
        """The slices of the whole tensor that ``rank``, one of its ``holders`` of ``size``, has."""
        whole = tuple([slice(0, n) for n in self.shape])
        if self.cut is None:
            return whole
        if self.scales is not None:
            part = self.scales.local(rank, size)
            return tuple(slice(s.start // BLOCK, -(-s.stop // BLOCK)) for s in part)
        mine = shared_out(self.shape[self.cut], rank, size, self.unit)
        return tuple(slice(mine.start, mine.stop) if i == self.cut else s for i, s in enumerate(whole))


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
        yield from mtp_layer(cfg, i)


def mtp_layer(cfg: ModelConfig, i: int) -> Iterator[Row]:
    """The tensors of the MTP layer ``i``."""
    ours, theirs, vocab = f"mtp.{i}", f"model.layers.{cfg.n_layers + i}", (cfg.vocab_size, cfg.dim)
    embed, head = f"{theirs}.embed_tokens.weight", f"{theirs}.shared_head.head.weight"
    yield Row(f"{ours}.embed.weight", embed, vocab, "bf16", "mtp", 0, copy_of="model.embed_tokens.weight")
    for name in ("enorm", "hnorm"):
        yield Row(f"{ours}.{name}.weight", f"{theirs}.{name}.weight", (cfg.dim,), "bf16", "mtp")
    yield Row(f"{ours}.eh_proj.weight", f"{theirs}.eh_proj.weight", (cfg.dim, 2 * cfg.dim), "bf16", "mtp")
    yield from _block(cfg, f"{ours}.block", theirs, dense=cfg.n_layers + i < cfg.n_dense_layers, mtp=True)
    yield Row(f"{ours}.norm.weight", f"{theirs}.shared_head.norm.weight", (cfg.dim,), "bf16", "mtp")
    yield Row(f"{ours}.head.weight", head, vocab, "bf16", "mtp", 0, copy_of="lm_head.weight")


def _block(cfg: ModelConfig, ours: str, theirs: str, *, dense: bool, mtp: bool) -> Iterator[Row]:
    def matrix(  # noqa: ANN202
        name: str,
        hf: str,
        n_out: int,
        n_in: int,
        part: str,
        cut: int | None = None,
        unit: int = 1,
        expert: int | None = None,
    ):
        kind: Literal["fp8", "bf16"] = "fp8" if cfg.fp8 else "bf16"
        part = "mtp" if mtp else part
        row = Row(f"{ours}.{name}.weight", f"{theirs}.{hf}.weight", (n_out, n_in), kind, part, cut, unit, expert)
        yield row
        if cfg.fp8:
            yield row.scale()

    def norm(name: str, hf: str, n: int, part: str) -> Row:
        return Row(f"{ours}.{name}.weight", f"{theirs}.{hf}.weight", (n,), "bf16", "mtp" if mtp else part)

    def mlp(name: str, hf: str, width: int, part: str, expert: int | None = None) -> Iterator[Row]:
        rows, columns = (0, 1) if expert is None else (None, None)  # a routed expert stays whole
        unit = cfg.cut_unit
        yield from matrix(f"{name}.w1", f"{hf}.gate_proj", width, cfg.dim, part, rows, unit, expert)
        yield from matrix(f"{name}.w2", f"{hf}.down_proj", cfg.dim, width, part, columns, unit, expert)
        yield from matrix(f"{name}.w3", f"{hf}.up_proj", width, cfg.dim, part, rows, unit, expert)

    queries = cfg.n_heads * cfg.qk_head_dim
    if cfg.q_lora_rank:
        yield from matrix("attn.wq_a", "self_attn.q_a_proj", cfg.q_lora_rank, cfg.dim, "attention")
        yield norm("attn.q_norm", "self_attn.q_a_layernorm", cfg.q_lora_rank, "attention")
        yield from matrix("attn.wq_b", "self_attn.q_b_proj", queries, cfg.q_lora_rank, "attention", 0, cfg.qk_head_dim)
    else:
        yield from matrix("attn.wq", "self_attn.q_proj", queries, cfg.dim, "attention", 0, cfg.qk_head_dim)
    latent = cfg.kv_lora_rank + cfg.qk_rope_head_dim
    unfolded = cfg.qk_nope_head_dim + cfg.v_head_dim
    yield from matrix("attn.wkv_a", "self_attn.kv_a_proj_with_mqa", latent, cfg.dim, "attention")
    yield norm("attn.kv_norm", "self_attn.kv_a_layernorm", cfg.kv_lora_rank, "attention")
    kv_b = (cfg.n_heads * unfolded, cfg.kv_lora_rank)
    yield from matrix("attn.wkv_b", "self_attn.kv_b_proj", *kv_b, "attention", 0, unfolded)
    yield from matrix(
        "attn.wo", "self_attn.o_proj", cfg.dim, cfg.n_heads * cfg.v_head_dim, "attention", 1, cfg.v_head_dim
    )
    yield norm("attn_norm", "input_layernorm", cfg.dim, "norm")
    yield norm("ffn_norm", "post_attention_layernorm", cfg.dim, "norm")
    if dense:
        yield from mlp("ffn", "mlp", cfg.inter_dim, "dense")
        return
    part = "mtp" if mtp else "gate"
    experts = cfg.n_routed_experts
    yield Row(f"{ours}.ffn.gate.weight", f"{theirs}.mlp.gate.weight", (experts, cfg.dim), "bf16", part)
    if cfg.route_bias:
        bias = f"{theirs}.mlp.gate.e_score_correction_bias"
        yield Row(f"{ours}.ffn.gate.bias", bias, (experts,), "fp32", part)
    for e in range(experts):
        name, hf = f"ffn.experts.{e}", f"mlp.experts.{e}"
        yield from mlp(name, hf, cfg.moe_inter_dim, "routed", expert=e)
    shared = cfg.n_shared_experts * cfg.moe_inter_dim
    yield from mlp("ffn.shared_experts", "mlp.shared_experts", shared, "shared")


def check_ranks(cfg: ModelConfig, size: int) -> None:
    """Whether the model's stored tensors can be cut over ``size`` ranks.

    Raises:
        ValueError: a head or an FP8 block would be cut through; names it and the counts that work.
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
    if cfg.n_heads % size:
        return f"n_heads = {cfg.n_heads} does not divide by {size}"
    # One layer stands for all.
    for row in layout(replace(cfg, n_layers=1, n_dense_layers=1, n_mtp_layers=0)):
        if row.kind == "fp8" and row.cut is not None and size > 1:
            mine = row.local(0, size)[row.cut].stop
            if mine % BLOCK:
                share = f"{mine} of {row.shape[row.cut]} along dimension {row.cut}"
                return f"{row.name} would have {share}, not whole FP8 blocks of {BLOCK}"
    return None
