"""SGLang, on NVIDIA and AMD GPUs."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..said import Said
from ..sizing.gpus import GPU
from ..sizing.needs import Precision
from .checkpoints import Served, by_marlin, uncut_blocks
from .command import CODE, REASONING, TOOLS, Command, Engine, Flag, beside, keyed, tensor_parallel
from .options import Serve
from .parsers import flags

VERSION = "0.5.23"
FIELDS = "sglang/srt/arg_groups/fields/"
PARALLEL, SERVING, MODEL, SPEC = (FIELDS + f"{name}.py" for name in ("parallel", "serving", "model", "spec"))
PARSERS = (
    Flag(("--reasoning-parser",), REASONING, "sglang/srt/parser/reasoning_parser_names.py"),
    Flag(("--tool-call-parser",), TOOLS, "sglang/srt/function_call/parser_names.py"),
)


def build(serve: Serve) -> Command:
    """``sglang serve``."""
    program: tuple[str, ...] = (beside(serve.python, ENGINE.console), "serve")
    key = serve.api_key_env if serve.node_rank == 0 else None
    if key:
        program = (*keyed(serve, "from sglang.cli.main import main; main()", "--api-key"), "serve")
    return Command(
        checked=f"SGLang {VERSION}",
        program=program,
        flags=tuple(_flags(serve)),
        key=(key, key) if key else None,
    )


def _flags(serve: Serve) -> Iterator[Flag]:
    yield Flag(("--model-path", serve.model), "what to serve", MODEL)
    if serve.tp > 1:
        yield Flag(("--tp-size", str(serve.tp)), f"every layer cut over {serve.tp} GPUs", PARALLEL)
    if serve.pp > 1:
        yield Flag(("--pp-size", str(serve.pp)), f"layers in {serve.pp} stages", PARALLEL)
    if serve.nnodes > 1:
        yield Flag(("--nnodes", str(serve.nnodes)), "machines", PARALLEL)
        yield Flag(("--node-rank", str(serve.node_rank)), "which of them this is; 0 answers requests", PARALLEL)
        address = f"{serve.master_addr}:{serve.master_port}"
        yield Flag(("--dist-init-addr", address), "node 0, where the machines meet", PARALLEL)
    yield from flags("sglang", serve, *PARSERS)
    if serve.remote_code:
        yield Flag(("--trust-remote-code",), CODE, MODEL)
    if serve.mtp:
        yield Flag(("--speculative-algorithm", "EAGLE"), "speculative decoding with the MTP layer", SPEC)
        yield Flag(("--speculative-num-steps", str(serve.mtp)), "tokens drafted one after another", SPEC)
        yield Flag(("--speculative-eagle-topk", "1"), "a chain, not a tree", SPEC)
        yield Flag(("--speculative-num-draft-tokens", str(serve.mtp + 1)), "the drafted ones and the next", SPEC)
    if serve.fp8_kv_cache:
        yield Flag(("--kv-cache-dtype", "fp8_e4m3"), "half the bytes for each cached token", MODEL)
    if serve.quantization:
        yield Flag(("--quantization", serve.quantization), "instead of what config.json says", MODEL)
    if serve.context:
        yield Flag(("--context-length", str(serve.context)), "tokens of prompt and answer together", MODEL)
    yield Flag(("--host", serve.host), "who can reach it", SERVING)
    yield Flag(("--port", str(serve.port or ENGINE.port)), "of the server", SERVING)


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What SGLang refuses, and where its source says so."""
    if serve.dp > 1:
        yield "--dp: SGLang's data parallelism is of whole copies, or of attention (--attn-dp-size): not made here"
    cfg = served.cfg
    if cfg and serve.tp > cfg.n_routed_experts:
        yield f"--tp {serve.tp}: more than the {cfg.n_routed_experts} experts (deepseek_v2.py)"
    if cfg and served.blocks:
        yield from uncut_blocks(cfg, serve.tp, whole_experts=False)
    if cfg and serve.mtp and cfg.n_mtp_layers > 1:
        yield f"--mtp: SGLang takes one MTP layer, the model has {cfg.n_mtp_layers} (deepseek_weight_loader.py)"


def runs(gpu: GPU, precision: Precision, pipeline: bool) -> tuple[bool, str]:
    """From Ampere on. Source: the checks of quantization/fp8.py, read in SGLang 0.5.23."""
    others: dict[str, str] = {"int8": Said("INT8 in 128x128 blocks or channels"), "int4": Said("AWQ or GPTQ")}
    others |= {"nvfp4": Said("ModelOpt, on Blackwell"), "mxfp4": "Quark"}
    least = (10, 0) if precision == "nvfp4" else (8, 0)
    return gpu.compute >= least, others.get(precision, by_marlin(gpu, precision))


def arguments(serve: Serve) -> dict[str, Any]:
    """Those of ``sglang.Engine``."""
    found = {
        "model_path": serve.model,
        "tp_size": serve.tp,
        "pp_size": serve.pp,
        "context_length": serve.context,
        "quantization": serve.quantization,
        "kv_cache_dtype": "fp8_e4m3" if serve.fp8_kv_cache else None,
    }
    if serve.mtp:
        found |= {"speculative_algorithm": "EAGLE", "speculative_num_steps": serve.mtp}
        found |= {"speculative_eagle_topk": 1, "speculative_num_draft_tokens": serve.mtp + 1}
    return found


ENGINE = Engine(
    name="sglang",
    title="SGLang",
    package="sglang",
    version=VERSION,
    known="flags and values taken by the parser of the wheel; not run",
    install=("python3 -m venv sglang", f"sglang/bin/pip install sglang=={VERSION}"),
    console="sglang",
    image=f"lmsysorg/sglang:v{VERSION}",
    port=30000,
    health="/health",
    spread="nodes",
    build=build,
    limits=limits,
    help=("serve", "--help"),
    split=tensor_parallel,
    runs=runs,
    arguments=arguments,
)
