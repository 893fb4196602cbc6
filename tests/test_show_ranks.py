"""What lesson 10 stands on: ranks as threads, jobs that leave nothing behind, and what communication costs."""

import shutil
from collections import Counter
from threading import BrokenBarrierError

import pytest
import torch

from dsv3.config import ModelConfig
from dsv3.generate import load
from dsv3.paths import TINY_R1
from dsv3.ranks.parallel import Parallel
from dsv3.ranks.traffic import Traffic, step_traffic
from dsv3.show import ranks as show
from dsv3.sizing.planner import subject

LINKS = {"fast": 400e9, "slow": 10e9}


def test_threads_answer_as_one_process_and_log_every_collective():
    def answer(tp: Parallel):
        llm = load("tiny-r1", tp=tp)
        reply = llm.chat("37 + 48 = ?", max_new_tokens=3)
        return reply.text, tp.log, tp.traffic

    for text, log, traffic in show.on_ranks(2, answer):
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
        show.on_ranks(2, work)


def test_a_command_is_run_and_its_output_kept(tmp_path):
    (done,) = show.run(tmp_path, "dsv3 explain 'fp8e4nv not supported'")
    assert done.code == 0
    assert "FP8" in done.out
    (done,) = show.run(tmp_path, "dsv3 no-such-verb")
    assert done.code == 2
    assert "no-such-verb" in done.err
    with pytest.raises(ValueError, match="begin with dsv3"):
        show.run(tmp_path, "rm -r x")


def test_a_job_leaves_no_process_even_when_the_reader_gives_up(tmp_path):
    command = "dsv3 torchrun --nproc-per-node 2 -m dsv3.generate --ckpt-path tiny-r1 --interactive"

    def gives_up() -> None:
        with job:
            job.until(lambda: len(job.ranks()) == 2)
            job.until(lambda: False, 0)

    job = show.Job(tmp_path, command)
    with pytest.raises(TimeoutError, match="not within 0 s"):
        gives_up()
    assert len(job.seen) >= 2
    assert not any(map(show.lives, job.seen))
    assert all(launcher.returncode is not None for launcher in job.launchers)


def test_a_flipped_bit_is_found(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(TINY_R1, folder)
    show.flip_a_bit(folder, "model.norm.weight")
    pairs = [(a.read_bytes(), (folder / a.name).read_bytes()) for a in TINY_R1.glob("*.safetensors")]
    assert sum(x != y for a, b in pairs for x, y in zip(a, b, strict=True)) == 1


def test_what_the_collectives_take_by_hand():
    traffic = Traffic(Counter(all_reduce=2, all_gather=1), Counter(all_reduce=800, all_gather=100))
    # Ring of 4: 2 x 3/4 of 800 bytes, and 3 x 100, at 100 bytes a second; three collectives of 2 seconds.
    assert show.seconds_between(traffic, 4, 100, 2) == pytest.approx(3 * 2 + (1200 + 300) / 100)


def test_figures_show_what_they_are_given():
    (ax,) = show.held([Counter(a=3_000_000, b=1_000_000), Counter(a=2_000_000)], "two").axes
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
    assert tops == [3, 2, 4, 2]
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])]
    (ax,) = show.sums(parts, torch.tensor([4.0, 1.0]), 2).axes
    assert [bar.get_height() for bar in ax.patches] == [1, 2, 3, -1, 4, 1]
    cfg = ModelConfig.load(TINY_R1)
    (ax,) = show.waiting(step_traffic(cfg, 2), 2, 0.001, LINKS).axes
    fast, slow, alone = (line.get_ydata() for line in ax.lines)
    assert all(a > b for a, b in zip(fast, slow, strict=True))
    assert max(fast) < alone[0] == 1000


def test_the_widget_counts_anew():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")
    sliders, text, picture = show.network(subject("DeepSeek-R1"), LINKS).children
    by_name = {slider.description: slider for slider in sliders.children}
    before, drawn = text.value, picture.value
    assert "125 collectives" in before
    by_name["sequences"].value = 64
    assert text.value != before
    assert picture.value != drawn
