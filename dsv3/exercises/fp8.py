"""Checks of lesson 03's exercises: what a byte means, a cast by hand, and scales that are powers of two."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..kernels.reference import weight_dequant, weight_quant
from ..lab.fp8 import codes
from . import Wrong, exercise


@exercise("03", 1)
def check_decode(decode: Callable[[int], float]) -> None:
    hints = (
        (lambda code: code & 0x7F == 0x7F, "all ones behind the sign mean NaN"),
        (lambda code: code & 0x78 == 0, "exponent 0 is subnormal: no leading 1, and the exponent is -6, as for 1"),
        (lambda code: code & 0x78 == 0x78, "exponent 15 is an ordinary one in E4M3; there is no infinity"),
        (lambda code: code & 0x80, "the first bit is the sign"),
        (lambda code: True, "exponent e means 2^(e - 7), and the mantissa counts eighths on top of 1"),
    )
    for code, value in enumerate(codes().tolist()):
        got = float(decode(code))
        if got != value and not (math.isnan(got) and math.isnan(value)):
            hint = next(text for fits, text in hints if fits(code))
            raise Wrong(f"code 0x{code:02x} = {code:08b} gives {got:g}, but means {value:g}: {hint}")


@exercise("03", 2)
def check_dequantise(dequantise: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(3)
    for shape in ((128, 128), (256, 384), (576, 256), (192, 128), (130, 1)):
        q, scale = weight_quant(torch.randn(shape) * torch.rand(1).mul(4).exp() * 0.01)
        scale *= 1 + torch.rand_like(scale)
        got, wanted = dequantise(q.clone(), scale.clone()), weight_dequant(q, scale)
        if got.dtype != torch.bfloat16 or got.shape != wanted.shape:
            raise Wrong(f"for {list(shape)} you return {got.dtype} {list(got.shape)}; wanted is bfloat16 of that shape")
        wrong = (got != wanted).nonzero().tolist()
        if wrong:
            (i, j), n = wrong[0], len(wrong)
            why = (
                "one step of BF16 off: multiply in float32 and round once, at the end"
                if torch.allclose(got.float(), wanted.float(), rtol=2**-6)
                else "rows 0-127 belong to scale row 0, 128-255 to 1, and the last block may be ragged"
            )
            raise Wrong(
                f"{n:,} of {q.numel():,} values of a {list(shape)} matrix differ, the first at [{i}, {j}]: "
                f"{got[i, j].item():g} instead of {wanted[i, j].item():g}; {why}"
            )


@exercise("03", 3)
def check_power_of_two(power_of_two: Callable[[Tensor], Tensor]) -> None:
    up = torch.tensor(float("inf"))
    exact = torch.tensor([2.0**k for k in (-126, -40, -7, -1, 0, 1, 9)])
    above = torch.nextafter(exact, up)
    below = torch.nextafter(exact[1:], torch.tensor(0.0))
    torch.manual_seed(3)
    drawn = (torch.randn(1000) * 8).exp2()
    for of, what in (
        (exact, "is a power of two already and must stay"),
        (above, "is the next float32 above a power of two; a logarithm in float32 does not see that"),
        (below, "lies just below a power of two and goes up to it"),
        (drawn, "goes up: rounded down, the block's largest number would pass 448"),
    ):
        got = power_of_two(of.clone())
        if not isinstance(got, Tensor) or got.shape != of.shape or got.dtype != torch.float32:
            raise Wrong("return a float32 tensor of the shape that was given")
        ok = (torch.frexp(got).mantissa == 0.5) & (got >= of) & (got.double() < 2 * of.double())
        if not ok.all():
            i = int((~ok).nonzero()[0])
            raise Wrong(f"{of[i].item()!r} gives {got[i].item()!r}; it {what}")
