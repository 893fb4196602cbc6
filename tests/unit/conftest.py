"""Tests here stay in one process: whatever starts another one is slower, and belongs into tests/jobs."""

import sys
from threading import Event

import pytest

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"}
# The package's own quick helpers: chat templates are rendered in a process apart (once for a tokenizer), the CPU's
# sums are compiled (once a machine), and a machine says what it has.
OWN = {"dsv3.inference.template", "dsv3.kernels.native", "dsv3.sizing.machine"}
here = Event()  # set while tests of this folder run: an audit hook stays for good


def refuse(event: str, _: tuple) -> None:
    """For ``subprocess``, ``os`` and a ``multiprocessing`` that forks (one that spawns tells no audit hook)."""
    if event not in STARTS or not here.is_set():
        return
    frame = sys._getframe(1)
    while frame and frame.f_globals.get("__name__") not in OWN:
        frame = frame.f_back
    if frame is None:
        raise AssertionError(f"{event}: tests in tests/unit start no process; such a test belongs into tests/jobs")


sys.addaudithook(refuse)


@pytest.fixture(autouse=True, scope="module")
def _one_process():
    here.set()
    yield
    here.clear()
