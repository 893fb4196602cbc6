"""The READMEs print what was measured: their tables against the committed results, and nothing left to fill in."""

import json
import re
from pathlib import Path

import pytest

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
