"""Runs a hub's client in a process of its own, watches the bytes arrive, and takes it up again when it breaks off."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from ..outside import printable
from . import clients as hubs
from .clients import Hub, HubFile


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    Attributes:
        tries: failures in a row without a new byte before giving up.
        wait: seconds before the first new try; doubled each time, up to ``longest``.
        stall: seconds without a new byte after which a silent connection is given up.
    """

    tries: int = 8
    wait: float = 1.0
    longest: float = 60.0
    stall: float = 300.0


PATIENCE = Patience()


@dataclass(frozen=True)
class Listing:
    """A model's files at one revision."""

    revision: str
    files: tuple[HubFile, ...]

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes or 0 for f in self.files)


class Transfer:
    """Fetches files of one model into one folder, ``staging``, where nobody else has files."""

    def __init__(self, hub: Hub, model: str, staging: Path, patience: Patience = PATIENCE):
        self.hub, self.model, self.staging, self.patience = hub, model, staging, patience

    def listing(self) -> Listing:
        """What the hub has.

        Raises:
            OSError: it does not answer, or not with a list.
            ImportError: its client is not installed.
        """
        answer = self._persist("list", [], [], Progress(self.staging, []))
        return Listing(answer["revision"], tuple(HubFile(**f) for f in answer["files"]))

    def fetch(self, revision: str, files: list[HubFile]) -> None:
        """Have ``files`` fetched; whether they are right is not asked here.

        Raises:
            OSError: after ``patience``, or at once for a full disk; what was fetched stays.
        """
        progress = Progress(self.staging, files)
        try:
            self._persist("fetch", [revision, str(self.staging)], files, progress)
        except KeyboardInterrupt:
            print(f"\n{self.staging.parent}: stopped; the same command goes on from here", file=sys.stderr)
            raise
        finally:
            progress.close()

    def _persist(self, verb: str, rest: list[str], files: list[HubFile], progress: "Progress") -> dict[str, Any]:
        failures, best = 0, progress.arrived()
        while True:
            # Files that are there already are left out: some clients would first read them whole to check them.
            left = [f for f in files if not progress.finished(f)]
            answer = self._run(verb, rest, left, progress)
            if "error" not in answer:
                return answer
            if answer.get("uninstalled"):
                raise ImportError(answer["error"])
            now = progress.arrived()
            failures, best = (1, now) if now > best else (failures + 1, best)
            if answer["final"]:
                raise OSError(f"{self.model}: {answer['error']}")
            if failures >= self.patience.tries:
                tried = f"gave up after {failures} tries without a new byte; the same command goes on from here"
                raise OSError(f"{self.model}: {answer['error']}; {tried}")
            wait = min(self.patience.wait * 2 ** (failures - 1), self.patience.longest)
            print(f"{self.model}: {printable(answer['error'])}; trying again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)

    def _run(self, verb: str, rest: list[str], files: list[HubFile], progress: "Progress") -> dict[str, Any]:
        """One run of the client: its answer, or ``error`` and whether that is ``final``."""
        for file in leftovers(self.staging) if files else []:
            file.unlink(missing_ok=True)
        command = [sys.executable, "-m", hubs.__name__, verb, self.hub, self.model, *rest]
        chatter = None if os.environ.get("DSV3_DEBUG") == "1" else subprocess.DEVNULL
        # To ask for the list, the client gets a folder that is removed with all it writes there.
        with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as scratch:
            client = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=chatter,
                env=hubs.environment(self.staging if files else Path(scratch)),
                start_new_session=True,  # Ctrl-C reaches us only, and we end it
            )
            stdin = cast("IO[bytes]", client.stdin)
            try:
                stdin.write(json.dumps([asdict(f) for f in files]).encode() + b"\n")
                stdin.flush()
                if not self._await(client, progress):
                    return {"error": f"no new byte in {self.patience.stall:.0f} s", "final": False}
            finally:
                client.kill()
                client.wait()
                with contextlib.suppress(BrokenPipeError):
                    stdin.close()
            said.seek(0)
            lines = said.read().splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            return {"error": f"the hub's client ended with code {client.returncode}", "final": False}

    def _await(self, client: subprocess.Popen, progress: "Progress") -> bool:
        """Wait for the client's end; False if nothing arrives for too long."""
        seen, since = progress.arrived(), time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(0.5)
                return True
            now = progress.arrived()
            progress.show(now)
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > self.patience.stall:
                return False


def on_disk(folder: Path, f: HubFile) -> int:
    """Bytes of ``f`` that are in ``folder``, finished or, as ModelScope's client keeps them, not."""
    for file in (folder / f.name, folder / f"{f.name}.incomplete"):
        with contextlib.suppress(OSError):
            return file.lstat().st_size
    return 0


def leftovers(staging: Path) -> list[Path]:
    """Unfinished files of a Hugging Face client that was stopped: the next one does not go on with them."""
    return list((staging / hubs.CACHE / "huggingface").rglob("*.incomplete"))


class Progress:
    """Files, bytes, rate and time left: on a terminal twice a second, elsewhere a line a minute."""

    def __init__(self, staging: Path, files: list[HubFile]):
        self.staging, self.files = staging, files
        self.total = sum(f.nbytes or 0 for f in files)
        self.before = self.arrived() - sum(on_disk(staging, f) for f in files)
        self.on = sys.stderr.isatty()
        self.samples: deque[tuple[float, int]] = deque([(time.monotonic(), self.arrived())], maxlen=60)
        self.shown = time.monotonic()

    def arrived(self) -> int:
        """Bytes of all files in the folder; clients keep unfinished ones in places of their own."""
        total = 0
        for folder, _, names in os.walk(self.staging):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def finished(self, f: HubFile) -> bool:
        with contextlib.suppress(OSError):
            return f.nbytes is not None and (self.staging / f.name).stat().st_size == f.nbytes
        return False

    def show(self, arrived: int) -> None:
        """Print where things are, if it is time to."""
        now = time.monotonic()
        self.samples.append((now, arrived))
        if not self.files or now - self.shown < (0.5 if self.on else 60):
            return
        self.shown = now
        began, first = self.samples[0]
        rate = max(arrived - first, 0) / max(now - began, 0.001)
        done = min(max(arrived - self.before, 0), self.total)
        files = f"{sum(map(self.finished, self.files))}/{len(self.files)} files"
        left = (self.total - done) / rate if rate else 0
        clock = f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f} left" if rate else "waiting"
        text = f"{files}  {done / 1e9:.2f}/{self.total / 1e9:.2f} GB  {rate / 1e6:.1f} MB/s  {clock}"
        print(f"\r{text}\033[K" if self.on else text, end="" if self.on else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
