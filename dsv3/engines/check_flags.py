"""Do the flags that dsv3 writes still exist? An installed engine is asked for its help text.

python -m dsv3.engines.check_flags --engine sglang --python sglang/bin/python
"""

import argparse
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from . import llamacpp, vllm
from .command import PYTHON, Engine, beside
from .options import Serve
from .parsers import FAMILIES
from .table import SERVING, find

PATIENCE = 300  # seconds; engines import much before they print their help


def written(engine: Engine) -> set[str]:
    """Every flag that dsv3 writes for ``engine``; those for Ray, on LMDeploy's other nodes, are not its own."""
    samples = [s for s in _samples() if engine.spread != "ray" or s.node_rank == 0]
    words = [word for s in samples for flag in engine.build(s).flags for word in flag.words]
    return {word for word in words if word.startswith("--")}


def _samples() -> Iterator[Serve]:
    every = Serve(model="M", tp=2, mtp=1, fp8_kv_cache=True, quantization="x", context=4096, remote_code=True)
    for family in FAMILIES:
        yield replace(every, cpu=True, family=family)
    for dp, node_rank in itertools.product((1, 2), (0, 1)):
        yield replace(every, pp=2, dp=dp, nnodes=2, node_rank=node_rank, master_addr="A")


def defined(help_text: str) -> set[str]:
    """Every flag that a help text names."""
    return set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", help_text))


def ask(engine: Engine, python: str | None, cpu: bool) -> str:
    """The engine's help text.

    Raises:
        FileNotFoundError: it is not installed.
        ChildProcessError: it prints none.
    """
    module = (python or PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--help")
    command = module if cpu else (beside(python, engine.console), *engine.help)
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]}: not found; install {engine.title}, or name its Python with --python")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode or not defined(done.stdout):
        last = (done.stderr.strip() or "no help text").splitlines()[-1]
        raise ChildProcessError(f"{' '.join(command)}: exit code {done.returncode}: {last}")
    return done.stdout


def main(argv: list[str]) -> None:
    """The command line: exit code 1 if a flag is gone."""
    parser = argparse.ArgumentParser(prog="python -m dsv3.engines.check_flags", description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True, choices=[e.name for e in SERVING])
    parser.add_argument("--python", metavar="PATH", help="interpreter of the engine's environment")
    parser.add_argument("--cpu", action="store_true", help="vLLM's build for CPUs")
    args = parser.parse_args(argv)
    engine = vllm.CPU_ENGINE if args.cpu else find(args.engine)
    if engine is llamacpp.ENGINE:
        engine = llamacpp.found(args.python)
    flags, known = written(engine), defined(ask(engine, args.python, args.cpu))
    for flag in sorted(flags - known):
        print(f"{flag}: {engine.title} does not have it")
    print(f"{len(flags & known)} of {len(flags)} flags exist; they were looked up in {engine.title} {engine.version}")
    sys.exit(1 if flags - known else 0)


if __name__ == "__main__":
    from ..cli import run

    run(main)
