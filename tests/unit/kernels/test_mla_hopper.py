"""Attention for Hopper where there is none: when it is chosen, what is launched, its first use, and its refusals."""

import math

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from dsv3.compile import hopper, machine_code
from dsv3.compile import meta as blank
from dsv3.config import ModelConfig
from dsv3.kernels import hardware, mla, mla_hopper, reference
from dsv3.kernels import triton as kernels
from dsv3.kernels.inspect import source

CONFIG = ModelConfig.load("config_671B.json")
CPU = torch.device("cpu")


def caches(b=2, t=4096, width=576, before=0, rows=None, dtype=torch.bfloat16):
    """Views of [b, rows, width] as the model's caches are: latents and rotated keys side by side."""
    kept = blank(b, rows or t, width, dtype=dtype)[:, :t, before : before + 576]
    return kept.split([512, 64], dim=-1)


def queries(m=2, h=128, dtype=torch.bfloat16):
    return blank(m, h, 512, dtype=dtype), blank(m, h, 64, dtype=dtype)


def test_one_machine_code_serves_all_shapes():
    """Whether a number is 1 or divides by 16 changes nothing, so no shape meets a kernel that was never run."""
    signatures = set()
    for rows, context, heads in ((1, 4096, 128), (32, 16384, 128), (300, 130, 64), (7, 4097, 1)):
        cfg = ModelConfig(**{**vars(CONFIG), "n_heads": heads})
        first, _ = hopper(cfg, hardware.H100, rows, context)
        made = source(first)
        signatures.add((str(made.signature), str(made.constants), str(made.attrs)))
    assert len(signatures) == 1


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_other_architectures_are_refused_in_one_line(target):
    with pytest.raises(ValueError, match=rf"^mla_hopper is for sm_90 alone; on {target} attention is mla_decode$"):
        machine_code("mla_hopper", target)


def test_where_it_is_the_faster_one():
    assert mla_hopper.suits(*queries(), *caches())
    assert mla_hopper.suits(*queries(h=64), *caches())
    assert mla_hopper.suits(*queries(m=6), *caches(rows=5000)), "a part of a longer cache"
    assert mla_hopper.suits(*queries(), *caches(width=640, before=32))
    assert mla_hopper.suits(*queries(), blank(2, 4096, 512), blank(2, 4096, 64)), "two caches of their own"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((*queries(h=63), *caches()), "heads"),
        ((*queries(m=0), *caches()), "no token"),
        ((*queries(), *caches(t=2047)), "short caches"),
        ((*queries(dtype=torch.float16), *caches(dtype=torch.float16)), "another dtype"),
        ((*queries(), *caches(width=580)), "rows of 1,160 bytes, no multiple of 16"),
        ((*queries(), *caches(width=640, before=4)), "rows that begin at 8 bytes"),
        ((*queries(), blank(2, 4096, 512), blank(2, 4100, 64)[:, :4096]), "the caches' sequences lie differently"),
        ((*queries(), blank(4096, 2, 512).mT.mT.transpose(0, 1), blank(4096, 2, 64).transpose(0, 1)), "turned"),
        ((*queries(), blank(2, 4096, 256), blank(2, 4096, 64)), "another rank"),
        ((*queries(), blank(2, 512, 4096).mT, blank(2, 4096, 64)), "columns lie side by side"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_where_it_is_not(given, why):
    assert not mla_hopper.suits(*given), why


def test_on_a_cpu_it_is_never_chosen():
    assert mla_hopper.lacking(CPU) == "cpu is not Hopper (sm_90)"
    assert not mla_hopper.works(CPU)
    assert not mla_hopper.chosen(*queries(), *caches(), blank(2, dtype=torch.int32))
    assert kernels.mla_parts is mla_hopper.mla_parts
    assert kernels.mla_decode is mla_hopper.mla_decode


@pytest.mark.parametrize(("m", "t", "splits"), [(1, 4096, 32), (1, 16384, 64), (32, 4096, 2), (66, 4096, 1)])
def test_the_parts_depend_on_shapes_alone(m, t, splits):
    given = *queries(m), *caches(m, t), blank(m, dtype=torch.int32)
    (part, lse), (launch,) = mla_hopper.plan_mla_parts(*given, 1.0)
    assert launch.grid == (splits, 2, m)
    assert (part.shape, lse.shape) == ((m, 128, splits, 512), (m, 128, splits))
    assert launch.options["maxnreg"] == 168
    assert "maxnreg" not in mla.plan_mla_parts(*given, 1.0)[1][0].options


def test_what_is_copied_from_a_view():
    """3 sequences of 100 tokens in a cache with room for 4 of 137, in rows of 640 numbers, from the 33rd on."""
    whole = torch.zeros(4, 137, 640, dtype=torch.bfloat16)
    c, k_pe = whole[:3, :100, 32:608].split([512, 64], dim=-1)
    given = *queries(6, 100), c, k_pe, blank(6, dtype=torch.int32)
    args = mla_hopper.plan_mla_parts(*given, 1.0, hardware.H100)[1][0].args
    assert (args["per"], args["rows"], args["H"], args["T"]) == (2, 137, 100, 100)
    for name, first, width in (("c_desc", 32, 512), ("k_pe_desc", 544, 64)):
        read = args[name]
        assert read.base.data_ptr() == whole.data_ptr() + 2 * first
        # Rows up to the last sequence's last token; TMA gives zeros for those behind.
        assert (read.shape, read.strides, read.block_shape) == ([2 * 137 + 100, width], [640, 1], [64, width])
    assert args["q_c_desc"].shape == [600, 512]


def test_what_it_cannot_compute_is_refused_in_one_line():
    for given in ((*queries(), *caches(width=580)), (*queries(dtype=torch.float16), *caches(dtype=torch.float16))):
        with pytest.raises(ValueError, match=r"it takes torch\.bfloat16, the widths \(512, 64\) and rows at") as raised:
            mla_hopper.plan_mla_parts(*given, blank(2, dtype=torch.int32), 1.0)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"mla_decode: lengths is \[3\]"):
        mla_hopper.mla_parts(*queries(), *caches(), blank(3, dtype=torch.int32), 1.0)


