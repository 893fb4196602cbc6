"""The transfers of lesson 08: what was built, used in another place."""

from functools import partial

import torch

from ..kernels.reference import act_quant
from ..lab.kernels import triton_here
from ..lab.mutants import KERNELS, Mutant
from . import apart
from .inputs_08 import (
    fused,
    gate_and_up,
    min_for_max,
    one_token,
    times_matrix,
    verdicts,
    zero_by_zero,
)
from .part import Fault, Part, Witness

triton, tl = triton_here()
judged = partial(apart.outcomes, "08")


@triton.jit
def swiglu_quant(a_ptr, b_ptr, q_ptr, scale_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    """Program (i, j): BLOCK columns of row i of silu(a) * b, rounded to BF16, then quantised.

    N is a multiple of BLOCK. a, b [M, N], their rows a_stride and b_stride apart -> q [M, N] FP8
    and scale [M, N / BLOCK].
    """
    i, j = tl.program_id(0), tl.program_id(1)
    at = j * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i * a_stride + at).to(tl.float32)
    b = tl.load(b_ptr + i * b_stride + at).to(tl.float32)
    x = (a * tl.sigmoid(a) * b).to(tl.bfloat16).to(tl.float32)
    largest = tl.max(tl.abs(x), 0)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    tl.store(q_ptr + i * N + at, (x / scale).to(q_ptr.dtype.element_ty))
    tl.store(scale_ptr + i * (N // BLOCK) + j, scale)


@triton.jit
def matvec(x_ptr, w_ptr, scale_ptr, y_ptr, N, K, BLOCK: tl.constexpr):
    """Program i: BLOCK numbers of y [N], of w [N, K] FP8 times x [K] BF16, without tl.dot.

    scale [ceil(N / BLOCK), K / BLOCK]. BLOCK divides K.
    """
    i = tl.program_id(0)
    rows, inner = i * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(K // BLOCK):
        x = tl.load(x_ptr + k * BLOCK + inner).to(tl.float32)
        at = rows[:, None] * K + k * BLOCK + inner[None, :]
        w = tl.load(w_ptr + at, mask=(rows < N)[:, None], other=0.0).to(tl.float32)
        acc += tl.sum(w * x[None, :], 1) * tl.load(scale_ptr + i * (K // BLOCK) + k)
    tl.store(y_ptr + rows, acc, mask=rows < N)


def act_quant_is_right(act_quant):
    """A test: raises an error if q, scale = act_quant(x, 128, scale_fmt) is wrong.

    x [M, K]; scale_fmt is None, or "ue8m0" for scales that are powers of two.
    """
    x = torch.zeros(2, 128)
    x[0, :3] = torch.tensor([448.0, 126.0, -250.0])
    q, scale = act_quant(x, 128, None)
    assert scale[0] == 1.0
    assert scale[1] == 1.0  # the run of zeros
    assert (q[1].float() == 0).all()
    assert q[0, :3].float().tolist() == [448.0, 128.0, -256.0]
    _, scale = act_quant(x + 0.3, 128, "ue8m0")
    assert (torch.frexp(scale).mantissa == 0.5).all()


def _faulty(mutant: Mutant) -> tuple[object]:
    """The kernel's reference with a fault that shipped."""
    return (mutant.patches()[0][2],)


TRANSFERS = [
    Part(
        swiglu_quant, "SwiGLU and quantisation in one kernel", 2, 12,
        "The first half is swiglu, the second quant. N is a multiple of BLOCK, so no mask is needed. "
        "`.to(tl.bfloat16).to(tl.float32)` rounds as the two separate kernels do.",
        (
            Witness("silu(a) * b, quantised in runs of a row", lambda: gate_and_up(1, 32, False), fused(32)),
            Witness("rows and runs each have their own scale", lambda: gate_and_up(3, 96, False), fused(32)),
            Witness("a and b are halves of one matrix", lambda: gate_and_up(4, 64), fused(32)),
            Witness("a run of zeros has the scale 1", lambda: tuple(x * 0 for x in gate_and_up(2, 64)), fused(32)),
            Witness("runs of 128", lambda: gate_and_up(2, 256, size=5.0), fused(128)),
        ),
        (
            Fault(".to(tl.bfloat16).to(tl.float32)\n    largest", "\n    largest", "the product is not rounded to BF16 first, so the bits differ from those of two kernels"),
            Fault("tl.sigmoid(a) * b", "tl.sigmoid(b) * b", "silu belongs to a: a * sigmoid(a) * b"),
            Fault("(a * tl.sigmoid(a) * b)", "(tl.sigmoid(a) * b)", "silu(a) is a * sigmoid(a): a is forgotten"),
            Fault("i * (N // BLOCK) + j", "i + j", "the scales are [M, N / BLOCK]: row i begins at i * (N // BLOCK)"),
            Fault("b_ptr + i * b_stride", "b_ptr + i * N", "b's rows are b_stride apart, not N"),
            Fault("a_ptr + i * a_stride", "a_ptr + i * N", "a's rows are a_stride apart, not N"),
            Fault("tl.where(largest > 0, largest / 448.0, 1.0)", "largest / 448.0", "a run of zeros: its scale is 0, and 0 / 0 is NaN; give it the scale 1"),
        ),
        together=judged,
    ),
    Part(
        matvec, "one token times an FP8 matrix", 3, 15,
        "Begin with `acc = tl.zeros([BLOCK], tl.float32)`. In the loop a tile [BLOCK, BLOCK] of w times `x[None, :]`, summed "
        "along the rows by `tl.sum(tile, 1)`, times one scale: `scale_ptr + i * (K // BLOCK) + k`.",
        (
            Witness("one block", lambda: one_token(32, 32), times_matrix()),
            Witness("each block of K is rescaled before it joins the sum", lambda: one_token(32, 96), times_matrix()),
            Witness("each block of rows has scales of its own", lambda: one_token(96, 64), times_matrix()),
            Witness("N is ragged", lambda: one_token(50, 64), times_matrix()),
            Witness("other blocks", lambda: one_token(20, 256, 128), times_matrix(128)),
        ),
        (
            Fault(" * tl.load(scale_ptr + i * (K // BLOCK) + k)", "", "the sums are in codes: each block needs its scale"),
            Fault("        acc += tl.sum(w * x[None, :], 1) * tl.load(scale_ptr + i * (K // BLOCK) + k)\n", "        acc += tl.sum(w * x[None, :], 1)\n    acc = acc * tl.load(scale_ptr + i * (K // BLOCK) + k)\n", "rescaled once, after the loop: each block of K has its own unit, so rescale before you add"),
            Fault("scale_ptr + i * (K // BLOCK) + k", "scale_ptr + k", "all programs use the first row of scales"),
            Fault("range(K // BLOCK)", "range(K // BLOCK - 1)", "the last block of K is left out"),
            Fault("x_ptr + k * BLOCK + inner", "x_ptr + inner", "x moves on with k, too: k * BLOCK is missing"),
            Fault("w * x[None, :], 1", "w * x[:, None], 1", "x runs along the columns of the tile: x[None, :]"),
            Fault(", acc, mask=rows < N)", ", acc)", "the last program stores beyond the end of y: the store needs the mask"),
        ),
        together=judged,
    ),
    Part(
        act_quant_is_right, "a test that stops bugs that shipped", 2, 12,
        "`torch.frexp(scale).mantissa` is 0.5 for a power of two. A run that holds 448 has scale 1, and 126 lies between "
        "the codes 120 and 128. What should a run of zeros give?",
        (
            Witness("the right act_quant passes, each time", lambda: (act_quant,), verdicts),
            *(Witness(f"your test should fail for {m.name} ({m.story.partition(':')[0]}) and pass on the right one before and after", partial(_faulty, m), verdicts) for m in KERNELS),
            Witness("your test should fail where a scale is made from the smaller of the maximum and 1e-4 (DeepSeek-V3 #968)", lambda: (min_for_max,), verdicts),
            Witness("your test should fail where a run of zeros becomes NaN", lambda: (zero_by_zero,), verdicts),
        ),
        (
            Fault('    _, scale = act_quant(x + 0.3, 128, "ue8m0")\n    assert (torch.frexp(scale).mantissa == 0.5).all()\n', "", "not caught: a layer that forgets scale_fmt, so that its scales are no powers of two"),
            Fault("    assert q[0, :3].float().tolist() == [448.0, 128.0, -256.0]\n", "", "not caught: a cast that loses the carry, so that 126 becomes 64"),
            Fault("    assert scale[1] == 1.0  # the run of zeros\n    assert (q[1].float() == 0).all()\n", "", "not caught: a run of zeros"),
            Fault("[448.0, 128.0, -256.0]", "[448.0, 126.0, -250.0]", "the right act_quant fails: 126 and -250 are no FP8 numbers; they become 128 and -256"),
        ),
    ),
]  # fmt: skip
