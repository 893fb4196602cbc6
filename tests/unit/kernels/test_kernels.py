"""The reference kernels against their definition: slow loops, hand-computed blocks, bounds that hold for any input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3.kernels import pick
from dsv3.kernels.reference import FP8, act_quant, fp8_gemm, weight_dequant, weight_quant


def test_a_block_by_hand():
    q, scale = act_quant(torch.tensor([[1.0, -2.0, 0.5, 448.0, 0.0, 3.5, 7.0, -14.0]]), block=4)
    assert scale.tolist() == [[1.0, 14 / 448]]
    assert q.float().tolist() == [[1.0, -2.0, 0.5, 448.0, 0.0, 112.0, 224.0, -448.0]]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31), st.sampled_from([None, "ue8m0"]))
@settings(max_examples=60, deadline=None)
def test_weights_come_back_within_half_a_step(m, n, seed, scale_fmt):
    w = torch.randn(m, n, generator=torch.Generator().manual_seed(seed)) * 3
    q, scale = weight_quant(w, scale_fmt=scale_fmt)
    assert q.dtype == FP8
    assert scale.shape == (math.ceil(m / 128), math.ceil(n / 128))
    back = weight_dequant(q, scale, dtype=torch.float32)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            tile = (slice(i * 128, i * 128 + 128), slice(j * 128, j * 128 + 128))
            # E4M3's widest step is 32, between 256 and 448; 1e-6 for the float32 division.
            assert (w[tile] - back[tile]).abs().max() <= 16 * scale[i, j] * (1 + 1e-6)
            assert w[tile].abs().max() <= 448 * scale[i, j] * (1 + 1e-6)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_ue8m0_scales_are_powers_of_two(seed):
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(seed)).exp()
    _, scale = act_quant(x, scale_fmt="ue8m0")
    assert torch.equal(scale.log2(), scale.log2().round())
    _, plain = act_quant(x)
    assert ((scale >= plain * (1 - 1e-6)) & (scale < 2 * plain * (1 + 1e-6))).all()


def test_a_block_of_zeros_stays_zero():
    q, scale = act_quant(torch.zeros(2, 128))
    assert torch.isfinite(scale).all()
    assert (q.float() * scale == 0).all()


def test_dequantisation_is_one_rounding_of_the_product():
    codes = torch.arange(256, dtype=torch.uint8).view(FP8).reshape(16, 16)
    scale = torch.tensor([[0.1234567]])
    expected = [[float("nan") if math.isnan(v) else v * scale.item() for v in row] for row in codes.double().tolist()]
    back = weight_dequant(codes, scale)
    assert back.dtype == torch.bfloat16
    exact = torch.tensor(expected, dtype=torch.float64).float().bfloat16()
    assert torch.equal(back.view(torch.int16), exact.view(torch.int16)) or torch.equal(
        back.nan_to_num(), exact.nan_to_num()
    )


def test_ragged_blocks_have_scales_of_their_own():
    w = torch.ones(576, 130).to(FP8)
    scale = torch.arange(10.0).reshape(5, 2)
    back = weight_dequant(w, scale, dtype=torch.float32)
    for i, j in [(0, 0), (127, 127), (128, 128), (575, 129), (512, 127)]:
        assert back[i, j] == scale[i // 128, j // 128]


def test_the_product_equals_float64():
    torch.manual_seed(0)
    a, b = torch.randn(7, 384), torch.randn(200, 384)
    (aq, a_scale), (bq, b_scale) = act_quant(a), weight_quant(b)
    exact = (aq.double().unflatten(-1, (-1, 128)) * a_scale.double().unsqueeze(-1)).flatten(-2)
    exact = exact @ weight_dequant(bq, b_scale, dtype=torch.float64).T
    got = fp8_gemm(aq, a_scale, bq, b_scale, dtype=torch.float32)
    assert torch.allclose(got.double(), exact, rtol=1e-5, atol=1e-4)


def test_errors_name_the_sizes():
    with pytest.raises(ValueError, match="130 is not a multiple of the block 128"):
        act_quant(torch.zeros(1, 130))
    with pytest.raises(ValueError, match=r"\[576, 256\] weight has \(5, 2\) scales, not \(4, 2\)"):
        weight_dequant(torch.zeros(576, 256).to(FP8), torch.ones(4, 2))


def test_a_cpu_dequantises_once_and_says_so():
    choice = pick(torch.device("cpu"))
    assert choice.gemm == "bf16"
    assert "cpu has no FP8 units" in choice.why
