"""The kernels on a real GPU; ``python -m benchmarks.gpu`` runs the same checks where there is no pytest."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from benchmarks.gpu_checks import CHECKS, lacking
from dsv3.kernels import pick

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
