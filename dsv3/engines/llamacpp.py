"""llama.cpp's ``llama-server``: a GGUF file, its routed experts in RAM and everything else on the card."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..checkpoint.gguf import SPLIT
from ..sizing.machine import Machine, memory
from .checkpoints import Served
from .command import REASONING, Command, Engine, Flag, beside, on_machines
from .options import Serve
from .parsers import FAMILIES

VERSION = "0c1e570"
ARG = "common/arg.cpp"
SYSTEM = 4e9  # bytes of RAM that the system and the engine's buffers want


def build(serve: Serve) -> Command:
    """``llama-server``; of a split file it is given the first part."""
    return Command(
        checked=f"llama.cpp {VERSION}",
        program=(beside(serve.python, ENGINE.console),),
        flags=tuple(_flags(serve)),
        key=("LLAMA_API_KEY", serve.api_key_env) if serve.api_key_env else None,
        notes=NOTES,
    )


NOTES = (
    "The MTP layer is not in a GGUF file: the converter leaves it out.",
    "dsv3 plan MODEL --gpu NAME --ram GB says how many layers' experts the card can hold beside: --n-cpu-moe.",
)


def _flags(serve: Serve) -> Iterator[Flag]:
    split = SPLIT.fullmatch(Path(serve.model).name)
    first = f"{split[1]}-00001-of-{split[3]}.gguf" if split else Path(serve.model).name
    yield Flag(("--model", str(Path(serve.model).with_name(first))), "what to serve, a split file's first part", ARG)
    if serve.cpu:
        yield Flag(("--n-gpu-layers", "0"), "no card", ARG)
    else:
        yield Flag(("--n-gpu-layers", "all"), "attention, shared experts and the cache of all layers on the card", ARG)
        if serve.cpu_moe is None:
            yield Flag(("--cpu-moe",), "the routed experts of all layers in RAM: a token reads few of them", ARG)
        else:
            layers = str(serve.cpu_moe)
            yield Flag(("--n-cpu-moe", layers), "in RAM are the routed experts of so many layers, from the first", ARG)
    context = str(serve.context or 0)
    yield Flag(("--ctx-size", context), "tokens of prompt and answer together; 0: as the file says", ARG)
    yield Flag(("--parallel", "1"), "one conversation at a time has all of it; more would share it out", ARG)
    yield Flag(("--flash-attn", "auto"), "one kernel for MLA's attention, where the card has it", ARG)
    if serve.threads:
        yield Flag(("--threads", str(serve.threads)), "as many as there are real cores; more are slower", ARG)
    if serve.numa > 1:
        yield Flag(("--numa", "distribute"), f"weights and threads spread over {serve.numa} sockets' memory", ARG)
    yield Flag(("--jinja",), "the file's own chat template", ARG)
    thinks = serve.reasoning_parser and serve.family is not None and _thinks(serve.family)
    yield Flag(("--reasoning-format", "deepseek" if thinks else "none"), REASONING if thinks else "no thinking", ARG)
    yield Flag(("--host", serve.host), "who can reach it", ARG)
    yield Flag(("--port", str(serve.port or ENGINE.port)), "of the server", ARG)


def _thinks(family: str) -> bool:
    return any(names.reasoning for names in FAMILIES[family].engines.values())


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What llama.cpp does in another way, or cannot."""
    if serve.gpus > 1 or serve.nnodes > 1:
        yield "--tp, --pp, --dp, --nnodes: llama-server takes all cards that it sees; CUDA_VISIBLE_DEVICES chooses them"
    if serve.mtp:
        yield "--mtp: the MTP layer is not in a GGUF file; llama.cpp's converter leaves it out (conversion/deepseek.py)"
    if serve.fp8_kv_cache:
        yield "--fp8-kv-cache: llama.cpp has no FP8 cache (common/arg.cpp, --cache-type-k)"
    if serve.quantization:
        yield "--quantization: a GGUF file is quantised as it is; another one is another file"
    if serve.remote_code:
        yield "--trust-remote-code: llama.cpp runs no Python of a repository"
    if serve.cpu and serve.cpu_moe is not None:
        yield "--n-cpu-moe: with --cpu everything is in RAM"


def here(serve: Serve, served: Served, m: Machine) -> Iterable[str]:
    """What this machine's memory rules out: without room the weights are read from the disk for every token."""
    found = served.gguf
    whole, limit = memory(m)
    ram = limit or whole
    if found is None or ram is None:
        return
    cards = 0 if serve.cpu else sum((gpu.memory_mib or 0) << 20 for gpu in m.gpus or ())
    routed = sum(weight.nbytes or 0 for weight in found.weights if weight.routed)
    if not serve.cpu and not cards:
        yield "no NVIDIA GPU here (nvidia-smi lists none): --cpu keeps everything in RAM"
    elif not serve.cpu and found.nbytes - routed > cards:
        rest = (found.nbytes - routed) / 1e9
        yield f"{rest:.1f} GB beside the routed experts, and the cards have {cards / 1e9:.1f}: --cpu, or another file"
    wanted = found.nbytes + SYSTEM
    if wanted > ram + cards:
        have = f"{ram / 1e9:.0f} GB of RAM" + (f" and {cards / 1e9:.0f} GB on cards" if cards else "")
        yield (
            f"{served.name} has {found.nbytes / 1e9:.1f} GB, and this machine {have}: weights would be read from the "
            "disk for every token; dsv3 plan MODEL --ram GB shows smaller files"
        )


ENGINE = Engine(
    name="llamacpp",
    title="llama.cpp",
    package=None,
    version=VERSION,
    known="flags in its source, as llama-cpp-python 0.3.36 brings it; not run by this command",
    install=(
        "git clone https://github.com/ggml-org/llama.cpp",
        "cmake -S llama.cpp -B llama.cpp/build -DGGML_CUDA=ON",
        "cmake --build llama.cpp/build --target llama-server -j",
    ),
    console="llama-server",
    image=None,
    port=8080,
    health="/health",
    spread="nodes",
    build=build,
    limits=limits,
    help=("--help",),
    split=lambda serve, machines: on_machines(serve, machines, tp=1),
    gguf=True,
    here=here,
)
