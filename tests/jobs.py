"""Jobs of several real processes, which are found again by a mark in their environment."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

LIMIT = 30  # seconds from an event until no process of a job is left
linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Job:
    """Launchers and their ranks. ``launcher`` is ``dsv3.torchrun`` or ``torch.distributed.run``."""

    def __init__(self, folder: Path, launcher: str = "dsv3.torchrun", **env: str):
        self.folder, self.launcher, self.mark = folder, launcher, f"DSV3_TEST_JOB={uuid.uuid4()}"
        folder.mkdir()
        self.env = os.environ | {"OMP_NUM_THREADS": "1"} | env | dict([self.mark.split("=")])
        self.nodes: list[subprocess.Popen] = []
        self.port = free_port()

    def node(self, *args: object, inside: tuple[str, ...] = (), ckpt: object = "tiny-r1", say: tuple = ()) -> None:
        """Start a launcher with these flags of torchrun; ``say`` are flags of generate, by default a chat."""
        run = [*inside, sys.executable, "-m", self.launcher, *args, "-m", "dsv3.generate", "--ckpt-path", ckpt]
        # Hot sampling hardly ever hits the end.
        run += say or ("--interactive", "--temperature", "9", "--max-new-tokens", "4000")
        i = len(self.nodes)
        with open(self.folder / f"out{i}", "wb") as out, open(self.folder / f"err{i}", "wb") as err:
            self.nodes.append(
                subprocess.Popen([*map(str, run)], stdin=subprocess.PIPE, stdout=out, stderr=err, env=self.env)
            )

    def two_nodes(self, address: str = "127.0.0.1", each: int = 1, **options: object) -> None:
        for rank in (0, 1):
            self.node(*self.flags(rank, address, each), **options)

    def flags(self, rank: int, address: str = "127.0.0.1", each: int = 1) -> tuple:
        return (
            *("--nnodes", 2, "--node-rank", rank, "--nproc-per-node", each),
            *("--master-addr", address, "--master-port", self.port),
        )

    def out(self, node: int = 0) -> str:
        return (self.folder / f"out{node}").read_text(errors="replace")

    def err(self, node: int = 0) -> list[str]:
        return (self.folder / f"err{node}").read_text(errors="replace").splitlines()

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.alive(), self.out(), [self.err(i) for i in range(len(self.nodes))])
            time.sleep(0.1)

    def idle(self, prompts: int = 1) -> None:
        """Wait until the chat asks for the n-th prompt."""
        self.until(lambda: self.out().count(">>> ") >= prompts)

    def ask(self, text: str) -> None:
        self.nodes[0].stdin.write(f"{text}\n".encode())
        self.nodes[0].stdin.flush()

    def decoding(self) -> None:
        """Wait until an endless answer is under way."""
        self.idle()
        self.ask("Hello")
        self.until(lambda: len(self.out()) > 200)

    def alive(self) -> dict[int, int | None]:
        """Process ids of the job -> rank; None for launchers."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                env = (process / "environ").read_bytes().decode(errors="replace")
            except OSError:  # gone, or not ours
                continue
            if self.mark in env:
                rank = re.search(r"(?:^|\0)RANK=(\d+)", env)
                found[int(process.name)] = int(rank[1]) if rank else None
        return found

    def kill(self, rank: int, how: signal.Signals) -> None:
        (pid,) = [pid for pid, r in self.alive().items() if r == rank]
        os.kill(pid, how)

    def gone(self) -> float:
        """Wait until every process is gone -> seconds."""
        start = time.monotonic()
        # Popen.poll buries a launcher; its ranks are its own.
        self.until(lambda: not [n for n in self.nodes if n.poll() is None] and not self.alive(), LIMIT)
        return time.monotonic() - start

    def clean(self) -> None:
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        for node in self.nodes:
            node.wait()
            node.stdin.close()
