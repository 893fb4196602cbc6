"""The kernels of a decode step, interpreted, against their references; outputs start as NaN.

Where a sum over a row or an exponential stands before the last rounding, its last bit is the library's own: numpy adds
in another order than torch. A result rounded to BF16 is then a step away here and there; ``few`` counts how often.
"""

import math
import random

import pytest
import torch

from dsv3.kernels import experts, fused, heads, library, mla, quant, reference, sorting
from dsv3.kernels import triton as kernels
from dsv3.kernels.hardware import KNOWN, named
from dsv3.kernels.launch import run
from dsv3.kernels.reference import FP8, weight_quant
from dsv3.kernels.ulps import compare

BF16 = torch.bfloat16


def tensors(out):
    return [x for part in out for x in tensors(part)] if isinstance(out, tuple) else [out] if out is not None else []


def filled(plan, *keep):
    """Runs a plan on poisoned outputs -> outputs."""
    out, launches = plan
    for x in tensors(out):
        if isinstance(x, torch.Tensor) and not any(x is one for one in keep):
            x.view(torch.uint8).fill_(0xFF)
    run(launches)
    return out


def few(got, expected, share=0.01, most=1):
    """Equal but for a small share of numbers, which are neighbours."""
    assert got.shape == expected.shape
    difference = compare(got, expected)
    assert difference.largest <= most, difference
    assert difference.equal >= 1 - share, difference


def quantised(got, y, scale_fmt=None):
    """``got`` is ``y`` quantised, bit for bit."""
    for mine, expected in zip(got, reference.act_quant(y, 128, scale_fmt), strict=True):
        assert compare(mine, expected).largest == 0


WIDTHS = [(1, 256), (3, 7168), (3, 200), (2, 64), (20, 384)]


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
@pytest.mark.parametrize(("m", "d"), WIDTHS)
def test_add_norm(m, d, dtype):
    torch.manual_seed(m + d)
    h, part, weight = torch.randn(m, d).to(dtype), torch.randn(m, d).to(dtype), torch.randn(d).to(dtype)
    most = 1 if dtype == BF16 else 16
    for add in (None, part, part.float()):
        total, y, nothing = filled(fused.plan_add_norm(h, add, weight, 1e-6), h)
        expected, normed, _ = reference.add_norm(h, add, weight, 1e-6)
        assert compare(total, expected).largest == 0
        few(y, normed, 0.01 if dtype == BF16 else 1, most)
        assert nothing is None
    for scale_fmt in (None, "ue8m0") if d % 128 == 0 else ():
        _, y, pair = filled(fused.plan_add_norm(h, part, weight, 1e-6, fp8=True, scale_fmt=scale_fmt))
        quantised(pair, y, scale_fmt)
        alone = filled(fused.plan_add_norm(h, part, weight, 1e-6, plain=False, fp8=True, scale_fmt=scale_fmt))
        assert alone[1] is None
        quantised(alone[2], y, scale_fmt)


@pytest.mark.parametrize(("m", "a", "d"), [(1, 9, 256), (6, 3, 200), (33, 2, 128)])
def test_experts_rows_are_weighed_in_order(m, a, d):
    torch.manual_seed(m)
    part, h = torch.randn(m * a, d).to(BF16), torch.randn(m, d).to(BF16)
    rank = torch.randperm(m * a).view(m, a).int()
    part[rank[0, 1].item()] = math.nan
    rank[0, 1] = -1  # another rank's: its row, of which nothing was written, is not read
    slots = (rank, torch.rand(m, a))
    total, y, _ = filled(fused.plan_add_norm(h, part, torch.ones(d), 1e-6, slots=slots))
    expected, normed, _ = reference.add_norm(h, part, torch.ones(d), 1e-6, slots=slots)
    assert compare(total, expected).largest == 0
    few(y, normed)


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
@pytest.mark.parametrize(("m", "x"), [(1, 2048), (7, 48), (3, 256), (70, 128)])
def test_silu_mul(m, x, dtype):
    torch.manual_seed(m + x)
    up = torch.randn(m, 2 * x).mul(4).to(dtype)
    up[0, :3] = torch.tensor([-200.0, 0.0, 200.0])
    y = filled(fused.plan_silu_mul(up))
    few(y, reference.silu_mul(up), 0.001 if dtype == BF16 else 1, 1 if dtype == BF16 else 8)
    for scale_fmt in (None, "ue8m0") if x % 128 == 0 else ():
        quantised(filled(fused.plan_silu_mul(up, True, scale_fmt)), y, scale_fmt)


