"""The kernels on a real GPU; ``python -m benchmarks.gpu`` runs the same checks where there is no pytest."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from benchmarks.gpu_checks import CHECKS, lacking
from dsv3.fp8_cast_bf16 import cast
from dsv3.kernels import pick
from dsv3.paths import TINY_R1

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("name", CHECKS)
def test_check(name):
    device = torch.device("cuda")
    if why := lacking(name, device):
        pytest.skip(why)
    CHECKS[name](device)


def test_triton_is_picked():
    choice = pick(torch.device("cuda"))
    assert choice.kernels.__name__ == "dsv3.kernels.triton", choice.why


def test_the_cast_on_the_gpu_gives_the_cpus_bytes(tmp_path):
    for device in ("cpu", "cuda"):
        cast(TINY_R1, tmp_path / device, device)
    for file in (tmp_path / "cpu").glob("*.safetensors"):
        assert (tmp_path / "cuda" / file.name).read_bytes() == file.read_bytes()
