"""``--compile``: torch runs a C++ compiler."""

import torch
from oracle import tokens

from dsv3 import generate as g
from dsv3.cache import Cache
from dsv3.compiled import Compiled
from dsv3.inference.fast import Fast
from dsv3.paths import TINY_R1
from tests.unit.inference.test_fast import drift, filled
from tests.unit.test_generate import QUESTIONS


@torch.inference_mode()
def test_compiled_steps_equal_the_eager_ones(bf16_folder):
    """Of two models in one process, the second of other sizes."""
    for folder in (bf16_folder, TINY_R1):
        check_compiled(Fast(filled(folder)), Compiled(filled(folder)))


def check_compiled(fast: Fast, compiled: Compiled) -> None:
    x = tokens(1, 70)
    caches = Cache(), Cache()
    for model, cache in zip((fast, compiled), caches, strict=True):
        model(x[:, :60], 0, cache)
    for at in range(60, 70):  # the cache grows at 64
        a, b = (m(x[:, at : at + 1], at, c) for m, c in zip((fast, compiled), caches, strict=True))
        assert drift(b, a) < 0.03
        assert fast.logits(a).argmax() == compiled.logits(b).argmax()


def test_the_compiled_step_gives_the_same_tokens():
    llm = g.load("tiny-r1", compile=True, max_batch_size=1)
    assert llm.generate(QUESTIONS[:4], temperature=0) == g.load("tiny-r1").generate(QUESTIONS[:4], temperature=0)
