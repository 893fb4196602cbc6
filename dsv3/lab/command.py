"""A command in a lesson, run as its reader would type it, with what it says and its exit code."""

import os
import shlex
import subprocess
import sys
from pathlib import Path


def command(line: str, folder: Path, code: str | None = None) -> int:
    """Run ``line`` in ``folder`` with this Python, on the CPU, print it with its output, and return its exit code.

    Args:
        line: begins with ``dsv3`` or ``python``; no shell reads it.
        code: Python that runs first, in the same process: what a lesson breaks on purpose.
    """
    words = shlex.split(line)
    start = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "dsv3"]
    if code is not None:
        module = words[words.index("-m") + 1]
        run = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        start, words = [sys.executable, "-c", f"{code}\n{run}"], words[words.index("-m") + 1 :]
    # A lesson's commands are short: threads would wait for each other, and two ranks need two GPUs.
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*start, *words[1:]], cwd=folder, capture_output=True, text=True, env=env)
    print(f"$ {line}")
    if said := (done.stdout + done.stderr).rstrip():
        print(said)
    if done.returncode:
        print(f"(exit code {done.returncode})")
    return done.returncode
