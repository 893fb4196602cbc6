"""Serves a checkpoint with an inference engine, or prints the command; what cannot work is refused before it starts."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .engines import checks, llamacpp, speech, vllm
from .engines.command import Engine, comment
from .engines.options import Serve
from .engines.parsers import FAMILIES
from .engines.table import SERVING, find
from .hubs.catalogue import find_model, hub_id
from .outside import printable
from .sizing.gpus import GPU, find_gpu, gpus
from .sizing.machine import Machine


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``Serve`` has; ``dsv3 launch`` takes them, too, but for those of the nodes."""
    parser.add_argument("--tp", type=int, default=Serve.tp, metavar="N", help="tensor-parallel ranks")
    parser.add_argument("--pp", type=int, default=Serve.pp, metavar="N", help="pipeline stages")
    parser.add_argument("--dp", type=int, default=Serve.dp, metavar="N", help="data-parallel groups; vllm, ascend")
    parser.add_argument("--mtp", type=int, nargs="?", const=1, default=Serve.mtp, metavar="K", help="draft K tokens")
    parser.add_argument(
        "--reasoning-parser",
        action=argparse.BooleanOptionalAction,
        default=Serve.reasoning_parser,
        help="send the thinking apart from the answer, where the model thinks",
    )
    parser.add_argument(
        "--tool-call-parser",
        action=argparse.BooleanOptionalAction,
        default=Serve.tool_call_parser,
        help="send calls of tools apart from the text, where the engine has a parser for the model's",
    )
    parser.add_argument("--family", choices=FAMILIES, metavar="NAME", help="how the model talks; default: it is told")
    parser.add_argument("--trust-remote-code", action="store_true", help="the engine may run the repository's Python")
    parser.add_argument("--fp8-kv-cache", action="store_true", help="half the memory for each cached token")
    parser.add_argument("--quantization", metavar="NAME", help="as the engine names it; default: as config.json says")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="of prompt and answer; default: the model's")
    parser.add_argument("--host", default=Serve.host, help="address to listen at; default: %(default)s, this machine")
    parser.add_argument("--port", type=int, help="default: the engine's own")
    parser.add_argument("--api-key-env", metavar="NAME", help="variable with the key that clients must send")
    parser.add_argument("--gpu", metavar="NAME", help=f"check against it: {', '.join(g.name for g in gpus())}")


def asked(args: argparse.Namespace, model: str) -> Serve:
    """What ``add_options`` read, for ``model``, of which a web address is taken for its id."""
    return Serve(
        model=hub_id(model),
        tp=args.tp,
        pp=args.pp,
        dp=args.dp,
        mtp=args.mtp,
        reasoning_parser=args.reasoning_parser,
        tool_call_parser=args.tool_call_parser,
        family=args.family,
        remote_code=args.trust_remote_code,
        fp8_kv_cache=args.fp8_kv_cache,
        quantization=args.quantization,
        context=args.context,
        host=args.host,
        port=args.port,
        api_key_env=args.api_key_env,
    )


def _id_of(name: str) -> str:
    """The hub's id for the full name of a known model, unless a folder here bears it; anything else as it is."""
    known = None if Path(name).exists() else find_model(name)
    full = known and known.name.lower() == name.lower()
    return (known.huggingface or known.modelscope or name) if known and full else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsv3 serve", description=__doc__)
    parser.add_argument("--engine", required=True, choices=[e.name for e in SERVING])
    parser.add_argument("--model", required=True, help="a Hugging Face folder, its id or name on a hub, or a GGUF file")
    add_options(parser)
    parser.add_argument("--python", metavar="PATH", help="interpreter of the engine's environment; default: the PATH's")
    parser.add_argument("--cpu", action="store_true", help="vLLM's build for CPUs; llama.cpp with everything in RAM")
    parser.add_argument("--threads", type=int, metavar="N", help="for experts in RAM; llamacpp, ktransformers")
    parser.add_argument("--numa", type=int, default=Serve.numa, metavar="N", help="sockets with memory of their own")
    parser.add_argument("--n-cpu-moe", type=int, metavar="N", help="layers whose experts stay in RAM; llamacpp")
    parser.add_argument("--nnodes", type=int, default=Serve.nnodes, metavar="N", help="machines")
    parser.add_argument("--node-rank", type=int, default=Serve.node_rank, metavar="I", help="which of them this is")
    parser.add_argument("--master-addr", metavar="ADDRESS", help="of node 0")
    parser.add_argument("--master-port", type=int, default=Serve.master_port, metavar="PORT")
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where the log goes; default: here")
    parser.add_argument("--dry-run", action="store_true", help="print the command, start nothing")
    return parser


