"""Failure drills with real processes: whatever happens to a rank or a node, nothing hangs, and one line says why."""

import re
import shutil
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from jobs import LIMIT, Nodes, linux

from dsv3.download import TINY_R1
from dsv3.lab.checkpoints import flip_a_bit
from dsv3.lab.jobs import Done

pytestmark = linux
AT_ONCE = 4
Start = Callable[..., Nodes]
QUICK = {"DSV3_TIMEOUTS": "start=60,silent=5"}  # a busy machine starts ten processes at once
PLAIN = "torch.distributed.run"
KILLED = r"rank 1 \(node {}, process \d+\) was killed by SIGKILL; the kernel does that when memory runs out"


def changed_weight(folder: Path) -> Path:
    """A copy of tiny-r1 with one bit of one norm flipped."""
    shutil.copytree(TINY_R1, folder)
    flip_a_bit(folder, "model.layers.1.input_layernorm.weight")
    return folder


def other_config(folder: Path) -> Path:
    shutil.copytree(TINY_R1, folder)
    config = folder / "config.json"
    text = config.read_text()
    assert '"rope_theta": 10000.0' in text
    config.write_text(text.replace('"rope_theta": 10000.0', '"rope_theta": 20000.0'))
    return folder


def killed_while_decoding(job: Start) -> Nodes:
    j = job()
    j.node("--nproc-per-node", 2)
    j.decoding()
    j.kill(1, signal.SIGKILL)
    return j


def killed_while_idle(job: Start) -> Nodes:
    j = job()
    j.node("--nproc-per-node", 2)
    j.idle()
    j.kill(1, signal.SIGKILL)
    return j


def killed_on_the_other_node(job: Start) -> Nodes:
    j = job()
    j.two_nodes()
    j.decoding()
    j.kill(1, signal.SIGKILL)
    return j


def stopped_while_decoding(job: Start) -> Nodes:
    j = job()
    j.node("--nproc-per-node", 2)
    j.decoding()
    j.kill(1, signal.SIGSTOP)
    return j


def stopped_while_idle_on_the_other_node(job: Start) -> Nodes:
    j = job()
    j.two_nodes()
    j.idle()
    j.kill(1, signal.SIGSTOP)
    return j


def stopped_under_plain_torchrun(job: Start) -> Nodes:
    j = job(PLAIN)
    j.node("--nproc-per-node", 2)
    j.decoding()
    j.kill(1, signal.SIGSTOP)
    return j


def launcher_killed(job: Start) -> Nodes:
    j = job()
    j.two_nodes()
    j.idle()
    j.launchers[0].kill()
    return j


def node_0_frozen(job: Start) -> Nodes:
    j = job()
    j.two_nodes()
    j.idle()
    j.launchers[0].send_signal(signal.SIGSTOP)
    j.until(lambda: len(j.alive()) == 1, LIMIT)  # all but the one that no program can end from elsewhere
    j.launchers[0].kill()
    return j


def interrupted(job: Start) -> Nodes:
    j = job()
    j.two_nodes()
    j.decoding()
    j.launchers[0].send_signal(signal.SIGINT)
    return j


def node_that_never_comes(job: Start) -> Nodes:
    j = job(DSV3_TIMEOUTS="start=3")
    j.node(*j.flags(0))
    return j


def node_that_never_comes_to_a_c10d_rendezvous(job: Start) -> Nodes:
    j = job(DSV3_TIMEOUTS="start=3")
    endpoint = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{j.port}")
    j.node("--nnodes", 2, "--nproc-per-node", 1, *endpoint)
    return j


def node_0_that_never_comes(job: Start) -> Nodes:
    j = job(DSV3_TIMEOUTS="start=3")
    j.node(*j.flags(1))
    return j


def port_in_use(job: Start) -> Nodes:
    j = job()
    with socket.create_server(("", j.port)):
        j.node(*j.flags(0))
        j.until(lambda: j.launchers[0].poll() is not None)
    return j


def address_that_does_not_resolve(job: Start) -> Nodes:
    j = job()
    j.node(*j.flags(0, "no-such-host.invalid"))
    return j


def another_weight(job: Start) -> Nodes:
    j = job()
    j.node(*j.flags(0))
    j.node(*j.flags(1), ckpt=changed_weight(j.folder / "changed"))
    return j


def another_config(job: Start) -> Nodes:
    j = job()
    j.node(*j.flags(0))
    j.node(*j.flags(1), ckpt=other_config(j.folder / "changed"))
    return j


def no_checkpoint_on_one_node(job: Start) -> Nodes:
    j = job()
    j.node(*j.flags(0))
    j.node(*j.flags(1), ckpt=j.folder / "none")
    return j


