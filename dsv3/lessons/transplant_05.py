"""Lesson 05's parts in the model's attention layers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..lab import probe
from ..llm import LLM
from ..model import MLA, Place
from ..paths import TINY_R1
from .part import Transplant
from .transplant import in_float32, plain_model, solved, transplanted


def attention(parts: SimpleNamespace, form: str, frequencies: Tensor) -> Callable[[MLA, Tensor, Place], Tensor]:
    """A ``forward`` for the model's MLA layers made of the six parts, in the form "expanded" or "absorbed"."""

    def sequence(mla: MLA, h: Tensor, positions: Tensor, cache: Any) -> Tensor:
        cfg = mla.cfg
        N, R, C = cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.kv_lora_rank
        q = mla.wq_b(mla.q_norm(mla.wq_a(h))).unflatten(-1, (mla.heads, -1))  # the query's own latent
        q_nope, q_pe = q.split([N, R], dim=-1)
        c, k_pe = parts.compress(h, mla.wkv_a.weight, mla.kv_norm.weight)
        q_pe = parts.rope(q_pe, positions, frequencies)
        k_pe = parts.rope(k_pe[:, None], positions, frequencies)[:, 0]
        kept = torch.cat([c, k_pe], dim=-1)
        if cache is not None:
            kept = cache.update(int(positions[0]), kept)
        up, scale = mla.wkv_b.weight, mla.softmax_scale
        if form == "absorbed":
            return parts.absorbed(q_nope, q_pe, kept, up, scale)
        k, v = parts.expand(kept[:, :C], kept[:, C:], up, mla.heads, N)
        return parts.attend(torch.cat([q_nope, q_pe], dim=-1), k, v, scale)

    def forward(mla: MLA, x: Tensor, place: Place) -> Tensor:
        caches = _caches(parts, mla, place, len(x))
        rows = [sequence(mla, *each) for each in zip(x, place.positions, caches, strict=True)]
        return mla.wo(torch.stack(rows).flatten(2))

    return forward


class Rows(list):
    """One cache for each sequence; ``rows[[0, 2]]`` keeps two of them, as the model asks when sequences end."""

    def __getitem__(self, which: Any) -> Any:
        return Rows(self[i] for i in which) if isinstance(which, list) else super().__getitem__(which)


def _caches(parts: SimpleNamespace, mla: MLA, place: Place, batch: int) -> list[Any]:
    if place.cache is None:
        return [None] * batch
    width = mla.cfg.kv_lora_rank + mla.cfg.qk_rope_head_dim
    kept: dict[int, Any] = place.cache.layers  # the learner's caches stand where the model's tensors would
    return kept.setdefault(mla.layer, [Rows(parts.LatentCache(width) for _ in range(batch))])[0]


def score(llm: LLM, parts: SimpleNamespace, form: str, n: int | None = None) -> int:
    """Of ``n`` sums that training never saw (20), how many tiny-r1 answers rightly with these parts in its layers."""
    model = plain_model(llm)
    with transplanted((block.attn for block in model.layers), attention(parts, form, model.frequencies)):
        return solved(llm, n)


def read(llm: LLM, parts: SimpleNamespace, form: str, n: int) -> int:
    """The same for ``n`` sums read in one pass with their solutions, without a cache: a sum counts if the model would
    write every token of its solution itself. As strict as writing it, and much faster."""
    model, sums = plain_model(llm), probe.solved(TINY_R1, n)
    with transplanted((block.attn for block in model.layers), attention(parts, form, model.frequencies)):
        return round(n * probe.score(model, sums)[0])


def _scored(form: str) -> Callable[[SimpleNamespace], int]:
    return lambda parts: score(in_float32(), parts, form)


TRANSPLANTS = [
    Transplant("the expanded form", _scored("expanded"), 20, ("rope", "other way")),
    Transplant("the absorbed form", _scored("absorbed"), 20, ("absorbed", "rotated part is missing")),
]
