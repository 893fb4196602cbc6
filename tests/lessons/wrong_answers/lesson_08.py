"""Plausible mistakes in the exercises of lesson 08."""

_HEAD = """
from dsv3.lab.kernels import triton_here

triton, tl = triton_here()


@triton.jit
"""
_SWIGLU = (
    _HEAD
    + """
def swiglu_kernel(a_ptr, b_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    a = tl.load(a_ptr + at, mask=inside, other=0.0){to_float}
    b = tl.load(b_ptr + at, mask=inside, other=0.0){to_float}
    tl.store(y_ptr + at, ({value}).to(tl.bfloat16){mask})
"""
)
_DEQUANT = (
    _HEAD
    + """
def dequant_kernel(w_ptr, scale_ptr, out_ptr, M, N, BLOCK: tl.constexpr):
    i, j = tl.program_id(0), tl.program_id(1)
    rows, columns = i * BLOCK + tl.arange(0, BLOCK), j * BLOCK + tl.arange(0, BLOCK)
    inside = {inside}
    at = rows[:, None] * {stride} + columns[None, :]
    w = tl.load(w_ptr + at, mask=inside).to(tl.float32)
    scale = tl.load(scale_ptr + {scale})
    tl.store(out_ptr + at, (w * scale).to(tl.bfloat16), mask=inside)
"""
)
_INSIDE, _SCALE = "(rows < M)[:, None] & (columns < N)[None, :]", "i * ((N + BLOCK - 1) // BLOCK) + j"
_MATVEC = (
    _HEAD
    + """
def matvec_kernel(x_ptr, w_ptr, scale_ptr, y_ptr, N, K, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    rows, inner = i * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range({steps}):
        x = tl.load(x_ptr + k * BLOCK + inner).to(tl.float32)
        at = rows[:, None] * K + k * BLOCK + inner[None, :]
        w = tl.load(w_ptr + at, mask=(rows < N)[:, None], other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + {scale})
        {step}
    tl.store(y_ptr + rows, {result}, mask=rows < N)
"""
)

WRONG = {
    "ex1": [
        # The last program writes behind the end.
        _SWIGLU.format(to_float=".to(tl.float32)", value="a * tl.sigmoid(a) * b", mask=""),
        # The sigmoid of the wrong operand.
        _SWIGLU.format(to_float=".to(tl.float32)", value="a * tl.sigmoid(b) * b", mask=", mask=inside"),
        # The sigmoid alone: x is forgotten.
        _SWIGLU.format(to_float=".to(tl.float32)", value="tl.sigmoid(a) * b", mask=", mask=inside"),
        # Not a kernel.
        """
import torch


def swiglu_kernel(a, b):
    return torch.nn.functional.silu(a) * b
""",
    ],
    "ex2": [
        _DEQUANT.format(inside=_INSIDE, stride="N", scale="j * ((N + BLOCK - 1) // BLOCK) + i"),  # transposed
        _DEQUANT.format(inside=_INSIDE, stride="M", scale=_SCALE),  # rows are N apart, not M
        _DEQUANT.format(inside=_INSIDE, stride="N", scale="i * (N // BLOCK) + j"),  # right unless N is ragged
        _DEQUANT.format(inside="(rows < M)[:, None] & (columns < M)[None, :]", stride="N", scale=_SCALE),
    ],
    "ex3": [
        _MATVEC.format(  # one scale for the whole sum
            steps="K // BLOCK",
            scale="i * (K // BLOCK) + k",
            step="acc += tl.sum(w * x[None, :], 1)",
            result="acc * scale",
        ),
        _MATVEC.format(  # the scale of another row of blocks
            steps="K // BLOCK", scale="k", step="acc += tl.sum(w * x[None, :], 1) * scale", result="acc"
        ),
        _MATVEC.format(  # the last block of K is left out
            steps="K // BLOCK - 1",
            scale="i * (K // BLOCK) + k",
            step="acc += tl.sum(w * x[None, :], 1) * scale",
            result="acc",
        ),
    ],
    "ex4": [
        """def act_quant_is_right():
    pass
""",
        """import torch

from dsv3.kernels import reference


def act_quant_is_right():
    noise = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    _, scale = reference.act_quant(noise, 128, "ue8m0")
    assert (torch.frexp(scale).mantissa == 0.5).all()
""",
        """import torch

from dsv3.kernels import reference


def act_quant_is_right():
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    q, scale = reference.act_quant(x, 128)
    assert (q.float() * scale.repeat_interleave(128, 1) == x).all()
""",
    ],
}
