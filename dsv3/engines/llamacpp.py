"""llama.cpp: a GGUF file, its routed experts in RAM and everything else on the card, by ``llama-server``.

Where that is not, and the package llama-cpp-python is: its server, which keeps everything in RAM.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..checkpoint.gguf import SPLIT, Gguf
from ..cli import describe
from ..outside import printable
from ..sizing.machine import Machine, memory
from .checkpoints import Served
from .command import PYTHON, REASONING, Command, Engine, Flag, beside, on_machines
from .options import Serve
from .parsers import FAMILIES

VERSION = "0c1e570"
ARG = "common/arg.cpp"
CACHED = 2  # bytes of a number in the cache, F16
SYSTEM = 4e9  # bytes of RAM that the system and the engine's buffers want
PACKAGE_VERSION = "0.3.36"
SETTINGS = "llama_cpp/server/settings.py"
PATIENCE = 60  # seconds; an interpreter on a network disk starts slowly
SAFE = {"PYTHONSAFEPATH": "1"}  # from Python 3.11 on, what lies in the working folder is not taken for the package


def build(serve: Serve) -> Command:
    """``llama-server``; of a split file it is given the first part."""
    return Command(
        checked=f"llama.cpp {VERSION}",
        program=(_server(serve.python),),
        flags=tuple(_flags(serve)),
        key=("LLAMA_API_KEY", serve.api_key_env) if serve.api_key_env else None,
        notes=NOTES,
    )


NO_MTP = "The MTP layer is not in a GGUF file: the converter leaves it out."
NOTES = (
    NO_MTP,
    "dsv3 plan MODEL --gpu NAME --ram GB says how many layers' experts the card can hold beside: --n-cpu-moe.",
)


def _server(python: str | None) -> str:
    """``llama-server`` beside the interpreter, else the PATH's."""
    own = beside(python, "llama-server")
    return own if shutil.which(own) or not shutil.which("llama-server") else "llama-server"


def _first(model: str) -> str:
    """The file that is named; of a split one its first part."""
    split = SPLIT.fullmatch(Path(model).name)
    return str(Path(model).with_name(f"{split[1]}-00001-of-{split[3]}.gguf")) if split else model


def _flags(serve: Serve) -> Iterator[Flag]:
    yield Flag(("--model", _first(serve.model)), "what to serve, a split file's first part", ARG)
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
        cards = "llama-server takes all cards that it sees; CUDA_VISIBLE_DEVICES chooses them"
        yield f"--tp, --pp, --dp, --nnodes: {'with --cpu there is no card to share out over' if serve.cpu else cards}"
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
    if served.gguf and serve.context and (longest := served.gguf.number("context_length")) < serve.context and longest:
        yield f"--context {serve.context}: {served.name} has {longest} ({served.gguf.architecture}.context_length)"


