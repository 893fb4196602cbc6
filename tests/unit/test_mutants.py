"""Each bug that shipped does what its story says, and is gone when its block ends."""

from dataclasses import replace

import pytest
import torch

from dsv3 import load, model
from dsv3.cache import Cache
from dsv3.config import ModelConfig
from dsv3.kernels import reference
from dsv3.lab.mutants import ATTENTION, KERNELS, ROUTER, gate_forward, injected
from dsv3.model import Gate
from dsv3.paths import TINY_R1
from dsv3.runtime import Runtime

MUTANTS = {mutant.name: mutant for mutant in (*ATTENTION, *ROUTER, *KERNELS)}
TOKENS = torch.arange(40, 60).unsqueeze(0)


@pytest.fixture
def gate():
    cfg = ModelConfig.load(TINY_R1)
    gate = Gate(cfg, Runtime())
    generator = torch.Generator().manual_seed(0)
    gate.weight.copy_(torch.randn(gate.weight.shape, generator=generator))
    gate.bias.copy_(torch.randn(gate.bias.shape, generator=generator) / 10)
    return gate


def hidden(**sizes):
    with torch.inference_mode():
        return load("tiny-r1", model="plain", **sizes).model(TOKENS)


@pytest.mark.parametrize("name", MUTANTS)
def test_nothing_of_it_stays(name):
    def seen():
        places = (model, model.MLA, model.Gate, reference)
        return [dict(vars(place)) for place in places]

    def fail():
        with injected(MUTANTS[name]):
            assert seen() != before
            raise ZeroDivisionError

    before = seen()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen() == before


def test_yarn_by_cache_length():
    right = hidden(max_seq_len=512)
    assert torch.equal(right, hidden(max_seq_len=8192))
    with injected(MUTANTS["yarn-by-cache-length"]):
        assert torch.equal(right, hidden(max_seq_len=8192))
        assert not torch.allclose(right, hidden(max_seq_len=512), atol=0.1)


def test_square_mask():
    with injected(MUTANTS["square-mask"]), torch.inference_mode():
        whole = load("tiny-r1", model="plain").model
        cache = Cache()
        assert torch.equal(whole(TOKENS), hidden())
        whole(TOKENS[:, :5], 0, cache)
        with pytest.raises(RuntimeError, match="size of tensor"):
            whole(TOKENS[:, 5:], 5, cache)


def test_the_gate_with_the_right_choices_is_the_model_s(gate):
    x = torch.randn(512, gate.cfg.dim, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(gate_forward()(gate, x), gate(x), strict=True):
        assert torch.equal(mine, theirs)


def test_v2_group_score(gate):
    x = torch.randn(512, gate.cfg.dim, generator=torch.Generator().manual_seed(1))
    right = gate(x)[1]
    with injected(MUTANTS["v2-group-score"]):
        assert not torch.equal(gate(x)[1], right)


def test_masked_with_zero(gate):
    x = torch.randn(512, gate.cfg.dim, generator=torch.Generator().manual_seed(1))
    right = gate(x)[1]
    gate.bias.sub_(2.0)
    assert torch.equal(gate(x)[1], right)
    with injected(MUTANTS["masked-with-zero"]):
        assert not torch.equal(gate(x)[1], right)


def test_nan_from_underflow(gate):
    gate.weight.fill_(-1.0)
    x = torch.ones(1, gate.cfg.dim)
    assert gate(x)[0].isfinite().all()
    with injected(MUTANTS["nan-from-underflow"]):
        assert gate(x)[0].isnan().all()


def test_bf16_router(gate):
    right = gate.weight, gate.bias
    x = torch.randn(2048, gate.cfg.dim, generator=torch.Generator().manual_seed(1))
    with injected(MUTANTS["bf16-router"]):
        faulty = Gate(replace(gate.cfg), Runtime())
    faulty.weight.copy_(right[0])
    faulty.bias.copy_(right[1])
    assert not torch.equal(faulty(x)[1].sort()[0], gate(x)[1].sort()[0])


def test_scale_format_lost():
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    powers = torch.frexp(reference.act_quant(x, 128, "ue8m0")[1]).mantissa == 0.5
    assert powers.all()
    with injected(MUTANTS["scale-format-lost"]):
        assert not (torch.frexp(reference.act_quant(x, 128, "ue8m0")[1]).mantissa == 0.5).any()


def test_carry_lost():
    x = torch.zeros(1, 128)
    x[0, :4] = torch.tensor([448.0, 126.0, 120.0, 128.0])
    with injected(MUTANTS["carry-lost"]):
        assert reference.act_quant(x)[0][0, :4].tolist() == [448.0, 64.0, 120.0, 128.0]
    assert reference.act_quant(x)[0][0, :4].tolist() == [448.0, 128.0, 120.0, 128.0]
