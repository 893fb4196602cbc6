"""One set of versions, data that ships, and the house rules that a script can check."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_house_rules(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert file.name not in ("utils.py", "common.py", "helpers.py")
    assert not re.search(r"pickle\.|torch\.load\(|set_default_d", text)
    tree = ast.parse(text)
    # As an argument: a command that is printed for a person may have it.
    assert not [k for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == "trust_remote_code"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = isinstance(node, ast.FunctionDef) and node.name == "forward"
            assert inner or ast.get_docstring(node) or len(node.body) <= 15, f"{node.name} needs a docstring"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 75, f"{node.name} is too long"
