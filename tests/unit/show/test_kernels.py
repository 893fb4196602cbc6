"""Lesson 08: its numbers against the kernels' own tensors, its checks, and all of it where Triton is missing."""

import json
from pathlib import Path

import pytest
import torch

from dsv3.config import ModelConfig
from dsv3.lab import kernels
from dsv3.show import kernels as show
from dsv3.show.style import png
from dsv3.sizing import roofline
from dsv3.sizing.gpus import find_gpu

ROOT = Path(__file__).parents[3]
R1 = ModelConfig.load("config_671B.json")
H100, H20, A100 = (find_gpu(name) for name in ("H100", "H20-96G", "A100-80G"))


def test_a_products_bytes_are_those_of_its_tensors():
    pytest.importorskip("triton", reason="Triton is not installed (Linux only)")
    from dsv3.compile import launches, linear_shapes
    from dsv3.kernels.hardware import named

    n, k = linear_shapes(R1)["attn.wq_a"]
    (launch,) = launches("fp8_gemm", R1, named("sm_90"), rows=4096)
    tensors = [x for x in launch.args.values() if isinstance(x, torch.Tensor)]
    assert roofline.gemm(4096, n, k).nbytes == sum(x.nbytes for x in tensors)


def test_the_roofline_changes_sides_at_the_ridge():
    assert H100.ridge(True) == pytest.approx(1979e12 / 3350e9)
    assert A100.ridge(True) == A100.ridge(False)  # it has no FP8 units
    for m in (1, 64, 300, 400, 4096):
        work = roofline.gemm(m, 7168, 16384)
        by_memory = work.nbytes / (H100.bandwidth_gb_s * 1e9)
        assert (roofline.seconds(work, H100) > by_memory) == (work.intensity > H100.ridge(True))
    assert roofline.gemm(1, 7168, 16384).intensity == pytest.approx(2, rel=0.01)


def test_heads_share_the_latent_and_batches_do_not():
    whole, cut = roofline.latent_attention(R1, 128, 4096), roofline.latent_attention(R1, 16, 4096)
    assert whole.intensity == pytest.approx(128 * 1088 / 576, rel=0.06)
    assert whole.flops == 8 * cut.flops
    assert roofline.latent_attention(R1, 64, 4096, queries=2).flops == whole.flops
    assert roofline.usual_attention(R1, 128, 4096).intensity == pytest.approx(1, rel=0.01)


def test_figures_draw_what_they_are_given():
    works = [roofline.gemm(m, 7168, 16384) for m in (1, 64)]
    (ax,) = show.roofline_figure([H100, A100], works, [(2.0, 5.0)]).axes
    labels = [line.get_label() for line in ax.lines]
    assert [label for label in labels if "ridge" in label] == [
        "H100-80G, FP8: ridge 591", "H100-80G, BF16: ridge 295", "A100-80G, BF16: ridge 153",
    ]  # fmt: skip
    assert ax.lines[labels.index("measured")].get_xdata().tolist() == [2.0]
    (ax,) = show.intensity_figure({"product": works}, [1, 64], [H20], "M").axes
    assert ax.lines[0].get_ydata().tolist() == [work.intensity for work in works]
    (ax,) = show.error_figure({"a": 0.01, "b": 100.0}, "title").axes
    assert [text.get_text() for text in ax.texts] == ["1 %", "100 times"]
    assert png(show.accumulation_figure([128, 256], {"x": [0.1, 0.2]}))[:4] == b"\x89PNG"
    assert show.rounding_figure([1, 2], {"a": [1, 1], "b": [2, 2]}).axes[0].lines[1].get_ydata().tolist() == [2, 2]


