"""Each Triton kernel, interpreted, against the torch reference of the same name; outputs start as NaN."""

import math

import pytest
import torch

from dsv3.kernels import gemm, mla, quant, reference
from dsv3.kernels import triton as kernels
from dsv3.kernels.hardware import KNOWN, named
from dsv3.kernels.launch import run
from dsv3.kernels.reference import FP8, sort_by_expert, weight_quant
from dsv3.kernels.ulps import compare


def filled(plan):
    """Runs a plan on poisoned outputs -> outputs."""
    out, launches = plan
    for x in out if isinstance(out, tuple) else (out,):
        x.view(torch.uint8).fill_(0xFF)  # NaN in every format used here
    for launch in launches[:-1]:
        for name in {"out_ptr", "part_ptr", "lse_ptr"} & set(launch.args):
            launch.args[name].fill_(math.nan)
    run(launches)
    return out


def near(got, exact, terms):
    """Within what float32 summation of so many products may lose: each addition rounds by 2^-24 of the sum so far."""
    assert got.shape == exact.shape
    error = (got.double() - exact.double()).abs().max().item()
    assert error <= terms * 2.0**-24 * exact.abs().max().item(), error


def edge_cases():
    x = torch.zeros(9, 128)
    x[0, 0] = 1e-45  # amax / 448 underflows
    x[1] = 1e-40 * torch.arange(128)
    x[2, 3] = math.inf
    x[3, 4] = math.nan
    x[4] = torch.finfo(torch.float32).max
    x[5] = torch.linspace(-448, 448, 128)  # scale 1: every rounding boundary of the quotient is the number's own
    x[6] = -0.0
    x[7, :2] = torch.tensor([448 * (1024 + 2.0**-13), -448 * (1024 + 2.0**-13)])  # just above a power of two
    x[8] = 448 * 2.0**-7
    return x


@pytest.mark.parametrize("scale_fmt", [None, "ue8m0"])
@pytest.mark.parametrize(
    "x",
    [
        torch.arange(65536).to(torch.int16).view(torch.bfloat16).view(512, 128),  # every BF16 number
        edge_cases(),
        torch.randn(5, 3, 384, generator=torch.Generator().manual_seed(0)).exp(),
        torch.randn(256, 34, generator=torch.Generator().manual_seed(1)).T,  # not contiguous
        torch.randn(2, 256, generator=torch.Generator().manual_seed(2)).half(),
    ],
    ids=["every bf16", "edges", "random", "transposed", "half"],
)
def test_act_quant(x, scale_fmt):
    q, scale = filled(quant.plan_act_quant(x, 128, scale_fmt))
    expected_q, expected_scale = reference.act_quant(x, 128, scale_fmt)
    assert compare(q, expected_q).largest == 0
    assert compare(scale, expected_scale).largest == 0


def test_scales_are_never_zero_and_ue8m0_never_below():
    x = edge_cases()[[0, 1, 4, 5, 6, 7, 8]]
    for q, scale in (reference.act_quant(x), reference.act_quant(x, scale_fmt="ue8m0")):
        assert (scale >= 2.0**-126).all()
        assert q.float().isfinite().all()
    assert (scale.double() * 448 >= x.double().abs().amax(-1, keepdim=True)).all()
    assert torch.equal(scale.log2(), scale.log2().round())


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("m", "n", "block"), [(300, 200, 128), (1, 1, 128), (64, 96, 32), (128, 128, 128)])
def test_weight_dequant(m, n, block, dtype, target):
    torch.manual_seed(0)
    w = torch.randint(0, 256, (m, n), dtype=torch.uint8).view(FP8)
    w.view(torch.uint8).view(-1)[:256] = torch.arange(min(256, m * n), dtype=torch.uint8)
    scale = torch.rand(math.ceil(m / block), math.ceil(n / block)).exp() * 1e-3
    out = filled(quant.plan_weight_dequant(w, scale, block, dtype, named(target)))
    assert compare(out, reference.weight_dequant(w, scale, block, dtype)).largest == 0


