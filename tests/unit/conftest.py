"""Tests here stay in one process: whatever starts another one is slower, and belongs into tests/jobs."""

import sys

import pytest

# The package's own quick helpers: chat templates are rendered in a process apart (started once for a tokenizer), the
# CPU's sums are compiled once a machine, and a machine says what it has.
OWN = {"dsv3.inference.template", "dsv3.kernels.native", "dsv3.sizing.machine"}


@pytest.fixture(autouse=True, scope="session")
def _no_process():
    """Starting a process fails, from ``subprocess``, ``os`` and ``multiprocessing`` alike."""
    on = True

    def audit(event: str, _: tuple) -> None:
        if not on or event not in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"):
            return
        frame = sys._getframe(1)
        while frame and frame.f_globals.get("__name__") not in OWN:
            frame = frame.f_back
        if frame is None:
            raise AssertionError(f"{event}: tests in tests/unit start no process; such a test belongs into tests/jobs")

    sys.addaudithook(audit)  # an audit hook stays for good
    yield
    on = False
