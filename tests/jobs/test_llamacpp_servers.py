"""Which of llama.cpp's two servers is taken, and what its package lacks, by looking at real environments."""

import shutil
import sys

import pytest

from benchmarks.llamacpp import WORKER, theirs
from dsv3.engines import checks, llamacpp
from dsv3.engines.options import Serve
from dsv3.outside import printable
from dsv3.sizing.machine import Machine


def environment(folder, *names, code=""):
    """A folder with an interpreter of its own name that finds these modules, and no llama-server."""
    for name in names:
        (folder / "site" / name).mkdir(parents=True)
        (folder / "site" / name / "__init__.py").write_text(code)
    folder.mkdir(exist_ok=True)
    (folder / "python").write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    return str(folder / "python")


def test_which_of_the_two_servers_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if shutil.which("llama-server"):
        pytest.skip("llama-server is on the PATH here")
    package, neither = environment(tmp_path / "a", "llama_cpp"), environment(tmp_path / "b")
    assert llamacpp.found(package) is llamacpp.PACKAGE
    assert llamacpp.found(neither) is llamacpp.ENGINE
    assert llamacpp.found(str(tmp_path / "none")) is llamacpp.ENGINE
    own = tmp_path / "a" / "llama-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert llamacpp.found(package) is llamacpp.ENGINE
    assert llamacpp.build(Serve(model="M", python=package)).program == (str(own),)
    monkeypatch.setenv("PATH", f"/usr/bin:/bin:{own.parent}")
    assert llamacpp.found(neither) is llamacpp.ENGINE
    assert llamacpp.build(Serve(model="M", python=neither)).program == ("llama-server",)


def test_a_folder_that_has_the_packages_name_is_not_the_package(tmp_path, monkeypatch):
    """Nor is what lies in the working folder; a Python before 3.11 takes that for the package, as its server would."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    python = environment(tmp_path / "a")
    (tmp_path / "a" / "llama_cpp" / "server").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setattr(llamacpp, "SAFE", {})  # as before 3.11
    assert llamacpp.found(python) is llamacpp.ENGINE
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "a" / "llama_cpp" / "__init__.py").touch()
    assert llamacpp.found(python) is llamacpp.ENGINE


def lacks(python):
    serve = Serve(model="M.gguf", cpu=True, python=str(python))
    (found,) = llamacpp.package_here(serve, checks.look(serve.model), Machine())
    return found


def test_a_package_without_its_server(tmp_path):
    python = environment(tmp_path / "bare", "llama_cpp")
    why = "(ModuleNotFoundError: No module named 'llama_cpp.server')"
    cure = f"{python} -m pip install 'llama-cpp-python[server]=={llamacpp.PACKAGE_VERSION}'"
    assert lacks(python) == f"llama-cpp-python is there without what its server imports {why}: {cure}"


def test_a_package_that_does_not_load_says_why(tmp_path, monkeypatch):
    python = environment(tmp_path / "broken", "llama_cpp", code="raise OSError('libgomp.so.1:\\x1b[31m ' + 'x' * 9999)")
    found = lacks(python)
    assert found.startswith(f"--python {python}: llama_cpp.server does not start there: OSError: libgomp.so.1:")
    assert found.isprintable()
    assert len(found) < 1000
    none = tmp_path / "none"
    assert lacks(none) == f"--python {none}: llama_cpp.server does not start there: {none}: No such file or directory"
    slow = environment(tmp_path / "slow", "llama_cpp", code="import time; time.sleep(60)")
    monkeypatch.setattr(llamacpp, "PATIENCE", 1)
    assert lacks(slow) == f"--python {slow}: llama_cpp.server does not start there: no answer after 1 s"


def test_a_worker_of_the_benchmark_that_fails_is_one_line(tmp_path):
    with pytest.raises(ChildProcessError) as error:
        theirs(environment(tmp_path / "a"), tmp_path / "x.gguf", ["1 + 1 = ?"], 1)
    said = f"{tmp_path / 'a' / 'python'} {WORKER} answer ended with exit code 1: ModuleNotFoundError: No module named"
    assert str(error.value) == f"{said} 'llama_cpp'"


SERVER = "class Settings:\n    model_fields = {'model': 0, 'host': 0, 'seed': 0, 'api_key': 0}\n"


def test_settings_in_the_environment_are_refused(tmp_path):
    """The server would read them, in any case; those that the command sets are not in the way."""
    python = environment(tmp_path / "a", "llama_cpp", "uvicorn")
    (tmp_path / "a" / "site" / "llama_cpp" / "server").mkdir()
    (tmp_path / "a" / "site" / "llama_cpp" / "server" / "__init__.py").write_text("")
    (tmp_path / "a" / "site" / "llama_cpp" / "server" / "app.py").write_text(SERVER)
    env = {"Seed": "3", "MODEL": "other", "HOST": "0.0.0.0", "CONFIG_FILE": "x", "API_KEY": "k"}
    serve = Serve(model="M.gguf", cpu=True, python=python)
    (found,) = llamacpp.package_here(serve, checks.look("M.gguf"), Machine(env=env))
    assert found.startswith("API_KEY, CONFIG_FILE, Seed: set in the environment")
    keyed = Serve(model="M.gguf", cpu=True, python=python, api_key_env="K")
    (found,) = llamacpp.package_here(keyed, checks.look("M.gguf"), Machine(env=env))
    assert found.endswith("unset CONFIG_FILE Seed")


def test_without_a_card_there_are_two_ways_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    nowhere = str(tmp_path / "none" / "python")
    engine, serve = llamacpp.found(nowhere, cpu=True), Serve(model="R1.gguf", cpu=True, python=nowhere)
    _, (line,) = checks.installed(engine, serve, engine.build(serve))
    assert printable(line) == line
    assert f"--python {nowhere}: no such program" in line
    assert "llama/bin/pip install 'llama-cpp-python[server]==" in line
    assert "; or git clone https://github.com/ggml-org/llama.cpp && cmake -S llama.cpp -B llama.cpp/build &&" in line
    assert llamacpp.found(nowhere) is llamacpp.ENGINE
