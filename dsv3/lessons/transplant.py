"""The learner's parts in a real model: put in for the length of a ``with``, and scored with unseen sums."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..llm import LLM, load
from ..model import Transformer
from ..tiny import data
from ..tiny.evaluate import answer

SUMS = 20  # that a transplant is scored with
MOST = 160  # new tokens that the longest of them needs


def in_float32() -> LLM:
    """tiny-r1 with the layers of ``model.py``, its FP8 weights dequantised to float32."""
    return load("tiny-r1", model="plain", gemm="bf16", dtype=torch.float32, max_batch_size=SUMS)


def plain_model(llm: LLM) -> Transformer:
    """The model of an ``LLM``, whose layers can be replaced.

    Raises:
        ValueError: it is not ``model.py``'s.
    """
    if not isinstance(llm.model, Transformer):
        raise ValueError('load it with model="plain": the layers of another model cannot be replaced')
    return llm.model


def solved(llm: LLM, n: int | None = None) -> int:
    """Of ``n`` sums that training never saw, ``SUMS`` if nothing is said, how many the model answers rightly."""
    problems = data.held_out_set(SUMS if n is None else n)
    replies = llm.generate([question for _, question in problems], temperature=0, max_new_tokens=MOST)
    return sum(answer(reply.answer) == problem.answer for (problem, _), reply in zip(problems, replies, strict=True))


@contextmanager
def transplanted(modules: Iterable[Any], forward: Callable[..., Any]) -> Iterator[None]:
    """Each module's ``forward(*args)`` is ``forward(module, *args)`` until the block ends, also by an exception.

    One may stand inside another: what was there before comes back.
    """
    before = [(module, vars(module).get("forward")) for module in modules]
    try:
        for module, _ in before:
            module.forward = partial(forward, module)
        yield
    finally:
        for module, old in before:
            vars(module).pop("forward", None)
            if old is not None:
                module.forward = old
