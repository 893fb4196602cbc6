"""FP8 kernels: quantise activations, dequantise weights, multiply. ``reference`` is torch; ``pick`` chooses, once."""

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

FP8_UNITS = (8, 9)  # the first CUDA compute capability that multiplies FP8: Ada, then Hopper and Blackwell


@dataclass(frozen=True)
class Choice:
    """Which kernels run, in which number format the matrices are multiplied, and why."""

    kernels: ModuleType
    gemm: Literal["fp8", "bf16"]
    why: str


def pick(device: "torch.device") -> Choice:
    """The kernels for FP8 weights on ``device``.

    With FP8 units the weights stay FP8. Without (a CPU, an A100) they are dequantised once, when they are loaded.
    """
    import torch

    from . import reference

    if device.type != "cuda":
        return Choice(
            reference, "bf16", f"{device.type} has no FP8 units: FP8 weights are dequantised once, at loading"
        )
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"
    if (major, minor) < FP8_UNITS:
        return Choice(reference, "bf16", f"{name} has no FP8 units: FP8 weights are dequantised once, at loading")
    return Choice(
        reference, "fp8", f"{name} has FP8 units: weights stay FP8, multiplied by the torch reference kernels"
    )
