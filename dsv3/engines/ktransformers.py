"""KTransformers: SGLang's server with the routed experts in RAM, computed by the CPU; everything else on the card."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..sizing.machine import Machine
from . import sglang
from .checkpoints import READERS, Served, look
from .command import PYTHON, Command, Engine, Flag, on_machines
from .options import Serve

VERSION = "0.7.2"
GUIDE = "doc/en/kt-kernel/Native-Precision-Tutorial.md"
METHODS = {"fp8": "FP8", "bf16": "BF16"}


def build(serve: Serve) -> Command:
    """``python -m sglang.launch_server`` of its own SGLang, with its flags added."""
    command = sglang.build(replace(serve, python=None))
    program: tuple[str, ...] = (serve.python or PYTHON, "-m", "sglang.launch_server")
    if serve.api_key_env:
        program = (serve.python or PYTHON, *command.program[1:3])
    return replace(
        command,
        checked=f"SGLang {sglang.VERSION}, and KTransformers {VERSION}",
        program=program,
        flags=(*command.flags, *_flags(serve)),
        notes=("Wants the package sglang-kt, not sglang: its own build, in an environment of its own.",),
    )


def _flags(serve: Serve) -> Iterator[Flag]:
    precision = look(serve.model).precision
    yield Flag(("--kt-weight-path", serve.model), "the routed experts for the CPU: the same files", GUIDE)
    yield Flag(("--kt-method", METHODS.get(precision or "", "FP8")), "the experts as they are stored", GUIDE)
    yield Flag(("--kt-cpuinfer", str(serve.threads or 1)), "threads for the experts", GUIDE)
    yield Flag(("--kt-threadpool-count", str(serve.numa)), "one pool of threads for each socket's memory", GUIDE)
    yield Flag(("--kt-num-gpu-experts", "1"), "routed experts of a layer on the card; more take its memory", GUIDE)


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What its guide does not show, or needs."""
    if serve.threads is None:
        yield "--threads: say how many compute the experts, about 0.9 of the real cores (lscpu)"
    if serve.pp > 1 or serve.dp > 1 or serve.nnodes > 1:
        yield "--pp, --dp, --nnodes: KTransformers was looked up for one machine; --tp shares out over its cards"
    if serve.mtp:
        yield "--mtp: not looked up for this model in KTransformers"
    said = served.stored and served.stored.method in READERS  # checks says who reads it
    if served.precision not in (None, *METHODS) and not said:
        stored = served.stored.words if served.stored else served.precision
        yield f"{served.name} is stored as {stored}; KTransformers takes DeepSeek's own FP8, or BF16 ({GUIDE})"
    if serve.cpu_moe is not None:
        yield "--n-cpu-moe: llama.cpp's; KTransformers keeps the routed experts of all layers in RAM"


def here(serve: Serve, served: Served, m: Machine) -> Iterable[str]:
    """Its kernels for FP8 and BF16 weights need AVX512."""
    flags = m.read("proc/cpuinfo") or ""
    if flags and "avx512f" not in flags:
        yield f"KTransformers multiplies the experts with AVX512, which this CPU lacks ({GUIDE}); --engine llamacpp"


ENGINE = Engine(
    name="ktransformers",
    title="KTransformers",
    package="kt-kernel",
    version=VERSION,
    known="flags from its guide of 2026-08-21; not run",
    install=("python3 -m venv kt", f"kt/bin/pip install kt-kernel=={VERSION} sglang-kt"),
    console="python",
    image=None,
    port=30000,
    health="/health",
    spread="nodes",
    build=build,
    limits=limits,
    help=("-m", "sglang.launch_server", "--help"),
    split=lambda serve, machines: on_machines(serve, machines, tp=1),
    runs=sglang.runs,
    here=here,
)
