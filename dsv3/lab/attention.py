"""What attention does while a model runs: what it takes, where it looks, and what it cannot do without."""

import math
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache import Cache
from ..config import ModelConfig
from ..model import MLA, Place, Transformer
from ..runtime import Runtime
from .probe import COLUMN, Solved


class Step(NamedTuple):
    """One layer's attention for one new token: time, what it keeps of the tokens before, and its result [H, P]."""

    milliseconds: float
    megabytes: float
    result: Tensor


@torch.inference_mode()
def steps(cfg: ModelConfig, contexts: Sequence[int], repeats: int = 3, seed: int = 0) -> dict[str, list[Step]]:
    """The heart of MLA at the size of ``cfg`` in BF16, in both forms, over the same random latents.

    What stands before and behind it depends on ``cfg.dim`` and not on the context, so it is left out. Milliseconds are
    the median of ``repeats``.
    """
    torch.manual_seed(seed)
    small = replace(cfg, dim=64, q_lora_rank=64, dtype="bf16")
    mla = MLA(small, Runtime(), layer=0)
    mla.wkv_b.weight.normal_(0, cfg.kv_lora_rank**-0.5)
    length = max(contexts)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape).bfloat16()

    q_nope, q_pe = random(1, cfg.n_heads, cfg.qk_nope_head_dim), random(1, cfg.n_heads, cfg.qk_rope_head_dim)
    c, k_pe = random(length, cfg.kv_lora_rank), random(length, cfg.qk_rope_head_dim)
    k_nope, v = mla.wkv_b(c).unflatten(-1, (cfg.n_heads, -1)).split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=-1)
    k = torch.cat([k_nope, k_pe.unsqueeze(2).expand(-1, -1, cfg.n_heads, -1)], dim=-1)
    forms = {"naive": (mla.naive, (k, v)), "absorbed": (mla.absorbed, (torch.cat([c, k_pe], dim=-1),))}
    found: dict[str, list[Step]] = {}
    for name, (form, whole) in forms.items():
        for end in contexts:
            kept = [part[:, :end].clone() for part in whole]
            cache = Cache()
            cache.layers[0] = kept
            last = torch.tensor([[end - 1]])
            here = Place(last, end, torch.empty(0), torch.zeros(1, 1, 1, end), cache)
            took = []
            for _ in range(repeats):
                begin = time.perf_counter()
                result = form(q_nope, q_pe, c[:, end - 1 : end], k_pe[:, end - 1 : end], here)
                took.append(1e3 * (time.perf_counter() - begin))
            size = sum(part.nbytes for part in kept) / 1e6
            found.setdefault(name, []).append(Step(statistics.median(took), size, result[0, 0]))
    return found


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
