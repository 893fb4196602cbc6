"""Prints a script that starts generation or an engine on several hosts, for Slurm, ssh or Kubernetes; runs nothing.

dsv3 launch --ssh --hosts gpu01,gpu02 --gpus-per-host 8 --ckpt-path /data/R1-mp16 -- --interactive
dsv3 launch --ssh --engine vllm --hosts gpu01,gpu02 --gpus-per-host 8 --model /data/R1 -- --tp 8 --pp 2
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import generate, outside, serve
from .checkpoint import read
from .engines import checks, cluster, speech
from .engines.options import check_port
from .engines.table import ENGINES, find
from .ranks.address import MOST_NODES
from .sizing.gpus import find_gpu


@dataclass(frozen=True, kw_only=True)
class Generation:
    """``dsv3 generate`` on several hosts.

    Attributes:
        hosts: the first one is node 0: it must be reached by the others, and has the keyboard.
        gpus: per host, and as many ranks.
        folder: where the hosts run it; a shared file system.
        options: of ``dsv3 generate``.
        device: of its ranks: a host without its GPUs stops the job, which on CPUs would take for ever; None: as
            ``options`` say.
        python: the interpreter that has dsv3, on every host.
    """

    hosts: tuple[str, ...]
    gpus: int
    ckpt_path: str
    options: tuple[str, ...]
    folder: str
    port: int = 29500
    python: str = "python"
    device: str | None = "cuda"

    def __post_init__(self) -> None:
        cluster.check_hosts(self.hosts, self.gpus)
        outside.word("--ckpt-path", self.ckpt_path)
        outside.word("--python", self.python)
        outside.word("this folder's path", self.folder)
        for option in self.options:
            outside.word("after --", option.lstrip("-"))
        check_port("--master-port", self.port)
        ranks = len(self.hosts) * self.gpus
        sizes = read.converted_for(Path(self.ckpt_path)) if Path(self.ckpt_path).is_dir() else ()
        if sizes and ranks not in sizes:
            was = " or ".join(map(str, sorted(sizes)))
            raise ValueError(f"{self.ckpt_path}: converted for {was} ranks, but hosts x GPUs are {ranks}")

    def torchrun(self, node_rank: str, master: str) -> str:
        """The command of one node; ``node_rank`` and ``master`` are words of the shell, quoted already."""
        words = [self.python, "-m", "dsv3", "torchrun", "--nnodes", str(len(self.hosts))]
        words += ["--nproc-per-node", str(self.gpus), "--master-port", str(self.port)]
        device = ["--device", self.device] if self.device else []
        job = ["-m", "dsv3.generate", "--ckpt-path", self.ckpt_path, *device, *self.options]
        return f"{shlex.join(words)} --node-rank {node_rank} --master-addr {master} {shlex.join(job)}"


def ssh(job: Generation) -> str:
    """A script to run where all hosts are reached by ssh without a password."""
    master = job.hosts[0].rpartition("@")[2]

    def remote(node_rank: int) -> str:
        return shlex.quote(f"cd {shlex.quote(job.folder)} && exec {job.torchrun(str(node_rank), master)}")

    others = [
        f"ssh -o BatchMode=yes {host} {remote(rank)} < /dev/null &\n" for rank, host in enumerate(job.hosts) if rank
    ]
    return f"""\
#!/bin/bash
# DeepSeek on {_count(job)}, by ssh. Needs the same folders and Python on every host.
set -uo pipefail
trap 'kill $(jobs -p) 2> /dev/null' EXIT

{"".join(others)}# Node 0 in the foreground: it has the keyboard. When it ends, the others end by themselves.
ssh -t -o BatchMode=yes {job.hosts[0]} {remote(0)}
code=$?
wait
exit $code
"""


def slurm(job: Generation) -> str:
    """A script for sbatch, where nobody is at the keyboard."""
    command = job.torchrun('"$SLURM_NODEID"', '"$MASTER_ADDR"')
    return f"""\
#!/bin/bash
# DeepSeek on {_count(job)}: sbatch THIS_FILE
#SBATCH --job-name=dsv3
#SBATCH --nodes={len(job.hosts)}
#SBATCH --nodelist={",".join(host.rpartition("@")[2] for host in job.hosts)}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={job.gpus}
#SBATCH --output=dsv3-%j.log
set -euo pipefail
cd {shlex.quote(job.folder)}

read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR

