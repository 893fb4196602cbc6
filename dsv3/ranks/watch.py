"""A watch over the ranks of one job: when one of them is lost, all the others end with a line that says so.

A rank that waits in a collective operation does not notice that another one died, whatever the backend. So a thread of
every rank writes into the job's key-value store, again and again ("a beat"), and reads there how the others are. Used
by ``join.launch``.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from ..outside import printable

BEATS = 15  # so many missed beats, one after another, and a rank counts as lost (``Timeouts.silent``)
BEATS_AFTER_A_BREAK = 5  # the same once a connection between ranks has broken: then most likely one has died
LONGEST = 1e6  # seconds that can be asked for: 11 days
ENDING = 15  # seconds that a process has for its own end, at least: torch takes some to unload, more on a busy machine


@dataclass(frozen=True)
class Timeouts:
    """Seconds. ``DSV3_TIMEOUTS=start=600,silent=30`` changes some of them.

    Attributes:
        start: until all nodes and ranks must have come.
        silent: after which a rank that is not heard of counts as lost.
        collective: after which a single collective operation fails though every rank is alive.
    """

    start: float = 20
    silent: float = 15
    collective: float = 600

    @property
    def beat(self) -> float:
        """From one beat to the next."""
        return self.silent / BEATS

    @property
    def ending(self) -> float:
        """Until a process that ends is ended by the kernel (``end_within``)."""
        return max(self.silent, ENDING)

    @staticmethod
    def from_environment() -> "Timeouts":
        """The defaults with the changes of ``DSV3_TIMEOUTS``.

        Raises:
            ValueError: an unknown name, or not a positive number of ``LONGEST`` at most.
        """
        text = os.environ.get("DSV3_TIMEOUTS", "")
        changes: dict[str, float] = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            try:
                changes[name] = float(value)
            except ValueError:
                changes[name] = 0
            if not 0 < changes[name] <= LONGEST or name not in {f.name for f in fields(Timeouts)}:
                raise ValueError(f"DSV3_TIMEOUTS={text}: give seconds as start=20,silent=15,collective=600")
        return replace(Timeouts(), **changes)


class Store(Protocol):
    """What is used of ``torch.distributed.Store``; every call raises RuntimeError when the store is gone."""

    def set(self, key: str, value: str) -> None: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...
    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...


JOB = "job"  # the key that says why the job is lost; whoever knows first writes it
RUNNING = "running"


def rank_key(rank: int) -> str:
    return f"rank/{rank}"


class Watch:
    """Tells the others how this rank is and looks how they are, until ``finish`` or ``fail``.

    The process ends (``os._exit``) with one line on stderr when another rank has failed or fallen silent, or when the
    store is gone. Nothing else uses ``store``: a call that hangs must not hold up anybody.

    Args:
        store: a connection of its own.
        host: who holds the store, for messages.
        prefix: what error lines of this process begin with.
    """

    def __init__(self, store: Store, rank: int, size: int, host: str, prefix: str, timeouts: Timeouts):
        self.store, self.rank, self.size, self.host, self.prefix = store, rank, size, host, prefix
        self.beat, self.silent, self.ending = timeouts.beat, timeouts.silent, timeouts.ending
        self.status = RUNNING  # then "done" or "failed"
        self.cause = ""  # why it failed
        self.speaker = threading.Lock()  # whoever takes it, for ever, prints why this process ends; nobody else does
        self.wake, self.settled = threading.Event(), threading.Event()
        self.answered = 0.0
        self.heard: dict[int, tuple[bytes, float]] = {}  # by rank: what it said last, and since when
        self.parent = os.getppid()
        self._publish(0)
        self.store.compare_set(JOB, "", RUNNING)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._guard)]

    def start(self) -> None:
        """Begin; all ranks have made their ``Watch``."""
        self.answered = time.monotonic()
        self.heard = dict.fromkeys(range(self.size), (b"", self.answered))
        for thread in self.threads:
            thread.start()

    def finish(self) -> None:
        """This rank is done: waits until all are."""
        self.status = "done"
        self.wake.set()
        self.settled.wait()
        for thread in self.threads:
            thread.join(self.beat)

    def fail(self, error: BaseException) -> None:
        """This rank ends with ``error``: the others hear why before it is gone.

        A connection breaks mostly because another rank died. So there is time first for the watch to find that rank: it
        then ends this process with a line that names it.
        """
        # Exactly this class: its subclass BrokenPipeError only says that nobody reads our output any more.
        if type(error) is ConnectionError:
            self.silent = min(self.silent, BEATS_AFTER_A_BREAK * self.beat)
            self.settled.wait((BEATS_AFTER_A_BREAK + 2) * self.beat)
        if not self.speaker.acquire(blocking=False):
            time.sleep(self.ending)  # the watch is ending this process
        end_within(self.ending)
        interrupted = isinstance(error, KeyboardInterrupt)
        self.cause = f"rank {self.rank} " + ("was interrupted" if interrupted else f"stopped: {reason(error)}")
        self.status = "failed"
        self.wake.set()
        self.settled.wait(3 * self.beat + 1)

    def _talk(self) -> None:
        """Thread: tell how this rank is, read how the others are."""
        n = 0
        try:
            while not self.settled.is_set():
                n += 1
                if os.getppid() != self.parent:
                    self.leave("the process that started this one is gone", tell=True)
                self._publish(n)
                job, *ranks = self.store.multi_get([JOB, *map(rank_key, range(self.size))])
                self.answered = time.monotonic()
                self._judge(job.decode(), ranks)
                self.wake.wait(self.beat)
                self.wake.clear()
        except RuntimeError:
            if self.status == RUNNING:
                self.leave(f"{self.host} is gone; its own output says why")
            self.settled.set()

    def _publish(self, n: int) -> None:
        """Write down how this rank is; ``n``, a new number each time, shows that it still lives."""
        if self.status == "failed":
            self.store.compare_set(JOB, RUNNING, self.cause)
        beat = f"{RUNNING} {os.getpid()} {n}"
        self.store.set(rank_key(self.rank), beat if self.status == RUNNING else self.status)

    def _judge(self, job: str, ranks: list[bytes]) -> None:
        """End this process if the job is lost; ``settled`` once this rank may go."""
        now = time.monotonic()
        for r, value in enumerate(ranks):
            if value != self.heard[r][0]:
                self.heard[r] = (value, now)
        running = [r for r, value in enumerate(ranks) if value.startswith(RUNNING.encode()) and r != self.rank]
        if self.status != "failed" and job != RUNNING:
            self.leave(job)
        if self.status != RUNNING and not running:
            self.settled.set()
        for r in running:
            value, since = self.heard[r]
            if now - since > self.silent:
                self._kill_sibling(int(value.split()[1]))
                self.leave(f"rank {r} has not been heard of for {now - since:.0f} s", tell=True)

    def _kill_sibling(self, pid: int) -> None:
        """End a lost rank on this machine: stopped, it obeys only SIGKILL, which torchrun sends after 30 seconds."""
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return  # no such process here: the rank is on another machine
        if parent == self.parent:
            os.kill(pid, signal.SIGKILL)

    def _guard(self) -> None:
        """Thread: notices when the other one hangs in a call to a store that does not answer."""
        while not self.settled.wait(self.beat):
            if time.monotonic() - self.answered > self.silent + 2 * self.beat:
                self.leave(f"{self.host} has not answered for {self.silent:.0f} s", hung=True)

    def leave(self, why: str, tell: bool = False, hung: bool = False) -> None:
        """End this process, unless it is ending by itself; ``tell`` the others if they may not know."""
        if not self.speaker.acquire(blocking=False):
            return
        end_within(self.ending)
        os.write(2, f"{self.prefix}: error: {why}\n".encode())
        try:
            if tell:
                self.store.compare_set(JOB, RUNNING, why)
            if not hung:
                self.store.set(rank_key(self.rank), "failed")
        except RuntimeError:
            pass  # the store is gone, so nobody can be told
        os._exit(1)


def end_within(seconds: float) -> None:
    """Have the kernel end this process after ``seconds``: if a driver or a full pipe hangs, Python could not do it.

    Args:
        seconds: 0 calls it off.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)


def reason(error: BaseException) -> str:
    """An error in one line, with its class if it is a mistake in the program rather than a user's."""
    text = printable(str(error))
    return text if isinstance(error, ValueError | OSError | ImportError) else f"{type(error).__name__}: {text}"
