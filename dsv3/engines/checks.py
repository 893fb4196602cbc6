"""What cannot work, said before anything starts, each with its reason."""

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..checkpoint.gguf import is_meant
from ..config import ModelConfig
from ..hubs.catalogue import find_model
from ..outside import printable
from ..sizing.gpus import GPU, gpus
from ..sizing.machine import Machine
from ..sizing.needs import Need, Split, Workload, fits, largest, needs, table, weights
from ..sizing.planner import WORKLOAD
from .checkpoints import READERS, Served, is_id, look
from .command import PYTHON, Command, Engine
from .options import Serve
from .server import check_port

FOUR_BIT = ("awq", "gptq", "moe_wna16")
PATIENCE = 60  # seconds; an interpreter on a network disk starts slowly


def of_arguments(engine: Engine, serve: Serve, gpu: GPU | None = None) -> list[str]:
    """What the options, the checkpoint and a named GPU rule out; the same on every machine."""
    served = look(serve.model)
    found = [*served.wrong, *_kind(engine, serve, served)]
    if served.cfg:
        found += _shape(serve, served, served.cfg)
    found += _quantization(engine, serve, served)
    found += engine.limits(serve, served)
    if gpu:
        found += of_gpu(engine, serve, served, gpu)
    return found


def _kind(engine: Engine, serve: Serve, served: Served) -> Iterator[str]:
    """A GGUF file for an engine of folders, or the other way round; options that are other engines'."""
    if served.gguf and not engine.gguf:
        yield f"{served.name}: a GGUF file, and {engine.title} reads Hugging Face folders; --engine llamacpp"
    path = Path(serve.model)
    if engine.gguf and path.is_dir():
        yield (
            f"{serve.model}: a folder, and {engine.title} reads GGUF files; its own converter makes one: "
            f"dsv3 gguf {shlex.quote(serve.model)} --llama-cpp DIR --outfile FILE.gguf"
        )
    elif engine.gguf and not is_meant(path):
        yield (
            f"{serve.model}: no file here, and {engine.title} reads GGUF files: fetch one, and give its path; "
            "dsv3 plan MODEL --ram GB says what kinds there are, and how large"
        )
    if engine.here is None and (serve.threads or serve.numa > 1 or serve.cpu_moe is not None):
        yield f"--threads, --numa, --n-cpu-moe: for experts in RAM, which {engine.title} does not keep there"


def _shape(serve: Serve, served: Served, cfg: ModelConfig) -> Iterator[str]:
    name = served.name
    if cfg.n_heads % serve.tp:
        yield f"--tp {serve.tp}: {name} has {cfg.n_heads} attention heads, and each GPU needs as many"
    if serve.pp > cfg.n_layers:
        yield f"--pp {serve.pp}: {name} has {cfg.n_layers} layers"
    if serve.mtp and not cfg.n_mtp_layers:
        yield f"--mtp: {name} has no MTP layer (num_nextn_predict_layers in config.json)"
    elif serve.mtp and served.lacks_mtp and cfg.n_mtp_layers > 1:
        yield f"--mtp: {name} lacks MTP layers that config.json names (num_nextn_predict_layers = {cfg.n_mtp_layers})"
    elif serve.mtp and served.lacks_mtp:
        yield f"--mtp: {name} has no MTP layer: config.json names one (num_nextn_predict_layers), the weights lack it"
    if serve.context and serve.context > cfg.max_seq_len:
        yield f"--context {serve.context}: {name} has {cfg.max_seq_len} (max_position_embeddings)"


def _quantization(engine: Engine, serve: Serve, served: Served) -> Iterator[str]:
    wanted, stored = serve.quantization, served.stored
    readers = READERS.get(stored.method, ()) if stored else ()
    if stored and readers and engine.name not in readers and not engine.gguf:
        others = ", ".join(readers)
        yield f"{served.name} is stored as {stored.words}, which {engine.title} does not read; --engine: {others}"
    if wanted == "fp8" and served.precision == "fp8":
        yield "--quantization fp8: config.json says so already, in blocks of 128; the flag would quantise once more"
    if wanted and wanted.startswith(FOUR_BIT) and served.precision in ("fp8", "bf16"):
        kind = served.precision.upper()
        yield f"--quantization {wanted}: the weights are {kind}; 4-bit weights are another checkpoint"