def rotations(positions, r):
    return torch.view_as_real(torch.polar(torch.ones(positions, r // 2), torch.randn(positions, r // 2))).contiguous()


@pytest.mark.parametrize("at", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("b", "per", "q", "c", "r"), [(1, 1, 1536, 512, 64), (3, 1, 100, 32, 16), (2, 2, 256, 48, 24), (4, 1, 0, 64, 16)]
)
def test_latent(b, per, q, c, r, at):
    torch.manual_seed(q)
    m, t = b * per, 12
    first, table = torch.randn(m, q + c + r).to(BF16), rotations(20, r)
    places = torch.randint(0, t, (m,)).to(at)
    places[-1] = t  # nowhere
    kv_norm, q_norm = torch.randn(c), torch.randn(q) if q else None
    long = torch.randn(b, t + 5, c + r).to(BF16)
    caches = [long.clone()[:, :t] for _ in range(2)]
    got = filled(fused.plan_latent(first, table, places, caches[0], kv_norm, 1e-6, q_norm))
    expected = reference.latent(first, table, places, caches[1], kv_norm, 1e-6, q_norm)
    few(caches[0], caches[1])
    assert (caches[0] == long[:, :t]).all(-1).sum() == b * t - (m - 1)
    if q:
        few(got, expected)
        if q % 128 == 0:
            args = first, table, places, caches[0], kv_norm, 1e-6, q_norm, True
            quantised(filled(fused.plan_latent(*args)), got)
    else:
        assert got is expected is None


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
@pytest.mark.parametrize(
    ("m", "h", "n", "r", "c"), [(1, 4, 128, 64, 512), (5, 3, 24, 16, 48), (33, 2, 16, 24, 160), (64, 1, 128, 64, 64)]
)
def test_absorb(m, h, n, r, c, dtype):
    torch.manual_seed(m)
    wide = torch.randn(m, h * (n + r) + 40).to(dtype)  # without a compressed query its row goes on
    q, key, table = wide[:, : h * (n + r)], torch.randn(h, c, n).to(dtype), rotations(9, r)
    at = torch.randint(-1, 9, (m,))
    q_c, q_pe = filled(heads.plan_absorb(q, table, at, key))
    expected_c, expected_pe = reference.absorb(q, table, at, key)
    assert compare(q_pe, expected_pe).largest == 0
    exact = torch.einsum("mhn,hcn->mhc", q.unflatten(1, (h, -1))[..., :n].double(), key.double())
    for result in (q_c, expected_c):
        error = (result.double() - exact).abs()
        assert (error <= exact.abs() * (2.0**-8 if dtype == BF16 else 0) + n * 2.0**-24 * exact.abs().max()).all()


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
@pytest.mark.parametrize(
    ("m", "h", "splits", "c", "p"),
    [
        *((1, 3, 61, 512, 128), (18, 2, 1, 48, 40), (3, 4, 8, 64, 32), (8, 2, 5, 32, 256)),
        *((1, 130, 61, 64, 128), (70, 2, 1, 48, 40), (3, 48, 8, 64, 32), (9, 16, 5, 32, 256)),
    ],
)
def test_unfold(m, h, splits, c, p, dtype):
    torch.manual_seed(m)
    part, lse = torch.randn(m, h, splits, c), torch.randn(m, h, splits) * 4
    lse[0, 0] = -math.inf
    lse[-1, -1, splits // 2 :] = -math.inf
    part[0, 0] = 0.0
    value = torch.randn(h, p, c).to(dtype)
    got, expected = filled(heads.plan_unfold(part, lse, value)), reference.unfold(part, lse, value)
    near = c**0.5 * (2.0**-8 if dtype == BF16 else 2.0**-18)
    assert (got.float() - expected.float()).abs().max() <= near * 2
    few(got, expected, 0.1 if dtype == BF16 else 1, 2**40)
    assert (got[0, :p] == 0).all()
    if h * p % 128 == 0:
        quantised(filled(heads.plan_unfold(part, lse, value, True)), got)


@pytest.mark.parametrize(("tokens", "lengths"), [(300, [300, 299, 1, 0]), (2000, [1777, 1778, 64, 65])])
def test_several_new_tokens_of_a_sequence(tokens, lengths):
    torch.manual_seed(0)
    q_c, q_pe = torch.randn(4, 5, 64), torch.randn(4, 5, 16)
    c, k_pe = torch.randn(2, tokens, 64), torch.randn(2, tokens, 16)
    args = q_c, q_pe, c, k_pe, torch.tensor(lengths), 0.1
    expected = reference.mla_decode(*args)
    alone = reference.mla_decode(q_c, q_pe, *(x.repeat_interleave(2, 0) for x in (c, k_pe)), *args[4:])
    assert torch.allclose(expected, alone, atol=1e-5)
    assert torch.allclose(filled(mla.plan_mla_decode(*args)), expected, atol=1e-4)
    value = torch.randn(5, 24, 64)
    parts = filled(mla.plan_mla_parts(*args))
    assert torch.allclose(
        kernels.unfold(*parts, value), reference.unfold(*reference.mla_parts(*args), value), atol=1e-3
    )


def close(got, expected):
    """In float32, up to the order of sums."""
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("seed", range(6))
def test_a_layers_kernels_at_drawn_shapes(seed):
    """Each on what the reference's last one gave, so that nothing adds up; no width is a power of two but by chance."""
    drawn, _ = random.Random(seed), torch.manual_seed(seed)
    b, per, d, h, n, p = (drawn.randint(1, most) for most in (12, 3, 400, 5, 80, 150))
    q, c, r, m = drawn.randint(1, 300), drawn.randint(16, 200), 2 * drawn.randint(1, 20), b * per
    groups, width, shared = drawn.choice([1, 2, 3, 5]), drawn.randint(2, 20), drawn.randint(0, 2)
    kept = drawn.randint(1, groups)
    k, x = drawn.randint(1, min(8, width * kept)), drawn.randint(8, 200)
    h_, table, at = torch.randn(m, d), rotations(30, r), torch.randint(0, 30, (m,))
    first, kv_norm, q_norm = torch.randn(m, q + c + r), torch.randn(c), torch.randn(q)
    caches = [torch.zeros(b, 30, c + r) for _ in range(2)]
    close(
        *(
            ops.latent(first, table, at, cache, kv_norm, 1e-6, q_norm)
            for ops, cache in zip((kernels, reference), caches, strict=True)
        )
    )
    close(*caches)
    args = torch.randn(m, h * (n + r)), table, at, torch.randn(h, c, n)
    close(kernels.absorb(*args), reference.absorb(*args))
    splits = drawn.randint(1, 40)
    args = torch.randn(m, h, splits, c), torch.randn(m, h, splits), torch.randn(h, p, c)
    close(kernels.unfold(*args), reference.unfold(*args))
    y, gate = torch.randn(m, d), torch.randn(groups * width, d)
    logits = reference.gate_logits(y, gate)
    close(kernels.gate_logits(y, gate).sum(0), logits.sum(0))
    bias = drawn.choice([None, torch.randn(groups * width) * 0.1])
    rule = {"groups": groups, "kept": kept, "shared": shared, "softmax": drawn.random() < 0.5, "scale": 2.5}
    weights, ids = reference.route(logits, bias, k, **rule)
    got = kernels.route(logits, bias, k, **rule)
    assert torch.equal(got[1], ids)
    close(got[0], weights)
    slots = reference.sort_slots(ids, groups * width + shared)
    number = 1 + 3 * int(slots.tiles[0])
    mine = kernels.sort_slots(ids, groups * width + shared)
    assert torch.equal(mine.order, slots.order)
    assert torch.equal(mine.rank, slots.rank)
    assert torch.equal(mine.tiles[:number], slots.tiles[:number])
    up, down = torch.randn(groups * width + shared, 2 * x, d), torch.randn(groups * width + shared, d, x)
    wide = reference.experts_gemm(y, up, slots, gather=True, dtype=torch.float32)
    close(kernels.experts_gemm(y, up, slots, gather=True, dtype=torch.float32), wide)
    hidden = reference.silu_mul(wide)
    close(kernels.silu_mul(wide), hidden)
    part = reference.experts_gemm(hidden, down, slots, gather=False, dtype=torch.float32)
    close(kernels.experts_gemm(hidden, down, slots, gather=False, dtype=torch.float32), part)
    args = h_, part, torch.randn(d), 1e-6
    got, expected = (ops.add_norm(*args, slots=(slots.rank, weights)) for ops in (kernels, reference))
    close(got[:2], expected[:2])


def test_widths_that_no_tile_has_are_torchs():
    torch.manual_seed(0)
    args = torch.randn(4, 3, 48), torch.randn(4, 3, 8), torch.randn(2, 9, 48), torch.randn(2, 9, 8)
    args += torch.tensor([9, 8, 7, 0]), 0.2
    assert torch.equal(kernels.mla_decode(*args), reference.mla_decode(*args))
    for got, expected in zip(kernels.mla_parts(*args), reference.mla_parts(*args), strict=True):
        assert torch.equal(got, expected)


def test_no_tokens_are_no_work():
    none, ids = torch.zeros(0, 256), torch.zeros(0, 3, dtype=torch.int32)
    slots = kernels.sort_slots(ids, 4)
    assert kernels.add_norm(none, none, torch.ones(256), 1e-6, fp8=True)[2][0].shape == (0, 256)
    assert kernels.silu_mul(none, True)[0].shape == (0, 128)
    assert kernels.experts_gemm(none, torch.zeros(4, 8, 256), slots, gather=True).shape == (0, 8)
    assert kernels.route(kernels.gate_logits(none, torch.zeros(4, 256)), None, 2)[1].shape == (0, 2)
    turns, at, key = rotations(3, 16), torch.zeros(0, dtype=torch.int64), torch.zeros(2, 32, 16)
    q_c, q_pe = kernels.absorb(torch.zeros(0, 64), turns, at, key)
    kept = torch.zeros(0, 4, 48)
    parts = kernels.mla_parts(q_c, q_pe, kept[..., :32], kept[..., 32:], at, 1.0)
    assert kernels.unfold(*parts, torch.zeros(2, 64, 32), True)[0].shape == (0, 128)
    assert kernels.latent(torch.zeros(0, 48), turns, at, kept, torch.ones(32), 1e-6) is None
    assert kernels.head_logits(none, torch.zeros(9, 256)).shape == (0, 9)


@pytest.mark.parametrize("queries", [1, 2, 8, 100])
@pytest.mark.parametrize("heads_", [4, 16, 128])
def test_few_queries_get_narrow_tiles_and_more_parts(queries, heads_):
    h100 = named("sm_90")
    tile = mla.tile_for(queries, heads_, 4096, 2, h100)
    blocks = queries * -(-heads_ // tile.BLOCK_H)
    programs = blocks * mla.n_splits(blocks, 4096, tile.BLOCK_T, h100)
    assert programs > h100.sms // 2 or heads_ <= 16
    assert ((16, 64) if heads_ <= 16 or queries == 1 else (64, 64)) == (tile.BLOCK_H, tile.BLOCK_T)


@pytest.mark.parametrize(("y_type", "gate_type"), [(BF16, BF16), (BF16, torch.float32), (torch.float32, torch.float32)])
@pytest.mark.parametrize(("m", "e", "d"), [(1, 256, 7168), (5, 7, 200), (70, 66, 640)])
def test_gate_logits(m, e, d, y_type, gate_type):
    torch.manual_seed(m)
    y, gate = torch.randn(m, d).to(y_type), torch.randn(e, d).to(gate_type)
    parts = filled(experts.plan_gate_logits(y, gate))
    assert parts.shape == (math.ceil(d / 512), m, e)
    exact = y.double() @ gate.double().T
    assert (parts.sum(0).double() - exact).abs().max() <= d * 2.0**-24 * exact.abs().max()
    again = experts.plan_gate_logits(y[:1], gate)
    if m <= 16:
        assert compare(filled(again), parts[:, :1]).largest == 0, "a token's logits do not depend on its neighbours"


RULES = {
    "V3": (256, 8, True, {"groups": 8, "kept": 4, "scale": 2.5, "shared": 1}),
    "V2": (160, 6, False, {"groups": 8, "kept": 3, "scale": 16.0, "shared": 2, "softmax": True, "normalise": False}),
    "V2-Lite": (64, 6, False, {"shared": 2, "softmax": True, "normalise": False}),
    "Kimi": (384, 8, True, {"scale": 2.827, "shared": 1}),
    "small": (12, 3, True, {"groups": 3, "kept": 2}),
    "one": (5, 1, False, {"softmax": True}),
}


@pytest.mark.parametrize(("e", "k", "biased", "rule"), RULES.values(), ids=RULES)
def test_route(e, k, biased, rule):
    torch.manual_seed(e)
    logits, bias = torch.randn(3, 9, e), torch.randn(e) * 0.1 if biased else None
    weights, ids = filled(experts.plan_route(logits, bias, k, **rule))
    expected, chosen = reference.route(logits, bias, k, **rule)
    assert torch.equal(ids, chosen)
    # torch's exponential and numpy's are a step apart, and so are sums of them.
    assert compare(weights, expected).largest <= 8


@pytest.mark.parametrize("rule", [{}, {"groups": 3, "kept": 2}, {"softmax": True}])
@pytest.mark.parametrize("biased", [True, False])
def test_of_equals_the_first_is_chosen(rule, biased):
    torch.manual_seed(0)
    logits = torch.randint(-1, 2, (1, 20, 12)).float()
    bias = torch.randint(0, 2, (12,)).float() if biased else None
    assert torch.equal(kernels.route(logits, bias, 4, **rule)[1], reference.route(logits, bias, 4, **rule)[1])


def test_not_a_number_chooses_an_expert_that_there_is():
    ids = kernels.route(torch.full((1, 3, 12), math.nan), torch.zeros(12), 4, groups=3, kept=2)[1]
    assert ((ids >= 0) & (ids < 12)).all()


def drawn_ids(m, a, e, foreign=0):
    """[M, A] different ids each, some of them of no expert here."""
    torch.manual_seed(m * a + e)
    ids = torch.rand(m, e + foreign).argsort(-1)[:, :a].int()
    return torch.where(ids < e, ids, ids - 2 * e)  # as negative ones


@pytest.mark.parametrize(
    ("m", "a", "e", "foreign"),
    [
        *((1, 9, 257, 0), (8, 3, 5, 0), (64, 8, 64, 0), (33, 2, 3, 0), (20, 4, 6, 10), (64, 9, 12, 0)),
        *((65, 3, 5, 0), (700, 9, 257, 0), (200, 4, 6, 10), (300, 2, 3, 4)),
    ],
)
def test_sort_slots(m, a, e, foreign):
    ids = drawn_ids(m, a, e, foreign)
    got, expected = filled(sorting.plan_sort_slots(ids, e)), reference.sort_slots(ids, e)
    number = 1 + 3 * int(expected.tiles[0])
    assert got.rows == expected.rows
    for mine, theirs in (
        (got.order, expected.order),
        (got.rank, expected.rank),
        (got.tiles[:number], expected.tiles[:number]),
        (got.ends, expected.ends),
    ):
        assert torch.equal(mine, theirs)
    assert got.tiles.shape == expected.tiles.shape


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("dtype", [BF16, torch.float32, FP8])
@pytest.mark.parametrize(
    ("m", "a", "e", "foreign", "n", "k"),
    [
        (1, 3, 8, 0, 200, 256),
        (7, 2, 4, 4, 130, 128),
        (40, 3, 3, 0, 64, 256),
        (3, 2, 2, 0, 50, 75),
        (65, 4, 4, 0, 16, 128),
    ],
)
def test_experts_gemm(m, a, e, foreign, n, k, dtype, gather):
    if dtype == FP8 and k % 128:
        k = 128
    slots = kernels.sort_slots(drawn_ids(m, a, e, foreign), e)
    x, w = torch.randn(m if gather else m * a, k), torch.randn(e, n, k)
    w_scale = None
    if dtype == FP8:
        x = reference.act_quant(x)
        pairs = [weight_quant(one) for one in w]
        w, w_scale = torch.stack([q for q, _ in pairs]), torch.stack([s for _, s in pairs])
    else:
        x, w = x.to(dtype), w.to(dtype)
    plan = experts.plan_experts_gemm(x, w, slots, w_scale, gather=gather, dtype=torch.float32)
    got, expected = filled(plan), reference.experts_gemm(x, w, slots, w_scale, gather=gather, dtype=torch.float32)
    mine = int((slots.rank >= 0).sum())
    assert (got[:mine].double() - expected[:mine].double()).abs().max() <= k * 2.0**-24 * expected.abs().max()
    rounded = filled(experts.plan_experts_gemm(x, w, slots, w_scale, gather=gather))
    assert compare(rounded[:mine], got[:mine].bfloat16()).largest == 0


@pytest.mark.parametrize("target", [h.name for h in KNOWN])
@pytest.mark.parametrize("m", [1, 40, 64, 400, 2000])
def test_every_target_has_a_tile_of_the_sorted_rows(target, m):
    slots = reference.sort_slots(drawn_ids(m, 2, 6), 6)
    for itemsize in (1, 2):
        for tile in experts.candidates(slots, named(target), itemsize):
            assert slots.rows == tile.BLOCK_M
            assert tile.shared(itemsize) <= named(target).shared


def test_mistakes_are_one_clear_line():
    slots = kernels.sort_slots(torch.zeros(2, 1, dtype=torch.int32), 3)
    x, w = torch.zeros(2, 64), torch.zeros(3, 8, 64)
    mistakes = [
        (lambda: kernels.silu_mul(torch.zeros(2, 200), True), "silu_mul: a width of 100 is not a multiple of 128"),
        (lambda: kernels.add_norm(x, x, x[0], 1e-6, fp8=True), "add_norm: a width of 64 is not a multiple of 128"),
        (lambda: fused.plan_silu_mul(torch.zeros(2, 256), True, hardware=named("sm_80")), "no units for float8_e4m3fn"),
        (lambda: kernels.route(torch.zeros(1, 2, 12), None, 7, groups=2, kept=1), "7 experts of 12 cannot be chosen"),
        (lambda: kernels.experts_gemm(x[:1], w, slots, gather=True), r"x must be \[2, k\]; it is \[1, 64\]"),
        (lambda: kernels.experts_gemm(x.bfloat16(), w, slots, gather=True), "x is torch.bfloat16 and w torch.float32"),
        (lambda: kernels.latent(x, torch.zeros(3, 8, 2), torch.zeros(2, dtype=torch.int32), torch.zeros(2, 48, 3).mT,
                                torch.ones(32), 1e-6), "its last dimension must be dense"),
    ]  # fmt: skip
    for mistake, words in mistakes:
        with pytest.raises(ValueError, match=words) as raised:
            mistake()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_head_logits(dtype):
    torch.manual_seed(0)
    y, head = torch.randn(5, 200).to(dtype), torch.randn(70, 200).to(dtype)
    got, exact = kernels.head_logits(y, head), y.double() @ head.double().T
    assert got.dtype == torch.float32
    assert (got.double() - exact).abs().max() <= 200 * 2.0**-24 * exact.abs().max()


@pytest.mark.parametrize("scale_fmt", [None, "ue8m0"])
@pytest.mark.parametrize("shape", [(1, 128), (7, 384), (2, 5, 256), (3, 0, 256)])
def test_scales_column_by_column(shape, scale_fmt):
    torch.manual_seed(0)
    x = torch.randn(shape).to(BF16)
    (q, scale), launches = quant.plan_act_quant(x, 128, scale_fmt, columns=True)
    scale.fill_(math.nan)
    run(launches)
    for theirs in (reference.act_quant(x, 128, scale_fmt), reference.act_quant(x, 128, scale_fmt, columns=True)):
        assert compare(q, theirs[0]).largest == 0
        assert torch.equal(scale, theirs[1])
    assert scale.stride() == theirs[1].stride()
    assert not scale.numel() or scale.stride(-2) == 1


def test_the_library_is_given_what_it_documents(monkeypatch):
    """torch._scaled_mm: b transposed, a's scales column by column, b's as b lies; here it stands for cuBLAS."""
    asked = []

    def block_scaled(a, b, a_scale, b_scale, out_dtype):
        asked.append((b.stride(0), a_scale.stride(0), b_scale.stride(0)))
        return reference.fp8_gemm(a, a_scale, b.t(), b_scale.t(), 128, out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", block_scaled)
    monkeypatch.setattr(library, "library", lambda device: library.Library(block_scales=True))
    b, b_scale = weight_quant(torch.randn(7120, 512))  # 56 tiles of 128 x 128, the last one ragged
    x = torch.randn(4, 32, 512)
    expected = reference.fp8_gemm(*reference.act_quant(x), b, b_scale)
    for columns in (True, False):
        assert torch.equal(kernels.fp8_gemm(*reference.act_quant(x, columns=columns), b, b_scale), expected)
    assert asked == [(1, 1, 1)] * 2
    kernels.fp8_gemm(*reference.act_quant(x[:3]), b, b_scale)  # fewer rows, as many tiles
    kernels.fp8_gemm(*reference.act_quant(x), b[:7040], b_scale[:55])  # a tile less
    kernels.fp8_gemm(*reference.act_quant(x), b[:7119], b_scale)  # columns that are no multiple of 16
    kernels.fp8_gemm(*reference.act_quant(x[..., :384]), b[:, :384].contiguous(), b_scale[:, :3].contiguous())
    kernels.fp8_gemm(*reference.act_quant(x), b, b_scale, dtype=torch.float32)
    assert len(asked) == 2
    with pytest.raises(ValueError, match=r"a_scale is \[4, 32, 1\]; it must be \[4, 32, 4\]"):
        kernels.fp8_gemm(reference.act_quant(x)[0], torch.ones(4, 32, 1), b, b_scale)
