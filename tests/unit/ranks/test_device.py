"""Which device a job takes with no GPU, one, and many."""

import pytest

from dsv3 import load
from dsv3.ranks.device import choose

ONE_OF_TWO = "2 processes, 1 GPU: on the CPU; "


@pytest.mark.parametrize(
    ("gpus", "one_node", "device", "said"),
    [
        ([""], True, "cpu", ""),
        (["a"], True, "cuda", ""),
        (["", ""], True, "cpu", ""),
        (["a", ""], True, "cpu", ONE_OF_TWO + "--nproc-per-node 1 uses the GPU"),
        (["a", "b"], True, "cuda", ""),
        (["a", "b", "", ""], True, "cpu", "4 processes, 2 GPUs: on the CPU; --nproc-per-node 2 uses the GPUs"),
        (["a", "b"], False, "cuda", ""),
        (["a", "a"], False, "cpu", ONE_OF_TWO + "each needs a GPU of its own"),
        (["a", ""], False, "cpu", ONE_OF_TWO + "each needs a GPU of its own"),
        (["", ""], False, "cpu", ""),
        (["a", "b", "c", ""], False, "cpu", "4 processes, 3 GPUs: on the CPU; each needs a GPU of its own"),
    ],
)
def test_a_gpu_for_each_or_the_cpu_for_all(gpus, one_node, device, said, capsys):
    assert choose(None, gpus, one_node, speaks=True) == device
    assert capsys.readouterr().err.strip() == said
    assert choose(None, gpus, one_node, speaks=False) == device
    assert choose("cpu", gpus, one_node, speaks=True) == "cpu"
    if device == "cuda":
        assert choose("cuda", gpus, one_node, speaks=True) == "cuda"
    else:
        with pytest.raises(ValueError, match=rf"--device cuda: {len(gpus)} process.*; start a process for each GPU"):
            choose("cuda", gpus, one_node, speaks=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:1", "", 0, ["cpu"]])
def test_a_wrong_device_is_named(device):
    with pytest.raises(ValueError, match="device = ") as error:
        load("tiny-r1", device=device)
    assert repr(device) in str(error.value)
