"""Which device a job takes with no GPU, one, and many. GPUs are played: torch is told that it sees them."""

import itertools
import subprocess
import sys
from contextlib import ExitStack

import pytest
from jobs import Nodes, linux

# On PYTHONPATH Python runs this first. GPUS is their names, as each process sees them; computing on them would fail.
PLAYED = """
import os, types
import torch
names = os.environ["GPUS"].split()
torch.cuda.is_available = lambda: bool(names)
torch.cuda.device_count = lambda: len(names)
torch.cuda.get_device_properties = lambda i: types.SimpleNamespace(uuid=names[i])
"""
ONE_OF_TWO = "2 processes, 1 GPU: on the CPU; "


@pytest.fixture
def job(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(PLAYED)
    (tmp_path / "prompts").write_text("37 + 48 = ?\n")
    env, count = {"PYTHONPATH": str(tmp_path), "DSV3_TIMEOUTS": "start=200"}, itertools.count()
    with ExitStack() as stack:
        yield lambda gpus, launcher="torch.distributed.run": stack.enter_context(
            Nodes(tmp_path / f"job{next(count)}", launcher, **env, GPUS=gpus)
        )


def ended(*jobs: Nodes) -> None:
    for job in jobs:
        job.until(lambda job=job: all(node.poll() is not None for node in job.launchers), 240)


def ask(job, *options: str) -> tuple:
    return "--input-file", job.folder.parent / "prompts", "--temperature", 0, *options


@linux
@pytest.mark.parametrize(
    ("gpus", "options", "said"),
    [("", (), None), ("a", (), ONE_OF_TWO + "--nproc-per-node 1 uses the GPU"), ("a b", ("--device", "cpu"), None)],
)
def test_two_processes(job, gpus, options, said):
    here = job(gpus)
    here.node("--standalone", "--nproc-per-node", 2, say=ask(here, *options))
    ended(here)
    assert "Answer: 85" in here.out(), here.err()
    assert [line for line in here.err().splitlines() if "on the CPU" in line] == ([said] if said else [])


@linux
def test_cuda_asked_for_without_a_gpu_for_each(job):
    here = job("a", "dsv3.torchrun")
    here.node("--standalone", "--nproc-per-node", 2, say=ask(here, "--device", "cuda"))
    ended(here)
    assert here.launchers[0].returncode == 1
    assert any(
        "error: --device cuda: 2 processes, 1 GPU; start a process for each" in line for line in here.err().splitlines()
    )
    assert "Traceback" not in here.err()


@linux
def test_a_gpu_for_each_is_taken(job):
    here = job("a b", "dsv3.torchrun")
    here.node("--standalone", "--nproc-per-node", 2, say=ask(here))
    ended(here)
    assert "on the CPU" not in here.err()
    assert here.launchers[0].returncode == 1, "played GPUs compute nothing"


@linux
@pytest.mark.parametrize("gpus", ["", "a"])
def test_two_nodes_on_one_machine_share_its_gpu(job, gpus):
    here = job(gpus, "dsv3.torchrun")
    here.two_nodes(say=ask(here))
    ended(here)
    assert "Answer: 85" in here.out(), (here.err(0), here.err(1))
    said = [line for node in (0, 1) for line in here.err(node).splitlines() if "on the CPU" in line]
    assert said == ([ONE_OF_TWO + "each needs a GPU of its own"] if gpus else [])


@linux
def test_nodes_that_differ_take_the_cpu(job):
    """One machine has a GPU, the other none: nobody may wait for the other with another library."""
    with_gpu = job("a", "dsv3.torchrun")
    with_gpu.node(*with_gpu.flags(0), say=ask(with_gpu))
    without = job("", "dsv3.torchrun")
    without.port = with_gpu.port
    without.node(*without.flags(1), say=ask(without))
    ended(with_gpu, without)
    assert "Answer: 85" in with_gpu.out(), (with_gpu.err(), without.err())
    assert ONE_OF_TWO + "each needs a GPU of its own" in with_gpu.err()


@linux
def test_a_single_process_that_asks_for_cuda_without_one():
    command = [sys.executable, "-m", "dsv3", "generate", "--ckpt-path", "tiny-r1", "--interactive", "--device", "cuda"]
    done = subprocess.run(command, env={"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("dsv3 generate: error: --device cuda: 1 process, 0 GPUs; ")
    assert done.stderr.count("\n") == 1
