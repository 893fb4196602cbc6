"""GPUs and what runs on them: the list of ``assets/gpus.json``, and which engine takes which precision."""

import json
import re
from dataclasses import dataclass

from ..kernels.hardware import FP8_UNITS
from ..paths import ASSETS

GPUS = ASSETS / "gpus.json"


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


@dataclass(frozen=True)
class Engine:
    """Whether an engine takes a precision on a GPU, and what to know about it."""

    name: str
    runs: bool
    note: str


def engines(gpu: GPU, precision: str, pipeline: bool = False) -> list[Engine]:
    """What each engine does with a DeepSeek-V3 checkpoint of ``precision`` on such GPUs, ``pipeline`` stages or not.

    Source: the engines' own checks, read in SGLang 0.5.23 (quantization/fp8.py), vLLM 0.33.0 (quantization/fp8.py,
    marlin_utils_fp8.py) and LMDeploy 0.18.0 (blockedf8_modules.py), and TensorRT-LLM's model page; none was run on
    these GPUs.
    """
    as_fp8 = precision == "fp8" and gpu.fp8_units
    plain = precision == "bf16" or as_fp8
    ampere, server = gpu.compute >= (8, 0), gpu.compute[0] in (9, 10)
    weight_only = "FP8 weights, products in BF16 (Marlin)" if precision == "fp8" and not gpu.fp8_units else ""
    stages = "no pipeline stages" if pipeline else ""
    ours = {"fp8": "dequantises FP8 at loading here: plan with --precision bf16"}.get(precision, "FP8 and BF16 only")
    sglang = {"int8": "INT8 in 128x128 blocks or channels", "int4": "AWQ or GPTQ"}.get(precision, weight_only)
    vllm = {"int8": "no INT8 for this model", "int4": "AWQ, GPTQ, compressed-tensors"}.get(precision, weight_only)
    lmdeploy = "--backend pytorch" if plain else f"no {precision.upper()} for this model on this GPU"
    trt = "made for Hopper and Blackwell servers" if not server else "" if plain else "INT4 as W4AFP8 only, no INT8"
    return [
        Engine("dsv3 generate", plain and not pipeline, stages if plain else ours),
        Engine("SGLang", ampere, sglang),
        Engine("vLLM", ampere and precision != "int8", vllm),
        Engine("LMDeploy", ampere and plain and not pipeline, stages or lmdeploy),
        Engine("TensorRT-LLM", server and plain, trt),
    ]
