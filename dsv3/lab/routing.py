"""Where the experts' gates send tokens, sorted by what the tokens are."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import Gate, Transformer
from .probe import COLUMN, Solved

PARTS = ("digit", "operator", "digit", "operator", "carry", "lent", "= and :", "sum", "= and :", "result")
KINDS = ("digit", "carry", "sum", "result", "other digits", "operator", "= and :", "new line", "English", "Chinese")


def kinds(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """What each token of a solved sum is: one of ``KINDS``, or empty for special tokens, spaces and marks."""
    named = [_kind(character) for character in text]
    for mark in re.finditer(r"<[^>\n]+>", text):  # <think> and its like
        named[mark.start() : mark.end()] = [""] * len(mark[0])
    for line in COLUMN.finditer(text):
        for group, part in enumerate(PARTS, start=1):
            named[line.start(group) : line.end(group)] = [part] * len(line[group])
    return [named[end - 1] if end > begin else "" for begin, end in offsets]


def _kind(character: str) -> str:
    if character.isdecimal():
        return "other digits"
    if character == "\n":
        return "new line"
    if character.isalpha():
        return "English" if character.isascii() else "Chinese"
    return "operator" if character in "+-*×" else "= and :" if character in "=:" else ""


class Routed(NamedTuple):
    """Where one layer sent its tokens: weights and expert ids, [B, S, K] each."""

    weights: Tensor
    experts: Tensor


@torch.inference_mode()
def routed(model: Transformer, tokens: Tensor) -> list[Routed]:
    """[B, S] token ids -> where each layer with experts sent them."""
    chosen: list[Routed] = []
    gates = [module for block in model.layers for module in block.modules() if isinstance(module, Gate)]
    hooks = [
        gate.register_forward_hook(
            lambda _, __, y: chosen.append(Routed(*(part.view(*tokens.shape, -1) for part in y)))
        )
        for gate in gates
    ]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return chosen


def load(experts: Tensor, n_experts: int) -> Tensor:
    """[..., K] expert ids -> [E], each one's share of all choices; they sum to 1."""
    return torch.bincount(experts.flatten(), minlength=n_experts) / experts.numel()


def by_kind(experts: Tensor, sums: Solved, n_experts: int, ahead: int = 0) -> tuple[list[str], Tensor]:
    """How often a token of each kind goes to each expert: the kinds that occur, and [kinds, E] between 0 and 1.

    Args:
        experts: [B, S, K], of the tokens ``sums.tokens``.
        ahead: 0 sorts a token by its own kind, 1 by the kind of the token that comes next.
    """
    hits = F.one_hot(experts, n_experts).sum(-2).float()
    rows: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for row, (text, offsets) in enumerate(zip(sums.texts, sums.offsets, strict=True)):
        names = kinds(text, offsets)
        for place in range(len(names) - ahead):
            if (name := names[place + ahead]) in rows:
                rows[name].append(hits[row, place])
    found = {kind: torch.stack(hits).mean(0) for kind, hits in rows.items() if hits}
    return list(found), torch.stack(list(found.values()))


def spread(layer: Routed, n_experts: int) -> Tensor:
    """The first sequence's weights as [S, E], 0 for experts that a token does not go to."""
    weights, experts = layer.weights[0], layer.experts[0]
    return torch.zeros(len(weights), n_experts).scatter_(1, experts, weights.float())