@pytest.fixture
def _on_hopper(monkeypatch):
    """As if the card and the Triton were those that it has been run on."""
    monkeypatch.setattr(mla_hopper, "lacking", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    mla_hopper.works.cache_clear()
    yield
    mla_hopper.works.cache_clear()


def pretend(monkeypatch, result):
    """The kernel's launches give ``result``."""
    monkeypatch.setattr(mla_hopper, "run", lambda launches: launches[-1].args["out_ptr"].copy_(result))


@pytest.mark.usefixtures("_on_hopper")
def test_a_kernel_that_does_not_run_is_not_used_and_said_once(recwarn):
    assert [mla_hopper.works(CPU) for _ in range(2)] == [False, False]
    (said,) = recwarn
    assert "attention for Hopper is not used on cpu, but mla.py's: mla_hopper_kernel: its tensors are on" in str(
        said.message
    )


@pytest.mark.usefixtures("_on_hopper")
def test_a_result_decides(monkeypatch):
    right = reference.mla_decode(*mla_hopper.example(), 0.04)
    pretend(monkeypatch, right)
    assert mla_hopper.works(CPU)
    for at, off in (((0, 0, 300), 0.03), ((3, 99, 511), math.nan), ((2, 5, 5), 0.03)):
        wrong = right.clone()
        wrong[at] += off
        pretend(monkeypatch, wrong)
        mla_hopper.works.cache_clear()
        with pytest.warns(UserWarning, match=r"its result on a small example is off by (0\.03|nan)"):
            assert not mla_hopper.works(CPU)


@pytest.mark.usefixtures("_on_hopper")
def test_nothing_is_tried_while_a_graph_is_captured(monkeypatch):
    pretend(monkeypatch, reference.mla_decode(*mla_hopper.example(), 0.04))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.warns(UserWarning, match="a CUDA graph was being captured at its first use"):
        assert not mla_hopper.works(CPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert not mla_hopper.works(CPU), "the same call gives the same bits, so what was decided stays"


@pytest.mark.parametrize(
    ("version", "name", "why"),
    [
        ("3.6.0", "sm_90", None),
        ("3.6.1+git", "sm_90", None),
        ("3.7.1", "sm_90", "Triton 3.7.1: it has been run with 3.6 only"),
        ("3.6.0", "sm_100", "sm_100 is not Hopper (sm_90)"),
        ("3.6.0", "gfx942", "gfx942 is not Hopper (sm_90)"),
    ],
)
def test_why_it_is_not_tried(version, name, why, monkeypatch):
    monkeypatch.setattr("triton.__version__", version)
    monkeypatch.setattr(mla_hopper, "hardware_of", lambda device: hardware.named(name))
    assert mla_hopper.lacking(torch.device("cuda", 0)) == why
