"""The parts of the GPU benchmark that need no GPU: bytes, shapes, verdicts, the files, and what it says without one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")


ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--results", str(tmp_path), "--recorded", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no CUDA GPU" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_benchmark_imports_nothing_that_a_bare_gpu_image_lacks():
    """torch, Triton and the standard library only; Python 3.12 images have no safetensors, numpy or pytest for sure."""
    code = (
        "import sys; import benchmarks.gpu, benchmarks.gpu_cases, benchmarks.gpu_checks, dsv3.kernels.inspect\n"
        "import benchmarks.gpu_steps, benchmarks.gpu_warm\n"
        "print([m for m in ('pytest', 'safetensors', 'transformers', 'tokenizers', 'hypothesis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


WARM = """
import sys
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device=None: 0

triton.runtime.driver.set_active(Driver())
triton.compiler.CompiledKernel._init_handles = lambda self: None  # there is no GPU to load it
from benchmarks.gpu_warm import compiled, jobs
from dsv3.kernels import quant
from dsv3.kernels.hardware import H100

for rows in (1, 8):
    jobs(torch.device("cpu"))[f"V3x5, {rows} rows, act_quant"]()
cache = Path(sys.argv[1])
print(len(list(cache.rglob("*.cubin"))))
for rows in (1, 8):
    for launch in quant.plan_act_quant(torch.zeros(rows, 7168, dtype=torch.bfloat16), hardware=H100)[1]:
        compiled(launch)
print(len(list(cache.rglob("*.cubin"))))
"""


def test_what_was_compiled_beforehand_is_what_a_run_asks_for(tmp_path):
    """A kernel compiled on tensors without memory is found again by tensors that have some; a row alone is another."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WARM, str(tmp_path)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["2", "2"], done.stderr


ROW = '{"work": "decode", "size": 1, "ms": 2.0}'


@pytest.mark.parametrize(
    ("code", "rows", "why"),
    [
        (f"print('{ROW}')", 1, ""),
        (
            f"print('{ROW}'); print('a line of a library'); raise RuntimeError('CUDA error')",
            1,
            "RuntimeError: CUDA error",
        ),
        (
            f"import time; print('{ROW}', flush=True); print('{ROW[:9]}', end='', flush=True); time.sleep(60)",
            1,
            "out of time",
        ),
        ("raise SystemExit(3)", 0, "it died without a word"),
    ],
)
def test_a_contender_that_dies_or_hangs_keeps_what_it_measured(code, rows, why):
    from benchmarks.gpu_steps import lines

    found, said = lines([sys.executable, "-c", code], 3 if why == "out of time" else 60)
    assert found == [json.loads(ROW)] * rows
    assert said == why


@pytest.mark.parametrize(("seconds", "done"), [(120.0, "compiled: 0 of 2 jobs"), (0.0, "compiled: 0 of 2 jobs")])
def test_compiling_beforehand_says_what_failed_and_ends_in_time(seconds, done, monkeypatch, capsys):
    """Without a GPU nothing compiles; that is told, and stops nothing. Out of time, the rest is left."""
    from benchmarks import gpu_warm

    names = dict.fromkeys(["V3x5, 1 rows, act_quant", "no such job"])
    monkeypatch.setattr(gpu_warm, "jobs", lambda device: names)
    began = time.monotonic()
    gpu_warm.warm(torch.device("cpu"), seconds)
    assert time.monotonic() - began < seconds + 30
    said = capsys.readouterr().out
    assert said.startswith(done)
    assert said.count("not compiled beforehand: ") == (2 if seconds else 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_contenders_process_prints_what_it_measured():
    from benchmarks.gpu_steps import lines

    rows, why = lines([sys.executable, "-m", "benchmarks.gpu_steps", "tiny-r1", "dsv3"], 120)
    assert why == ""
    assert [(r["work"], r["size"]) for r in rows] == [("decode", 1)]
    assert 0 < rows[0]["ms"] < 1000
