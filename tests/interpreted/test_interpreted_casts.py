"""The interpreter's casts, sums and products against torch, over every input where a rounding can go wrong."""

import math
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from dsv3.kernels.interpreter import check_import, exact, faults
from dsv3.kernels.ulps import compare

E4M3, E5M2, BF16, HALF = torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16
LARGEST = {E4M3: 448.0, E5M2: 57344.0}


@triton.jit
def cast_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x.to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def store_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """The cast hidden in a store."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def arithmetic_kernel(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    tl.store(out_ptr + at, x + y)
    tl.store(out_ptr + BLOCK + at, x * y)
    tl.store(out_ptr + 2 * BLOCK + at, tl.where(x < y, x, y))


@triton.jit
def dot_kernel(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out_ptr + at, tl.dot(tl.load(x_ptr + at), tl.load(y_ptr + at)))


def cast(x, dtype, kernel=cast_kernel):
    out = torch.full(x.shape, 3, dtype=torch.float32).to(dtype)
    with exact():
        kernel[(triton.cdiv(x.numel(), 1 << 15),)](x, out, x.numel(), BLOCK=1 << 15)
    return out


def codes(dtype):
    bits = {1: torch.int8, 2: torch.int16}[dtype.itemsize]
    return torch.arange(256 if dtype.itemsize == 1 else 65536).to(bits).view(dtype)


def around_every(dtype):
    """float32: every number of a 16-bit or 8-bit dtype, every middle between neighbours, and both sides of each."""
    numbers = codes(dtype).double()
    numbers = numbers[numbers.isfinite()].unique()
    points = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2]).float()
    return torch.cat([points, torch.nextafter(points, torch.tensor(9e9)), torch.nextafter(points, torch.tensor(-9e9))])


SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3e38, -3e38, 2.0**-126, 2.0**-10])


@pytest.mark.parametrize("kernel", [cast_kernel, store_kernel])
@pytest.mark.parametrize("to", [torch.float32, BF16, HALF])
@pytest.mark.parametrize("dtype", [E4M3, E5M2, BF16, HALF])
def test_every_code_is_decoded(dtype, to, kernel):
    assert compare(cast(codes(dtype), to, kernel), codes(dtype).to(to)).largest == 0


@pytest.mark.parametrize("kernel", [cast_kernel, store_kernel])
@pytest.mark.parametrize("dtype", [E4M3, E5M2, BF16])
def test_float32_is_rounded_at_every_boundary(dtype, kernel):
    x = torch.cat([around_every(dtype), SPECIAL])
    # A GPU saturates to the largest FP8 number, infinity too.
    limit = LARGEST.get(dtype, math.inf)
    assert len(x) > 1000
    assert compare(cast(x, dtype, kernel), x.clamp(-limit, limit).to(dtype)).largest == 0


@pytest.mark.parametrize("dtype", [BF16, HALF])
def test_sixteen_bits_become_fp8(dtype):
    x = codes(dtype)
    assert compare(cast(x, E4M3), x.float().clamp(-448, 448).to(E4M3)).largest == 0


def test_integers_become_bf16_and_back():
    x = torch.arange(-70000, 70000, dtype=torch.int32)
    assert torch.equal(cast(x, BF16), x.to(BF16))
    whole = torch.arange(-256, 257).to(BF16)
    assert torch.equal(cast(whole, torch.int32), whole.int())


@pytest.mark.parametrize("dtype", [BF16, E4M3])
def test_arithmetic_is_of_numbers_not_of_bits(dtype):
    torch.manual_seed(0)
    x, y = torch.randn(2, 64).mul(4).to(dtype)
    out = torch.zeros(3, 64, dtype=dtype)
    with exact():
        arithmetic_kernel[(1,)](x, y, out, BLOCK=64)
    a, b = x.float(), y.float()
    assert compare(out, torch.stack([a + b, a * b, torch.minimum(a, b)]).to(dtype)).largest == 0


@pytest.mark.parametrize("dtype", [BF16, E4M3, E5M2, HALF])
def test_a_dot_multiplies_numbers(dtype):
    torch.manual_seed(0)
    x, y = torch.randn(2, 32, 32).to(dtype)
    out = torch.zeros(32, 32)
    with exact():
        dot_kernel[(1,)](x, y, out, BLOCK=32)
    assert torch.allclose(out.double(), x.double() @ y.double(), rtol=0, atol=32 * 2.0**-24 * 16)


def test_this_triton_still_needs_the_repair():
    """Fails with the first Triton whose interpreter is right: then ``dsv3/kernels/interpreter.py`` can shrink."""
    expected = ["FP8 carry", "FP8 subnormals", "BF16 truncation", "FP8 NaN", "BF16 dot", "BF16 arithmetic"]
    assert faults() == expected, f"Triton {triton.__version__} repaired {set(expected) - set(faults())}"
    with exact():
        assert faults() == []
    assert faults() == expected


def test_the_measured_faults():
    """What the module says of the unrepaired interpreter."""

    def raw(value, dtype):
        out = torch.zeros(1, dtype=dtype)
        cast_kernel[(1,)](torch.tensor([value]), out, 1, BLOCK=1)
        return out.item()

    assert raw(126.0, E4M3) == 64.0
    assert raw(17.0 * 2**-4, E4M3) == 1.125, "a half: to even it would be 1"
    assert raw(0.0017, E4M3) == 0
    assert raw(2.7550648847397363e-40, E4M3) == 2.0**-7
    assert raw(1 + 1.99 * 2.0**-8, BF16) == 1.0
    nan = torch.zeros(1)
    cast_kernel[(1,)](codes(E4M3)[127:128].clone(), nan, 1, BLOCK=1)
    assert nan.item() == 480.0


def test_the_interpreter_is_put_back_after_an_error():
    before = interpreter._convert_float, dict(vars(interpreter.InterpreterBuilder))
    with pytest.raises(KeyError), exact():
        raise KeyError
    assert (interpreter._convert_float, dict(vars(interpreter.InterpreterBuilder))) == before


def test_another_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", lambda self, a, b, d, *rest: d)
    with (
        pytest.raises(RuntimeError, match=r"its create_dot is not the one that dsv3 repairs; use Triton 3.6 to 3.9"),
        exact(),
    ):
        pass


@pytest.mark.parametrize(
    ("of_triton", "of_numpy", "fits"),
    [("3.6.0", "2.4.0", False), ("3.6.0", "2.3.5", True), ("3.7.1", "2.4.6", True), ("3.6.1+git", "3.0.0rc1", False)],
)
def test_an_old_triton_with_a_new_numpy_is_refused(monkeypatch, of_triton, of_numpy, fits):
    monkeypatch.setattr(triton, "__version__", of_triton)
    monkeypatch.setattr(np, "__version__", of_numpy)
    with (
        nullcontext()
        if fits
        else pytest.raises(ValueError, match=re.escape(f"{of_triton} cannot interpret with numpy"))
    ):
        check_import()
