"""Bugs that shipped: faults of public DeepSeek-V3 code, each put into this one for as long as a ``with`` lasts.

A test that passes on the right model and fails on each of these would have stopped them. Lessons 05, 06 and 08 ask for
such tests. The faults are those of DeepSeek-V3's ``inference/`` folder, some of them repaired there since.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import model
from ..config import ModelConfig
from ..kernels import reference

Patch = tuple[object, str, Any]  # where, the attribute's name, its faulty value


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        story: what is wrong, and where it shipped.
        hint: an input on which it shows.
        patches: what to replace by what, made anew each time.
    """

    name: str
    story: str
    hint: str
    patches: Callable[[], tuple[Patch, ...]]


@contextmanager
def injected(mutant: Mutant) -> Iterator[None]:
    """The fault is in until the block ends, also if it ends by an exception. Models made inside have it."""
    patches = mutant.patches()
    kept = [(where, name, getattr(where, name)) for where, name, _ in patches]
    try:
        for where, name, value in patches:
            setattr(where, name, value)
        yield
    finally:
        for where, name, value in kept:
            setattr(where, name, value)


# --------------------------------------------------------------------------------------------------- attention


def _yarn_by_cache_length() -> tuple[Patch, ...]:
    frequencies, init = model.inverse_frequencies, model.MLA.__init__

    def switched(cfg: ModelConfig) -> ModelConfig:
        return cfg if cfg.max_seq_len > cfg.original_seq_len else replace(cfg, rope_factor=1.0)

    def faulty_init(self: model.MLA, cfg: ModelConfig, *rest: Any) -> None:
        init(self, switched(cfg), *rest)

    return (
        (model, "inverse_frequencies", lambda cfg: frequencies(switched(cfg))),
        (model.MLA, "__init__", faulty_init),
    )


def _square_mask() -> tuple[Patch, ...]:
    place = model.place

    def faulty(cfg: ModelConfig, frequencies: Tensor, tokens: Tensor, *rest: Any) -> model.Place:
        square = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf"), device=tokens.device).triu(1)
        return replace(place(cfg, frequencies, tokens, *rest), mask=square)

    return ((model, "place", faulty),)


ATTENTION = (
    Mutant(
        "yarn-by-cache-length",
        "YaRN is on only if max_seq_len is above original_seq_len: the same model gives other answers with a shorter "
        "cache (inference/model.py, lines 367 and 435).",
        "Load the model twice, with max_seq_len 512 and 8192, and compare what they make of the same tokens.",
        _yarn_by_cache_length,
    ),
    Mutant(
        "square-mask",
        "The causal mask is S x S although the keys are all T tokens: a prompt in two pieces fails "
        "(inference/model.py, line 789).",
        "Give the model a prompt at once, and again in two pieces with a cache.",
        _square_mask,
    ),
)

# ------------------------------------------------------------------------------------------------------- router


def gate_forward(
    group_score: Callable[[Tensor], Tensor] = lambda groups: groups.topk(2, dim=-1)[0].sum(-1),
    masked: float = float("-inf"),
    epsilon: float = 1e-20,
) -> Callable[[model.Gate, Tensor], tuple[Tensor, Tensor]]:
    """V3's router with its three delicate choices as arguments; as it stands it is ``Gate.forward``."""

    def forward(self: model.Gate, x: Tensor) -> tuple[Tensor, Tensor]:
        cfg = self.cfg
        scores = torch.nn.functional.linear(x.to(self.dtype), self.weight.to(self.dtype)).sigmoid()
        choice = scores if self.bias is None else scores + self.bias
        groups = choice.unflatten(-1, (cfg.n_expert_groups, -1))
        kept = group_score(groups).topk(cfg.n_limited_groups, dim=-1)[1]
        out = torch.ones(groups.shape[:-1], dtype=torch.bool, device=x.device).scatter_(-1, kept, False)
        choice = groups.masked_fill(out.unsqueeze(-1), masked).flatten(-2)
        experts = choice.topk(cfg.n_activated_experts, dim=-1)[1]
        weights = scores.gather(-1, experts)
        return weights / (weights.sum(-1, keepdim=True) + epsilon) * cfg.route_scale, experts

    return forward


def _bf16_router() -> tuple[Patch, ...]:
    init = model.Gate.__init__

    def faulty(self: model.Gate, *args: Any) -> None:
        init(self, *args)
        self.dtype = torch.bfloat16

    return ((model.Gate, "__init__", faulty),)


ROUTER = (
    Mutant(
        "v2-group-score",
        "A group counts as its best expert, as in V2, instead of the sum of its best two "
        "(inference/model.py, lines 586 to 589, for a model without a bias).",
        "Make one group with a single very good expert, and others with two good ones.",
        lambda: ((model.Gate, "forward", gate_forward(group_score=lambda groups: groups.amax(-1))),),
    ),
    Mutant(
        "masked-with-zero",
        "Experts of the groups that are out get 0 instead of -inf: with a negative bias 0 is the best score, and they "
        "win (inference/model.py before 2025-02-14, DeepSeek-V3 #741).",
        "Adding the same number to every bias must not change which experts are chosen; add -2.",
        lambda: ((model.Gate, "forward", gate_forward(masked=0.0)),),
    ),
    Mutant(
        "nan-from-underflow",
        "The weights are divided by their sum without an epsilon: where all scores underflow, 0 / 0 is NaN "
        "(inference/model.py, line 596).",
        "Make every logit -200: its sigmoid is 0 in float32.",
        lambda: ((model.Gate, "forward", gate_forward(epsilon=0.0)),),
    ),
    Mutant(
        "bf16-router",
        "The router computes in BF16: near ties fall the other way, and tokens go to other experts "
        "(inference/model.py, lines 576 to 580; float32 in V3.2).",
        "Compare the weights with those that you compute in float32 yourself, on many tokens.",
        _bf16_router,
    ),
)

# ------------------------------------------------------------------------------------------------------ kernels


def _scale_format_lost() -> tuple[Patch, ...]:
    act_quant = reference.act_quant

    def faulty(x: Tensor, block: int = 128, scale_fmt: str | None = None) -> tuple[Tensor, Tensor]:
        return act_quant(x, block)

    return ((reference, "act_quant", faulty),)


def _carry_lost() -> tuple[Patch, ...]:
    act_quant = reference.act_quant

    def faulty(x: Tensor, block: int = 128, scale_fmt: str | None = None) -> tuple[Tensor, Tensor]:
        q, scale = act_quant(x, block, scale_fmt)
        exact, rounded = x.float() / scale.repeat_interleave(block, -1), q.float()
        carried = (torch.frexp(rounded).mantissa.abs() == 0.5) & (exact.abs() < rounded.abs())
        return torch.where(carried, rounded / 2, rounded).to(q.dtype), scale

    return ((reference, "act_quant", faulty),)


KERNELS = (
    Mutant(
        "scale-format-lost",
        "The layer does not pass scale_fmt on: V3.1's power-of-two scales become ordinary ones "
        "(inference/model.py, lines 233 and 262).",
        'With scale_fmt="ue8m0" every scale must be a power of two.',
        _scale_format_lost,
    ),
    Mutant(
        "carry-lost",
        "The cast to FP8 drops the carry when rounding crosses a power of two: 126 becomes 64, not 128 "
        "(Triton's interpreter).",
        "Quantise a block that holds 448, so that its scale is 1, and 126.",
        _carry_lost,
    ),
)
