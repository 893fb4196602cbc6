"""GPUs: the list of ``assets/gpus.json``."""

import json
import re
from dataclasses import dataclass

from ..kernels.hardware import FP8_UNITS
from ..paths import ASSETS

GPUS = ASSETS / "gpus.json"
FP4_UNITS = (10, 0)  # Blackwell
PER_MACHINE = 8  # as servers are rented


@dataclass(frozen=True, kw_only=True)
class GPU:
    """A kind of GPU.

    Attributes:
        memory_mib: as nvidia-smi shows it; part of it is the driver's.
        bandwidth_gb_s: of its memory, 1e9 bytes a second.
        bf16_tflops, fp8_tflops: dense matrix products, accumulated in FP32; None: not published, or no such unit.
        capability: CUDA compute capability.
        nvlink_gb_s: both directions together; None: the GPUs of a machine talk over PCIe.
        source: of bandwidth and rates.
    """

    name: str
    memory_mib: int
    bandwidth_gb_s: float
    bf16_tflops: float | None
    fp8_tflops: float | None
    capability: str
    nvlink_gb_s: float | None
    source: str

    @property
    def nbytes(self) -> int:
        return self.memory_mib << 20

    @property
    def compute(self) -> tuple[int, ...]:
        """The capability as numbers, for comparisons."""
        return tuple(map(int, self.capability.split(".")))

    @property
    def fp8_units(self) -> bool:
        return self.compute >= FP8_UNITS

    def multiplies(self, precision: str) -> bool:
        """Whether weights of ``precision`` are multiplied as they are stored: in BF16, and with FP8 units in FP8."""
        return precision == "bf16" or (precision == "fp8" and self.fp8_units)

    def rate(self, precision: str) -> float | None:
        """Products a second, 1e12, of weights in ``precision``: None where it is not in the list. Without units of
        their own, FP8 and 4-bit weights are multiplied in BF16."""
        if precision == "fp8":
            return self.fp8_tflops or self.bf16_tflops
        unlisted = precision == "int8" or (precision in ("nvfp4", "mxfp4") and self.compute >= FP4_UNITS)
        return None if unlisted else self.bf16_tflops

    def tflops(self, fp8: bool) -> float:
        """Dense matrix products a second, 1e12: FP8 if it is asked for and there are units for it, else BF16."""
        rate = (self.fp8_tflops if fp8 else None) or self.bf16_tflops
        if rate is None:
            raise ValueError(f"{self.name}: its rate is not published")
        return rate

    def ridge(self, fp8: bool) -> float:
        """FLOP for each byte at which arithmetic and memory take equally long."""
        return 1e3 * self.tflops(fp8) / self.bandwidth_gb_s


def gpus() -> list[GPU]:
    """Every GPU of the list, in its order."""
    return [GPU(**row) for row in json.loads(GPUS.read_text(encoding="utf-8"))]


def find_gpu(name: str) -> GPU:
    """The GPU that ``name`` means: ``H20-96G``, ``h20 96gb``, ``4090``, or ``H200``, which comes in one size.

    Raises:
        ValueError: none, or several; lists them.
    """

    def plain(text: str) -> str:
        text = re.sub(r"nvidia|geforce|rtx|pro|[^a-z0-9]", "", text.lower())
        return re.sub(r"(\d+)gb$", r"\1g", text)

    known = gpus()
    found = [g for g in known if plain(g.name) == plain(name)]
    found = found or [g for g in known if plain(re.sub(r"-\d+G$", "", g.name)) == plain(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{name!r} comes in several sizes: {', '.join(g.name for g in found)}")
    raise ValueError(f"no GPU {name!r} in the list: {', '.join(g.name for g in known)}")
