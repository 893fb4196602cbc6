"""Distances in units in the last place, by hand and against the order of all numbers of a dtype."""

import math

import pytest
import torch

from dsv3.kernels.ulps import NEVER, compare, ulps

DTYPES = [torch.float8_e4m3fn, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_are_one_apart_over_the_whole_line(dtype):
    bits = {1: torch.int8, 2: torch.int16}[dtype.itemsize]
    every = torch.arange(256**dtype.itemsize).to(bits).view(dtype).float()
    line = every[every.isfinite()].unique().to(dtype)  # the two zeros are one number
    assert (ulps(line[1:], line[:-1]) == 1).all()
    assert ulps(line[-1:], line[:1]).item() == len(line) - 1


def test_by_hand():
    a = torch.tensor([1.0, 1.0, 0.0, math.nan, math.nan, math.inf, 2.0])
    b = torch.tensor([1.0, 1 + 2.0**-23, -0.0, math.nan, 1.0, torch.finfo(torch.float32).max, 1.0])
    assert ulps(a, b).tolist() == [0, 1, 0, 0, NEVER, 1, 2**23]


def test_a_comparison():
    a = torch.tensor([[1.0, 2.0], [4.0, -8.0]]).bfloat16()
    b = torch.tensor([[1.0, 2.0 + 2.0**-6], [4.0, -8.0 - 5 * 2.0**-4]]).bfloat16()
    difference = compare(a, b)
    assert difference.ulps.tolist() == [[0, 1], [0, 5]]
    assert (difference.equal, difference.largest, difference.where) == (0.5, 5, (1, 1))
    assert difference.histogram == {"0": 2, "1": 1, "5-8": 1}
    assert str(difference) == "50.00% equal; at worst 5 ulps, at [1, 1]"
    assert str(compare(a, a)) == "equal, bit for bit"
    assert compare(a[:0], b[:0]).equal == 1


def test_bins_end_at_powers_of_two():
    a = torch.zeros(8, dtype=torch.float16)
    b = torch.tensor([1, 2, 3, 4, 5, 8, 9, 16], dtype=torch.int16).view(torch.float16)
    assert compare(a, b).histogram == {"1": 1, "2": 1, "3-4": 2, "5-8": 2, "9-16": 2}


def test_mistakes_are_one_clear_line():
    with pytest.raises(ValueError, match=r"torch.float32 \[2\] against torch.float16 \[2\]; both must be alike"):
        ulps(torch.zeros(2), torch.zeros(2).half())
    with pytest.raises(ValueError, match="must be alike, floats"):
        ulps(torch.zeros(2).int(), torch.zeros(2).int())
