"""The engines, by name."""

from . import ascend, lmdeploy, sglang, trtllm, vllm
from .command import Engine

ENGINES = (sglang.ENGINE, vllm.ENGINE, lmdeploy.ENGINE, trtllm.ENGINE, ascend.ENGINE)


def find(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ValueError: unknown, listing the known ones.
    """
    for engine in ENGINES:
        if engine.name == name:
            return engine
    raise ValueError(f"no engine {name!r}: known are {', '.join(e.name for e in ENGINES)}")
