"""The wheel works without the tree; light imports stay light."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_configs_and_tiny_r1(tmp_path):
    source = tmp_path / "source"  # setuptools leaves its build folder in the source tree, and reuses a stale one
    source.mkdir()
    shutil.copytree(ROOT / "dsv3", source / "dsv3", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("dsv3-*.whl")
    held = {name: info.file_size for info in zipfile.ZipFile(wheel).infolist() if (name := info.filename)}
    assert held.keys() >= {"dsv3/configs/config_671B.json", "dsv3/assets/models.json", "dsv3/assets/failures.json"}
    tiny = {n: size for n, size in held.items() if n.startswith("dsv3/assets/tiny-r1/")}
    assert len([n for n in tiny if n.endswith(".safetensors")]) >= 4
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md")
    assert all(f"dsv3/assets/tiny-r1/{name}" in tiny for name in names)
    assert sum(tiny.values()) < 20e6
    assert not any("tests/" in name for name in held)


LIGHT = "layout, cost, download, convert, plan, doctor, explain"
HEAVY = "torch", "transformers", "triton", "matplotlib"


@pytest.mark.parametrize("command", ["import dsv3", f"from dsv3 import {LIGHT}", "import dsv3.cli"])
def test_light_imports_stay_light(command):
    check = f"import sys; {command}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
