"""Learners' kernels in processes of their own: compiled to machine code, stopped, and told what is wrong."""

import pytest

from dsv3.lessons import apart
from dsv3.lessons.judge import judge
from dsv3.lessons.lesson import parts_of
from dsv3.lessons.part import load

PARTS = {part.name: part for part in sum(parts_of("08"), [])}


@pytest.fixture(autouse=True)
def _triton():
    pytest.importorskip("triton", reason="Triton is not installed (Linux only)")


def test_the_learner_s_own_kernel_becomes_machine_code_or_says_why_not():
    import torch

    fp8, f32 = torch.empty(0, dtype=torch.float8_e4m3fn), torch.empty(0)
    args = {"a_ptr": fp8, "a_scale_ptr": f32, "b_ptr": fp8, "b_scale_ptr": f32, "y_ptr": f32}
    args |= {"M": 64, "N": 128, "K": 256, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK": 128}
    mine = load(PARTS["gemm"].source.replace("acc +=", "acc -="), "gemm", dict(vars(__import__("triton"))) | names())
    right = apart.compiled(PARTS["gemm"].solution, args, ("sm_80", "sm_90"))
    assert "sm_80" in right["sm_80"]
    assert right["sm_90"].uses == "wgmma, FP8"
    assert apart.compiled(mine, args, ("sm_90",))["sm_90"].sass != right["sm_90"].sass


def names():
    import triton
    import triton.language as tl

    return {"__name__": "answer", "triton": triton, "tl": tl}


def verdict(name, source):
    return judge(PARTS[name], load(source, name, names()))


def test_what_is_wrong_with_a_kernel_is_told_with_its_line(monkeypatch):
    source = PARTS["quant"].source
    assert "elsewhere" in verdict("quant", source.replace("scale_ptr + run", "elsewhere"))[1]
    assert "write @triton.jit above it" in verdict("quant", source.replace("@triton.jit\n", ""))[1]


def test_a_kernel_that_never_ends_is_stopped_and_the_next_one_is_judged(monkeypatch):
    monkeypatch.setattr(apart, "LONGEST", 4)
    endless = PARTS["quant"].source.replace(
        "    run = tl.program_id(0)\n", "    run = 0\n    while run < 1:\n        run = run * 1\n"
    )
    assert "stopped after 4 seconds" in verdict("quant", endless)[1]
    monkeypatch.undo()
    assert judge(PARTS["quant"], PARTS["quant"].solution) == ("right", "")


def test_a_process_that_came_to_its_end_is_told_and_started_again():
    apart.ask(True, 30, "judge", "08", "quant", PARTS["quant"].source.replace("448", "447"))
    apart.worker(True).process.kill()
    apart.worker(True).process.wait()
    found = apart.ask(
        True, 30, "judge", "08", "quant", "import triton\nimport triton.language as tl\n" + PARTS["quant"].source
    )
    assert len(found) == len(PARTS["quant"].witnesses)


def test_a_kernel_that_crashes_is_told_so():
    source = "import os\n\n\ndef quant(*_):\n    pass\n\n\nos.kill(os.getpid(), 11)\n"
    assert "stopped the interpreter (SIGSEGV)" in str(apart.ask(True, 30, "judge", "08", "quant", source))


def test_no_gpu_is_said_in_a_line():
    import torch

    if not torch.cuda.is_available():
        assert apart.microseconds(PARTS["quant"].solution, (1,), {}) == "no GPU here"
