"""The parts of the GPU benchmark that need no GPU: bytes, shapes, verdicts, the files, and what it says without one."""

import subprocess
import sys
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
        "print([m for m in ('pytest', 'safetensors', 'transformers', 'tokenizers', 'hypothesis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