def test_a_recorded_run_is_read_and_its_absence_is_no_error(tmp_path):
    from benchmarks.gpu import row, write
    from benchmarks.gpu_cases import Case

    assert kernels.recorded(tmp_path) == []
    assert kernels.step_table(tmp_path) == kernels.kernel_table(tmp_path, "mla_decode") == ""
    assert kernels.prefill_table(tmp_path) == ""
    (tmp_path / "other.json").write_text(json.dumps({"summary": []}))
    assert kernels.recorded(tmp_path) == []
    case = Case("fp8_gemm, M <= 64", "fp8_gemm", "wo 1 x 2 x 3", 4_000_000, 8_000_000, {}, lambda device: None)
    timed = row(case, {"ours": 2e-6}, 3e12)
    write({"device": "A test", "rows": [timed, {"group": "act_quant", "not_measured": "out of time"}]}, tmp_path)
    (document,) = kernels.recorded(tmp_path)
    assert kernels.measured(document) == [("fp8_gemm, M <= 64 wo 1 x 2 x 3", pytest.approx(2.0), 4.0)]


def test_what_was_recorded_is_told_in_tables():
    folder = ROOT / "notebooks" / "recorded"
    (heading, short, long) = kernels.kernel_table(folder, "mla_decode").splitlines()
    assert heading == "NVIDIA H100 80GB HBM3, torch 2.11.0+cu130, 2026-11-26:"
    assert short.split() == ["32", "x", "4096,", "128", "heads", "141.2", "us", "1,069", "GB/s", "258.5", "TFLOPS"]
    assert "512.8 us" in long
    models, batches, *steps = kernels.step_table(folder).splitlines()
    assert models.split() == ["V3x5", "V2-Lite", "tiny-r1"]
    assert batches.split() == ["batch", "1", "8", "32", "1", "8", "32", "1"]
    assert [models.index(name) + len(name) for name in models.split()] == [37, 64, 91], "over their first batch"
    assert max(map(len, steps)) == 91
    assert [line[:28].rstrip() for line in steps] == [
        "dsv3, 2026-11-26",
        "model.py, 2026-11-26",
        "dsv3 before the experiments",
        "DeepSeek's demo",
        "transformers",
        *list(kernels.RUN_STEPS.values())[3:],
    ]
    numbers = [line[28:].split() for line in steps]
    assert numbers[0] == ["2.16", "5.06", "11.33", "2.94", "7.38", "11.83", "0.36"]
    assert numbers[1] == ["75.95", *"------"]
    assert numbers[2] == ["13.75", "14.74", "15.31", "41.76", "41.78", "40.44", "-"]
    assert numbers[4] == ["-", "-", "-", "49.91", "49.81", "87.93", "-"]
    assert numbers[-1] == ["2.13", "4.93", "10.72", "2.97", "7.28", "11.80", "-"]
    heading, *lines = kernels.prefill_table(folder).splitlines()
    assert heading.split("  ")[-1].strip() == "dsv3, 2026-11-26"
    assert [line[:15].split() for line in lines[::3]] == [["V3x5", "512"], ["V2-Lite", "512"]]
    assert lines[1].split()[3:] == ["106.8", "(19,178)", "32.5", "(63,066)", "33.8", "(60,628)"]
    assert [len(line) for line in lines] == [len(heading)] * 6
    assert [line.split()[-1] for line in lines] == ["-", "(60,628)", "-", "-", "(34,304)", "-"]


def test_a_new_runs_models_join_the_tables(tmp_path):
    from benchmarks.gpu import write

    row = {"group": "decode, V3x5", "shape": "batch 8", "ms": 4.5, "ms_of": {"model.py": 90.0}}
    late = {"group": "decode, V3x5", "shape": "batch 32", "not_measured": "out of time"}
    prompt = {"group": "prefill, V3x5", "shape": "1024 tokens", "ms": 16.0, "ms_of": {}}
    write({"device": "A test", "date": "2027-01-01", "rows": [row, late, prompt]}, tmp_path)
    model, batch, ours, plain = kernels.step_table(tmp_path).splitlines()
    assert (model.split(), batch.split()) == (["V3x5"], ["batch", "8"])
    assert ours.split() == ["dsv3,", "2027-01-01", "4.50"]
    assert plain.split() == ["model.py,", "2027-01-01", "90.00"]
    heading, line = kernels.prefill_table(tmp_path).splitlines()
    assert heading.split() == ["dsv3,", "2027-01-01"]
    assert line.split() == ["V3x5", "1,024", "tokens", "16.0", "(64,000)"]
