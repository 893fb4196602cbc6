"""What attention does while a model runs: where it looks, and what it cannot do without; and how long a call takes."""

import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import MLA, Transformer
from .probe import COLUMN, Solved


def timed(form: Callable[[], object], repeats: int = 7) -> float:
    """Milliseconds of a call: the median of ``repeats``, after two that do not count."""
    took = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        form()
        took.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(took[2:])


class Looked(NamedTuple):
    """A pass over one sequence.

    Attributes:
        weights: [L, H, S, S] float32, what each query (third) takes from each key (last).
        logits: [S, V] float32.
    """

    weights: Tensor
    logits: Tensor


@torch.inference_mode()
def look(model: Transformer, tokens: Sequence[int], hidden: Collection[tuple[int, int, int]] = ()) -> Looked:
    """Run ``tokens`` through the model and keep all attention weights.

    Args:
        hidden: (layer, query, key): the query cannot see the key in that layer, in any head.
    """
    with _recorded(model, hidden) as weights:
        h = model(torch.tensor([list(tokens)], device=model.run.device))
        return Looked(torch.stack(weights), model.logits(h)[0])


@contextmanager
def _recorded(model: Transformer, hidden: Collection[tuple[int, int, int]]) -> Iterator[list[Tensor]]:
    """Each layer's softmax also keeps its result, and masks what is ``hidden``."""
    kept: list[Tensor] = []
    layers = [module for module in model.layers.modules() if isinstance(module, MLA)]

    def record(number: int) -> None:
        softmax = layers[number].softmax

        def recording(scores: Tensor, mask: Tensor) -> Tensor:
            mask = mask.clone()
            for layer, query, key in hidden:
                if layer == number:
                    mask[..., query, key] = -math.inf
            weights = softmax(scores, mask)
            kept.append(weights[0].float())
            return weights

        vars(layers[number])["softmax"] = recording  # found before the class's own

    try:
        for number in range(len(layers)):
            record(number)
        yield kept
    finally:
        for layer in layers:
            vars(layer).pop("softmax", None)


def carries(sums: Solved) -> list[tuple[int, int, int]]:
    """(row, query, key) of each carry of the additions: the query is about to write it, the key is the tens digit of
    the column before, which it repeats."""
    found = []
    for row, (text, offsets) in enumerate(zip(sums.texts, sums.offsets, strict=True)):
        token = {begin: i for i, (begin, _) in enumerate(offsets)}
        lines = [line for line in COLUMN.finditer(text) if line[2] == "+"]
        for before, line in zip(lines, lines[1:], strict=False):
            if before.end() + 1 == line.start():
                found.append((row, token[line.start(5)] - 1, token[before.start(8)]))
    return found
