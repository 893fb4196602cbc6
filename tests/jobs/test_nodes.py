"""Two nodes: network namespaces with an address each, joined by a virtual cable, as two machines by a real one."""

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from jobs import Nodes, linux

from dsv3 import generate as g
from dsv3.tiny.data import held_out_set

pytestmark = linux
QUESTIONS = [q for _, q in held_out_set(3, seed=6)] + ["你好"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def nodes():
    """Two names for ``ip netns exec``; they have the addresses 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip (Debian package iproute2)")
    names = [f"dsv3-{os.getpid()}-{i}" for i in (1, 2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable1", "netns", names[0], "type", "veth", "peer", "name", "cable2", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot make network namespaces here: {error.stderr.strip()}")
        for i, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", f"cable{i}")
            ip("-n", name, "link", "set", f"cable{i}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(scope="module")
def alone() -> list[tuple[str, str, str]]:
    replies = g.load("tiny-r1").generate(QUESTIONS, temperature=0)
    return [(q, r.thinking, r.answer) for q, r in zip(QUESTIONS, replies, strict=True)]


def answers(file: Path) -> list[tuple[str, str, str]]:
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [(r["prompt"], r["thinking"], r["answer"]) for r in rows]


def test_two_nodes_answer_as_one_process(nodes, alone, tmp_path):
    """2 x 1 and 2 x 2 processes, at once."""
    prompts = tmp_path / "prompts"
    prompts.write_text("\n".join(QUESTIONS), encoding="utf-8")
    with ExitStack() as stack:
        jobs = {n: stack.enter_context(Nodes(tmp_path / f"{n}", DSV3_TIMEOUTS="start=60")) for n in (1, 2)}
        for each, job in jobs.items():
            say = ("--input-file", prompts, "--output-file", job.folder / "answers", "--temperature", "0")
            for rank, name in enumerate(nodes):
                job.node(*job.flags(rank, "10.77.0.1", each), inside=("ip", "netns", "exec", name), say=say)
        for job in jobs.values():
            job.until(lambda job=job: None not in [node.poll() for node in job.launchers])
            assert [node.returncode for node in job.launchers] == [0, 0], (job.err(0), job.err(1))
            assert answers(job.folder / "answers") == alone
            assert "Completion" in job.out(0)
            assert job.out(1) == "", "only rank 0 speaks"


def test_a_cable_that_is_pulled(nodes, tmp_path):
    """No connection is closed by that: packets just stop."""
    with Nodes(tmp_path / "job", DSV3_TIMEOUTS="start=60,silent=4") as job, ExitStack() as stack:
        for rank, name in enumerate(nodes):
            job.node(*job.flags(rank, "10.77.0.1"), inside=("ip", "netns", "exec", name))
        job.decoding()
        stack.callback(ip, "-n", nodes[1], "link", "set", "cable2", "up")
        ip("-n", nodes[1], "link", "set", "cable2", "down")
        job.gone()
        assert [node.returncode for node in job.launchers] == [1, 1]
        assert "rank 0): error: rank 1 has not been heard of for" in job.err(0)
        assert "rank 1): error: torchrun on node 0 (10.77.0.1" in job.err(1)
        assert "Traceback" not in job.err(0) + job.err(1)
