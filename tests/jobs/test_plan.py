"""``dsv3 plan`` in a process of its own."""

import json
import subprocess
import sys

import pytest
from jobs import dsv3, fails

from dsv3.show.plan import figure
from dsv3.sizing.needs import FORMULAS
from tests.unit.test_plan import on


def test_the_command(tmp_path, fp8_folder):
    done = dsv3("plan", "R1", "--gpu", "H20-96G", "--gpus", 8, "--rate", 50, "--price", 6)
    assert done.returncode == 0, done.stderr
    for words in ("fits", "85.1 GB on the fullest GPU", "3.8 hours at 50 MB/s", "48.00 an hour", *FORMULAS):
        assert words in done.stdout
    no = dsv3("plan", "R1", "--gpu", "H100", "--gpus", 8, "--json")
    assert no.returncode == 1
    assert json.loads(no.stdout)["fits"] is False
    for model in (fp8_folder, fp8_folder / "config.json", "config_16B.json"):
        assert dsv3("plan", model, "--gpu", "4090", "--gpus", 2).returncode == 0
    need = dsv3("plan", "V2-Lite", "--gpu", "L20")
    assert need.stdout.startswith("DeepSeek-V2-Lite in BF16 on 1 x L20-48G (tp 1, pp 1, ep 1)")
    table = dsv3("plan", "V2-Lite", "--rate", 100)
    assert "L20-48G                 1" in table.stdout
    assert "download         0.1 hours at 100 MB/s" in table.stdout
    none = dsv3("plan", "R1", "--gpu", "3090", "--precision", "bf16", "--batch", 500)
    assert none.returncode == 1
    assert none.stdout.splitlines()[-1] == "no number up to 64 fits: RTX-3090"


def test_mistakes_on_the_command_line():
    fails(dsv3("plan", "R2"), "plan", "R2: no such folder", "DeepSeek-R1")
    fails(dsv3("plan", "R1-Distill-Qwen-7B"), "plan", "qwen2", "15.2 GB in BF16", "come on top")
    fails(dsv3("plan", "V3.2-Exp"), "plan", "DeepSeek-V3.2-Exp: model_type is 'deepseek_v32'", "indexer")
    fails(dsv3("plan", "R1-AWQ", "--precision", "bf16"), "plan", "stored as AWQ", "another checkpoint")
    fails(dsv3("plan", "R1", "--gpu", "H20", "--gpus", 8), "plan", "H20-96G, H20-141G")
    fails(dsv3("plan", "R1", "--gpu", "H100", "--gpus", 8, "--tp", 3), "plan", "--tp 3 x --pp 2 are 6 GPUs")
    fails(dsv3("plan", "R1", "--gpu", "H100", "--gpus", 8, "--context", 200000), "plan", "has 163840")
    fails(dsv3("plan", "R1", "--gpu", "H100", "--gpus", 8, "--tp", 16), "plan", "--tp 16 x --pp 1 are 16 GPUs")
    fails(dsv3("plan", "R1", "--gpu", "H100", "--gpus", 8, "--pp", 3), "plan", "--tp 2 x --pp 3 are 6 GPUs")
    none = dsv3("plan", "R1", "--gpu", "H100", "--gpus", 8, "--batch", 0)
    assert none.returncode == 2
    assert "--batch: '0': must be a whole number of 1 or more" in none.stderr
    assert dsv3("plan", "R1", "--gpus", 8).returncode == 2
    assert dsv3("plan", "R1", "--price", "dear").returncode == 2
    assert "--price needs --gpu" in dsv3("plan", "R1", "--price", 1).stderr
    assert dsv3("plan", "R1", "--price", "-1").returncode == 2


def test_the_figure(tmp_path):
    file = tmp_path / "r1.svg"
    p = on("H20-96G", 8)
    bars = figure(p).axes[0].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(sum(n.total for n in p.ranks) / 1e9)
    done = dsv3("plan", "V2-Lite", "--gpu", "L20", "--gpus", 1, "--figure", file)
    assert done.returncode == 0, done.stderr
    assert file.read_text().startswith("<?xml")
    wrong = dsv3("plan", "V2-Lite", "--gpu", "L20", "--gpus", 1, "--figure", tmp_path / "r1.doc")
    fails(wrong, "plan", "r1.doc", "svg")
    assert [f.name for f in tmp_path.iterdir()] == ["r1.svg"]


def test_planning_needs_no_torch():
    check = "import sys; sys.modules['torch'] = None; from dsv3 import cli; sys.argv = ['dsv3', 'plan', 'V2-Lite']"
    done = subprocess.run([sys.executable, "-c", f"{check}; cli.main()"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "RTX-4090" in done.stdout
