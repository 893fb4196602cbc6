"""The parts of the GPU benchmark that need no GPU: bytes, shapes, verdicts, the files."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from benchmarks import gpu, gpu_cases
from dsv3.config import ModelConfig
from dsv3.kernels.hardware import H100, named

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig.load("config_671B.json")


def test_every_goal_of_the_table():
    assert gpu.goals(CONFIG) == [
        ("act_quant", "copy", 0.85),
        ("weight_dequant", "copy", 0.85),
        ("mla_decode", "copy", 0.70),
        ("mla_decode", "reference", 5.0),
        ("grouped experts", "loop", 5.0),
        ("fp8_gemm, M >= 512", "scaled_mm", 0.9),
        ("fp8_gemm, M >= 512", "bf16", 1.4),
        ("fp8_gemm, M <= 64", "copy", 0.75),
    ]


def test_bytes_and_operations_by_hand():
    found = {(c.group, c.shape): c for c in gpu_cases.cases(CONFIG, H100)}
    assert found["act_quant", "4096 x 7168"].nbytes == 4096 * 7168 * (2 + 1) + 4096 * 56 * 4
    assert found["weight_dequant", "attn.wkv_a 576 x 7168"].nbytes == 576 * 7168 * (1 + 2) + 5 * 56 * 4
    cache = found["mla_decode", "32 x 4096, 128 heads"]
    assert cache.nbytes == 32 * 4096 * 1152, "the latent and the rotated key of a token: (512 + 64) x 2"
    assert cache.flops == 32 * 4096 * 128 * 2 * (512 + 64 + 512)
    few = found["fp8_gemm, M <= 64", "attn.wo 16 x 7168 x 16384"]
    assert (few.nbytes, few.flops) == (7168 * 16384, 2 * 16 * 7168 * 16384)
    # An even router leaves 256 x (1 - 8/256)^32 = 92.7 experts without a token of 32.
    batch = found["grouped experts", "fp8, 8 of 256 experts, batch 32"]
    assert batch.nbytes == 163 * 2048 * 7168
    assert len([c for c in found.values() if c.group.startswith("fp8_gemm")]) == 5 * 9


def test_hardware_without_fp8_measures_what_it_can():
    groups = {c.group for c in gpu_cases.cases(CONFIG, named("sm_80"))}
    assert groups == {"weight_dequant", "mla_decode", "grouped experts"}


@pytest.mark.parametrize(
    ("nbytes", "cache", "memory", "expected"),
    [(1 << 30, 50 << 20, 80 << 30, 2), (4 << 20, 50 << 20, 80 << 30, 27), (8 << 30, 50 << 20, 80 << 30, 1),
     (10, 50 << 20, 80 << 30, 64)],
)  # fmt: skip
def test_inputs_rotate_past_the_cache(nbytes, cache, memory, expected):
    assert gpu.rotations(nbytes, cache, memory) == expected


def test_a_row_and_its_verdict():
    (case,) = [c for c in gpu_cases.cases(CONFIG, H100) if c.shape == "attn.wo 512 x 7168 x 16384"]
    times = {"ours": 1e-3, "bf16": 1.5e-3, "scaled_mm": 0.8e-3}
    made = gpu.row(case, times, copy=3e12)
    assert (made["us"], made["tflops"]) == (1000.0, round(case.flops / 1e9, 1))
    assert made["ratios"] == {"copy": round(case.nbytes / 3e9, 3), "bf16": 1.5, "scaled_mm": 0.8}
    other = made | {"ratios": {"bf16": 1.2}}
    late = {"group": made["group"], "shape": "x", "not_measured": "out of time"}
    bf16, scaled, none = gpu.summary(
        [made, other, late],
        [(case.group, "bf16", 1.4), (case.group, "scaled_mm", 0.9), ("mla_decode", "copy", 0.7)],
    )
    assert (bf16["reached"], bf16["shapes"], bf16["worst"], bf16["result"]) == (1, 2, 1.2, 1.35)
    assert (scaled["reached"], scaled["shapes"]) == (0, 1)
    assert none["result"] == "not measured"
    text = gpu.table([bf16, scaled, none])
    assert "1.35    1.20  1 of 2" in text
    assert "not measured" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= 100


def test_files_are_whole_and_named_by_the_device(tmp_path):
    document = {"device": "NVIDIA H100 80GB HBM3", "rows": []}
    files = gpu.write(document, tmp_path / "results", tmp_path / "recorded")
    assert [f.name for f in files] == ["nvidia-h100-80gb-hbm3.json"] * 2
    assert [json.loads(f.read_text()) for f in files] == [document] * 2
    assert not list(tmp_path.rglob("*.part"))


def test_committed_results_are_measured_or_say_that_they_are_not():
    results = ROOT / "benchmarks" / "results"
    measured = [f for f in results.glob("*.json") if '"copy_gb_per_s"' in f.read_text()]
    placeholder = results / gpu.PLACEHOLDER
    assert bool(measured) != placeholder.exists()
    if not measured:
        document = json.loads(placeholder.read_text())
        assert document["summary"] == gpu.summary([], gpu.goals(CONFIG))
        assert all(line["result"] == "not measured" for line in document["summary"])
        assert not re.search(r"gb_per_s|tflops|\"us\"", placeholder.read_text())
