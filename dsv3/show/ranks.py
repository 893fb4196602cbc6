"""The lesson on several ranks: ranks as threads, to look inside; as processes, to end them; what they hold and send."""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..checkpoint import read
from ..ranks.parallel import Parallel
from ..ranks.traffic import Traffic, step_traffic
from .style import BLUE, COLOURS, GREEN, GREY, ORANGE, axes, ipywidgets, png

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure
    from psutil import Process
    from torch import Tensor

    from ..sizing.planner import Subject

T = TypeVar("T")

# ------------------------------------------------------------------------------------------- ranks as threads


@dataclass(frozen=True)
class ThreadParallel(Parallel):
    """A rank that is a thread: the real model code, without ports and without torch.distributed.

    Attributes:
        log: what went through this rank's collectives, in order: (kind, the tensor that it put in).
    """

    barrier: threading.Barrier = field(default=None, compare=False)
    board: list = field(default=None, compare=False)
    log: "list[tuple[str, Tensor]]" = field(default_factory=list, compare=False)

    def exchange(self, x: T) -> list[T]:
        """Every rank's ``x`` on every rank."""
        self.board[self.rank] = x
        self.barrier.wait(60)
        pieces = list(self.board)
        self.barrier.wait(60)
        return pieces

    def tensors(self, kind: str, x: "Tensor") -> "list[Tensor]":
        mine = x.clone()
        self.log.append((kind, mine))
        return self.exchange(mine)

    def _all_reduce(self, x: "Tensor") -> "Tensor":
        import torch

        return torch.stack(self.tensors("all_reduce", x)).sum(0)

    def _all_gather(self, x: "Tensor") -> "list[Tensor]":
        return self.tensors("all_gather", x)

    def _broadcast(self, x: "Tensor") -> "Tensor":
        return self.tensors("broadcast", x)[0].clone()

    def _texts(self, text: str, ranks: list[int]) -> list[str]:
        texts = self.exchange(text)
        return [texts[rank] for rank in ranks]


