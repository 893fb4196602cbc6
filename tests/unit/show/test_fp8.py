"""What lesson 03 counts and shows of FP8: codes by torch and the formula, errors and their bounds, the widget moved."""

import math

import pytest
import torch

from dsv3.kernels.reference import act_quant, weight_quant
from dsv3.lab import fp8
from dsv3.llm import load
from dsv3.show import fp8 as show


def test_a_byte_means_what_the_formula_says():
    every = fp8.codes().tolist()
    for code in range(256):
        sign, e, m = 1 - 2 * (code >> 7), code >> 3 & 15, code & 7
        value = math.nan if code & 127 == 127 else sign * (m / 8 * 2**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
        assert every[code] == pytest.approx(value, abs=0, rel=0, nan_ok=True)
    assert [fp8.finite(form)[-1] for form in fp8.FORMATS] == [448, 57344, 127]


def test_a_number_is_stored_as_its_nearest():
    assert fp8.store(0.3)[:4] == (0x2A, "0 0101 010", 0.3125, 0.3125)
    assert fp8.store(-0.3, form="E5M2").bits == "1 01101 01"
    assert fp8.store(1000).value == 448
    assert fp8.store(1000, 4.0).back == 1024
    assert fp8.store(-300, 2, "INT8")[:3] == (129, "1 0000001", -127)
    assert math.isnan(fp8.store(0).error)
    # Halfway between 1 (even code) and 1.125, and between 1.125 and 1.25 (even code).
    assert [fp8.store(x).value for x in (1.0625, 1.1875)] == [1.0, 1.25]


def test_matrices_lose_what_the_format_says():
    torch.manual_seed(0)
    w = torch.randn(200, 300)
    assert 0.02 < fp8.error(fp8.through_fp8(w), w) < 1 / 17
    assert fp8.error(fp8.through_fp8(w / 1024) * 1024, w) == fp8.error(fp8.through_fp8(w), w)
    step = w.abs().max() / 127
    assert torch.allclose(fp8.through_int8(w, 512), (w / step).round() * step, atol=1e-6)
    w[0, 0] = 1e6
    others = torch.ones_like(w, dtype=torch.bool)
    others[0, 0] = False
    assert fp8.error(fp8.through_int8(w, 512), w, others) == 1.0
    assert fp8.error(fp8.through_int8(w), w, others) < 0.6  # one block of six is lost


def test_each_linear_layers_input_is_kept_as_it_is_given():
    model = load("tiny-r1", model="plain", dtype=torch.float32).model
    tokens = [0, 5, 6, 7]
    found = fp8.linear_inputs(model, tokens)
    with torch.inference_mode():
        embedded = model.layers[0].attn_norm(model.embed(torch.tensor([tokens])))[0]
    assert torch.equal(found["layers.0.attn.wq_a"], embedded.float())
    assert found["layers.0.ffn.w2"].shape == (4, model.cfg.inter_dim)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_figures_plot_what_they_are_given():
    first, second, third = show.number_line([value for value in fp8.finite() if value >= 0]).axes
    assert [sum(len(c.get_segments()) for c in ax.collections) for ax in (first, second, third)] == [127, 65, 17]
    x = torch.logspace(-12, math.log2(448), 6000, base=2)
    errors = {"E4M3": fp8.worst_error(x), "INT8": fp8.worst_error(x, 448 / 127, "INT8")}
    (ax,) = show.precision(x, errors).axes
    e4m3, int8 = (line.get_ydata() for line in ax.lines[:2])
    assert max(e4m3[2500:]) < 100 / 17 + 0.01
    assert int8[-1] < 1 < e4m3[-1]
    x = torch.zeros(3, 256)
    x[1, 130] = 4.0
    x[2, 5] = 1.0
    image = show.group_scales(x).axes[0].images[0].get_array()
    assert image.shape == (2, 3)
    assert (image[1, 1], image[0, 2]) == (0, -2)
    assert act_quant(x)[1][1, 1] == 4.0 / 448
    (ax,) = show.scores({"a": 100.0, "b": 3.0}, control="b").axes
    assert [bar.get_width() for bar in ax.patches] == [100, 3]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    (ax,) = show.shrinking([1, 2], [100, 5], [1], [99], 100).axes
    assert [list(line.get_ydata()) for line in ax.lines[1:]] == [[99], [100, 5]]
    (ax,) = show.lines([1, 10], {"x, one scale": [0.5, 1.0], "x, per block": [0.1, 0.2]}, "k", "%").axes
    assert [line.get_linestyle() for line in ax.lines] == ["--", "-"]


def test_the_widget_answers_every_choice():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")
    box = show.explorer(fp8.store, {form: fp8.finite(form) for form in fp8.FORMATS})
    number, scale, form = box.children[0].children
    answer, picture = box.children[1:]
    assert "0x2a  0 0101 010   means 0.3125" in answer.value
    assert "4.17%" in answer.value
    before = bytes(picture.value)
    number.value = 1000
    assert "clamped: the largest is 448" in answer.value
    assert bytes(picture.value) != before
    scale.value = 4
    assert "clamped" not in answer.value
    form.value = "INT8"
    assert "clamped: the largest is 127" in answer.value
    number.value = 0
    assert "nan" in answer.value


def test_a_ragged_block_keeps_its_own_scale():
    w = torch.zeros(192, 128)
    w[:128], w[128:] = 1.0, 1e-3
    assert weight_quant(w)[1].shape == (2, 1)
    assert torch.allclose(fp8.through_fp8(w), w, rtol=1e-6)
