"""Runs the tests of ``tests/interpreted`` in a process of their own, with ``TRITON_INTERPRET=1``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")


def test_interpreted():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/interpreted"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_an_interpreter_asked_for_too_late_is_one_clear_line():
    code = "import os, triton, torch; os.environ['TRITON_INTERPRET'] = '1'; from dsv3.kernels import pick"
    call = "\ntry: pick(torch.device('cpu'))\nexcept ValueError as error: print(error)"
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code + call], env=clean, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("TRITON_INTERPRET=1 was set after Triton was imported"), done.stderr
    assert done.stdout.count("\n") == 1
