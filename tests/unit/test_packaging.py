"""One set of versions, data that ships, and the house rules that a script can check."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = sorted((ROOT / "dsv3").rglob("*.py"))


def requirements() -> dict[str, Requirement]:
    """Everything that pyproject.toml names, extras included; each once."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    named = [r for r in map(Requirement, (line for lines in lists for line in lines)) if r.name != PROJECT["name"]]
    assert len({r.name for r in named}) == len(named)
    return {r.name: r for r in named}


def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_environment_and_pyproject_agree():
    env = environment()
    assert env["name"] == "dv3"
    *conda, pip = env["dependencies"]
    assert conda[0] == "python=3.11"
    assert "-e ." in pip["pip"]
    named = [Requirement(line) for line in [*conda, *pip["pip"]] if line not in ("python=3.11", "pip", "-e .")]
    wanted = {"jupyterlab", "ipykernel", "ipywidgets", "matplotlib", "modelscope", "torch", "triton", "safetensors"}
    assert {r.name for r in named} == wanted
    ours = requirements()
    assert {r.name: r for r in named} == {name: ours[name] for name in wanted}


def test_every_line_of_the_environment_has_its_reason():
    lines = (ROOT / "environment.yml").read_text().split("dependencies:\n")[1].splitlines()
    assert all("# " in line for line in lines if line.strip() != "- pip:")


def test_the_tested_set_lies_inside_the_ranges():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[name] = version
    ours = requirements()
    assert set(pinned) == set(ours)
    assert all(ours[name].specifier.contains(version) for name, version in pinned.items())
    assert ours["torch"].specifier.contains("2.6.0")
    assert ours["torch"].specifier.contains("2.99.0"), "a GPU image's own torch must be admitted"


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


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_house_rules(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert file.name not in ("utils.py", "common.py", "helpers.py")
    assert not re.search(r"pickle\.|torch\.load\(|trust_remote_code=True|set_default_d", text)
    tree = ast.parse(text)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = isinstance(node, ast.FunctionDef) and node.name == "forward"
            assert inner or ast.get_docstring(node) or len(node.body) <= 15, f"{node.name} needs a docstring"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 75, f"{node.name} is too long"
