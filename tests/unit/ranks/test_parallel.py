"""Joining a group, text between ranks, divergence; two real processes over gloo where it matters."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from conftest import SMALL
from jobs import Nodes, linux

from dsv3.inference.divergence import first_difference
from dsv3.inference.weights import fingerprints
from dsv3.lab.jobs import free_port
from dsv3.lab.threads import on_ranks
from dsv3.model import Transformer
from dsv3.ranks import parallel
from dsv3.ranks.parallel import Parallel, agree
from dsv3.ranks.watch import Timeouts
from dsv3.runtime import Runtime

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
    script = "from dsv3 import cli\nfrom dsv3.ranks.parallel import launch\n"
    script += "def main(argv):\n with launch('cpu'): pass\ncli.run(main)"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert len(done.stderr) < 600
    assert words in done.stderr


@pytest.mark.parametrize("text", ["silent", "silent=0", "patience=3", "start=soon", "silent=-1"])
def test_wrong_timeouts(text, monkeypatch):
    monkeypatch.setenv("DSV3_TIMEOUTS", text)
    with pytest.raises(ValueError, match="give seconds as start=20,silent=15"):
        Timeouts.from_environment()
    monkeypatch.setenv("DSV3_TIMEOUTS", "silent=2.5,start=600")
    assert Timeouts.from_environment() == Timeouts(start=600, silent=2.5)


@pytest.fixture
def store():
    return parallel.open_store("127.0.0.1", free_port(), True, 5)


def test_who_is_missing_is_named(store):
    store.set("ranks/2", "4")
    with pytest.raises(ConnectionError, match=r"rank 1, 3 of 4 did not come within 0\.2 s; DSV3_TIMEOUTS=start="):
        parallel.check_in(store, "rank", 0, 4, 0.2)


def test_the_same_number_twice_and_another_count(store):
    def come(number: int, size: int) -> str:
        try:
            parallel.check_in(store, "node", number, size, 1)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(come, (0, 1), (2, 3))
    assert (first, second) == ("node 1 counts 3 nodes, this one 2", "node 0 counts 2 nodes, this one 3")
    with pytest.raises(ValueError, match="there is another node 0"):
        parallel.check_in(store, "node", 0, 2, 1)


def test_somebody_elses_port():
    with pytest.raises(ConnectionError, match=r"nobody answers at 127\.0\.0\.1:1 within 0\.3 s"):
        parallel.open_store("127.0.0.1", 1, False, 0.3)


@linux
@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize(
    ("held", "host"),
    [("::1", "::1"), ("::", "::1"), ("::1", "localhost"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")],
)
def test_a_port_in_use(held, host, listens):
    family = socket.AF_INET6 if ":" in held else socket.AF_INET
    if held == "::1" and host == "localhost" and ("::1") not in {i[4][0] for i in socket.getaddrinfo(host, None)}:
        pytest.skip("localhost is 127.0.0.1 only here, whose port is free")
    with socket.socket(family) as other:
        other.bind((held, 0))
        if listens:
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConnectionError, match=f"port {port} is in use on {host}"):
            parallel.open_store(host, port, True, 20)


def test_an_address_of_another_machine():
    with pytest.raises(ConnectionError, match=r"192\.0\.2\.1 does not lead to this machine"):
        parallel.open_store("192.0.2.1", free_port(), True, 20)  # an address that nobody has, RFC 5737


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


def test_text_waits_for_as_long_as_it_takes(store):
    ranks = [Parallel(rank, 2, store) for rank in (0, 1)]
    heard = []
    listener = threading.Thread(target=lambda: heard.append(ranks[1].broadcast_text(None)))
    listener.start()
    time.sleep(3 * parallel.POLL)
    assert not heard
    assert ranks[0].broadcast_text("你好\n") == "你好\n"
    listener.join(10)
    assert heard == ["你好\n"]
    assert Parallel().broadcast_text("alone") == "alone"


@pytest.mark.parametrize(
    ("odd", "words"),
    [({"a": "1", "b": "3"}, "b = 2 on rank 0, b = 3 on rank 2"), ({"a": "1"}, "b = 2 on rank 0, nothing on rank 2")],
)
def test_agreement_names_item_rank_and_both_values(odd, words):
    usual = {"a": "1", "b": "2"}

    def compare(tp):
        agree(tp, usual, "config")
        try:
            agree(tp, odd if tp.rank == 2 else usual, "config")
        except ValueError as error:
            return str(error)

    assert set(on_ranks(4, compare)) == {f"ranks differ in their config: {words}"}


def test_the_first_difference():
    layers = ["embed", "layers.0", "layers.1"]
    same = ["a", "b", "c"]
    assert first_difference(layers, [same] * 3) is None
    assert "after layers.1, the first such layer: rank 1 against" in first_difference(layers, [same, ["a", "b", "x"]])
    assert "after layers.0, the first such layer: rank 0 against" in first_difference(
        layers, [["a", "x", "y"], same, same]
    )
    assert "3 on rank 0, 2 on rank 1" in first_difference(layers, [same, same[:2]])


SCRIPT = """
import os, sys, time
import torch
from dsv3 import cli, generate as g
from dsv3.inference.divergence import compare_layers
from dsv3.model import Cache
from dsv3.ranks.parallel import launch

def perturbed(tp):
    model = g.load("tiny-r1", tp=tp, fast=False).model
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


def test_every_rank_has_the_same_fingerprints(small_weights):
    changed = small_weights | {"layers.1.ffn_norm.weight": small_weights["layers.1.ffn_norm.weight"] + 1}

    def work(tp, weights):
        model = Transformer(replace(SMALL, dtype="bf16"), Runtime(dtype=torch.float32, tp=tp))
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(weights[name])
        return fingerprints(model)

    first, second = on_ranks(2, lambda tp: work(tp, small_weights))
    assert first == second
    assert set(first) == {name for name, weight in small_weights.items() if weight.dim() == 1}
    other = work(Parallel(), changed)
    assert [name for name in first if first[name] != other[name]] == ["layers.1.ffn_norm.weight"]
