"""The engines, by name, and which of them run a checkpoint on a GPU."""

from ..said import Said
from ..sizing.gpus import GPU
from ..sizing.needs import Precision
from ..sizing.planner import Runner
from . import ascend, ktransformers, llamacpp, lmdeploy, sglang, trtllm, vllm
from .command import Engine

ENGINES = (sglang.ENGINE, vllm.ENGINE, lmdeploy.ENGINE, trtllm.ENGINE, ascend.ENGINE)
OFFLOADING = (llamacpp.ENGINE, ktransformers.ENGINE)  # one machine: a card or none, and much RAM
SERVING = ENGINES + OFFLOADING


def find(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ValueError: unknown, listing the known ones.
    """
    for engine in SERVING:
        if engine.name == name:
            return engine
    raise ValueError(f"no engine {name!r}: known are {', '.join(e.name for e in SERVING)}")


def runners(gpu: GPU, precision: Precision, pipeline: bool = False) -> list[Runner]:
    """What ``dsv3 generate`` and each engine for such GPUs do with a DeepSeek-V3 checkpoint of ``precision``.

    As the engines' own checks and pages say; none was run on these GPUs.
    """
    ours = Runner("dsv3 generate", *_generate(gpu, precision, pipeline))
    return [ours, *(Runner(e.title, *e.runs(gpu, precision, pipeline)) for e in ENGINES if e.runs)]


def _generate(gpu: GPU, precision: Precision, pipeline: bool) -> tuple[bool, str]:
    if gpu.multiplies(precision):
        return not pipeline, Said("no pipeline stages") if pipeline else ""
    if precision == "fp8":
        return False, Said("dequantises FP8 at loading here: plan with --precision bf16")
    return False, Said("FP8 and BF16 only")