def on_ranks(size: int, work: Callable[[Parallel], T], kind: type[ThreadParallel] = ThreadParallel) -> list[T]:
    """``work`` on every rank at once -> the results by rank."""
    import torch

    barrier, board = threading.Barrier(size), [None] * size

    def one(rank: int) -> T:
        try:
            with torch.inference_mode():  # a thread has its own
                return work(kind(rank, size, barrier=barrier, board=board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


# ----------------------------------------------------------------------------------------- ranks as processes


@dataclass(frozen=True)
class Done:
    """What a command came to: its exit code, its output, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float


class Job:
    """Commands, written as in a terminal, that run side by side in ``folder``; ``with`` leaves no process of them.

    ``dsv3`` is this Python's. Each command's ranks get one thread, and ``env`` on top of this environment.
    """

    def __init__(self, folder: Path, *commands: str, **env: str):
        self.folder, self.commands, self.env = folder, commands, env
        self.launchers: list[subprocess.Popen] = []
        self.seen: set[Process] = set()
        self.files = [[tempfile.TemporaryFile() for _ in range(2)] for _ in commands]  # noqa: SIM115
        self.began = time.monotonic()

    def __enter__(self) -> "Job":
        for command, (out, err) in zip(self.commands, self.files, strict=True):
            program, *words = shlex.split(command)
            if program != "dsv3":
                raise ValueError(f"{command!r}: begin with dsv3")
            self.launchers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dsv3", *words],
                    cwd=self.folder,
                    env=os.environ | {"OMP_NUM_THREADS": "1"} | self.env,
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    text=True,
                    start_new_session=True,  # Ctrl-C in the notebook is this object's to handle
                )
            )
        return self

    def ranks(self) -> "dict[int, Process]":
        """The ranks that live now, by number."""
        import psutil

        found = {}
        for launcher in self.launchers:
            try:
                children = psutil.Process(launcher.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                continue
            self.seen.update(children)
            for child in children:
                try:
                    rank = child.environ().get("RANK")
                except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # has gone meanwhile
                    continue
                if rank is not None:
                    found[int(rank)] = child
        return found

    def say(self, line: str) -> None:
        """Type a line into the first command."""
        self.launchers[0].stdin.write(f"{line}\n")
        self.launchers[0].stdin.flush()

    def text(self, command: int, stream: int) -> str:
        """What a command has written until now: ``stream`` 0 is stdout, 1 stderr."""
        descriptor = self.files[command][stream].fileno()
        # The processes share the file's place: it must not move.
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        """
        Raises:
            TimeoutError: it did not become true; says what the commands wrote to stderr.
        """
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                said = " | ".join(self.text(i, 1).strip() for i in range(len(self.commands)))
                raise TimeoutError(f"not within {seconds:g} s; the commands said: {said or 'nothing'}")
            time.sleep(0.05)

    def over(self) -> bool:
        """Whether all commands and all ranks have ended."""
        self.ranks()
        waiting = any(launcher.poll() is None for launcher in self.launchers)
        return not waiting and not any(map(lives, self.seen))

    def done(self) -> list[Done]:
        """What each ended command came to."""
        seconds = time.monotonic() - self.began
        return [
            Done(launcher.returncode, self.text(i, 0), self.text(i, 1), seconds)
            for i, launcher in enumerate(self.launchers)
        ]

    def __exit__(self, *_: object) -> None:
        import psutil

        self.ranks()
        for process in filter(lives, self.seen):
            process.kill()
        psutil.wait_procs(self.seen, timeout=5)  # their launchers bury them, so these go last
        for launcher in self.launchers:
            launcher.kill()
        for launcher, files in zip(self.launchers, self.files, strict=False):
            launcher.wait()
            launcher.stdin.close()
            for file in files:
                file.close()


def lives(process: "Process") -> bool:
    """Whether it runs; a process that has ended and that nobody has asked about does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run(folder: Path, *commands: str, seconds: float = 180, **env: str) -> list[Done]:
    """Run commands to their end, side by side.

    Raises:
        TimeoutError: they took longer than ``seconds``; they are ended then.
    """
    with Job(folder, *commands, **env) as job:
        job.until(job.over, seconds)
        return job.done()


def free_port() -> int:
    """A port of this machine that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def flip_a_bit(folder: Path, name: str) -> None:
    """Change the last bit of the first number of tensor ``name`` in a Hugging Face folder."""
    entry = read.open_folder(folder)[name]
    with entry.file.open("r+b") as file:
        file.seek(entry.start)
        first = file.read(1)[0]
        file.seek(entry.start)
        file.write(bytes([first ^ 1]))


# ---------------------------------------------------------------------------------------- what is held and sent


def seconds_between(traffic: Traffic, ranks: int, bandwidth: float, latency: float) -> float:
    """What a step's collectives take at least, one after another.

    Args:
        bandwidth: bytes a second out of each rank.
        latency: seconds of each collective, however small it is.

    Source: a ring's all-reduce of n bytes sends 2 n (ranks - 1) / ranks from each rank, its all-gather n (ranks - 1).
    """
    sent = {"all_reduce": 2 * (ranks - 1) / ranks, "all_gather": ranks - 1, "broadcast": 1}
    nbytes = sum(n * sent[kind] for kind, n in traffic.nbytes.items())
    return latency * traffic.collectives.total() + nbytes / bandwidth


def held(ranks: Sequence[Counter[str]], title: str) -> "Figure":
    """Bytes of weights on each rank, by part of the model."""
    figure, (ax,) = axes(size=(9.0, 3.8))
    parts = sorted({part for rank in ranks for part in rank}, key=lambda part: -ranks[0][part])
    unit, name = (1e9, "GB") if max(rank.total() for rank in ranks) > 1e9 else (1e6, "MB")
    below = [0.0] * len(ranks)
    for part, colour in zip(parts, (*COLOURS, "black"), strict=False):
        heights = [rank[part] / unit for rank in ranks]
        ax.bar(range(len(ranks)), heights, bottom=below, color=colour, label=part)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    ax.set(xlabel="rank", ylabel=f"weights ({name})", xticks=range(len(ranks)), title=title)
    figure.legend(fontsize=11, loc="outside right upper")
    return figure


def sums(parts: "Sequence[Tensor]", whole: "Tensor", count: int = 12) -> "Figure":
    """The first numbers of what each rank computed, of their sum, and of one process's answer."""
    figure, (ax,) = axes(size=(9.0, 3.6))
    width = 0.8 / (len(parts) + 1)
    bars = [(f"rank {rank}", part, COLOURS[rank]) for rank, part in enumerate(parts)]
    for i, (name, values, colour) in enumerate([*bars, ("their sum", sum(parts), GREEN)]):
        at = [place + (i - len(parts) / 2) * width for place in range(count)]
        ax.bar(at, values.flatten()[:count].tolist(), width, color=colour, label=name)
    ax.plot(range(count), whole.flatten()[:count].tolist(), "kx", markersize=8, label="one process")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xlabel="number of the hidden state", ylabel="value", xticks=range(count))
    figure.legend(fontsize=11, loc="outside right upper")
    return figure


def waiting(of: Traffic, ranks: int, reading: float, links: dict[str, float], batch: int = 1) -> "Figure":
    """Tokens per second over the latency of a collective, for links of some bytes a second; reading takes its time."""
    figure, (ax,) = axes(size=(8.0, 3.8))
    latencies = [10 ** (i / 10) for i in range(21)]  # microseconds
    for (name, bandwidth), colour in zip(links.items(), (BLUE, ORANGE), strict=False):
        steps = [reading + seconds_between(of, ranks, bandwidth, us * 1e-6) for us in latencies]
        ax.plot(latencies, [batch / step for step in steps], color=colour, label=name)
    ax.axhline(batch / reading, color=GREY, linestyle="--", label="without communication")
    ax.set(xscale="log", xlabel="latency of one collective (µs)", ylabel="tokens/s, all sequences")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=11)
    return figure


