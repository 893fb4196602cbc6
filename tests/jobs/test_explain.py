"""``dsv3 explain`` in a process of its own."""

import subprocess
import sys

from jobs import dsv3

from dsv3.explain import appendix, failures


def test_the_command():
    done = dsv3("explain", 'ValueError("type fp8e4nv not supported in this architecture.")')
    assert done.returncode == 0
    first, _, command, _, thread = done.stdout.splitlines()
    assert first.startswith("FP8 on a card without FP8 units: Ampere")
    assert command == "    dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16"
    assert thread == "https://github.com/deepseek-ai/DeepSeek-R1/issues/588"
    piped = dsv3("explain", stdin="Traceback\nRuntimeError: 0 active drivers ([]). There should only be one.\n")
    assert piped.stdout.startswith("Triton without a GPU: ")
    unknown = dsv3("explain", "no idea")
    assert unknown.returncode == 1
    assert unknown.stdout.startswith("not known")
    assert dsv3("explain", stdin=" \n").returncode == 2
    listed = dsv3("explain", "--list")
    assert listed.stdout.strip() == appendix()
    assert len(listed.stdout.splitlines()) == len(failures()) + 2


def test_bytes_that_are_not_utf8():
    run = [sys.executable, "-m", "dsv3", "explain"]
    done = subprocess.run(run, input=b"\xff\xfe CUDA out of memory \x80", capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"out of GPU memory")
