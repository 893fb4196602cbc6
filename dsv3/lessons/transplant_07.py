"""The whole model from the parts of lessons 05, 06 and 07: the learner's where they are kept, else the course's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache
from ..llm import LLM
from ..model import MLA, MLP, MTP, Block, Linear, MoE, Place, RMSNorm, Transformer, place
from ..said import Language, Said, say
from .lesson import Parts
from .part import Transplant
from .transplant import in_float32, plain_model, solved, transplanted
from .transplant_05 import attention
from .transplant_06 import experts, one_expert

LESSONS = ("05", "06", "07")


def everything(**instead: Any) -> SimpleNamespace:
    """The parts of the three lessons under one roof, some of them replaced; no two have the same name."""
    found = {name: part for number in LESSONS for name, part in vars(Parts(number).parts()).items()}
    return SimpleNamespace(**found | instead)


def whose(language: Language = "en") -> str:
    """``12 of 18 parts are yours; the course's: ...``, over the spines of the three lessons."""
    lessons = [Parts(number) for number in LESSONS]
    names = [(lesson, name) for lesson in lessons for name in lesson.spine]
    theirs = [name for lesson, name in names if lesson.state[name] != "yours"]
    yours = len(names) - len(theirs)
    rest = Said("; the course's: {names}", names=", ".join(theirs)) if theirs else ""
    return say(language, "{yours} of {n} parts are yours{rest}", yours=yours, n=len(names), rest=rest)


def _at(layer: Block, here: Place, h: Tensor) -> Tensor:
    return layer(h, here)


@contextmanager
def assembled(model: Transformer, parts: SimpleNamespace, form: str = "absorbed") -> Iterator[None]:
    """Every layer of the model runs on these parts until the block ends: 05's (in that form), 06's and 07's."""

    def norm(it: RMSNorm, x: Tensor) -> Tensor:
        return parts.rms_norm(x, it.weight, it.eps)

    def dense(it: MLP, x: Tensor) -> Tensor:
        return one_expert(parts, it)(x)

    def block(it: Block, x: Tensor, here: Place) -> Tensor:
        return parts.block(x, it.attn_norm, lambda h: it.attn(h, here), it.ffn_norm, it.ffn)

    def head(it: Linear, h: Tensor) -> Tensor:
        return parts.scores(h, it.weight)

    def mtp(it: MTP, h: Tensor, e: Tensor, here: Place) -> Tensor:
        return parts.mtp(h, e, it.hnorm, it.enorm, it.eh_proj.weight, lambda y: it.block(y, here), it.norm)

    def forward(it: Transformer, tokens: Tensor, start: int | Tensor = 0, cache: Cache | None = None) -> Tensor:
        here = place(it.cfg, it.frequencies, tokens, start, cache)
        blocks = [partial(_at, layer, here) for layer in it.layers if isinstance(layer, Block)]
        return parts.transformer(tokens, it.embed.weight, blocks, it.norm)

    kinds: dict[type, Callable[..., Any]] = {
        RMSNorm: norm,
        MLP: dense,
        MoE: experts(parts),
        MTP: mtp,
        Transformer: forward,
        Block: block,
    }
    kinds[MLA] = attention(parts, form, model.frequencies)
    with ExitStack() as stack:
        for kind, replacement in kinds.items():
            stack.enter_context(transplanted([m for m in model.modules() if type(m) is kind], replacement))
        stack.enter_context(transplanted([model.head], head))
        yield


@contextmanager
def learned(llm: LLM, language: Language = "en") -> Iterator[None]:
    """The model runs on the learner's kept parts of 05, 06 and 07 until the block ends, else on the course's.

    Prints how many are whose. The model is one that ``transplant.in_float32`` loads, or any other with
    ``model="plain"`` whose weights are not in FP8.
    """
    print(whose(language))
    with assembled(plain_model(llm), everything()):
        yield


def score(llm: LLM, parts: SimpleNamespace) -> int:
    """Of 20 sums that training never saw, how many tiny-r1 answers rightly with all of these parts in it."""
    with assembled(plain_model(llm), parts):
        return solved(llm)


@torch.inference_mode()
def logits(llm: LLM, tokens: Tensor, parts: SimpleNamespace) -> Tensor:
    """Ids [B, S] -> scores [B, S, V] of the model that is made of these parts, its attention in the expanded form."""
    model = plain_model(llm)
    with assembled(model, parts, "expanded"):
        return model.logits(model(tokens))


def _scored(parts: SimpleNamespace) -> int:
    return score(in_float32(), SimpleNamespace(**vars(everything()) | vars(parts)))


TRANSPLANTS = [Transplant("the whole model", _scored, 20, ("block", "first residual is missing"))]
