"""Lesson 06's parts in the model's layers of experts."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from ..llm import LLM
from ..model import MLP, MoE
from ..tiny import data
from .part import Transplant
from .transplant import in_float32, plain_model, solved, transplanted

STEPS, GAMMA, FAIR = 300, 0.002, 0.35  # of the balancing, and how far from the even share a load may be


def one_expert(parts: SimpleNamespace, mlp: MLP) -> Callable[[Tensor], Tensor]:
    """A feed-forward layer [n, D] -> [n, D] with the matrices of the model's."""
    return partial(parts.swiglu, w1=mlp.w1.weight, w2=mlp.w2.weight, w3=mlp.w3.weight)


def experts(parts: SimpleNamespace) -> Callable[[MoE, Tensor], Tensor]:
    """A ``forward`` for the model's MoE layers made of five parts; the bias update is for training."""

    def forward(moe: MoE, x: Tensor) -> Tensor:
        gate, flat = moe.gate, x.flatten(0, -2)
        cfg = gate.cfg
        s, biased = parts.affinity(flat, gate.weight, gate.bias)
        chosen = parts.choose(biased, cfg.n_expert_groups, cfg.n_limited_groups, cfg.n_activated_experts)
        weights = parts.weigh(s, chosen, cfg.route_scale)
        routed = [one_expert(parts, expert) for expert in moe.experts.values() if isinstance(expert, MLP)]
        shared = one_expert(parts, moe.shared_experts)
        y = parts.mixture(flat, weights, chosen, routed) + shared(flat).float()
        return y.to(x.dtype).view_as(x)

    return forward


def moe_layers(llm: LLM) -> list[MoE]:
    """The model's layers of experts."""
    return [block.ffn for block in plain_model(llm).layers if isinstance(block.ffn, MoE)]


def score(llm: LLM, parts: SimpleNamespace) -> int:
    """Of 20 sums that training never saw, how many tiny-r1 answers rightly with these parts in its MoE layers."""
    with transplanted(moe_layers(llm), experts(parts)):
        return solved(llm)


@torch.inference_mode()
def reaching(llm: LLM, sums: int = 48) -> tuple[MoE, Tensor]:
    """tiny-r1's first layer of experts, and what reaches it of the questions of unseen sums, [tokens, D]."""
    moe, given = moe_layers(llm)[0], []
    hook = moe.register_forward_pre_hook(lambda _, args: given.append(args[0].flatten(0, 1)))
    try:
        for _, question in data.held_out_set(sums):
            plain_model(llm)(torch.tensor([llm.tokenizer.encode(question)]))
    finally:
        hook.remove()
    return moe, torch.cat(given)


def rebalanced(parts: SimpleNamespace, moe: MoE, u: Tensor) -> list[Tensor]:
    """Loads [E] (1 is the even share) of tokens u [tokens, D], from a bias of 0 on, after each step of the bias."""
    cfg, bias, loads = moe.gate.cfg, torch.zeros(moe.n_experts), []
    for _ in range(STEPS):
        _, biased = parts.affinity(u, moe.gate.weight, bias)
        chosen = parts.choose(biased, cfg.n_expert_groups, cfg.n_limited_groups, cfg.n_activated_experts)
        load = torch.bincount(chosen.flatten(), minlength=moe.n_experts).float()
        loads.append(load / load.mean())
        bias = parts.bias_step(bias, chosen, GAMMA)
    return loads


def _balanced(parts: SimpleNamespace) -> int:
    last = rebalanced(parts, *reaching(in_float32()))[-1]
    return int(((last - 1).abs() < FAIR).sum())


TRANSPLANTS = [
    Transplant("the layers of experts", lambda parts: score(in_float32(), parts), 20, ("weigh", "multiplied by scale")),
    Transplant("a bias from 0 to balance, experts near the even share", _balanced, 16, ("bias_step", "wrong way")),
]