def product(m, n, k, block=128):
    torch.manual_seed(m + n + k)
    a, a_scale = reference.act_quant(torch.randn(m, k), block)
    b, b_scale = weight_quant(torch.randn(n, k), block)
    exact = (a.double().unflatten(-1, (-1, block)) * a_scale.double().unsqueeze(-1)).flatten(-2)
    exact = exact @ reference.weight_dequant(b, b_scale, block, torch.float64).T
    return (a, a_scale, b, b_scale, block), exact


# One row, ragged rows and columns, several tiles of rows, K cut into parts, a smaller block.
SHAPES = [
    (1, 128, 512),
    (5, 200, 1024),
    (33, 64, 2048),
    (64, 576, 256),
    (70, 130, 256),
    (530, 130, 256),
    (20, 96, 128),
    (1, 1, 1024),
]


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_fp8_gemm(m, n, k):
    args, exact = product(m, n, k, 32 if k == 128 else 128)
    plan = gemm.plan_fp8_gemm(*args, torch.float32)
    near(filled(plan), exact, k)
    near(reference.fp8_gemm(*args, torch.float32), exact, k)
    once = filled(gemm.plan_fp8_gemm(*args, torch.bfloat16))
    assert compare(once, plan[0].bfloat16()).largest == 0, "rounded once, from the float32 sum"


def test_k_is_cut_where_rows_are_few():
    launches = [gemm.plan_fp8_gemm(*product(m, 200, 1024)[0])[1] for m in (5, 530)]
    assert [x[0].args["parts"] for x in launches] == [2, 1]
    assert [len(x) for x in launches] == [2, 1]


@pytest.mark.parametrize("target", [h.name for h in KNOWN if h.fp8])
def test_fp8_gemm_with_every_tile_of_every_target(target):
    args, exact = product(40, 128, 256)
    for rows in gemm.TILES:
        for tile in gemm.candidates(rows, named(target), 1):
            near(filled(gemm.plan_fp8_gemm(*args, torch.float32, named(target), tile)), exact, 256)


def test_leading_dimensions_stay():
    args, exact = product(6, 64, 128)
    a, a_scale, *rest = args
    out = kernels.fp8_gemm(a.view(2, 3, 128), a_scale.view(2, 3, 1), *rest, torch.float32)
    near(out, exact.view(2, 3, 64), 128)


def test_no_rows_are_no_work():
    x = torch.empty(0, 256)
    q, scale = kernels.act_quant(x)
    assert (q.shape, scale.shape) == ((0, 256), (0, 2))
    b, b_scale = weight_quant(torch.randn(64, 256))
    assert kernels.fp8_gemm(q, scale, b, b_scale).shape == (0, 64)


