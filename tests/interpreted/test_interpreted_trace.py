"""One program watched: the elements it touches, and mistakes that would crash a process, as one line each."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from dsv3.kernels import gemm, quant, reference
from dsv3.kernels.launch import Launch
from dsv3.kernels.trace import run_program


@triton.jit
def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MASKED:
        tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2, mask=at < n)
    else:
        tl.store(y_ptr + at, tl.load(x_ptr + at) * 2)


@triton.jit
def place_kernel(out_ptr):
    tl.store(out_ptr, tl.program_id(0) + 10 * tl.program_id(1) + 100 * tl.num_programs(0))


def double(masked=True, n=100):
    x, y = torch.arange(float(n)), torch.full((n,), torch.nan)
    return Launch(double_kernel, (4,), {"x_ptr": x, "y_ptr": y, "n": n, "BLOCK": 32, "MASKED": masked})


def test_only_this_program_runs_and_its_elements_are_seen():
    launch = double()
    trace = run_program(launch, 3)
    assert trace.counts("x_ptr", "load").nonzero()[0].tolist() == [96, 97, 98, 99]
    assert trace.counts("x_ptr", "store").sum() == 0
    assert trace.table() == [
        {"kind": "load", "argument": "x_ptr", "accesses": 1, "elements": 4, "bytes": 16, "masked": 28},
        {"kind": "store", "argument": "y_ptr", "accesses": 1, "elements": 4, "bytes": 16, "masked": 28},
    ]
    y = launch.args["y_ptr"]
    assert y[:96].isnan().all()
    assert y[96:].tolist() == [192, 194, 196, 198]


def test_a_program_knows_its_place_in_the_whole_grid():
    out = torch.zeros(1, dtype=torch.int32)
    run_program(Launch(place_kernel, (4, 3), {"out_ptr": out}), (2, 1))
    assert out.item() == 412


def test_a_product_reads_whole_rows_of_a_and_b_and_writes_one_tile():
    a, a_scale = reference.act_quant(torch.randn(70, 256))
    b, b_scale = reference.weight_quant(torch.randn(130, 256))
    out, (launch, *_) = gemm.plan_fp8_gemm(a, a_scale, b, b_scale)
    trace = run_program(launch, 0)
    tile_m, tile_n = launch.args["BLOCK_M"], launch.args["BLOCK_N"]
    stored = trace.counts("out_ptr", "store")
    assert stored.shape == out.shape
    assert (stored[:tile_m, :tile_n] == 1).all()
    assert stored.sum() == min(tile_m, 70) * min(tile_n, 130)
    assert (trace.counts("a_ptr", "load")[:tile_m] >= 1).all()
    assert trace.counts("a_ptr", "load")[tile_m:].sum() == 0
    assert sum(a.nbytes for a in trace.accesses if a.argument == "b_ptr") == min(tile_n, 130) * 256


def test_counts_follow_a_view():
    x = torch.arange(64.0).view(8, 8)[:, ::2]
    launch = Launch(double_kernel, (1,), {"x_ptr": x, "y_ptr": torch.zeros(32), "n": 32, "BLOCK": 32, "MASKED": True})
    counts = run_program(launch).counts("x_ptr", "load")
    assert counts.shape == (8, 4)
    assert np.array_equal(counts, np.repeat([1, 0], 4)[:, None] * np.ones((1, 4)))


def test_mistakes_are_one_clear_line():
    quantise = quant.plan_act_quant(torch.zeros(2, 128))[1][0]
    mistakes = [
        (lambda: run_program(double(masked=False), 3), r"double_kernel, program \(3, 0, 0\): tl.load leaves x_ptr: "
         "element 100 of 100 and 27 others; check the mask"),
        (lambda: run_program(double(), 4), r"a grid of \(4,\); there is no program 4"),
        (lambda: run_program(quantise, -1), "there is no program -1"),
        (lambda: run_program(quantise).counts("y_ptr", "load"), "no tensor 'y_ptr'; it has x_ptr, q_ptr, scale_ptr"),
        (lambda: run_program(quant.plan_act_quant(torch.zeros(2, 128, device="meta"))[1][0]), "x_ptr is on meta"),
    ]  # fmt: skip
    for mistake, words in mistakes:
        with pytest.raises(ValueError, match=words) as raised:
            mistake()
        assert "\n" not in str(raised.value)


def test_the_interpreter_is_as_before():
    before = dict(vars(interpreter.InterpreterBuilder))
    run_program(double())
    with pytest.raises(ValueError, match="leaves"):
        run_program(double(masked=False), 3)
    assert dict(vars(interpreter.InterpreterBuilder)) == before
