"""Runs one command and leaves none of its processes behind, however this or the process that asked for it ends.

``python guard.py PARENT GRACE COMMAND...``, in a session of its own. The command is stopped on SIGTERM or SIGINT, and
when PARENT, the process that started this one, is gone, killed included. Exit code: the command's, as a shell gives it.
A script of the standard library only: it starts at once.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PARENT_SECONDS = 1.0  # between two looks at the parent
LEAVE_SECONDS = 1.0  # for what a command that has ended leaves behind
NOT_FOUND = 127


def prctl(option: int, value: int) -> None:
    """Linux's; elsewhere nothing, and processes that leave the command's group are not found there."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants() -> set[int]:
    """All living processes below this one; those whose parents died are its own children."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # gone meanwhile
        if state != "Z":
            children.setdefault(int(parent), []).append(int(process.name))
    found: set[int] = set()
    below = [os.getpid()]
    while below:
        some = children.get(below.pop(), [])
        found.update(some)
        below += some
    return found


def reap() -> None:
    """Bury dead children that are nobody else's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def send(what: signal.Signals, group: int) -> None:
    for pid in descendants():
        with suppress(ProcessLookupError):
            os.kill(pid, what)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, what)


def clear(group: int) -> None:
    """End what is left: politely once, then by force until nothing is."""
    send(signal.SIGTERM, group)
    deadline = time.monotonic() + LEAVE_SECONDS
    while descendants():
        if time.monotonic() > deadline:
            send(signal.SIGKILL, group)
        reap()
        time.sleep(0.02)
    send(signal.SIGKILL, group)


def wait(command: subprocess.Popen, parent: int, wake: int, stop: list[int]) -> None:
    """Return when the command has ended or must."""
    while command.poll() is None and not stop and os.getppid() == parent:
        if select.select([wake], [], [], PARENT_SECONDS)[0]:
            os.read(wake, 1 << 10)


def main() -> int:
    parent, grace, argv = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: stop.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        command = subprocess.Popen(argv, process_group=0, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    wait(command, parent, wake, stop)
    if command.poll() is None:
        command.terminate()  # an engine's first process ends the others itself
        try:
            command.wait(grace)
        except subprocess.TimeoutExpired:
            command.kill()
    code = command.wait()
    clear(command.pid)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