def test_sorting_by_expert_can_be_undone():
    chosen = torch.tensor([[2, 0], [0, 1], [2, 1]])
    order, offsets = sort_by_expert(chosen, 4)
    assert offsets.tolist() == [0, 2, 4, 6, 6]
    assert chosen.flatten()[order].tolist() == [0, 0, 1, 1, 2, 2]
    assert (order // 2).tolist() == [0, 1, 1, 2, 0, 2]
    assert torch.equal(chosen.flatten()[order][order.argsort()], chosen.flatten())


def attention(b, h, t, rank, r, lengths, dtype, spread=1.0):
    torch.manual_seed(t + h)
    q_c, q_pe = torch.randn(b, h, rank).to(dtype), torch.randn(b, h, r).to(dtype)
    # A view of a longer cache, whose rest may hold anything.
    c, k_pe = (torch.randn(b, t + 7, size).mul(spread).to(dtype)[:, :t] for size in (rank, r))
    for i, length in enumerate(lengths):
        c[i, length:], k_pe[i, length:] = math.nan, math.nan
    return q_c, q_pe, c, k_pe, torch.tensor(lengths), 0.1


def softmax_in_float64(q_c, q_pe, c, k_pe, lengths, scale):
    out = torch.zeros(q_c.shape, dtype=torch.float64)
    for i, n in enumerate(lengths.tolist()):
        if n:
            scores = q_c[i].double() @ c[i, :n].double().T + q_pe[i].double() @ k_pe[i, :n].double().T
            out[i] = (scores * scale).softmax(-1) @ c[i, :n].double()
    return out


CACHES = [
    (3, 5, 300, 64, 16, [300, 1, 0]),  # ragged lengths, one empty
    (1, 16, 2000, 128, 16, [1777]),  # many parts
    (2, 128, 64, 512, 64, [64, 63]),  # DeepSeek's sizes
    (1, 20, 130, 32, 16, [130]),  # heads that fill no tile
]


@pytest.mark.parametrize("shape", CACHES, ids=["lengths", "parts", "deepseek", "heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mla_decode(shape, dtype):
    args = attention(*shape, dtype)
    exact = softmax_in_float64(*args)
    got = filled(mla.plan_mla_decode(*args))
    # Weights sum to 1. They and the result are rounded to the dtype: by up to 2^-8 for BF16, of the largest number;
    # in float32 the scores' own error, about 2^-24 of their size (up to 40), is what counts.
    step = 2 * 2.0**-8 if dtype == torch.bfloat16 else 64 * 2.0**-24
    largest = args[2].nan_to_num().abs().max().double()
    assert (got.double() - exact).abs().max() <= step * largest
    assert (reference.mla_decode(*args).double() - exact).abs().max() <= step * largest
    assert (got[args[4] == 0] == 0).all()


def test_the_softmax_survives_scores_beyond_float32s_exponential():
    args = attention(1, 16, 300, 64, 16, [300], torch.float32, spread=300.0)
    scores = (args[0].double() @ args[2].double().mT + args[1].double() @ args[3].double().mT) * args[5]
    assert scores.max() > 89, "exp overflows above 88.7"
    exact = softmax_in_float64(*args)
    assert (filled(mla.plan_mla_decode(*args)).double() - exact).abs().max() <= 1e-3 * exact.abs().max()


def test_the_context_is_cut_into_parts():
    plans = [mla.plan_mla_decode(*attention(b, 16, 2000, 32, 16, [2000] * b, torch.bfloat16))[1] for b in (1, 100)]
    assert [launches[0].args["splits"] for launches in plans] == [2000 // (2 * plans[0][0].args["BLOCK_T"]), 1]


def test_mistakes_are_one_clear_line():
    x = torch.zeros(2, 128)
    q, s = kernels.act_quant(x)
    w, ws = weight_quant(torch.zeros(64, 128))
    mistakes = [
        (lambda: kernels.act_quant(torch.zeros(2, 130)), "130 is not a multiple of the block 128"),
        (lambda: kernels.act_quant(torch.zeros(2, 96), 48), "block = 48 must be a power of two"),
        (lambda: kernels.act_quant(torch.zeros(2, 128).int()), "x is torch.int32; it must be one of torch.bfloat16"),
        (lambda: kernels.weight_dequant(w, torch.ones(2, 1)), r"\(1, 1\) scales, not \(2, 1\)"),
        (lambda: kernels.weight_dequant(w, ws, dtype=torch.int8), "dtype is torch.int8"),
        (lambda: kernels.fp8_gemm(x, s, w, ws), "a is torch.float32 and b is torch.float8_e4m3fn"),
        (lambda: kernels.fp8_gemm(q, s.view(1, 2), w, ws), r"a_scale is \[1, 2\]; it must be \[2, 1\]"),
        (lambda: kernels.fp8_gemm(q[:, :64], s, w, ws), "a has K = 64 and b has K = 128"),
        (lambda: gemm.plan_fp8_gemm(q, s, w, ws, hardware=named("sm_80")), r"A100.* has no units for float8_e4m3fn"),
        (lambda: mla.plan_mla_decode(*attention(1, 2, 8, 48, 16, [8], torch.float32)), "C = 48 must be a power of two"),
        (lambda: kernels.mla_decode(x, x, x, x, x, 1.0), r"must be \[M, H, C\]"),
    ]
    for mistake, words in mistakes:
        with pytest.raises(ValueError, match=words) as raised:
            mistake()
        assert "\n" not in str(raised.value)
