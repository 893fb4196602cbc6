"""Joining a group, text between ranks, divergence: real processes over gloo."""

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from jobs import Nodes, linux

from dsv3.lab.jobs import free_port

ENVIRONMENT = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": None}, "RANK is not: start with torchrun"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not"),
        ({"RANK": "2"}, "RANK = 2 in the environment, but WORLD_SIZE = 2: ranks are 0 to 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two' in the environment: must be a number"),
        ({"RANK": "-1"}, "RANK = '-1'"),
        (
            {"WORLD_SIZE": "1000000000"},
            "WORLD_SIZE = '1000000000' in the environment: must be a number from 1 to 10000",
        ),
        ({"WORLD_SIZE": "1e9"}, "must be a number from 1 to 10000"),
        ({"WORLD_SIZE": "0"}, "must be a number from 1 to 10000"),
        ({"WORLD_SIZE": "9" * 5000}, "must be a number from 1 to 10000"),
        ({"WORLD_SIZE": "２"}, "must be a number from 1 to 10000"),
        ({"RANK": "9" * 5000}, "must be a number from 0 to 10000"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK = '2' in the environment: must be a number from 0 to 1"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT = '99999' in the environment: must be a number from 1 to 65535"),
        ({"MASTER_PORT": "0"}, "must be a number from 1 to 65535"),
        ({"MASTER_PORT": "\x1b[31m"}, "MASTER_PORT = '\\x1b[31m'"),
    ],
)
def test_a_wrong_environment_is_one_line(changes, words):
    env = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT} | {"OMP_NUM_THREADS": "1"}
    env |= {k: v for k, v in (ENVIRONMENT | changes).items() if v is not None}
    script = "from dsv3 import cli\nfrom dsv3.ranks.join import launch\n"
    script += "def main(argv):\n with launch('cpu'): pass\ncli.run(main)"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert len(done.stderr) < 600
    assert words in done.stderr


@pytest.mark.parametrize(
    "flags",
    [("--nproc-per-node", "0"), ("--nproc-per-node", "1000000000"), ("--nnodes", "9" * 5000), ("--nnodes", "0"),
     ("--master-port", "0"), ("--master-port", "99999")],
)  # fmt: skip
def test_wrong_usage_of_torchrun(flags):
    run = [sys.executable, "-m", "dsv3", "torchrun", *flags, "-m", "dsv3.generate"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"dsv3 torchrun: error: {flags[0]} {flags[1][:40]}: ")


SCRIPT = """
import os, sys, time
import torch
from dsv3 import cli, generate as g
from dsv3.inference.divergence import compare_layers
from dsv3.model import Cache
from dsv3.ranks.join import launch

def perturbed(tp):
    model = g.load("tiny-r1", tp=tp, model="plain").model
    tokens, cache = torch.tensor([[1, 2, 3, 4]]), Cache()
    with torch.inference_mode(), compare_layers(model):
        model(tokens, 0, cache)
        if tp.rank == 1:
            def flip(module, args, out):
                bits = out.clone()
                bits.view(torch.int16)[0, -1, -1] ^= 1
                return bits
            model.layers[1].register_forward_hook(flip, prepend=True)
        model(tokens, 4, cache)

def out_of_step(tp):
    if tp.rank == 0:
        time.sleep(20)
    tp.broadcast(torch.zeros(1))

def mistake(tp):
    if tp.rank == 1:
        raise RuntimeError("a mistake in the program")
    tp.broadcast_text(None if tp.rank else str(time.sleep(20)))

def main(argv):
    with launch("cpu", "test") as tp:
        globals()[argv[0]](tp)

cli.run(main)
"""


LINES = {
    "perturbed": r"activations differ after layers\.1, the first such layer: rank 1 against the others",
    "out_of_step": r"rank 1 stopped: broadcast: .*[Tt]imed out",
    "mistake": r"rank 1 stopped: RuntimeError: a mistake in the program",
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Two ranks for each part of the script, without a launcher, all at once."""
    script = tmp_path_factory.mktemp("script") / "test.py"
    script.write_text(SCRIPT)
    started = {}
    for work in LINES:
        env = os.environ | {"OMP_NUM_THREADS": "1", "DSV3_TIMEOUTS": "start=60,silent=6,collective=6"}
        env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        started[work] = [
            subprocess.Popen(
                [sys.executable, script, work], env=env | {"RANK": rank}, stderr=subprocess.PIPE, text=True
            )
            for rank in ("0", "1")
        ]
    return started


@pytest.mark.parametrize("work", LINES)
def test_two_processes(work, two_processes):
    ranks = two_processes[work]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert re.search(LINES[work], said[0]), said
    assert ("Traceback" in said[1]) == (work == "mistake"), said


@linux
def test_a_chat_that_idles_longer_than_any_collective_may(tmp_path):
    """Under both launchers at once; one ends by /exit, the other by Ctrl-D."""
    timeouts = "start=60,silent=15,collective=5"
    names = ("dsv3.torchrun", "torch.distributed.run")
    with ExitStack() as stack:
        jobs = [stack.enter_context(Nodes(tmp_path / name, name, DSV3_TIMEOUTS=timeouts)) for name in names]
        for job in jobs:
            job.node("--nproc-per-node", 2, say=("--interactive", "--temperature", "0"))
        for job in jobs:
            job.idle()
        time.sleep(7)
        for job in jobs:
            job.say("37 + 48 = ?")
        for job in jobs:
            job.idle(2)
            assert "Answer: 85" in job.out()
        jobs[0].say("/exit")
        jobs[1].launchers[0].stdin.close()
        for job in jobs:
            job.gone()
            assert job.launchers[0].returncode == 0, job.err()
            assert not [line for line in job.err().splitlines() if "error" in line.lower()], job.err()
