"""Checks of lesson 06."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import Wrong, exercise

Shape = tuple[int, ...]


def _shaped(found: object, shape: Shape) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Wrong(f"the result should be a tensor {list(shape)}, not {got}")


@exercise("06", 1)
def check_choose(choose: Callable[[Tensor, int, int, int], Tensor]) -> None:
    rng = torch.Generator().manual_seed(6)
    for tokens, experts, groups, limited, k in ((50, 16, 4, 2, 4), (20, 256, 8, 4, 8), (5, 8, 4, 1, 2)):
        for shift in (0.0, -2.0):
            biased = torch.rand(tokens, experts, generator=rng) + shift
            wanted, by_best = (_choice(biased, groups, limited, k, n) for n in (2, 1))
            found = choose(biased.clone(), groups, limited, k)
            _shaped(found, (tokens, k))
            mine, right = found.sort(-1)[0], wanted.sort(-1)[0]
            if torch.equal(mine, right):
                continue
            token = int((mine != right).any(-1).nonzero()[0])
            hint = ""
            if torch.equal(mine, by_best.sort(-1)[0]):
                hint = "; a group's score is the sum of its best two experts, not its best one"
            elif torch.equal(mine, biased.topk(k, dim=-1)[1].sort(-1)[0]):
                hint = "; the experts are chosen from all groups"
            elif (
                shift < 0
                and not torch.isin(mine[token] // (experts // groups), right[token] // (experts // groups)).all()
            ):
                hint = "; with negative scores an expert of a masked group wins: mask with -inf"
            was = f"{experts} experts in {groups} groups, {limited} kept, {k} chosen, scores from {biased.min():.0f}"
            raise Wrong(f"{was}: token {token} should go to {right[token].tolist()}, not {mine[token].tolist()}{hint}")


def _choice(biased: Tensor, groups: int, limited: int, k: int, best: int) -> Tensor:
    """``Gate``'s choice, for scores that are given; ``best`` 1 is V2's rule."""
    split = biased.unflatten(-1, (groups, -1))
    kept = split.topk(best, dim=-1)[0].sum(-1).topk(limited, dim=-1)[1]
    out = torch.ones(split.shape[:2], dtype=torch.bool).scatter_(1, kept, False)
    return split.masked_fill(out.unsqueeze(-1), -math.inf).flatten(1).topk(k, dim=-1)[1]


@exercise("06", 2)
def check_bias_step(bias_step: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    gamma = 0.001
    bias = torch.tensor([0.3, -0.2, 0.0, 0.1])
    # Tokens that went to experts 0 to 3; then an even load; then one where the even share, 2.5, is no whole number.
    for experts, moves in (
        ([[0, 1], [0, 2], [0, 1], [0, 1]], [-1, -1, 1, 1]),
        ([[0, 1], [2, 3]], [0, 0, 0, 0]),
        ([[0, 1], [0, 1], [0, 2], [1, 2], [2, 3]], [-1, -1, -1, 1]),
    ):
        kept = bias.clone()
        found = bias_step(kept, torch.tensor(experts), gamma)
        _shaped(found, (4,))
        wanted = bias + gamma * torch.tensor(moves, dtype=torch.float32)
        if torch.allclose(found, wanted, atol=1e-7):
            continue
        loads = torch.bincount(torch.tensor(experts).flatten(), minlength=4).tolist()
        hint = "an overloaded expert's bias falls by gamma, an underloaded one's rises by gamma"
        if torch.allclose(found, bias - (wanted - bias), atol=1e-7):
            hint = "it moves the wrong way: " + hint
        elif 0 in loads and found[loads.index(0)] == bias[loads.index(0)]:
            hint = "an expert that nobody chose has a load, too: 0, less than the even share; " + hint
        elif not torch.allclose((found - bias).abs(), (wanted - bias).abs(), atol=1e-7):
            hint = "each step is gamma or nothing, however far the load is from even; " + hint
        moved = [round(x, 6) for x in (found - bias).tolist()]
        raise Wrong(f"loads {loads}, even would be {sum(loads) / 4:g}: the bias moves by {moved}; {hint}")


@exercise("06", 3)
def check_balance_loss(balance_loss: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    rng = torch.Generator().manual_seed(7)
    alpha = 0.0001
    even = torch.tensor([[0, 1], [2, 3]]), torch.full((2, 4), 0.5)
    _compare(balance_loss, even[1], even[0], alpha, "an even load with equal scores must give alpha itself")
    hint = (
        "f_i = E / (K T) times the choices of i; P_i = mean over tokens of s_i / sum of s; alpha times sum of f_i P_i"
    )
    for tokens, experts, k in ((7, 16, 4), (30, 8, 2), (5, 6, 1)):
        scores = torch.rand(tokens, experts, generator=rng) + 0.01
        _compare(balance_loss, scores, scores.topk(k, dim=-1)[1], alpha, hint)


def _compare(balance_loss: Callable, scores: Tensor, experts: Tensor, alpha: float, hint: str) -> None:
    tokens, count = scores.shape
    f = torch.bincount(experts.flatten(), minlength=count) * count / (experts.shape[1] * tokens)
    wanted = alpha * (f * (scores / scores.sum(-1, keepdim=True)).mean(0)).sum().item()
    found = float(balance_loss(scores, experts, alpha))
    if not math.isclose(found, wanted, rel_tol=1e-4):
        raise Wrong(f"{tokens} tokens, {count} experts: {found:.6g} instead of {wanted:.6g}; {hint}")
