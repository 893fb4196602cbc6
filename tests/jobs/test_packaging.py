"""The wheel works without the tree; light imports stay light."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")  # setuptools leaves its build folder in the tree, and reuses a stale one
    shutil.copytree(ROOT / "dsv3", source / "dsv3", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", source / "dist", source]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    return next((source / "dist").glob("dsv3-*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel):
    """Modules, configs, tiny-r1, tables, the C source, and ``py.typed``; no test."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [f for f in (ROOT / "dsv3").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert held == {str(f.relative_to(ROOT)) for f in files}
    assert {"dsv3/py.typed", "dsv3/kernels/native.c", "dsv3/assets/failures/cuda.json"} <= held
    assert wheel.stat().st_size < 20e6


def test_the_wheel_works_without_the_tree(wheel, tmp_path):
    """In an environment of its own, which borrows everything but dsv3 from this one."""
    venv, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    (empty / "p").write_text("37 + 48 = ?\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    python = venv / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True, timeout=60).stdout.strip())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind the environment's own folder
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*words: object) -> str:
        done = subprocess.run([python, *words], cwd=empty, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import dsv3; print(dsv3.__file__)").strip() == str(site / "dsv3" / "__init__.py")
    said = run("-m", "dsv3", "generate", "--ckpt-path", "tiny-r1", "--input-file", "p", "--temperature", "0")
    assert "Answer: 85" in said.splitlines()


LIGHT = "layout, cost, download, convert, plan, doctor, explain"
HEAVY = "torch", "transformers", "triton", "matplotlib"


@pytest.mark.parametrize("command", ["import dsv3", f"from dsv3 import {LIGHT}", "import dsv3.cli"])
def test_light_imports_stay_light(command):
    check = f"import sys; {command}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
