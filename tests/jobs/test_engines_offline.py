"""An offline batch with an interpreter that has no engine."""

import sys

import pytest

from dsv3.engines.offline import generate, interpreter
from dsv3.engines.options import Serve
from dsv3.engines.table import find
from dsv3.paths import TINY_R1

R1 = Serve(model="R1", tp=8, mtp=1, context=4096)


def test_an_engine_that_is_not_installed(tmp_path, monkeypatch, capsys):
    """This interpreter has no vLLM; nor may dsv3/engines/vllm.py be taken for it."""
    vllm = find("vllm")
    serve = Serve(model=str(TINY_R1), python=sys.executable)
    with pytest.raises(ChildProcessError, match=f"ended with exit code 1; log: {tmp_path}"):
        generate(vllm, serve, ["37 + 48 = ?"], folder=tmp_path)
    assert "No module named 'vllm'" in capsys.readouterr().err
    (folder,) = tmp_path.iterdir()  # a new one for each batch: nothing is written over
    assert sorted(file.name for file in folder.iterdir()) == ["offline-request.json", "offline.log"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="vLLM is not installed here; .*pip install vllm==.*--python"):
        interpreter(vllm, Serve(model="R1"))
