"""The kernels on a real GPU; ``python -m benchmarks.gpu`` runs the same checks where there is no pytest."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from benchmarks.gpu_checks import CHECKS, applicable
from dsv3.kernels import pick

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("name", CHECKS)
def test_kernel(name):
    device = torch.device("cuda")
    if name not in applicable(device):
        pytest.skip(f"{torch.cuda.get_device_name()} has no FP8 units")
    torch.manual_seed(0)
    CHECKS[name](device)


def test_triton_is_picked():
    choice = pick(torch.device("cuda"))
    assert choice.kernels.__name__ == "dsv3.kernels.triton", choice.why


def test_tiny_r1_still_gets_its_sums_right():
    from dsv3.generate import load

    llm = load("tiny-r1", device="cuda")
    assert llm.model.run.kernels.__name__ == "dsv3.kernels.triton"
    assert llm.chat("37 + 48 = ?", temperature=0.0).answer.strip() == "Answer: 85"
