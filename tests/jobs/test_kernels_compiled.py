"""Kernels as machine code, and answers that do not compile: Triton's compiler runs ptxas."""

import pytest

from dsv3.exercises import Wrong
from dsv3.exercises.kernels import check_dequant, check_swiglu
from dsv3.lab import kernels


def test_machine_code_or_the_reason_why_not():
    pytest.importorskip("triton", reason="Triton is not installed (Linux only)")
    made = kernels.machine_code("act_quant", ("sm_80", "sm_90"), rows=16)
    assert "no units for float8_e4m3fn" in made["sm_80"]
    assert made["sm_90"][0].registers > 0


def test_what_is_no_kernel_is_told_so(tmp_path):
    with pytest.raises(Wrong, match="give the kernel itself, not a str"):
        check_swiglu("swiglu_kernel")
    pytest.importorskip("triton", reason="Triton is not installed (Linux only)")
    with pytest.raises(Wrong, match="plain Python function"):
        check_swiglu(lambda a: a)
    file = tmp_path / "answer.py"
    file.write_text(
        "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
        "def k(w_ptr, scale_ptr, out_ptr, M, N, BLOCK: tl.constexpr):\n    tl.store(out_ptr, elsewhere)\n"
    )
    space: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    with pytest.raises(Wrong, match="elsewhere"):
        check_dequant(space["k"])
