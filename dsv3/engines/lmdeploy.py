"""LMDeploy's PyTorch engine; its other engine, TurboMind, has no DeepSeek-V3."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..said import Said
from ..sizing.gpus import GPU
from ..sizing.needs import Precision
from .checkpoints import Served
from .command import CODE, REASONING, TOOLS, Command, Engine, Flag, beside, keyed, tensor_parallel
from .options import Serve
from .parsers import flags

VERSION = "0.18.0"
SERVE, UTILS = "lmdeploy/cli/serve.py", "lmdeploy/cli/utils.py"
NODES = "docs/en/advance/pytorch_multinodes.md"
RAY_PORT = 6379
PARSERS = (
    Flag(("--reasoning-parser",), REASONING, "lmdeploy/serve/parsers/reasoning_parser"),
    Flag(("--tool-call-parser",), TOOLS, "lmdeploy/serve/parsers/tool_parser"),
)


def build(serve: Serve) -> Command:
    """``lmdeploy serve api_server``; on the other nodes the Ray process that waits for it."""
    checked = f"LMDeploy {VERSION}"
    ray = beside(serve.python, "ray")
    if serve.node_rank:
        flags = (
            Flag((f"--address={serve.master_addr}:{RAY_PORT}",), "node 0", NODES),
            Flag(("--block",), "stay in the foreground", NODES),
        )
        return Command(checked=checked, program=(ray, "start"), flags=flags, notes=RAY_NOTES)
    words: tuple[str, ...] = ("serve", "api_server", serve.model)
    program: tuple[str, ...] = (beside(serve.python, ENGINE.console), *words)
    if serve.api_key_env:
        program = (*keyed(serve, "from lmdeploy.cli import run; run()", "--api-keys"), *words)
    return Command(
        checked=checked,
        program=program,
        flags=tuple(_flags(serve)),
        key=(serve.api_key_env, serve.api_key_env) if serve.api_key_env else None,
        before=((ray, "start", "--head", f"--port={RAY_PORT}"),) if serve.nnodes > 1 else (),
        after=(ray, "stop") if serve.nnodes > 1 else (),
        notes=RAY_NOTES if serve.nnodes > 1 else (),
    )


RAY_NOTES = (
    "Ray starts the ranks of all machines; the server waits until they are there.",
    f"Whoever reaches Ray's port {RAY_PORT} can run programs here: a private network only.",
)


def _flags(serve: Serve) -> Iterator[Flag]:
    yield Flag(("--backend", "pytorch"), "the other engine, TurboMind, lacks this model", UTILS)
    if serve.tp > 1:
        yield Flag(("--tp", str(serve.tp)), f"every layer cut over {serve.tp} GPUs", UTILS)
    yield from flags("lmdeploy", serve, *PARSERS)
    if serve.remote_code:
        yield Flag(("--trust-remote-code",), CODE, UTILS)
    if serve.mtp:
        yield Flag(("--speculative-algorithm", "deepseek_mtp"), "speculative decoding with the MTP layer", UTILS)
        yield Flag(("--speculative-num-draft-tokens", str(serve.mtp)), "tokens that it drafts", UTILS)
    if serve.context:
        yield Flag(("--session-len", str(serve.context)), "tokens of prompt and answer together", UTILS)
    yield Flag(("--server-name", serve.host), "by itself it listens on every address", SERVE)
    yield Flag(("--server-port", str(serve.port or ENGINE.port)), "of the server", SERVE)


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What LMDeploy lacks, and where it says so."""
    if serve.pp > 1:
        yield "--pp: LMDeploy has no pipeline stages; more machines join by Ray, with a larger --tp"
    if serve.dp > 1:
        yield "--dp: LMDeploy's data parallelism needs a proxy and a process for each rank: not made here"
    if serve.tp & (serve.tp - 1):
        yield f"--tp {serve.tp}: LMDeploy takes powers of two (cli/utils.py)"
    if serve.fp8_kv_cache:
        yield "--fp8-kv-cache: LMDeploy's table says no to a quantized KV cache for DeepSeek-V3 (supported_models.md)"
    if serve.quantization:
        yield "LMDeploy's table says no to 4-bit weights for DeepSeek-V3 (supported_models.md); it takes FP8 and BF16"


def runs(gpu: GPU, precision: Precision, pipeline: bool) -> tuple[bool, str]:
    """From Ampere on, as the units multiply. Source: blockedf8_modules.py, read in LMDeploy 0.18.0."""
    plain = gpu.multiplies(precision)
    none = Said("no {precision} for this model on this GPU", precision=precision.upper())
    note = "--backend pytorch" if plain else none
    return gpu.compute >= (8, 0) and plain and not pipeline, Said("no pipeline stages") if pipeline else note


def arguments(serve: Serve) -> dict[str, Any]:
    """Those of ``PytorchEngineConfig``, beside ``model_path`` and ``speculative_config``, which ``lmdeploy.pipeline``
    takes."""
    return {
        "model_path": serve.model,
        "tp": serve.tp,
        "session_len": serve.context,
        "speculative_config": {"method": "deepseek_mtp", "num_speculative_tokens": serve.mtp} if serve.mtp else None,
    }


ENGINE = Engine(
    name="lmdeploy",
    title="LMDeploy",
    package="lmdeploy",
    version=VERSION,
    known="flags and values taken by the parser of the wheel; several machines as in its documentation; not run",
    install=("python3 -m venv lmdeploy", f"lmdeploy/bin/pip install lmdeploy=={VERSION} ray"),
    console="lmdeploy",
    image=f"openmmlab/lmdeploy:v{VERSION}",
    port=23333,
    health="/health",
    spread="ray",
    build=build,
    limits=limits,
    help=("serve", "api_server", "--help"),
    split=tensor_parallel,
    runs=runs,
    arguments=arguments,
)
