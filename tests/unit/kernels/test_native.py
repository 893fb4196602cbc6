"""``native.c`` against torch, in all its forms; and everything without it, where there is no compiler."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3.kernels import cpu, native, reference

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
pytestmark = needs_compiler
BF16 = torch.bfloat16


def close(mine: torch.Tensor, exact: torch.Tensor, roundings: int = 1) -> bool:
    """Within ``roundings`` roundings to BF16 (2^-9 each) of the largest value."""
    return (mine.double() - exact).abs().max() <= roundings * 2**-8 * exact.abs().max()


@given(st.integers(1, 8), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_linear_is_the_product(n, rows, k, fp8, seed):
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(m, k, generator=g).to(BF16) for m in (n, rows))
    scale = None
    if fp8:
        w, scale = reference.weight_quant(w)
    whole = w.double() if scale is None else reference.weight_dequant(w, scale, dtype=torch.float64)
    assert close(native.linear(x, w, scale), x.double() @ whole.T)


@given(st.integers(1, 20), st.integers(1, 100), st.integers(1, 600), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_logits_are_float32_sums(n, rows, k, seed):
    """BF16 would be off by 2^-9 of the sum, float32 sums of exact products by 2^-24 for each that is added."""
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(m, k, generator=g).to(BF16) for m in (n, rows))
    mine, exact = native.logits(x, w), x.double() @ w.double().T
    assert mine.dtype == torch.float32
    assert (mine.shape, mine.is_contiguous()) == ((n, rows), True)
    sizes = x.double().abs() @ w.double().abs().T
    assert ((mine - exact).abs() <= k * 2**-24 * sizes).all()


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 70), st.integers(1, 140))
@settings(max_examples=20, deadline=None)
def test_linear_takes_a_matrix_for_each_head(n, heads, rows, k):
    x, w = torch.randn(n, heads, k).to(BF16), torch.randn(heads, rows, k).to(BF16)
    assert close(native.linear(x, w), torch.einsum("nhk,hrk->nhr", x.double(), w.double()))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_attention_sees_what_it_may(batch, new, heads, length, spare):
    width, rank, scale = 24, 16, 0.3
    cache = torch.randn(batch, length + new + spare, width).to(BF16)
    cache[:, length + new :] = torch.nan
    kept = cache[:, : length + new]
    q = torch.randn(batch * new, heads, width).to(BF16)
    lengths = torch.arange(length + 1, length + new + 1).repeat(batch)
    mine = native.attend(q, kept, lengths, rank, scale)
    for t in range(batch * new):
        seen = kept[t // new, : lengths[t]].double()
        weights = (q[t].double() @ seen.T * scale).softmax(-1)
        assert close(mine[t], weights @ seen[:, :rank])


@given(st.integers(1, 8), st.integers(1, 300), st.sampled_from([1e-6, 1e-3]))
@settings(max_examples=30, deadline=None)
def test_rms_norm_is_the_models(n, k, eps):
    x, weight = (torch.randn(n, k) * 3).to(BF16), torch.rand(k) + 0.5
    expected = F.rms_norm(x.double(), (k,), weight.double(), eps)
    assert close(native.rms_norm(x, weight, eps), expected)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_threads_change_nothing(n, fp8):
    x, w = torch.randn(n, 512).to(BF16), torch.randn(1024, 512).to(BF16)
    scale = None
    if fp8:
        w, scale = reference.weight_quant(w)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(native.linear(x, w, scale, torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@given(st.integers(1, 8), st.integers(1, 260), st.integers(1, 3), st.sampled_from(["", "up", "down", "up, down"]))
@settings(max_examples=40, deadline=None)
def test_experts_are_chosen_weighted_and_added(n, dim, k, fp8):
    """Whichever matrices are FP8; of expert 3 always none is."""
    count, width = 5, 128 if fp8 else 70
    here = [0, 1, 3, 4]  # expert 2 is on another rank
    ups = {i: (torch.randn(2 * width, dim) * dim**-0.5).to(BF16) for i in here}
    downs = {i: (torch.randn(dim, width) * width**-0.5).to(BF16) for i in here}
    parts = {}
    for i in here:
        stored = []
        for part, matrices in (("up", ups), ("down", downs)):
            w, scale = reference.weight_quant(matrices[i]) if part in fp8 and i != 3 else (matrices[i], None)
            if scale is not None:
                matrices[i] = reference.weight_dequant(w, scale, dtype=torch.float64)
            stored.append((w, scale))
        parts[i] = tuple(stored)
    x = torch.randn(n, dim).to(BF16)
    chosen, weights = torch.stack([torch.randperm(count)[:k] for _ in range(n)]), torch.rand(n, k)
    expected = torch.zeros(n, dim, dtype=torch.float64)
    for t in range(n):
        for i, weight in zip(chosen[t].tolist(), weights[t].tolist(), strict=True):
            if i in here:
                gate, value = (ups[i].double() @ x[t].double()).to(BF16).chunk(2)
                expected[t] += weight * (downs[i].double() @ (F.silu(gate) * value).double())
    mine = native.MLPs(parts, count)(x, chosen, weights)
    assert close(mine, expected, roundings=4)  # up, silu, its product, down


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31), st.booleans())
@settings(max_examples=40, deadline=None)
def test_weight_dequant_is_the_references_bit_for_bit(m, n, seed, with_nan):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (m, n), generator=g, dtype=torch.uint8)
    if not with_nan:
        codes[(codes & 127) == 127] = 3
    w = codes.view(torch.float8_e4m3fn)
    scale = torch.randn(-(-m // 128), -(-n // 128), generator=g).exp() * 10.0 ** (seed % 60 - 30)
    expected = reference.weight_dequant(w, scale)
    for function in (native.weight_dequant, cpu.weight_dequant):
        assert torch.equal(function(w, scale).view(torch.int16), expected.view(torch.int16))


def test_every_fp8_code_is_read_exactly():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 127) != 127].view(torch.float8_e4m3fn)
    ones = torch.ones(1, 1)
    values = [native.linear(torch.ones(1, 1, dtype=BF16), c.view(1, 1), ones).item() for c in codes]
    assert values == codes.float().tolist()


def test_nan_stays_nan_and_what_underflows_is_nothing():
    """The processor's BF16 products take what is below 2^-126 for 0; elsewhere it is 2^-133, as small to any sum."""
    ones, x = torch.ones(1, 2), torch.ones(1, 200, dtype=BF16)
    w = torch.full((40, 200), 2.0**-133, dtype=BF16)
    assert (native.linear(x, w, dtype=torch.float32).abs() <= 200 * 2.0**-133).all()
    x[0, 7] = torch.nan
    assert native.linear(x, torch.ones(40, 200, dtype=BF16)).isnan().all()
    x[0, 7] = 1
    codes = torch.full((3, 200), 0x38, dtype=torch.uint8)
    codes[1, 150] = 0x01  # 2^-9
    smallest = native.linear(x, codes.view(torch.float8_e4m3fn), ones, torch.float32)
    assert smallest.tolist() == [[200.0, 199 + 2.0**-9, 200.0]]