def here(serve: Serve, served: Served, m: Machine) -> Iterable[str]:
    """What this machine's memory rules out: without room the weights are read from the disk for every token."""
    found = served.gguf
    whole, limit = memory(m)
    ram = limit or whole
    if found is None or ram is None:
        return
    cards = 0 if serve.cpu else sum((gpu.memory_mib or 0) << 20 for gpu in m.gpus or ())
    routed = sum(weight.nbytes or 0 for weight in found.weights if weight.routed)
    context, row = serve.context or found.number("context_length"), token_bytes(found)
    beside, cache = found.nbytes - routed, context * row
    counted = f" with the cache of {context} tokens, {cache / 1e9:.1f} GB" if cache else ""

    def cure(room: float, other: str) -> str:
        most = min(context, int(room // row)) if row else 0
        return f"--context {most} or less" if most > 0 else other

    if not serve.cpu and not cards:
        yield "no NVIDIA GPU here (nvidia-smi lists none): --cpu keeps everything in RAM"
    elif not serve.cpu and beside + cache > cards:
        what = f"{(beside + cache) / 1e9:.1f} GB beside the routed experts{counted}"
        yield f"{what}, and the cards have {cards / 1e9:.1f}: {cure(cards - beside, '--cpu, or another file')}"
    room = ram + cards - found.nbytes - SYSTEM
    if cache > room:
        have = f"{ram / 1e9:.0f} GB of RAM" + (f" and {cards / 1e9:.0f} GB on cards" if cards else "")
        yield (
            f"{served.name} has {(found.nbytes + cache) / 1e9:.1f} GB{counted}, and this machine {have}: weights would "
            f"be read from the disk for every token; {cure(room, 'dsv3 plan MODEL --ram GB shows smaller files')}"
        )


def token_bytes(found: Gguf) -> int:
    """Bytes of the cache for each token, in all layers; 0 where they are not known here: another architecture.

    Of a file with MLA's sizes the latent and the rotated key alone are kept, of older ones keys and values of all heads
    (src/llama-kv-cache.cpp).
    """
    if found.architecture != "deepseek2":
        return 0
    if found.number("attention.key_length_mla"):
        width = found.number("attention.kv_lora_rank") + found.number("rope.dimension_count")
    else:
        lengths = found.number("attention.key_length") + found.number("attention.value_length")
        width = found.number("attention.head_count_kv") * lengths
    return found.number("block_count") * width * CACHED


# ------------------------------------------------------------------------------------------ the package's server


def found(python: str | None, cpu: bool = False) -> Engine:
    """``llama-server``, where it is or where neither is; else the server of the package in ``python``'s environment.

    With ``cpu`` both are ways to install it.
    """
    if shutil.which(_server(python)):
        return ENGINE
    # A folder that just has the name, in the working folder of a Python before 3.11, has no origin.
    code = "from importlib.util import find_spec as find; print(getattr(find('llama_cpp'), 'origin', None) or '')"
    try:
        if _says(python, code).strip():
            return PACKAGE
    except OSError:
        pass  # said where it is looked at what is installed
    return WITHOUT_CARD if cpu else ENGINE


def _says(python: str | None, code: str) -> str:
    """What ``code`` prints in that Python.

    Raises:
        OSError: it fails, takes too long, or there is no such Python; the last line of its own says why.
    """
    run = [python or PYTHON, "-c", code]
    try:
        done = subprocess.run(
            run, env=os.environ | SAFE, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no answer after {PATIENCE:g} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ChildProcessError(printable(last[0]))
    return done.stdout


def build_package(serve: Serve) -> Command:
    """``python -m llama_cpp.server``. The address and the key are read from the environment before any flag."""
    return Command(
        checked=f"llama-cpp-python {PACKAGE_VERSION}",
        program=(serve.python or PYTHON, "-m", "llama_cpp.server"),
        flags=tuple(_package_flags(serve)),
        env={"HOST": serve.host, "PORT": str(serve.port or PACKAGE.port)} | SAFE,
        key=("API_KEY", serve.api_key_env) if serve.api_key_env else None,
        notes=(
            "llama-server is not here, so the server of llama-cpp-python runs: all experts stay in RAM, and thinking "
            "comes in one piece with the answer; dsv3 ask tells them apart.",
            "It listens where HOST and PORT say, which it reads before its flags, whoever set them; PYTHONSAFEPATH: a "
            "llama_cpp in the folder where it runs is not taken for the package.",
            NO_MTP,
        ),
    )


def _package_flags(serve: Serve) -> Iterator[Flag]:
    yield Flag(("--model", _first(serve.model)), "what to serve, a split file's first part", SETTINGS)
    context = str(serve.context or 0)
    yield Flag(
        ("--n_ctx", context), "tokens of prompt and answer together; 0: as the file says; by itself 2048", SETTINGS
    )
    why = "by itself it keeps a row of logits, as long as the vocabulary, for each token of the context"
    yield Flag(("--logits_all", "false"), why, SETTINGS)
    why = "no penalty on what was said already, which by itself is 1.1 and spoils sums (server/types.py)"
    yield Flag(("--last_n_tokens_size", "0"), why, SETTINGS)
    yield Flag(
        ("--interrupt_requests", "false"), "a request waits, and does not cut off the answer before it", SETTINGS
    )
    if serve.threads:
        yield Flag(("--n_threads", str(serve.threads)), "for the answer", SETTINGS)
        yield Flag(("--n_threads_batch", str(serve.threads)), "for the prompt", SETTINGS)
    if serve.numa > 1:
        yield Flag(("--numa", "true"), f"weights and threads spread over {serve.numa} sockets' memory", SETTINGS)


def package_limits(serve: Serve, served: Served) -> Iterable[str]:
    """What llama.cpp cannot, and its package's server less."""
    yield from limits(replace(serve, cpu_moe=None), served)
    if not serve.cpu:
        yield "llama_cpp.server keeps no experts in RAM beside a card: say --cpu, or build llama-server (ENGINES.md)"
    if serve.cpu_moe is not None:
        yield "--n-cpu-moe: llama_cpp.server has no such flag; llama-server has"


def package_here(serve: Serve, served: Served, m: Machine) -> Iterable[str]:
    """What is missing in the environment, or set there and would be read; and the memory."""
    code = "import llama_cpp.server.app, uvicorn; print(*llama_cpp.server.app.Settings.model_fields)"
    python = serve.python or PYTHON
    try:
        names = _says(serve.python, code)
    except OSError as error:
        why = describe(error)
        if why.startswith(ModuleNotFoundError.__name__):
            cure = f"{shlex.quote(python)} -m pip install 'llama-cpp-python[server]=={PACKAGE_VERSION}'"
            yield f"llama-cpp-python is there without what its server imports ({why}): {cure}"
        else:
            yield f"--python {python}: llama_cpp.server does not start there: {why}"
        return
    command = build_package(serve)
    said = {flag.words[0].removeprefix("--") for flag in command.flags} | {name.lower() for name in command.env}
    read = {*names.split(), "config_file"} - said - ({"api_key"} if serve.api_key_env else set())
    if ambient := sorted(name for name in m.env if name.lower() in read):
        cure = f"unset {' '.join(ambient)}"
        yield f"{', '.join(ambient)}: set in the environment, where llama_cpp.server reads its settings: {cure}"
    yield from here(serve, served, m)


ENGINE = Engine(
    name="llamacpp",
    title="llama.cpp",
    package=None,
    version=VERSION,
    known=f"flags in its source, as llama-cpp-python {PACKAGE_VERSION} brings it; not run by this command",
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
    tells_thinking=True,
)
PACKAGE = replace(
    ENGINE,
    title="llama-cpp-python",
    package="llama_cpp_python",
    version=PACKAGE_VERSION,
    known="run on a CPU with tiny-r1",
    install=("python3 -m venv llama", f"llama/bin/pip install 'llama-cpp-python[server]=={PACKAGE_VERSION}'"),
    console="python",
    port=8000,
    health="/docs",  # answers once the model is loaded; /v1/models wants the key
    build=build_package,
    limits=package_limits,
    help=("-m", "llama_cpp.server", "--help"),
    here=package_here,
    tells_thinking=False,
)
BUILD = " && ".join(ENGINE.install).replace(" -DGGML_CUDA=ON", "")
WITHOUT_CARD = replace(
    ENGINE, install=(*PACKAGE.install[:-1], f"{PACKAGE.install[-1]}, and --python llama/bin/python; or {BUILD}")
)
