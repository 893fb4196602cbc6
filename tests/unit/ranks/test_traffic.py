"""What is counted equals the formula, which is also worked out by hand once."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small import SMALL

from dsv3 import llm as g
from dsv3.config import ModelConfig
from dsv3.download import TINY_R1
from dsv3.inference.decode import generate
from dsv3.inference.graph import Replayed
from dsv3.inference.step import Step
from dsv3.lab.threads import on_ranks
from dsv3.model import Cache
from dsv3.ranks.parallel import Parallel
from dsv3.ranks.traffic import Traffic, seconds, step_traffic


def test_tiny_r1_by_hand():
    cfg = ModelConfig.load(TINY_R1)
    traffic = step_traffic(cfg, ranks=2)
    # Width 256 in BF16 once, then two float32 sums in each of 3 layers; half of the vocabulary in float32; one token.
    assert (cfg.dim, cfg.n_layers) == (256, 3)
    assert traffic.collectives == {"all_reduce": 7, "all_gather": 1, "broadcast": 1}
    assert traffic.nbytes == {"all_reduce": 512 + 6 * 1024, "all_gather": cfg.vocab_size // 2 * 4, "broadcast": 8}


def test_one_rank_sends_nothing():
    assert step_traffic(SMALL, ranks=1) == Traffic()
    tp = Parallel()
    tp.all_gather(tp.all_reduce(torch.ones(3)), 3)
    tp.broadcast(torch.ones(3))
    assert tp.traffic == Traffic()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_count_of_each_step_is_the_formula(ranks, dtype, batch, bf16_folder):
    def steps(tp):
        model, cache, start, counted = g.load(bf16_folder, dtype=dtype, tp=tp).model, Cache(), 0, []
        tokens = torch.arange(3 * batch).view(batch, 3)
        for _ in range(3):
            before = tp.traffic.copy()
            h = model(tokens, start, cache)[:, -1]
            start += tokens.shape[1]
            tokens = tp.broadcast(model.logits(h).argmax(-1)).unsqueeze(1)
            counted.append(tp.traffic - before)
        return model.cfg, counted

    for cfg, counted in on_ranks(ranks, steps):
        first, later = (step_traffic(cfg, ranks, batch, new=n, itemsize=dtype.itemsize) for n in (3, 1))
        assert counted == [first, later, later]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("form", [lambda fast: fast, lambda fast: Replayed(Step(fast))], ids=["fast", "rooms"])
def test_what_another_token_of_generate_costs(ranks, form, bf16_folder):
    def answer(tp):
        llm, counted = g.load(bf16_folder, tp=tp, max_seq_len=64), []
        llm.model = form(llm.model)
        for tokens in (4, 9):
            before = tp.traffic.copy()
            assert len(list(generate(llm.model, [[1, 2, 3]], eos_id=-1, max_new_tokens=tokens))) == tokens
            counted.append(tp.traffic - before)
        return llm.model.cfg, counted[1] - counted[0]

    for cfg, five_more in on_ranks(ranks, answer):
        step = step_traffic(cfg, ranks)
        assert five_more.collectives == Counter({kind: 5 * n for kind, n in step.collectives.items()})
        assert five_more.nbytes == Counter({kind: 5 * n for kind, n in step.nbytes.items()})


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_vocabulary_that_does_not_divide_travels_padded(ranks):
    cfg = replace(SMALL, vocab_size=514)

    def gather(tp):
        mine = torch.arange(514.0)[list(tp.mine(514))].unsqueeze(0)
        return tp.all_gather(mine, 514), tp.traffic

    for whole, traffic in on_ranks(ranks, gather):
        assert torch.equal(whole, torch.arange(514.0).unsqueeze(0))
        assert traffic.nbytes["all_gather"] == step_traffic(cfg, ranks).nbytes["all_gather"] == -(-514 // ranks) * 4


def test_counts_of_a_recorded_step_are_added_and_taken_back():
    traffic, step = Traffic(Counter(all_reduce=2), Counter(all_reduce=800)), Traffic(Counter(broadcast=1), Counter(b=8))
    before = traffic.copy()
    traffic.include(step, 3)
    assert traffic - before == Traffic(Counter(broadcast=3), Counter(b=24))
    traffic.include(step, -3)
    assert traffic - before == before - traffic == Traffic()


def test_what_the_collectives_take_by_hand():
    traffic = Traffic(Counter(all_reduce=2, all_gather=1), Counter(all_reduce=800, all_gather=100))
    # Ring of 4: 2 x 3/4 of 800 bytes, and 3 x 100, at 100 bytes a second; three collectives of 2 seconds.
    assert seconds(traffic, 4, 100, 2) == pytest.approx(3 * 2 + (1200 + 300) / 100)
