"""The READMEs print what was measured: their tables against the committed results, and nothing left to fill in."""

import json
import re
from pathlib import Path

import pytest

from dsv3.config import ModelConfig
from dsv3.sizing import offload
from dsv3.sizing.gpus import find_gpu
from dsv3.sizing.needs import Workload

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh.md")
TOOLS = ("transformers", "vllm", "dsv3 model.py", "dsv3", "dsv3 --gemm w8a16")


@pytest.mark.parametrize("readme", READMES)
def test_the_speeds_are_the_committed_ones(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    rows = json.loads((ROOT / "benchmarks" / "results" / "decode-cpu.json").read_text())["rows"]
    rows = [row for row in rows if "times_best_other" in row]
    compared = [{r["tool"]: r for r in rows if r["work"] == work} for work in dict.fromkeys(r["work"] for r in rows)]
    assert len(compared) == 3
    for tools in compared:
        speeds = [tools[t]["tokens_per_s"] if t in tools else None for t in TOOLS]
        cells = ["-" if s is None else f"{s:.0f}" if s >= 100 else f"{s:.1f}" for s in speeds]
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.parametrize("readme", READMES)
def test_the_checkpoint_tools_figures_are_the_committed_ones(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    rows = json.loads((ROOT / "benchmarks" / "results" / "checkpoint.json").read_text())["rows"]
    for work in ("convert many to 8", "convert large to 8", "cast large to BF16"):
        for row in rows:
            if row["work"] == work and row["tool"] != "cp":
                assert f"{row['seconds']:.1f} s, {row['times_cp']:.1f} x, {row['peak_mb']:,.0f} MB" in text


@pytest.mark.parametrize("readme", READMES)
def test_the_gpus_figures_are_the_recorded_ones(readme):
    """Decode steps, prefill and kernels, and what they were measured with."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    results = ROOT / "benchmarks" / "results"
    document = json.loads((results / "nvidia-h100-80gb-hbm3.json").read_text())
    for word in ("H100", *(document[key] for key in ("torch", "triton", "python", "date"))):
        assert word in text
    runs = [json.loads(line) for name in ("e2e-eager", "step")
            for line in (results / "h100" / f"{name}.jsonl").read_text().splitlines()]  # fmt: skip
    before = {(r["who"], r["model"], r["batch"]): r["ms_per_step"] for r in runs if "ms_per_step" in r}
    columns = [(model, batch) for model in ("v3", "v2lite") for batch in (1, 8, 32)]
    for who in ("official", "transformers", "ours"):
        cells = (f"{before[who, *c]:.1f}" if (who, *c) in before else "-" for c in columns)
        assert f"| {' | '.join(cells)} |" in text, who
    rows = {(r["group"], r["shape"]): r for r in document["rows"]}
    names = {"v3": "V3x5", "v2lite": "V2-Lite"}
    today = (rows[f"decode, {names[model]}", f"batch {batch}"]["ms"] for model, batch in columns)
    assert f"| {' | '.join(f'{ms:.2f}' for ms in today)} |" in text
    prefills = {r["model"]: r["before_ms"] for r in runs if r.get("prefill") == 2048}
    for model, name in names.items():
        for ms in (prefills[model], rows[f"prefill, {name}", "2048 tokens"]["ms"]):
            assert f"{ms:.1f}" in text
    assert f"{rows['decode, tiny-r1', 'batch 1']['tokens_per_s']:,.0f}" in text
    scores = {rows["tiny-r1's score", f"{gemm}, 2,000 sums"]["percent"] for gemm in ("bf16", "fp8")}
    assert all(f"{percent} %" in text for percent in scores)
    for line in document["summary"]:
        kernel = not line["group"].startswith(("decode", "prefill", "tiny-r1"))
        if kernel and (line["group"], line["against"]) != ("mla_decode", "reference"):
            assert f"| {line['result']:.2f} | {line['worst']:.2f} |" in text, line
    hopper = json.loads((results / "h100" / "mla-hopper.json").read_text())["rows"]
    for row in hopper:
        if (row["sequences"], row["tokens"]) in ((32, 2048), (1, 16384)):
            assert f"{row['mla_py_us']:.1f}" in text
            assert f"{row['mla_hopper_us']:.1f}" in text


@pytest.mark.parametrize("readme", READMES)
def test_nothing_is_left_to_fill_in(readme):
    assert not re.findall(r"@[A-Z_]{2,}@|TODO|TBD", (ROOT / readme).read_text(encoding="utf-8"))


@pytest.mark.parametrize("readme", READMES)
def test_the_files_and_verbs_that_are_named_exist(readme):
    from dsv3.cli import VERBS

    text = (ROOT / readme).read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / name).exists(), name
    for verb in re.findall(r"^dsv3 (\w+)", text, re.M):
        assert verb in VERBS, verb


@pytest.mark.parametrize("readme", READMES)
def test_the_table_of_files_is_the_tree(readme):
    """Every folder and every module of dsv3 stands in a row, and what stands there exists."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`dsv3/\S.*?) \|", text, re.M)
    named = [name.removeprefix("dsv3/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    there = {f.name for f in (ROOT / "dsv3").glob("*.py") if not f.name.startswith("__")}
    there |= {f"{f.name}/" for f in (ROOT / "dsv3").iterdir() if f.is_dir() and f.name != "__pycache__"}
    assert sorted(named) == sorted(there)


@pytest.mark.parametrize("readme", READMES)
def test_the_row_for_one_card_and_much_ram_is_the_planners(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "RTX 4090" in line and "404 GB" in line]
    cfg = ModelConfig.load("config_671B.json")
    report, _ = next(pair for pair in offload.reported(cfg, "Q4_K_M") if pair[0].ram_bandwidth_gb_s == 204.8)
    assert (report.gpu, report.ram_gb) == ("RTX-4090", 512)
    card = find_gpu(report.gpu)
    machine = offload.Machine(gpu=card, gpus=1, ram_gb=512, ram_bandwidth_gb_s=report.ram_bandwidth_gb_s)
    (plan,) = offload.plans("R1", cfg, machine, Workload(), "Q4_K_M")
    assert plan.fits
    (speed,) = plan.tokens_per_s.values()
    bits = offload.bits(offload.find_file("Q4_K_M"))[0]
    for figure in (f"{plan.nbytes / 1e9:.0f} GB", f"{bits:.1f}", f"{speed:.1f}", "205 GB/s"):
        assert figure in row
    seen = re.search(r"(\d+) to (\d+) tokens/s", report.machine).groups()
    assert seen in re.findall(r"(\d+) (?:to|到) (\d+)", row)
    largest, *_, smallest = offload.plans("R1", cfg, machine, Workload())
    low, high = map(int, re.search(r"(\d{3}) (?:to|到) (\d{3}) GB", row).groups())
    # Rounded up, to 50 and to 100.
    assert low - 50 < smallest.ram / 1e9 <= low
    assert high - 100 < largest.ram / 1e9 <= high
