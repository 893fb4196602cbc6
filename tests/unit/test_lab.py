"""What lessons and tests measure with: ranks as threads, jobs that leave nothing behind, made checkpoints, memory."""

import shutil
from collections import Counter
from threading import BrokenBarrierError

import pytest
import torch

from dsv3.lab.checkpoints import flip_a_bit
from dsv3.lab.threads import on_ranks
from dsv3.llm import load
from dsv3.paths import TINY_R1
from dsv3.ranks.parallel import Parallel


def test_threads_answer_as_one_process_and_log_every_collective():
    def answer(tp: Parallel):
        llm = load("tiny-r1", tp=tp)
        reply = llm.chat("37 + 48 = ?", max_new_tokens=3)
        return reply.text, tp.log, tp.traffic

    for text, log, traffic in on_ranks(2, answer):
        assert text == load("tiny-r1").chat("37 + 48 = ?", max_new_tokens=3).text
        assert Counter(kind for kind, _ in log) == traffic.collectives
        assert sum(x.nbytes for _, x in log) == sum(
            traffic.nbytes[k] for k in ("all_reduce", "all_gather", "broadcast")
        )


def test_an_error_on_one_thread_ends_all():
    def work(tp: Parallel):
        if tp.rank == 1:
            raise ValueError("rank 1 has had enough")
        return tp.all_reduce(torch.ones(1))

    with pytest.raises((ValueError, BrokenBarrierError)):
        on_ranks(2, work)


def test_a_flipped_bit_is_one_bit(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(TINY_R1, folder)
    flip_a_bit(folder, "model.norm.weight")
    pairs = [(a.read_bytes(), (folder / a.name).read_bytes()) for a in TINY_R1.glob("*.safetensors")]
    assert sum(x != y for a, b in pairs for x, y in zip(a, b, strict=True)) == 1
