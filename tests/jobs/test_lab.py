"""Jobs of a lesson leave no process behind."""

import pytest

from dsv3.lab import jobs
from dsv3.lab.memory import peak


def test_a_command_is_run_and_its_output_kept(tmp_path):
    (done,) = jobs.run(tmp_path, "dsv3 explain 'fp8e4nv not supported'")
    assert done.code == 0
    assert "FP8" in done.out
    (done,) = jobs.run(tmp_path, "dsv3 no-such-verb")
    assert done.code == 2
    assert "no-such-verb" in done.err
    with pytest.raises(ValueError, match="begin with dsv3"):
        jobs.run(tmp_path, "rm -r x")


def test_a_job_leaves_no_process_even_when_the_reader_gives_up(tmp_path):
    command = "dsv3 torchrun --nproc-per-node 2 -m dsv3.generate --ckpt-path tiny-r1 --interactive"

    def gives_up() -> None:
        with job:
            job.until(lambda: len(job.ranks()) == 2)
            job.until(lambda: False, 0)

    job = jobs.Job(tmp_path, command)
    with pytest.raises(TimeoutError, match="not within 0 s"):
        gives_up()
    assert job.alive() == {}
    assert all(launcher.returncode is not None for launcher in job.launchers)


def test_a_process_whose_parent_has_gone_is_ended_too(tmp_path):
    with jobs.Job(tmp_path) as job:
        job.start("sh", "-c", "sleep 1000 & exec sleep 1001")
        job.until(lambda: len(job.alive()) == 2)
        job.launchers[0].kill()
        job.until(lambda: job.launchers[0].poll() is not None)
        assert len(job.alive()) == 1
    assert job.alive() == {}


def test_peak_is_that_of_the_command():
    pytest.importorskip("resource", reason="only Unix tells a process's peak memory")
    held = bytearray(b"x" * 400_000_000)  # this process's, which must not count
    bare, filled = peak("-c", "pass"), peak("-m", "timeit", "-n", "1", "-r", "1", "b'x' * 100_000_000")
    assert 2_000_000 < bare < 50_000_000 < len(held)
    assert 90_000_000 < filled - bare < 130_000_000
    with pytest.raises(RuntimeError, match=r"python -m dsv3 plan nonsense failed: .*nonsense"):
        peak("-m", "dsv3", "plan", "nonsense")