def main(argv: list[str]) -> None:
    """The command line: exit code 1 and a line for each reason if it cannot work."""
    args = _parser().parse_args(argv)
    engine = find(args.engine)
    if args.cpu and engine.name != vllm.ENGINE.name and not engine.gguf:
        raise ValueError("--cpu: vLLM's build for CPUs and llama.cpp run this model: --engine vllm, --engine llamacpp")
    if args.cpu and not engine.gguf:
        engine = vllm.CPU_ENGINE
    if engine is llamacpp.ENGINE:
        engine = llamacpp.found(args.python, args.cpu)
    wanted = replace(
        asked(args, _id_of(args.model)),
        python=args.python,
        cpu=args.cpu,
        nnodes=args.nnodes,
        node_rank=args.node_rank,
        master_addr=args.master_addr,
        master_port=args.master_port,
        threads=args.threads,
        numa=args.numa,
        cpu_moe=args.n_cpu_moe,
    )
    gpu = find_gpu(args.gpu) if args.gpu else None
    heard = speech.of(wanted.model)
    serve = speech.told(wanted, heard, trust=args.dry_run)
    refuse("serve", [*checks.of_arguments(engine, serve, gpu), *speech.refusals(serve, heard)])
    notes = list(speech.notes(engine, wanted, heard))
    if args.dry_run:
        print(dry_run(engine, serve, gpu, notes), end="")
    else:
        run(engine, serve, gpu, args.folder, notes)


def refuse(verb: str, reasons: list[str]) -> None:
    """Exit with code 1 and a line for each reason, if there are any."""
    for reason in reasons:
        print(f"dsv3 {verb}: error: {printable(reason)}", file=sys.stderr)
    if reasons:
        sys.exit(1)


def dry_run(engine: Engine, serve: Serve, gpu: GPU | None = None, notes: Sequence[str] = ()) -> str:
    """The command as text; ``notes`` and what this machine lacks for it, as comments."""
    command, m = engine.build(serve), Machine()
    here = checks.of_machine(engine, serve, command, m, gpu)
    said = [*notes, *checks.advice(serve, gpu or checks.seen_gpu(m))]
    return "".join(map(comment, said + [f"not on this machine: {reason}" for reason in here])) + command.text()


def run(engine: Engine, serve: Serve, gpu: GPU | None, folder: Path, notes: Sequence[str] = ()) -> None:
    """Check this machine, start the server, say where it answers and ``notes``, and wait for its end or Ctrl-C."""
    from .engines.server import start

    serve, m = absolute(serve), Machine()
    command = engine.build(serve)
    refuse("serve", checks.of_machine(engine, serve, command, m, gpu))
    version = checks.installed(engine, serve, command)[0]
    for note in [
        *command.notes,
        *notes,
        *checks.advice(serve, gpu or checks.seen_gpu(m)),
        checks.version_note(engine, version),
    ]:
        if note:
            print(printable(note), file=sys.stderr)
    answers = serve.node_rank == 0
    port = serve.port or engine.port

    def began(log: Path) -> None:
        print(printable(f"{command.checked}: log in {log}"), file=sys.stderr, flush=True)

    health = engine.health if answers else None
    with start(command, port=port, host=serve.host, folder=folder, health=health, began=began) as server:
        if answers:
            print(f"{server.url} answers after {server.seconds:.0f} s; Ctrl-C ends it", flush=True)
        server.wait()


def absolute(serve: Serve) -> Serve:
    """The same with absolute paths, for a program that runs elsewhere; an id stays one."""
    model = os.path.abspath(serve.model) if Path(serve.model).exists() else serve.model
    python = os.path.abspath(serve.python) if serve.python and os.sep in serve.python else serve.python
    return replace(serve, model=model, python=python)


if __name__ == "__main__":
    from .cli import run as run_verb

    run_verb(main)
