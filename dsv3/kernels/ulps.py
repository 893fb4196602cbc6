"""Two results compared in units in the last place (ulps): how many representable numbers lie between them."""

from dataclasses import dataclass

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NEVER = 2**40  # the distance between a number and NaN


def ulps(a: Tensor, b: Tensor) -> Tensor:
    """How many steps of their dtype each pair is apart, an int64 tensor: 0 is equal, 1 neighbours.

    The two zeros are one number, two NaN are equal, and a number and a NaN are 2^40 apart.

    Raises:
        ValueError: shapes or dtypes differ, or are no floating-point dtype.
    """
    if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
        raise ValueError(
            f"ulps: {a.dtype} {list(a.shape)} against {b.dtype} {list(b.shape)}; both must be alike, floats"
        )

    def rank(x: Tensor) -> Tensor:
        bits = x.contiguous().view(_INTEGERS[x.itemsize]).to(torch.int64)
        # Floats of one sign are ordered as their bits are; negative ones count downwards from zero.
        return torch.where(bits < 0, -(bits + (1 << (8 * x.itemsize - 1))), bits)

    nan_a, nan_b = a.float().isnan(), b.float().isnan()
    apart = (rank(a) - rank(b)).abs()
    return torch.where(nan_a | nan_b, torch.where(nan_a & nan_b, 0, NEVER), apart)


@dataclass(frozen=True)
class Difference:
    """How two results differ.

    Attributes:
        ulps: int64, of the results' shape: the picture's data.
        equal: the share of elements that are the same.
        largest: the most ulps. where: the index of that element.
        histogram: elements by distance: 0, 1, 2, 3-4, 5-8 and so on.
    """

    ulps: Tensor
    equal: float
    largest: int
    where: tuple[int, ...]
    histogram: dict[str, int]

    def __str__(self) -> str:
        if not self.largest:
            return "equal, bit for bit"
        worst = "NaN against a number" if self.largest == NEVER else f"{self.largest} ulps"
        return f"{self.equal:.2%} equal; at worst {worst}, at {list(self.where)}"


def compare(a: Tensor, b: Tensor) -> Difference:
    """The difference of two results of one shape and dtype, in ulps; errors as ``ulps``."""
    apart = ulps(a, b)
    if not apart.numel():
        return Difference(apart, 1.0, 0, (), {})
    worst = int(apart.argmax())
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), apart.shape))
    # Bin n holds distances from 2^(n-1) + 1 to 2^n; 0 and 1 have bins of their own.
    bins = torch.where(apart < 2, apart - 1, (apart.double() - 1).log2().floor().long() + 1)
    histogram = {}
    for n, count in zip(*torch.unique(bins, return_counts=True), strict=True):
        low, high = (int(n) + 1,) * 2 if n < 1 else (2 ** (int(n) - 1) + 1, 2 ** int(n))
        histogram[f"{low}" if low == high else f"{low}-{high}"] = int(count)
    return Difference(apart, float((apart == 0).double().mean()), int(apart.max()), where, histogram)
