"""Answers a file of prompts with an engine's own Python interface, without a server: the way for large batches.

The prompts become token ids here, by the checkpoint's own tokenizer and chat template; the engine runs in its own
interpreter, as no two engines fit into one environment.
"""

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..inference.chat import Reply, Tokenizer, opens_thinking, split_thinking
from ..inference.prompts import read_prompts
from ..inference.sampling import Sampling, add_flags
from ..ranks.parallel import Parallel
from . import offline_worker, vllm
from .command import Engine
from .options import Serve
from .process import Process
from .table import find


def arguments(engine: str, serve: Serve) -> dict[str, Any]:
    """The keyword arguments with which an engine's class does what ``serve`` says.

    Raises:
        ValueError: an engine whose interface is not known here, or several machines.
    """
    make = find(engine).arguments
    if make is None:
        raise ValueError(f"--engine {engine}: offline batches know {', '.join(offline_worker.ENGINES)}")
    if serve.nnodes > 1 or serve.dp > 1:
        raise ValueError("offline batches run on one machine, and without --dp; a server takes the rest")
    return {name: value for name, value in make(serve).items() if value is not None}


def generate(
    engine: Engine,
    serve: Serve,
    prompts: list[str],
    *,
    folder: Path,
    max_new_tokens: int = Sampling.max_new_tokens,
    temperature: float = Sampling.temperature,
    **more: Any,
) -> list[Reply]:
    """The answers to separate questions.

    Args:
        folder: takes a new one, ``offline-...``, with the request, the answers and the log, ``offline.log``.
        more: further keyword arguments of the engine's class, such as vLLM's ``dtype``.

    Raises:
        ChildProcessError: the engine failed; says why.
        ValueError, OSError: the options, the checkpoint, or no such interpreter.
    """
    Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    serve = replace(serve, model=str(Path(serve.model).absolute()))
    tokenizer = Tokenizer(Path(serve.model))
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    ids = [tokenizer.prompt(m) for m in messages]
    request = {
        "engine": engine.name,
        "arguments": arguments(engine.name, serve) | more,
        "prompts": ids,
        "messages": messages,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
    }
    env = engine.build(serve).environment(os.environ)
    answers = _run(interpreter(engine, serve), request, folder.absolute(), env)
    return [_reply(tokenizer, prompt, *answer) for prompt, answer in zip(ids, answers, strict=True)]


def interpreter(engine: Engine, serve: Serve) -> str:
    """The Python of the engine's environment: the one named, or that of its console script.

    Raises:
        FileNotFoundError: neither is there; says how to install the engine.
    """
    if serve.python:
        return serve.python
    console = shutil.which(engine.console)
    if console is None:
        how = " && ".join(engine.install)
        raise FileNotFoundError(f"{engine.title} is not installed here; {how}, then name its Python with --python")
    return str(Path(console).with_name("python"))


def _run(python: str, request: dict[str, Any], folder: Path, env: dict[str, str]) -> list[tuple[list[int], str]]:
    folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="offline-", dir=folder))
    question, answer = folder / "offline-request.json", folder / "offline-answer.json"
    question.write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
    process = Process([python, offline_worker.__file__, str(question), str(answer)], folder, "offline.log", env)
    try:
        process.wait()
    finally:
        process.stop()
    if process.poll() or not answer.is_file():
        raise process.failed()
    return json.loads(answer.read_text(encoding="utf-8"))


def _reply(tokenizer: Tokenizer, prompt: list[int], ids: list[int], finish: str) -> Reply:
    """Some engines give the final token, too, and some do not: here it counts, as in ``LLM``."""
    given = finish == "stop" and (not ids or ids[-1] not in tokenizer.eos_ids)
    opened = opens_thinking(prompt, tokenizer.think_ids)
    said = tokenizer.decode(token for token in ids if token not in tokenizer.eos_ids)
    return Reply(*split_thinking(said, opened), len(ids) + given, finish)


def main(argv: list[str]) -> None:
    """The command line: JSON lines on standard output, as ``dsv3 generate --output-file`` writes them."""
    parser = argparse.ArgumentParser(prog="python -m dsv3.engines.offline", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--engine", required=True, choices=tuple(offline_worker.ENGINES))
    add("--model", required=True, metavar="DIR", help="a Hugging Face folder")
    add("--input-file", required=True, type=Path, metavar="FILE", help="prompts, one a line")
    add_flags(parser, Sampling(), "max_new_tokens", "temperature")
    add("--tp", type=int, default=Serve.tp, metavar="N", help="tensor-parallel ranks")
    add("--pp", type=int, default=Serve.pp, metavar="N", help="pipeline stages")
    add("--mtp", type=int, nargs="?", const=1, default=Serve.mtp, metavar="K", help="draft K tokens")
    add("--context", type=int, metavar="TOKENS", help="of prompt and answer; default: the model's")
    add("--python", metavar="PATH", help="interpreter of the engine's environment; default: the PATH's")
    add("--cpu", action="store_true", help="vLLM's build for CPUs")
    add("--folder", type=Path, default=Path(), metavar="DIR", help="takes a folder with the log; default: here")
    args = parser.parse_args(argv)
    limits = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature}
    try:
        Sampling(**limits)
    except ValueError as error:
        parser.error(str(error))
    if args.cpu and args.engine != "vllm":
        parser.error("--cpu is of --engine vllm")
    serve = Serve(
        model=args.model,
        tp=args.tp,
        pp=args.pp,
        mtp=args.mtp,
        context=args.context,
        python=args.python,
        cpu=args.cpu,
    )
    prompts = read_prompts(args.input_file, Parallel())
    engine = vllm.CPU_ENGINE if args.cpu else find(args.engine)
    for prompt, reply in zip(prompts, generate(engine, serve, prompts, folder=args.folder, **limits), strict=True):
        print(json.dumps({"prompt": prompt} | asdict(reply), ensure_ascii=False))


if __name__ == "__main__":
    from ..cli import run

    run(main)
