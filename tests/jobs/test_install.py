"""Everybody can install and run the kit: what is pinned fits together, what make types, and every kind of user."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def dry_run(goal: str, *variables: str) -> subprocess.CompletedProcess:
    command = ["make", "-n", goal, "VENV=new", *variables]
    # These tests may themselves be run by make, whose variables would reach this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("goal", ["demo", "lint", "lab"])
@pytest.mark.parametrize("torch", ["", "cpu"])
def test_one_variable_takes_the_cpu_build_of_torch(goal, torch):
    done = dry_run(goal, f"TORCH={torch}")
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert installs
    assert all((CPU_INDEX in line) == bool(torch) for line in installs), installs
    assert all("-c constraints.txt" in line for line in installs)


def test_another_word_for_torch_is_refused():
    done = dry_run("demo", "TORCH=gpu")
    assert done.returncode == 2
    assert "TORCH=gpu: TORCH=cpu takes the build for CPUs" in done.stderr
    assert done.stdout == ""


# ------------------------------------------------------------------------------------------------ kinds of users

UID = 61234  # nobody's: the system knows no such user


FIT = "import os, sys, torch, dsv3; sys.exit(not os.access(sys.executable, os.X_OK))"


class User:
    """Somebody who is not root, with ``folder`` to write into; Python's packages and the checkout are read-only."""

    def __init__(self, folder: Path):
        self.folder, self.python = folder, ""
        for python in (sys._base_executable, "/usr/bin/python{}.{}".format(*sys.version_info)):  # one may be shut in
            self.python = python
            if shutil.which(python) and self.run("-c", FIT).returncode == 0:
                return
        pytest.skip("another user may not read this Python, its packages, or this checkout")

    def run(self, *args: object, cwd: Path = ROOT, **env: object) -> subprocess.CompletedProcess:
        """Python with ``args``; by default in the checkout, and without a home folder."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HOME", "XDG_", "DSV3_", "PYTEST_"))}
        clean |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": f"{self.folder}/tmp"}
        clean["PYTHONPATH"] = f"{sysconfig.get_path('purelib')}:{ROOT}"
        user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", self.python]
        command, env = [*user, *map(str, args)], clean | {k: str(v) for k, v in env.items()}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    if os.name != "posix" or os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to become another user")
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed
    folder.chmod(0o755)
    for name, owner in (("tmp", UID), ("home", UID), ("read-only", 0)):
        (folder / name).mkdir()
        os.chown(folder / name, owner, owner)
    (folder / "closed").mkdir(mode=0o700)
    (folder / "prompts").write_text("37 + 48 = ?\n")
    yield User(folder)
    shutil.rmtree(folder)


SPLIT = ("--n-experts", 16, "--model-parallel", 2)
HOMES = {"ordinary": "home", "read-only home": "read-only", "home that cannot be entered": "closed", "no home": None}


@pytest.mark.parametrize("name", HOMES)
def test_any_user_runs_the_pipeline(user, name):
    f, home = user.folder, HOMES[name]
    env = {"HOME": f / home} if home else {}
    mine = f / "home" / ".cache" / "dsv3" if home == "home" else f / "tmp" / f"dsv3-{UID}"
    done = [
        user.run("-m", "dsv3", *verb, **env)
        for verb in (
            ("doctor", "--report"),
            ("download", "--list"),
            ("download", "--model", "tiny-r1"),
            ("convert", "--hf-ckpt-path", mine / "tiny-r1", "--save-path", mine / name, *SPLIT),
            ("generate", "--ckpt-path", "tiny-r1", "--input-file", f / "prompts", "--temperature", 0),
        )
    ]
    assert [d.returncode for d in done] == [0] * len(done), [d.stderr for d in done]
    assert "could not be checked" not in done[0].stdout
    assert "Answer: 85" in done[-1].stdout
    assert "Traceback" not in "".join(d.stderr for d in done)
    assert (mine / name / "model1-mp2.safetensors").is_file()


@pytest.mark.parametrize("where", ["closed/x", "read-only", "prompts/x", "~/x"])
def test_a_place_that_cannot_be_written_is_one_line(user, where):
    place = where if where.startswith("~") else user.folder / where
    done = user.run("-m", "dsv3", "download", "--model", "tiny-r1", DSV3_HOME=place)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert str(place) in done.stderr
    doctor = user.run("-m", "dsv3", "doctor", DSV3_HOME=place)
    assert any(line.startswith("warning ") and str(place) in line for line in doctor.stdout.splitlines())


def test_without_its_cache_generation_is_only_slower(user):
    """Where the compiled library cannot be kept, torch computes."""
    verb = ("generate", "--ckpt-path", "tiny-r1", "--input-file", user.folder / "prompts", "--temperature", 0)
    done = user.run("-m", "dsv3", *verb, DSV3_HOME=user.folder / "closed")
    assert "Answer: 85" in done.stdout, done.stderr


def test_a_temporary_folder_of_somebody_else_is_not_taken(user):
    tmp = user.folder / "foreign"
    (tmp / f"dsv3-{UID}").mkdir(parents=True)
    tmp.chmod(0o777)
    (tmp / f"dsv3-{UID}").chmod(0o777)
    done = user.run("-c", "from dsv3 import paths; paths.home()", TMPDIR=tmp)
    assert f"PermissionError: {tmp}/dsv3-{UID}: somebody else's; set DSV3_HOME" in done.stderr


LESSON = """
import sys, nbclient, nbformat
lesson = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(lesson, timeout=250, kernel_name="python3").execute()
"""


@pytest.mark.parametrize("home", ["home", "read-only"])
def test_any_user_runs_a_lesson(user, home):
    lesson = ROOT / "notebooks" / "01_environment.ipynb"
    done = user.run("-c", LESSON, lesson, cwd=lesson.parent, HOME=user.folder / home)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("home", ["read-only", None])
def test_a_kernel_is_compiled_without_a_home(user, home):
    pytest.importorskip("triton", reason="Triton is not installed (Linux only)")
    env = {"HOME": user.folder / home} if home else {}
    done = user.run("-m", "dsv3", "compile", "act_quant", "--target", "sm_90", cwd=user.folder / "home", **env)
    assert done.returncode == 0, done.stderr
    assert not (user.folder / "home" / "~").exists()
