"""TensorRT-LLM, on Hopper and Blackwell servers."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from ..said import Said
from ..sizing.gpus import GPU
from ..sizing.needs import Precision
from .checkpoints import Served
from .command import CODE, REASONING, TOOLS, Command, Engine, Flag, beside, tensor_parallel
from .options import Serve
from .parsers import flags

VERSION = "1.2.1"
SERVE = "tensorrt_llm/commands/serve.py"
PARSERS = (Flag(("--reasoning_parser",), REASONING, SERVE), Flag(("--tool_parser",), TOOLS, SERVE))
README = "examples/models/core/deepseek_v3/README.md"


def build(serve: Serve) -> Command:
    """``trtllm-serve``; on several machines what MPI starts once for each GPU."""
    several = serve.nnodes > 1
    launcher = (beside(serve.python, "trtllm-llmapi-launch"),) if several else ()
    config = _config(serve)
    # The name tells the text: no file of the same name says something else.
    name = f"trtllm-{hashlib.sha256(config.encode()).hexdigest()[:8]}.yml" if config else None
    return Command(
        checked=f"TensorRT-LLM {VERSION}",
        program=(*launcher, beside(serve.python, ENGINE.console), serve.model),
        flags=tuple(_flags(serve, name)),
        files={name: config} if name else {},
        notes=("mpirun or srun starts this on each GPU: dsv3 launch --engine trtllm",) if several else (),
    )


def _flags(serve: Serve, config: str | None) -> Iterator[Flag]:
    yield Flag(("--backend", "pytorch"), "reads the Hugging Face folder as it is", SERVE)
    yield Flag(("--tp_size", str(serve.tp)), f"every layer cut over {serve.tp} GPU(s)", SERVE)
    yield Flag(("--ep_size", str(serve.tp)), "whole experts on each GPU, none is cut", SERVE)
    if serve.pp > 1:
        yield Flag(("--pp_size", str(serve.pp)), f"layers in {serve.pp} stages", SERVE)
    yield from flags("trtllm", serve, *PARSERS)
    if serve.remote_code:
        yield Flag(("--trust_remote_code",), CODE, SERVE)
    if serve.context:
        yield Flag(("--max_seq_len", str(serve.context)), "tokens of prompt and answer together", SERVE)
    if config:
        yield Flag(("--config", config), "what has no flag", SERVE)
    yield Flag(("--host", serve.host), "who can reach it", SERVE)
    yield Flag(("--port", str(serve.port or ENGINE.port)), "of the server", SERVE)


def _config(serve: Serve) -> str:
    """The YAML file for what has no flag (``README``); empty if there is nothing."""
    text = ""
    if serve.fp8_kv_cache:
        text += "kv_cache_config:\n  dtype: fp8\n"
    if serve.mtp:
        text += f"speculative_config:\n  decoding_type: MTP\n  num_nextn_predict_layers: {serve.mtp}\n"
    return text


def limits(serve: Serve, served: Served) -> Iterable[str]:
    """What TensorRT-LLM lacks."""
    if serve.api_key_env or not serve.loopback:
        yield (
            "trtllm-serve has no API key (commands/serve.py): keep --host 127.0.0.1 and no --api-key-env, and reach it "
            "through ssh -L, or through a proxy that asks for one"
        )
    if serve.dp > 1:
        yield "--dp: attention of TensorRT-LLM is made data-parallel in its YAML file: not made here"
    if serve.quantization:
        yield "TensorRT-LLM takes 4-bit weights of this model as NVFP4 or W4AFP8 only, and reads that in config.json"
    cfg = served.cfg
    if cfg and served.blocks and cfg.inter_dim % 128:
        yield f"intermediate_size = {cfg.inter_dim}: must be a multiple of 128 (modeling_deepseekv3.py)"


def runs(gpu: GPU, precision: Precision, pipeline: bool) -> tuple[bool, str]:
    """On Hopper and Blackwell servers. Source: the model's page (``README``)."""
    server = gpu.compute[0] in (9, 10)
    plain = gpu.multiplies(precision) or (precision == "nvfp4" and gpu.compute[0] == 10)
    note = "" if plain else Said("INT4 as W4AFP8 only, NVFP4 on Blackwell, no INT8")
    return server and plain, note if server else Said("made for Hopper and Blackwell servers")


def arguments(serve: Serve) -> dict[str, Any]:
    """Those of ``tensorrt_llm.LLM``."""
    drafts = {"decoding_type": "MTP", "num_nextn_predict_layers": serve.mtp}
    return {
        "model": serve.model,
        "tensor_parallel_size": serve.tp,
        "moe_expert_parallel_size": serve.tp,
        "pipeline_parallel_size": serve.pp,
        "max_seq_len": serve.context,
        "kv_cache_config": {"dtype": "fp8"} if serve.fp8_kv_cache else None,
        "speculative_config": drafts if serve.mtp else None,
    }


ENGINE = Engine(
    name="trtllm",
    title="TensorRT-LLM",
    package="tensorrt_llm",
    version=VERSION,
    known="flags read in its repository (commit 00209af1, of no release), the YAML keys in its examples; not run",
    install=("python3 -m venv trtllm", f"trtllm/bin/pip install tensorrt_llm=={VERSION}"),
    console="trtllm-serve",
    image=None,
    port=8000,
    health="/health",
    spread="mpi",
    build=build,
    limits=limits,
    help=("serve", "--help"),
    split=tensor_parallel,
    runs=runs,
    arguments=arguments,
)
