"""Jobs of several real processes: started as in a terminal, looked at, ended, and none of them left behind."""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from psutil import Process

MARK = "DSV3_LAB_JOB"  # in the environment of a job's processes, by which they are found again


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


class Job:
    """Commands that run side by side in ``folder``; ``with`` leaves no process of them.

    Each command's ranks get one thread, and ``env`` on top of this environment.

    Attributes:
        launchers: a process for each command, in the order in which they were started.
    """

    def __init__(self, folder: Path, *commands: str, **env: str):
        """``commands``, written as in a terminal, begin with ``dsv3``, which is this Python's; ``with`` starts them."""
        self.folder, self.mark = folder, str(uuid.uuid4())
        self.commands = [shlex.split(command) for command in commands]
        for words in self.commands:
            if words[:1] != ["dsv3"]:
                raise ValueError(f"{shlex.join(words)!r}: begin with dsv3")
        self.env = os.environ | {"OMP_NUM_THREADS": "1"} | env | {MARK: self.mark}
        self.launchers: list[subprocess.Popen] = []
        self.files: list[tuple[IO[bytes], IO[bytes]]] = []

    def __enter__(self) -> "Job":
        for _, *words in self.commands:
            self.start(sys.executable, "-m", "dsv3", *words)
        return self

    def start(self, *words: object) -> None:
        """Run one more command."""
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.files.append((out, err))
        # In a session of its own, since Ctrl-C in the notebook is this object's to handle.
        launcher = subprocess.Popen(
            [*map(str, words)], cwd=self.folder, env=self.env, start_new_session=True,
            stdin=subprocess.PIPE, stdout=out, stderr=err, text=True,
        )  # fmt: skip
        self.launchers.append(launcher)

    def alive(self) -> "dict[Process, int | None]":
        """The job's processes that live now -> rank; None for launchers."""
        import psutil

        found = {}
        for process in psutil.process_iter():
            try:
                env = process.environ()
            except (psutil.Error, OSError):  # has gone meanwhile, or is somebody else's
                continue
            if env.get(MARK) == self.mark:
                found[process] = int(env["RANK"]) if "RANK" in env else None
        return found

    def ranks(self) -> "dict[int, Process]":
        """The ranks that live now, by number; not the helpers that a rank starts, which inherit its environment."""
        alive = self.alive()
        pids = {process.pid for process, rank in alive.items() if rank is not None}
        return {rank: p for p, rank in alive.items() if rank is not None and p.ppid() not in pids}

    def say(self, line: str) -> None:
        """Type a line into the first command."""
        print(line, file=self.launchers[0].stdin, flush=True)

    def out(self, command: int = 0) -> str:
        """What a command has written to stdout until now."""
        return self._text(command, 0)

    def err(self, command: int = 0) -> str:
        """The same of stderr."""
        return self._text(command, 1)

    def _text(self, command: int, stream: int) -> str:
        descriptor = self.files[command][stream].fileno()
        # The processes share the file's place: it must not move.
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is true.

        Raises:
            TimeoutError: it did not become true; says what the commands wrote to stderr.
        """
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                said = " | ".join(self.err(i).strip() for i in range(len(self.launchers)))
                raise TimeoutError(f"not within {seconds:g} s; the commands said: {said or 'nothing'}")
            time.sleep(0.05)

    def over(self) -> bool:
        """Whether all commands and all ranks have ended."""
        # Popen.poll buries a launcher; its ranks are its own.
        return not [launcher for launcher in self.launchers if launcher.poll() is None] and not self.alive()

    def done(self) -> list[Done]:
        """What each ended command came to."""
        return [Done(launcher.returncode, self.out(i), self.err(i)) for i, launcher in enumerate(self.launchers)]

    def __exit__(self, *_: object) -> None:
        import psutil

        launchers = {launcher.pid for launcher in self.launchers}
        ranks = [process for process in self.alive() if process.pid not in launchers]
        _kill(ranks)
        psutil.wait_procs(ranks, timeout=5)  # their launchers bury them, so these go last
        for launcher in self.launchers:
            launcher.kill()
            launcher.communicate()  # closes its stdin and buries it
        _kill(self.alive())  # what a launcher started meanwhile
        for out, err in self.files:
            out.close()
            err.close()


def _kill(processes: "Iterable[Process]") -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


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
