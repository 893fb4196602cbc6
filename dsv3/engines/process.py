"""A program of an engine with all its processes: a log, an end that leaves none behind, and why it failed."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from ..explain import LONGEST, explain
from ..outside import printable
from . import guard

GRACE = 20.0  # seconds from the polite signal to the one that cannot be refused
SAID = 200  # characters of a log's line in an error
TAIL = 25  # lines of a log that are shown when a program fails


class Process:
    """A program and whatever it starts. All of it ends with ``stop``, and when this process ends in any way.

    Args:
        argv: program and arguments.
        folder: where it runs, made if need be; relative paths in ``argv`` start there, the program's own from here.
        log: name of the file in ``folder`` that takes its output; where one is there, ``NAME-2`` and so on.
        env: the variables that it sees, all of them.
        what: it is, for messages.

    Raises:
        FileNotFoundError: no such program.
        OSError: ``folder`` cannot be written to.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        log: str,
        env: Mapping[str, str],
        grace: float = GRACE,
        what: str = "the engine",
    ):
        self.what = what
        program = shutil.which(argv[0], path=env.get("PATH"))
        if program is None:
            raise FileNotFoundError(f"{argv[0]}: no such program; install the engine, or name its Python with --python")
        folder.mkdir(parents=True, exist_ok=True)
        run = [sys.executable, "-I", guard.__file__, str(os.getpid()), str(grace), os.path.abspath(program), *argv[1:]]
        with _new_file(folder / log) as out:
            self.log = Path(out.name)
            self._guard = subprocess.Popen(
                run, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def poll(self) -> int | None:
        """The exit code as a shell gives it, None while it runs."""
        return self._guard.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end by itself -> the exit code.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            return self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.what} still runs after {seconds:.0f} s; log: {self.log}") from None

    def stop(self) -> None:
        """End the program and everything that it started; does nothing if it has ended."""
        if self._guard.poll() is None:
            self._guard.terminate()
            self._guard.wait()

    def failed(self, last: bool = False) -> ChildProcessError:
        """The error that says how it ended, and why; the end of the log goes to standard error."""
        print("\n".join(self._end_of_log().splitlines()[-TAIL:]), file=sys.stderr)
        return ChildProcessError(self.why(last))

    def why(self, last: bool = False) -> str:
        """How it ended, in one line, with the cause and its cure if it is a known one.

        ``last``: else what the log says last, as a program does that ends with a traceback and starts no others.
        """
        code = self._guard.poll()
        ended = "does not answer" if code is None else f"ended with exit code {code}"
        if code is not None and code > 128 and code - 128 in set(signal.Signals):
            ended = f"was ended by {signal.Signals(code - 128).name}"
            if code - 128 == signal.SIGKILL:
                ended += " (the kernel does that when memory runs out)"
        log = self._end_of_log()
        known = explain(log)
        cause = f": {known.text()} Try: {known.command}" if known and known.sort != "harmless" else ""
        said = [line for line in log.splitlines() if line.strip() and not line[0].isspace()]
        if last and code and not cause and said:
            cause = f": {printable(said[-1], SAID)}"
        return f"{self.what} {ended}{cause}; log: {self.log}"

    def _end_of_log(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LONGEST))
            return file.read().decode("utf-8", "replace")


def _new_file(path: Path) -> BinaryIO:
    """A file that was not there before, open for writing: ``path``, or ``path`` with a number."""
    n = 1
    while True:
        try:
            return (path if n == 1 else path.with_stem(f"{path.stem}-{n}")).open("xb")
        except FileExistsError:
            n += 1