def loaded(home: Path) -> str | None:
    """The file that is loaded, with this cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSV3_HOME", str(home))
        found = native.library.__wrapped__()
    return found and found._name


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users by number")
def test_only_a_library_of_ones_own_is_loaded(tmp_path):
    library = Path(loaded(tmp_path))
    folder = library.parent
    assert folder.parent == tmp_path
    assert [p.stat().st_mode & 0o777 for p in (folder, library)] == [0o700, 0o700]
    assert loaded(tmp_path) == str(library)
    kept = library.rename(tmp_path / "kept.so")
    for spoil, repair in [
        (lambda: library.symlink_to(kept), library.unlink),
        (library.mkdir, library.rmdir),
        (lambda: library.write_bytes(kept.read_bytes()) and library.chmod(0o770), library.unlink),
        (lambda: os.mkfifo(library), library.unlink),
    ]:
        spoil()
        assert loaded(tmp_path) != str(library)  # but one without OpenMP, which is made then
        repair()
    for spoiled, mode in ((folder, 0o777), (tmp_path, 0o777)):
        before = spoiled.stat().st_mode
        spoiled.chmod(mode)
        assert loaded(tmp_path) is None
        spoiled.chmod(before)
    (tmp_path / library.name).write_bytes(b"not a library")  # somebody else's, beside
    assert loaded(tmp_path) == str(library)
    folder.symlink_to(folder.rename(tmp_path / "other"))
    assert loaded(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_another_users_library_is_not_loaded(tmp_path):
    library = Path(loaded(tmp_path))
    os.chown(library, 12345, -1)
    assert loaded(tmp_path) != str(library)
    os.chown(library.parent, 12345, -1)
    assert loaded(tmp_path) is None
