"""How a GPU's results are judged: poisoned outputs, the same bits, or near a float64 result by a stated allowance."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dsv3.kernels.launch import Launch, run
from dsv3.kernels.ulps import compare

# Tensor cores align the products they add to the largest and keep about 14 bits (technical report, section 3.3.2): per
# 128 of K, an error of 2^-13 of the sum of absolute products at most; and BF16 results are rounded by up to 2^-8.
FP8_SUM = 2.0**-13
BF16_HALF = 2.0**-8


def tensors(out: Any) -> Iterator[Tensor]:
    """The tensors of a result, in order; it may be nested, and parts of it may be missing."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, tuple):
        for part in out:
            yield from tensors(part)


def poisoned(plan: tuple[Any, list[Launch]]) -> tuple[Tensor, ...]:
    """Fill all that a plan writes with NaN, run it -> its outputs."""
    out, launches = plan
    outputs = tuple(tensors(out))
    for x in outputs:
        (x if x.stride(-1) == 1 else x.mT).view(torch.uint8).fill_(0xFF)
    later = {id(x) for launch in launches[1:] for x in launch.args.values()}
    for name in ("out_ptr", "part_ptr", "lse_ptr"):
        if id(x := launches[0].args.get(name)) in later and x is not None:  # what the first leaves for the next
            x.fill_(math.nan)
    run(launches)
    return outputs


def same(got: Tensor, expected: Tensor) -> None:
    """
    Raises:
        AssertionError: a bit differs (NaN equals NaN).
    """
    if not got.is_floating_point():
        if not torch.equal(got.cpu(), expected.cpu()):
            raise AssertionError(f"{got.flatten()[:8].tolist()} ... against {expected.flatten()[:8].tolist()} ...")
        return
    difference = compare(got.cpu(), expected.cpu())
    if difference.largest:
        raise AssertionError(str(difference))


def near(got: Tensor, exact: Tensor, allowed: Tensor | float) -> None:
    """
    Raises:
        AssertionError: an element is further from the float64 result than its allowance, or is NaN.
    """
    excess = (got.double() - exact).abs() / allowed
    if not (excess <= 1).all():
        raise AssertionError(f"off by {excess.nan_to_num(math.inf).max().item():.3g} times what is allowed")