def network(of: "Subject", links: dict[str, float], gpu: str = "H200-141G") -> "VBox":
    """Sliders for the ranks, the batch and the latency of a collective; what a step of ``of`` then takes.

    Its ``children`` are the sliders, the text and the figure.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    from ..sizing.gpus import find_gpu
    from ..sizing.needs import Load, Split
    from ..sizing.planner import Counted, count, plan

    size = widgets.SelectionSlider(options=(2, 4, 8, 16, 32), value=16, description="ranks")
    batch = widgets.SelectionSlider(options=(1, 4, 16, 64, 256), value=1, description="sequences")
    latency = widgets.IntSlider(20, min=1, max=100, description="latency, µs")
    text, picture = widgets.HTML(), widgets.Image(format="png")
    counted: dict[int, Counted] = {}  # the slow part, for the numbers of ranks seen so far

    def show(_: object = None) -> None:
        n, load = size.value, Load(batch=batch.value)
        if n not in counted:
            counted[n] = count(of, Split(tp=n, ep=n))
        reading = plan(of, find_gpu(gpu), Split(tp=n, ep=n), load=load, counted=counted[n]).decode.memory_s
        sent = step_traffic(of.cfg, n, batch.value)
        rows = [f"{sent.collectives.total()} collectives, {sent.nbytes.total() / 1e6:.2f} MB from each rank a step"]
        for name, bandwidth in links.items():
            talk = seconds_between(sent, n, bandwidth, latency.value * 1e-6)
            share = talk / (talk + reading)
            speed = batch.value / (talk + reading)
            rows.append(f"{name}: {1e3 * reading:.2f} ms reading + {1e3 * talk:.2f} ms talking ({share:.0%}): "
                        f"at most {speed:,.0f} tokens/s")  # fmt: skip
        text.value = f"<pre>{chr(10).join(rows)}</pre>"
        picture.value = png(waiting(sent, n, reading, links, batch.value))

    for slider in (size, batch, latency):
        slider.observe(show, names="value")
    show()
    return widgets.VBox([widgets.VBox([size, batch, latency]), text, picture])