SILENT = r"error: rank 1 has not been heard of for \d+ s$"
# A launcher says how its rank ended; under load it may first end the rank itself, and say why the job did.
ENDED = (
    r"^dsv3 torchrun: error: rank "
    r"({} \(node {}, process \d+\) ended with exit code 1; its output says why|\d (stopped: .*|has not .*))$"
)
CONFIG = r"ranks differ in their config: rope_theta = 10000\.0 on rank 0, rope_theta = 20000\.0 on rank 1"
WEIGHT = (
    r"ranks differ in their weights: layers\.1\.attn_norm\.weight = \w+ on rank 0, layers\.1\.attn_norm\.weight = \w+"
)
# For each launcher: what stands in its stderr, in any order.
DRILLS = {
    killed_while_decoding: [[rf"^dsv3 torchrun: error: {KILLED.format(0)}$"]],
    killed_while_idle: [[rf"^dsv3 torchrun: error: {KILLED.format(0)}$"]],
    killed_on_the_other_node: [
        [rf"^dsv3 generate \(rank 0\): error: {KILLED.format(1)}$", ENDED.format(0, 0)],
        [rf"^dsv3 torchrun: error: {KILLED.format(1)}$"],
    ],
    stopped_while_decoding: [[rf"^dsv3 generate \(rank 0\): {SILENT}", r"rank [01] \(node 0"]],
    stopped_while_idle_on_the_other_node: [
        [rf"^dsv3 generate \(rank 0\): {SILENT}", ENDED.format(0, 0)],
        [rf"^dsv3 torchrun: {SILENT}"],
    ],
    stopped_under_plain_torchrun: [[rf"^dsv3 generate \(rank 0\): {SILENT}"]],
    launcher_killed: [
        [r"^dsv3 generate \(rank 0\): error: (the process that started this one|torchrun on node 0 .*) is gone"],
        [r"^dsv3 generate \(rank 1\): error: .* is gone", ENDED.format(1, 1)],
    ],
    node_0_frozen: [
        [r"^dsv3 generate \(rank 0\): error: torchrun on node 0 \(127.0.0.1:\d+\) has not answered for 5 s$"],
        [r"^dsv3 generate \(rank 1\): error: torchrun on node 0 .* has not answered for 5 s$", ENDED.format(1, 1)],
    ],
    interrupted: [[], [r"^dsv3 generate \(rank 1\): error: node 0 was interrupted$"]],
    node_that_never_comes: [[r"^dsv3 torchrun: error: node 1 of 2 did not come within 3 s; "]],
    node_that_never_comes_to_a_c10d_rendezvous: [[r"^dsv3 torchrun: error: not all of --nnodes 2 nodes came in time$"]],
    node_0_that_never_comes: [[r"^dsv3 torchrun: error: nobody answers at 127\.0\.0\.1:\d+ within 3 s .* node 0 "]],
    port_in_use: [[r"^dsv3 torchrun: error: port \d+ is in use on 127\.0\.0\.1; choose another --master-port$"]],
    address_that_does_not_resolve: [
        [r"^dsv3 torchrun: error: the address 'no-such-host\.invalid' of node 0 does not resolve \(.*\)$"]
    ],
    another_weight: [
        [rf"^dsv3 generate \(rank 0\): error: {WEIGHT}"],
        [rf"^dsv3 generate \(rank 1\): error: {WEIGHT}"],
    ],
    another_config: [
        [rf"^dsv3 generate \(rank 0\): error: {CONFIG}$"],
        [rf"^dsv3 generate \(rank 1\): error: {CONFIG}$"],
    ],
    no_checkpoint_on_one_node: [
        [r"^dsv3 generate \(rank 0\): error: rank 1 stopped: .*none: no such folder", ENDED.format(0, 0)],
        [r"^dsv3 generate \(rank 1\): error: .*none: no such folder", ENDED.format(1, 1)],
    ],
}


# Exit codes of node 0's launcher that are not 1.
CODES = {interrupted: 130, launcher_killed: -signal.SIGKILL, node_0_frozen: -signal.SIGKILL}


def drill(event: Callable[[Start], Nodes], folder: Path) -> tuple[Nodes, float, list[Done]]:
    """A job after its event, the seconds until its last process was gone, and what its launchers came to."""
    jobs = []

    def start(launcher: str = "dsv3.torchrun", **env: str) -> Nodes:
        jobs.append(stack.enter_context(Nodes(folder, launcher, **QUICK | env)))
        return jobs[0]

    with ExitStack() as stack:
        return event(start), jobs[0].gone(), jobs[0].done()


@pytest.fixture(scope="module")
def drills(request, tmp_path_factory):
    """All that were asked for, a few at a time: they mostly wait."""
    asked = {item.callspec.params["event"] for item in request.session.items if item.fspath == request.path}
    folder = tmp_path_factory.mktemp("drills")
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {event: pool.submit(drill, event, folder / event.__name__) for event in DRILLS if event in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("event", DRILLS, ids=lambda event: event.__name__)
def test_drill(event, drills: dict[object, Future]):
    j, seconds, done = drills[event].result()
    print(f"{event.__name__}: {seconds:.1f} s")
    for i, wanted in enumerate(DRILLS[event]):
        lines = done[i].err.splitlines()
        for pattern in wanted:
            assert [line for line in lines if re.search(pattern, line)], (pattern, lines)
        assert done[i].code == (CODES.get(event, 1) if i == 0 else 1)
        if j.launcher != PLAIN:
            said = [line for line in lines if "no FP8 units" not in line]
            assert all(line.startswith(("dsv3 generate (rank ", "dsv3 torchrun: error: ")) for line in said), said
            assert len({line.split(": error")[0] for line in said}) == len(said), "one line per process"
