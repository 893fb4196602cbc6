"""The parts of the GPU benchmark that need no GPU: bytes, shapes, verdicts, the files."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from benchmarks import gpu, gpu_cases, gpu_checks, gpu_step_cases, gpu_steps, gpu_warm
from dsv3 import cost
from dsv3.config import ModelConfig
from dsv3.kernels import mla, mla_hopper
from dsv3.kernels.hardware import H100, named
from dsv3.model import Transformer
from dsv3.runtime import Runtime

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig.load("config_671B.json")


def test_every_goal_of_the_table():
    assert gpu.goals(CONFIG) == [
        ("add_norm", "reference", 3.0),
        ("silu_mul", "reference", 3.0),
        ("head_logits", "copy", 1.1),
        ("experts_gemm", "copy", 1.1),
        ("act_quant", "copy", 0.85),
        ("weight_dequant", "copy", 0.85),
        ("mla_decode", "copy", 0.70),
        ("mla_decode", "reference", 5.0),
        ("mla_decode", "copy", 0.8),
        ("fp8_gemm, M >= 512", "scaled_mm", 0.98),
        ("fp8_gemm, M >= 512", "bf16", 1.4),
        ("fp8_gemm, M <= 64", "copy", 0.75),
        ("decode, V3x5", "ms to reach", 1.0),
        ("prefill, V3x5", "ms to reach", 1.0),
        ("decode, V2-Lite", "ms to reach", 1.0),
        ("prefill, V2-Lite", "ms to reach", 1.0),
        ("decode, tiny-r1", "ms to reach", 1.0),
        ("tiny-r1's score", "CPU's score", 0.999),
    ]
    reach = {name: (m.decode_ms, m.prefill_ms) for name, m in gpu_steps.MODELS.items()}
    assert reach["V3x5"] == ({1: 2.1, 8: 4.9, 32: 10.7}, {2048: 32.0})
    assert reach["V2-Lite"] == ({1: 3.0, 8: 7.3, 32: 11.8}, {2048: 20.0})
    assert reach["tiny-r1"] == ({1: 0.5}, {}), "2,000 tokens/s"


def test_bytes_and_operations_by_hand():
    found = {(c.group, c.shape): c for c in gpu_step_cases.cases(CONFIG, H100)}
    assert found["act_quant", "4096 x 7168"].nbytes == 4096 * 7168 * (2 + 1) + 4096 * 56 * 4
    assert found["weight_dequant", "attn.wkv_a 576 x 7168"].nbytes == 576 * 7168 * (1 + 2) + 5 * 56 * 4
    cache = found["mla_decode", "32 x 4096, 128 heads"]
    assert cache.nbytes == 32 * 4096 * 1152, "the latent and the rotated key of a token: (512 + 64) x 2"
    assert cache.flops == 32 * 4096 * 128 * 2 * (512 + 64 + 512)
    few = found["fp8_gemm, M <= 64", "attn.wo 16 x 7168 x 16384"]
    assert (few.nbytes, few.flops) == (7168 * 16384, 2 * 16 * 7168 * 16384)
    assert len([c for c in found.values() if c.group.startswith("fp8_gemm")]) == 5 * 9
    # An even router leaves 256 x (1 - 8/256)^32 = 92.7 experts without a token of 32.
    step = found["experts_gemm", "fp8, 9 of 257 experts, batch 32"]
    assert step.nbytes == (163 + 1) * 4096 * 7168, "the shared expert is one more"
    assert found["add_norm", "1 x 7168, 9 slots"].nbytes == 7168 * (2 + 9 * 2 + 2 + 2 + 1)
    assert found["head_logits", "1 x 129280 x 7168"].nbytes == 129280 * 7168 * 2
    assert found["gate_logits", "32 x 256 x 7168"].flops == 2 * 32 * 256 * 7168


def test_hardware_without_fp8_measures_what_it_can():
    groups = {c.group for c in gpu_step_cases.cases(CONFIG, named("sm_80"))}
    step = {"add_norm", "silu_mul", "latent", "absorb", "unfold", "gate_logits", "route", "sort_slots", "experts_gemm"}
    step.add("head_logits")
    assert groups == {"weight_dequant", "mla_decode"} | step


@pytest.mark.parametrize(
    ("nbytes", "cache", "memory", "expected"),
    [(1 << 30, 50 << 20, 80 << 30, 2), (4 << 20, 50 << 20, 80 << 30, 27), (8 << 30, 50 << 20, 80 << 30, 1),
     (10, 50 << 20, 80 << 30, 64)],
)  # fmt: skip
def test_inputs_rotate_past_the_cache(nbytes, cache, memory, expected):
    assert gpu.rotations(nbytes, cache, memory) == expected


def test_attention_is_timed_beside_the_kernel_for_every_gpu_once_what_is_chosen_was_right():
    found = [c for c in gpu_step_cases.cases(CONFIG, H100) if c.group == "mla_decode"]
    assert [(c.check, c.goals["copy"]) for c in found] == [("chosen_mla_decode", 0.7), ("chosen_mla_decode", 0.8)]
    work = gpu_cases.mla_decode(CONFIG, 1, 2, 0.7, H100).make(torch.device("cpu"))
    assert list(work.calls) == ["ours", "triton", "reference"]
    assert work.calls["triton"].func is mla.mla_decode


def test_a_row_and_its_verdict():
    (case,) = [c for c in gpu_step_cases.cases(CONFIG, H100) if c.shape == "attn.wo 512 x 7168 x 16384"]
    times = {"ours": 1e-3, "bf16": 1.5e-3, "scaled_mm": 0.8e-3}
    made = gpu.row(case, times, copy=3e12)
    assert (made["us"], made["tflops"]) == (1000.0, round(case.flops / 1e9, 1))
    assert made["ratios"] == {"copy": round(case.nbytes / 3e9, 3), "bf16": 1.5, "scaled_mm": 0.8}
    other = made | {"ratios": {"bf16": 1.2}}
    late = {"group": made["group"], "shape": "x", "not_measured": "out of time"}
    bf16, scaled, none = gpu.summary(
        [made, other, late],
        [(case.group, "bf16", 1.4), (case.group, "scaled_mm", 0.98), ("mla_decode", "copy", 0.7)],
    )
    assert (bf16["reached"], bf16["shapes"], bf16["worst"], bf16["result"]) == (1, 2, 1.2, 1.35)
    assert (scaled["reached"], scaled["shapes"]) == (0, 1)
    assert none["result"] == "not measured"
    text = gpu.table([bf16, scaled, none])
    assert "1.35    1.20  1 of 2" in text
    assert "not measured" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= 100


def test_a_rival_that_fails_does_not_lose_our_time(monkeypatch):
    def fails() -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    def case(**calls: object) -> gpu_cases.Case:
        work = gpu_cases.Work(calls, {"scaled_mm": "not in this torch"})
        return gpu_cases.Case("g", "check", "s", 1 << 20, 0, {}, lambda device: work)

    monkeypatch.setattr(gpu, "timed", lambda calls, graph=True: calls[0]() or 1e-6)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1 << 20))
    made = gpu.measure(case(ours=lambda: None, reference=fails, bf16=lambda: None), torch.device("cpu"), 1e12)
    assert (made["us"], made["ratios"]) == (1.0, {"copy": 1.049, "bf16": 1.0})
    said = "RuntimeError: operation not permitted when stream is capturing"
    assert made["missing"] == {"scaled_mm": "not in this torch", "reference": said}
    with pytest.raises(RuntimeError, match="not permitted"):
        gpu.measure(case(ours=fails), torch.device("cpu"), 1e12)


def test_files_are_whole_and_named_by_the_device(tmp_path):
    document = {"device": "NVIDIA H100 80GB HBM3", "rows": []}
    files = gpu.write(document, tmp_path / "results", tmp_path / "recorded")
    assert [f.name for f in files] == ["nvidia-h100-80gb-hbm3.json"] * 2
    assert [json.loads(f.read_text()) for f in files] == [document] * 2
    assert not list(tmp_path.rglob("*.part"))


def test_the_lessons_copies_of_receipts_are_the_receipts():
    results, recorded = ROOT / "benchmarks" / "results", ROOT / "notebooks" / "recorded"
    receipts = {f.name: f for f in results.rglob("*") if f.is_file()}
    copies = list(recorded.iterdir())
    assert {"nvidia-h100-80gb-hbm3.json", "step.jsonl", "e2e-eager.jsonl"} <= {f.name for f in copies}
    for copy in copies:
        assert copy.read_bytes() == receipts[copy.name].read_bytes()


def test_every_result_is_described_and_names_no_place():
    results = ROOT / "benchmarks" / "results"
    described = (results / "README.md").read_text(encoding="utf-8")
    for file in results.rglob("*"):
        if file.is_file():
            assert f"`{file.name}`" in described or file.name == "README.md"
            assert not re.search(r"/(home|root|work|mnt|data|Users)/|@\w+\.|\b\d+\.\d+\.\d+\.\d+:\d", file.read_text())


SMALL = {"n_layers": 2, "n_dense_layers": 1, "n_routed_experts": 8, "n_activated_experts": 2, "dim": 128}
SMALL |= {"inter_dim": 128, "moe_inter_dim": 128, "n_heads": 2, "vocab_size": 512}


@pytest.mark.parametrize("config", ["config_16B.json", "config_671B.json"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_contender_times_every_batch_and_prompt(config, fast, monkeypatch):
    monkeypatch.setattr(gpu_steps, "NEW", 3)
    groups = {"n_expert_groups": 2, "n_limited_groups": 2} if "671" in config else {}
    wanted = gpu_steps.Model(config, {1: 3.0, 3: 4.0}, {40: 20.0}, SMALL | groups)
    rows = list(gpu_steps.ours(wanted, fast, torch.device("cpu")))
    assert [(r["work"], r["size"]) for r in rows] == [("decode", 1), ("decode", 3), ("prefill", 40)]
    assert all(0 < r["ms"] < 5000 for r in rows)


@pytest.mark.parametrize("config", ["config_16B.json", "config_671B.json"])
def test_random_weights_are_as_a_checkpoints(config):
    """Finite, no matrix empty, and BF16 numbers where they are kept in float32."""
    cfg = gpu_steps.Model(config, {1: 3.0}, {}, SMALL | {"n_expert_groups": 2, "n_limited_groups": 2}).cfg
    model = Transformer(cfg, Runtime(gemm="fp8" if cfg.fp8 else "bf16"))
    for p in model.parameters():
        p.data.view(torch.uint8).fill_(0xFF)  # NaN
    gpu_steps.fill(model)
    kinds = set()
    for name, p in model.named_parameters():
        kinds.add(p.dtype)
        assert p.float().isfinite().all()
        assert p.dim() == 1 or "scale" in name or p.float().std() > 0
        assert name.endswith("scale") or torch.equal(p.bfloat16().float(), p.float())
    assert kinds == {torch.float32, torch.bfloat16} | ({torch.float8_e4m3fn} if cfg.fp8 else set())


def test_the_model_of_transformers_has_our_shape(monkeypatch):
    monkeypatch.setattr(gpu_steps, "NEW", 3)
    made = []
    from transformers import DeepseekV2ForCausalLM as Theirs

    monkeypatch.setattr(Theirs, "eval", lambda self: made.append(self) or self)
    wanted = gpu_steps.Model("config_16B.json", {2: 3.0}, {40: 20.0}, SMALL)
    rows = list(gpu_steps.transformers(wanted, torch.device("cpu")))
    assert [(r["work"], r["size"]) for r in rows] == [("decode", 2), ("prefill", 40)]
    assert made[0].dtype == torch.bfloat16
    assert made[0].num_parameters() == cost.parameters(wanted.cfg)["total"]


def test_the_models_are_those_that_were_measured():
    deep = gpu_steps.MODELS["V3x5"].cfg
    assert (deep.n_layers, deep.n_dense_layers, deep.n_routed_experts, deep.n_mtp_layers) == (5, 1, 256, 0)
    assert deep.fp8
    assert (deep.dim, deep.max_batch_size) == (7168, 32)
    assert replace(gpu_steps.MODELS["V2-Lite"].cfg, max_batch_size=8) == replace(
        ModelConfig.load("config_16B.json"), max_seq_len=4096
    )


def test_what_was_timed_stands_beside_its_goal_and_its_rivals():
    model = gpu_steps.Model("config_16B.json", {1: 3.0, 8: 7.3}, {2048: 20.0}, who=("dsv3", "model.py", "transformers"))

    def row(work: str, size: int, ms: float) -> dict:
        return {"work": work, "size": size, "ms": ms}

    rows = {
        "dsv3": [row("decode", 1, 2.0), row("prefill", 2048, 40.0)],
        "model.py": [row("decode", 1, 50.0), row("decode", 8, 60.0), row("prefill", 2048, 100.0)],
        "transformers": [],
    }
    why = {"dsv3": "out of time", "model.py": "", "transformers": "No module named 'transformers'"}
    one, eight, prompt = gpu_steps.merge("V2-Lite", model, rows, why)
    assert (one["group"], one["shape"], one["ms"], one["tokens_per_s"]) == ("decode, V2-Lite", "batch 1", 2.0, 500.0)
    assert one["ratios"] == {"ms to reach": 1.5, "model.py": 25.0}
    assert one["missing"] == {"transformers": "No module named 'transformers'"}
    assert eight == {"group": "decode, V2-Lite", "shape": "batch 8", "not_measured": "out of time"}
    assert (prompt["ratios"]["ms to reach"], prompt["tokens_per_s"]) == (0.5, 51200.0)
    (line,) = gpu.summary([one, eight, prompt], [("decode, V2-Lite", gpu_steps.REACH, 1.0)])
    assert (line["reached"], line["shapes"], line["result"]) == (1, 1, 1.5)


def test_every_contender_has_its_process_and_none_gets_more_time_than_is_left(monkeypatch, capsys):
    asked = []

    def lines(command: list[str], seconds: float) -> tuple[list[dict], str]:
        asked.append((command[2:], seconds))
        if command[-1] == "dsv3.tiny.evaluate":
            return [{"gemm": "fp8", "all": 99.9}], "out of time"
        return [{"work": "decode", "size": 8, "ms": 5.0}], ""

    monkeypatch.setattr(gpu_steps, "lines", lines)
    rows = gpu_steps.measure(time.monotonic() + 20, each=12.0)
    contenders = [["benchmarks.gpu_steps", name, who] for name, m in gpu_steps.MODELS.items() for who in m.who]
    contenders.sort(key=lambda command: command[-1] != gpu_steps.OURS)
    ours = len(gpu_steps.MODELS)
    assert [command for command, _ in asked] == [*contenders[:ours], ["dsv3.tiny.evaluate"], *contenders[ours:]]
    assert all(seconds <= 12.0 for command, seconds in asked if command != ["dsv3.tiny.evaluate"])
    assert asked[ours][1] <= 20.0
    told = {(r["group"], r["shape"]): r.get("not_measured") or r["ratios"] for r in rows}
    assert told["decode, V3x5", "batch 8"] == {gpu_steps.REACH: 0.98, "model.py": 1.0}
    assert told["prefill, V3x5", "2048 tokens"] == "no such row"
    assert told["tiny-r1's score", "fp8, 2,000 sums"] == {gpu_steps.SCORE: 1.0}
    assert told["tiny-r1's score", "bf16, 2,000 sums"] == "out of time"
    assert "decode, V3x5" in capsys.readouterr().out


def test_a_score_is_held_against_the_cpus():
    half, none = gpu_steps.scores([{"gemm": "bf16", "all": 49.925}], "out of time")
    assert half["ratios"] == {gpu_steps.SCORE: 0.5}
    assert none["not_measured"] == "out of time"
    (line,) = gpu.summary([half, none], [(half["group"], gpu_steps.SCORE, gpu_steps.LEAST_SCORE)])
    assert (line["reached"], line["shapes"]) == (0, 1)


def test_all_that_a_run_launches_is_compiled_beforehand(monkeypatch):
    assert "check mla_hopper_kernel" not in gpu_warm.jobs(torch.device("cpu"))
    monkeypatch.setattr(mla_hopper, "lacking", lambda device: None)
    jobs = gpu_warm.jobs(torch.device("cpu"))
    for name in gpu_checks.CHECKS:
        assert (f"check {name}" in jobs) == (name not in gpu_warm.NO_KERNELS)
    assert all(f"{c.group} {c.shape}" in jobs for c in gpu_step_cases.cases(CONFIG, H100))
    assert {"V3x5, 32 rows, fp8_gemm", "V2-Lite, 8 rows, experts_gemm_bf16", "V3x5, two layers"} <= set(jobs)
    jobs["tiny-r1, two layers"]()
    wrong = gpu_warm.one("V3x5, 1 rows, fp8_gemm", torch.device("cpu"))
    assert wrong == "" or wrong.startswith("V3x5, 1 rows, fp8_gemm: "), "what fails is told, and stops nothing"


def cell(edition: str, lesson: str, name: str) -> str:
    """A lesson's cell as it is written."""
    notebook = json.loads((ROOT / "notebooks" / edition / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    (text,) = ("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == name)
    return text


def receipt(name: str) -> dict:
    """What an H100 was measured to do."""
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("edition", ["", "zh"])
def test_the_lesson_s_times_of_attention_are_the_receipts(edition):
    """A chain: ``mla_decode`` with the tile that it takes today, as the experiments call it."""
    text = cell(edition, "08_triton_kernels", "hopper-read")
    experiment, package = text.split("mla-hopper.json")
    rows = {row["shape"]: row for row in receipt("h100/variants.json")["rows"] if row["family"] == "mla"}
    chains = {
        "1 x 4096": "old 16x64 least2",
        "1 x 16384": "old 64x64 least1",
        "32 x 4096": "ours",
        "32 x 16384": "ours",
    }
    for shape, chain in chains.items():
        first, last = shape.split(" x ")
        (line,) = re.findall(rf"^\| {first} x {int(last):,} \|(.*)\|$", experiment, re.M)
        row = rows[f"{shape}, 128 heads"]
        times = [row["us"][name] for name in (chain, "ws least2")]
        shares = [row["share_of_copy"][name] for name in (chain, "ws least2")]
        numbers = [float(number) for number in re.findall(r"[\d.]+", line)]
        assert numbers[:2] == pytest.approx(times, abs=0.051)
        assert numbers[2:] == pytest.approx(shares, abs=0.0051)
    assert f"{rows['32 x 16384, 128 heads']['tflops']['ws least2']:.0f} TFLOPS" in text
    few = rows["32 x 4096, 16 heads"]["us"]
    assert {f"{few['ws least2']:.1f}", f"{few['old 16x64 least2']:.1f}"} <= set(re.findall(r"\d+\.\d", text))
    assert mla.tile_for(1, 128, 4096, 2, H100).BLOCK_H == 16
    assert mla.tile_for(1, 128, 16384, 2, H100).BLOCK_H == mla.tile_for(32, 128, 4096, 2, H100).BLOCK_H == 64

    pieces = receipt("h100/mla-hopper.json")["rows"]
    full = [row for row in pieces if row["tokens"] == row["cache"]]
    said = re.findall(r"^\| (\d+) x ([\d,]+) \| ([\d.]+) us \| ([\d.]+) us \|$", package, re.M)
    told = {(int(n), int(tokens.replace(",", ""))): (float(old), float(new)) for n, tokens, old, new in said}
    assert told == {(row["sequences"], row["cache"]): (row["mla_py_us"], row["mla_hopper_us"]) for row in full}
    (short,) = (row for row in pieces if (row["sequences"], row["tokens"]) == (32, 100))
    assert f"{short['mla_hopper_us']:.2f}" in package
    assert f"{short['mla_py_us']:.2f}" in package
    assert short["mla_hopper_us"] > short["mla_py_us"]
    assert f"{mla_hopper.LEAST:,}" in package
    for row in full:
        taken = row["sequences"] * row["cache"] >= mla_hopper.LEAST
        assert taken == (row["mla_hopper_us"] < row["mla_py_us"]), "it is taken where it was the faster one"


@pytest.mark.parametrize("edition", ["", "zh"])
def test_what_the_lessons_say_of_the_h100_is_what_it_was_measured_to_do(edition):
    document = receipt("nvidia-h100-80gb-hbm3.json")
    rows = {(row["group"], row["shape"]): row for row in document["rows"]}

    def over(group: str, column: str, of: str = "") -> list[float]:
        """The least and the most of a group's rows."""
        found = sorted(r[column] for (g, shape), r in rows.items() if g == group and of in shape)
        return [found[0], found[-1]]

    large = rows["fp8_gemm, M >= 512", "attn.wo 4096 x 7168 x 16384"]
    assert large["ratios"]["scaled_mm"] == pytest.approx(1, abs=0.05), "cuBLAS"
    prefill = rows["prefill, V3x5", "2048 tokens"]["ms"]
    scores = {row["percent"] for (group, _), row in rows.items() if group == "tiny-r1's score"}
    memory = [r / 1e3 for r in over("weight_dequant", "gb_per_s")]
    attention, wo = over("mla_decode", "tflops"), over("fp8_gemm, M <= 64", "gb_per_s", "attn.wo ")
    said = {
        ("03_fp8_casting", "sizes-read"): [
            *(f"{r:.1f}" for r in memory),
            f"{document['copy_gb_per_s'] / 1e3:.1f} TB/s",
        ],
        ("03_fp8_casting", "score-read"): [f"{score:.2f}" for score in scores],
        ("05_attention_mla", "recorded-read"): [
            *(f"{r / 1e3:.1f}" for r in over("mla_decode", "gb_per_s")),
            *(f"{r:.0f}" for r in attention),
            f"{prefill:.1f} ms",
        ],
        ("08_triton_kernels", "recorded-read"): [
            *(f"{r:,.0f}" for r in [*wo, *attention, document["copy_gb_per_s"]]),
            f"{large['tflops']:,.0f} TFLOPS",
            f"{large['ratios']['triton']:.1f}",
        ],
        ("09_generation", "recorded-read"): [f"{score:.2f}" for score in scores],
    }
    for (lesson, name), numbers in said.items():
        text = cell(edition, lesson, name)
        assert [number for number in numbers if number not in text] == [], (lesson, name)
    assert document["checks"]["mla_hopper_kernel"].startswith("not run"), "as lessons 08 and 09 say"
    for line in (ROOT / "notebooks" / "recorded" / "step.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run.get("rung") == "+route":
            model = {"v3": "V3x5", "v2lite": "V2-Lite"}[run["model"]]
            ms = rows[f"decode, {model}", f"batch {run['batch']}"]["ms"]
            assert ms == pytest.approx(run["ms"], rel=0.06), "within 6 %"
