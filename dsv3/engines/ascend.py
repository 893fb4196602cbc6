"""vLLM on Huawei's Ascend NPUs, by the plugin vLLM-Ascend."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from . import vllm
from .checkpoints import Served
from .command import Command, Engine, Flag, beside, on_machines
from .options import Serve

VERSION = "0.23.0"
W8A8 = "vllm-ascend/DeepSeek-R1-W8A8"  # on modelscope.cn
MODELSLIM = "quant_model_description.json"
GUIDE = "docs/source/tutorials/models/DeepSeek-R1.md"


def build(serve: Serve) -> Command:
    """``vllm serve``, which finds the plugin by itself."""
    return Command(
        checked=f"vLLM-Ascend {VERSION}",
        program=(beside(serve.python, ENGINE.console), "serve", serve.model),
        flags=tuple(_flags(serve)),
        key=vllm.key(serve),
    )


def _flags(serve: Serve) -> Iterator[Flag]:
    yield from vllm.parallel(serve)
    if serve.quantization or _by_modelslim(Path(serve.model)):
        method = serve.quantization or "ascend"
        yield Flag(("--quantization", method), "weights in W8A8, as ModelSlim makes them", GUIDE)
    if serve.gpus > 1:
        yield Flag(("--enable-expert-parallel",), "whole experts on each NPU, none is cut", GUIDE)
    yield from vllm.common(serve)
    yield from vllm.spoken("ascend", serve)
    if serve.mtp:
        yield vllm.mtp(serve.mtp)
    decode = '{"cudagraph_mode": "FULL_DECODE_ONLY"}'
    yield Flag(("--compilation-config", decode), "decoding as one graph", GUIDE)


def _by_modelslim(folder: Path) -> bool:
    """Whether the weights are ModelSlim's; of what is not here that is taken for granted."""
    return not folder.is_dir() or (folder / MODELSLIM).is_file()


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What is not there on Ascend."""
    yield from vllm.node_limits(serve)
    if served.precision == "fp8":
        yield (
            f"{served.name} has FP8 weights, which Ascend NPUs cannot load: take an INT8 checkpoint such as {W8A8} "
            "(modelscope.cn)"
        )
    if serve.fp8_kv_cache:
        yield "--fp8-kv-cache: Ascend A2 and A3 have no FP8"


def split(serve: Serve, machines: int) -> Serve:
    """Two groups of four NPUs on each machine."""
    return on_machines(serve, machines, tp=4, dp=2 * machines)


ENGINE = Engine(
    name="ascend",
    title="vLLM-Ascend",
    package="vllm-ascend",
    version=VERSION,
    known="as in its guide to DeepSeek-R1 of August 2026; not run",
    install=(
        "python3 -m venv vllm-ascend",
        f"vllm-ascend/bin/pip install vllm=={VERSION}",
        "vllm-ascend/bin/pip install --extra-index-url https://mirrors.huaweicloud.com/ascend/repos/pypi/variant "
        f"vllm-ascend=={VERSION}",
    ),
    console="vllm",
    image=None,
    port=vllm.ENGINE.port,
    health="/health",
    spread="nodes",
    build=build,
    limits=limits,
    help=vllm.ENGINE.help,
    split=split,
)
