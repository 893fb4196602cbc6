"""Real processes: a verb that runs to its end; nodes with their ranks, which chat until something happens to them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsv3.lab.jobs import Job, free_port

LIMIT = 30  # seconds from an event until no process of a job is left
linux = pytest.mark.skipif(sys.platform != "linux", reason="sends signals and makes network namespaces")


def dsv3(*args: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess:
    run = [sys.executable, "-m", "dsv3", *map(str, args)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(run, input=stdin, env=env, capture_output=True, text=True, timeout=120)


def fails(done: subprocess.CompletedProcess, verb: str, *words: str) -> None:
    """Exit code 1 and one line, which names the verb, what is wrong and what to do."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if "no FP8 units" not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"dsv3 {verb}: error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


def alive(mark: str) -> list[int]:
    """Processes that have ``mark`` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_text(errors="replace"):
                found.append(int(process.name))
        except OSError:  # gone, or not ours
            continue
    return found


def until(true, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


class Nodes(Job):
    """Launchers and their ranks. ``launcher`` is ``dsv3.torchrun`` or ``torch.distributed.run``."""

    def __init__(self, folder: Path, launcher: str = "dsv3.torchrun", **env: str):
        folder.mkdir()
        super().__init__(folder, **env)
        self.launcher, self.port = launcher, free_port()

    def node(self, *args: object, inside: tuple[str, ...] = (), ckpt: object = "tiny-r1", say: tuple = ()) -> None:
        """Start a launcher with these flags of torchrun; ``say`` are flags of generate, by default a chat."""
        run = [*inside, sys.executable, "-m", self.launcher, *args, "-m", "dsv3.generate", "--ckpt-path", ckpt]
        # Hot sampling hardly ever hits the end.
        self.start(*run, *(say or ("--interactive", "--temperature", "9", "--max-new-tokens", "4000")))

    def two_nodes(self, address: str = "127.0.0.1", each: int = 1, **options: object) -> None:
        for rank in (0, 1):
            self.node(*self.flags(rank, address, each), **options)

    def flags(self, rank: int, address: str = "127.0.0.1", each: int = 1) -> tuple:
        return (
            *("--nnodes", 2, "--node-rank", rank, "--nproc-per-node", each),
            *("--master-addr", address, "--master-port", self.port),
        )

    def idle(self, prompts: int = 1) -> None:
        """Wait until the chat asks for the n-th prompt."""
        self.until(lambda: self.out().count(">>> ") >= prompts)

    def decoding(self) -> None:
        """Wait until an endless answer is under way."""
        self.idle()
        self.say("Hello")
        self.until(lambda: len(self.out()) > 200)

    def kill(self, rank: int, how: signal.Signals) -> None:
        os.kill(self.ranks()[rank].pid, how)

    def gone(self) -> float:
        """Wait until every process is gone -> seconds."""
        start = time.monotonic()
        self.until(self.over, LIMIT)
        return time.monotonic() - start