def of_gpu(engine: Engine, serve: Serve, served: Served, gpu: GPU) -> Iterator[str]:
    """What the GPU rules out: a precision that the engine cannot run on it, or too little memory."""
    if served.precision is None or engine.runs is None:
        return
    runs, note = engine.runs(gpu, served.precision, serve.pp > 1)
    if not runs:
        why = note or "the GPU is older than it supports"
        yield f"{engine.title} on {gpu.name} with {served.precision.upper()} weights: {why}"
        return
    if served.cfg and (held := _holding(serve, served)):
        unfit = f"{served.name} does not fit {serve.gpus} x {gpu.name} in {served.precision.upper()}"
        yield from _memory(serve, served.cfg, gpu, held, unfit)


Held = Callable[[GPU, int], list[Need]]  # what each GPU needs for one sequence of so many tokens


def _holding(serve: Serve, served: Served) -> Held | None:
    """None where the planner cannot say: an unknown model, data parallelism, or a split that is refused anyway."""
    cfg = served.cfg
    if cfg is None or served.precision is None or serve.dp > 1 or cfg.n_heads % serve.tp or serve.pp > cfg.n_layers:
        return None
    if serve.tp > cfg.n_routed_experts:
        return None
    split = Split(tp=serve.tp, pp=serve.pp, ep=serve.tp)  # experts weigh the same, cut or whole
    parts = weights(table(cfg, served.precision, served.stored), split, mtp=serve.mtp > 0)

    def held(gpu: GPU, context: int) -> list[Need]:
        found = needs(cfg, parts, gpu, split, Workload(context=context, mtp=serve.mtp > 0))
        return [n._replace(cache=n.cache // 2) for n in found] if serve.fp8_kv_cache else found

    return held


def _memory(serve: Serve, cfg: ModelConfig, gpu: GPU, held: Held, unfit: str) -> Iterator[str]:
    context = min(serve.context or WORKLOAD.context, cfg.max_seq_len)
    wanted = held(gpu, context)
    if fits(wanted, gpu):
        return
    fullest = max(n.total for n in wanted) / 1e9
    most = largest(context, lambda n: fits(held(gpu, n), gpu))
    cure = f"say --context {most} or less" if most else f"dsv3 plan {shlex.quote(serve.model)} shows what is enough"
    yield (
        f"{unfit}: {fullest:.1f} of {gpu.nbytes / 1e9:.1f} GB on the fullest, for one sequence of {context} tokens; "
        f"{cure}"
    )


def advice(serve: Serve, gpu: GPU | None) -> Iterator[str]:
    """What is worth knowing though it does not stand in the way."""
    served = look(serve.model)
    yield from served.notes
    if served.stored and not served.blocks:
        yield f"{served.name} is stored as {served.stored.words}: whether the engine takes these is not checked here"
    if served.gguf:
        yield f"{served.name}: {printable(served.gguf.architecture, 30)}, {served.gguf.nbytes / 1e9:.1f} GB"
    elif served.cfg is None:
        yield f"{served.name}: not a DeepSeek-V3 that is known here; its shape and its memory are not checked"
    elif served.precision is None:
        yield f"{served.name}: its memory is not checked"
    elif serve.dp > 1:
        yield "memory is not checked: the planner does not know data parallelism"
    elif gpu and not serve.context and (held := _holding(serve, served)):
        most = largest(served.cfg.max_seq_len, lambda n: fits(held(gpu, n), gpu))
        if most < served.cfg.max_seq_len:
            longest = f"one sequence of all {served.cfg.max_seq_len} tokens of context does not fit"
            yield f"{longest}, and an engine may stop for that: say --context {most} or less"
    if not serve.loopback:
        yield f"{serve.host} is open to the network, in plain HTTP: keys and texts can be read on the way"


# ------------------------------------------------------------------------------------------------ this machine


def of_machine(engine: Engine, serve: Serve, command: Command, m: Machine, gpu: GPU | None = None) -> list[str]:
    """What this machine rules out; a named ``gpu`` takes the place of the ones that it has."""
    found = list(installed(engine, serve, command)[1])
    if engine.here:
        found += engine.here(serve, look(serve.model), m)
    if not is_id(serve.model) and not Path(serve.model).exists():
        known = find_model(serve.model)
        cure = "an id has an owner, as in deepseek-ai/DeepSeek-R1"
        if known and (known.huggingface or known.modelscope):
            cure = f"the id of {known.name} is {known.huggingface or known.modelscope}"
        found.append(f"{serve.model}: no such folder; {cure}")
    if engine.spread != "nodes" and serve.nnodes > 1:
        launcher = {"ray": "Ray", "mpi": "MPI"}[engine.spread]
        found.append(
            f"{launcher} starts {engine.title} on several machines: dsv3 launch --engine {engine.name} prints how"
        )
    if serve.cpu and not engine.gguf:
        found += _cpu(serve, m)
    elif engine.runs:
        found += _gpus(engine, serve, m, gpu)
    if serve.node_rank == 0:
        try:
            check_port(serve.port or engine.port, serve.host)
        except OSError as error:
            found.append(str(error))
    try:
        command.environment(m.env)
    except ValueError as error:
        found.append(str(error))
    return found


def installed(engine: Engine, serve: Serve, command: Command) -> tuple[str | None, list[str]]:
    """The version of the engine that would start, if it says, and what is wrong with its installation."""
    where = "environment of its own (engines pin different versions of torch): " + " && ".join(engine.install)
    path = shutil.which(command.program[0])
    if path is None:
        lost = f"{command.program[0]} not found"
        if serve.python and shutil.which(serve.python) is None:
            lost = f"--python {serve.python}: no such program"
        return None, [f"{engine.title} is not installed here ({lost}); in an {where}"]
    if engine.package is None:
        return None, []
    python = serve.python or Path(path).with_name(PYTHON)
    code = f"import importlib.metadata as m; print(m.version({engine.package!r}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None, []  # a console script of another kind; it will say itself
    if done.returncode:
        return None, [f"{engine.title} is not installed in the environment of {python}; in an {where}"]
    return done.stdout.strip(), []


def _cpu(serve: Serve, m: Machine) -> Iterable[str]:
    if look(serve.model).precision != "bf16" and "amx_tile" not in (m.read("proc/cpuinfo") or ""):
        yield (
            "--cpu: vLLM multiplies FP8 and 4-bit weights on CPUs with Intel AMX only, which this one lacks: dsv3 "
            f"fp8_cast_bf16 --input-fp8-hf-path {shlex.quote(serve.model)} --output-bf16-hf-path BF16, and serve that"
        )


def _gpus(engine: Engine, serve: Serve, m: Machine, gpu: GPU | None) -> Iterable[str]:
    if gpu:
        return
    seen = m.gpus
    if not seen:
        if not (m.root / "dev" / "kfd").exists():  # AMD's driver; nothing is known of its GPUs here
            yield f"no NVIDIA GPU here (nvidia-smi lists none), and {engine.title} needs {serve.local_gpus}"
        return
    if len(seen) < serve.local_gpus:
        share = "" if serve.nnodes == 1 else f", its part of {serve.gpus}"
        yield f"this machine has {len(seen)} GPU(s), and {serve.local_gpus} are asked for{share}"
    if kind := seen_gpu(m):
        yield from of_gpu(engine, serve, look(serve.model), kind)


def seen_gpu(m: Machine) -> GPU | None:
    """The GPU that nvidia-smi shows, with what the list knows of its generation; None without one, or if unknown."""
    for seen in (m.gpus or [])[:1]:
        for known in gpus():
            if known.capability == seen.capability and seen.memory_mib:
                return replace(known, name=seen.name, memory_mib=seen.memory_mib)
    return None


def version_note(engine: Engine, version: str | None) -> str | None:
    """A word on an installed version that the flags were not checked in."""
    if version is None or version.partition("+")[0] == engine.version:
        return None
    return (
        f"{engine.title} {version} is installed, and the flags were checked in {engine.version}: "
        f"python -m dsv3.engines.check_flags --engine {engine.name} says whether they still exist"
    )