# One torchrun per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c {shlex.quote("exec " + command)}
"""


def _count(job: Generation) -> str:
    return f"{len(job.hosts)} host(s) of {job.gpus} GPU(s)"


def main(argv: Sequence[str]) -> None:
    """The command line."""
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    args, rest = _parser().parse_args(argv[:cut]), argv[cut + 1 :]
    print(_serving(args, rest) if args.engine else _generation(args, rest), end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsv3 launch",
        usage="%(prog)s (--slurm | --ssh) --hosts A,B --gpus-per-host N --ckpt-path DIR -- OPTIONS OF GENERATE\n"
        "       %(prog)s (--slurm | --ssh) --engine NAME --hosts A,B --gpus-per-host N --model M -- OPTIONS OF SERVE\n"
        "       %(prog)s --lws --engine NAME --nodes N --gpus-per-host N --model M -- OPTIONS OF SERVE",
        description=__doc__.splitlines()[0],
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--slurm", action="store_true", help="a script for sbatch")
    kind.add_argument("--ssh", action="store_true", help="a script that logs in to each host")
    kind.add_argument("--lws", action="store_true", help="a LeaderWorkerSet for Kubernetes, with --engine")
    parser.add_argument("--engine", choices=[e.name for e in ENGINES], help="serve with it instead of dsv3 generate")
    parser.add_argument("--hosts", metavar="A,B", help="host names; the first is node 0")
    parser.add_argument("--nodes", type=int, metavar="N", help="pods, with --lws")
    parser.add_argument("--gpus-per-host", required=True, type=int, metavar="N")
    parser.add_argument("--ckpt-path", "--model", required=True, metavar="DIR", help="as on every host")
    parser.add_argument("--master-port", type=int, default=Generation.port, metavar="PORT")
    parser.add_argument("--python", help="the interpreter that has dsv3, or the engine, on every host")
    return parser


def _hosts(args: argparse.Namespace) -> tuple[str, ...]:
    if args.lws:
        if not args.engine or args.hosts or args.nodes is None or args.nodes < 1:
            raise ValueError("--lws needs --engine and --nodes N, without --hosts: Kubernetes chooses them")
        if args.nodes > MOST_NODES:
            raise ValueError(f"--nodes {args.nodes}: {MOST_NODES} are the most")
        return tuple(f"pod{i}" for i in range(args.nodes))
    if not args.hosts or args.nodes is not None:
        raise ValueError("--hosts: give the names, as gpu01,gpu02; --nodes is for --lws")
    return tuple(args.hosts.split(","))


def _generation(args: argparse.Namespace, rest: list[str]) -> str:
    """A script that starts ``dsv3 generate``; refuses the options that it would refuse, and a chat in a batch job."""
    job = Generation(
        hosts=_hosts(args),
        gpus=args.gpus_per_host,
        ckpt_path=args.ckpt_path,
        options=tuple(rest),
        folder=str(Path.cwd()),
        port=args.master_port,
        python=args.python or Generation.python,
    )
    given = generate.asked(["--ckpt-path", args.ckpt_path, *rest], "dsv3 launch ... --")
    if args.slurm and given.interactive:
        raise ValueError("a Slurm job has no keyboard for --interactive: give --input-file, or use --ssh")
    if given.device:
        job = replace(job, device=None)
    return slurm(job) if args.slurm else ssh(job)


def _serving(args: argparse.Namespace, rest: list[str]) -> str:
    """A script that starts an engine; refuses what ``dsv3 serve`` refuses of the options and the checkpoint."""
    hosts = cluster.check_hosts(_hosts(args), args.gpus_per_host)
    parser = argparse.ArgumentParser(prog="dsv3 launch ... --", usage="%(prog)s OPTIONS OF SERVE")
    serve.add_options(parser)
    given = parser.parse_args(rest)
    asked = replace(serve.asked(given, args.ckpt_path), master_port=args.master_port, python=args.python)
    engine, heard = find(args.engine), speech.of(asked.model)
    wanted = speech.told(asked, heard)
    job = cluster.Cluster(engine=engine, serve=wanted, hosts=hosts, gpus=args.gpus_per_host, folder=str(Path.cwd()))
    wrong = checks.of_arguments(engine, job.placed, find_gpu(given.gpu) if given.gpu else None)
    serve.refuse("launch", [*wrong, *speech.refusals(wanted, heard)])
    for note in speech.notes(engine, asked, heard):
        print(outside.printable(note), file=sys.stderr)
    make = cluster.lws if args.lws else cluster.slurm if args.slurm else cluster.ssh
    return make(job)


if __name__ == "__main__":
    from .cli import run

    run(main)
