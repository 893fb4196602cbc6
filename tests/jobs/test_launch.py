"""The printed scripts, against golden files, and run with stand-ins for ssh and Slurm."""

import os
import subprocess
from pathlib import Path

import pytest

from dsv3 import launch
from tests.unit.test_launch import JOB, MAKERS, script


@pytest.mark.parametrize("kind", MAKERS)
def test_bash_reads_it(kind):
    subprocess.run(["bash", "-n"], input=script(kind), text=True, check=True)


def stand_in(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_node_gets_its_words_whole(kind, tmp_path):
    """ssh joins its words and has a shell read them; srun runs its words. Python is a stand-in that says its own."""
    bin, work = tmp_path / "bin", tmp_path / "my course"
    bin.mkdir()
    work.mkdir()
    stand_in(bin, "python", 'printf "%s\\n" "$PWD" "$@" > "$OUT.$BASHPID"')
    stand_in(bin, "ssh", 'while [[ $1 == -* ]]; do [ "$1" = -o ] && shift; shift; done; shift; sh -c "$*"')
    stand_in(bin, "srun", 'shift; for i in 0 1; do SLURM_NODEID=$i "$@"; done')
    stand_in(bin, "scontrol", "echo gpu01; echo gpu02")
    job = launch.Generation(**{f: getattr(JOB, f) for f in ("hosts", "gpus", "ckpt_path", "options")}, folder=str(work))
    env = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}", "OUT": str(tmp_path / "said"), "SLURM_JOB_NODELIST": "x"}
    subprocess.run(["bash"], input=script(kind, job), text=True, check=True, env=env, cwd=tmp_path, timeout=60)
    said = sorted(file.read_text().splitlines() for file in tmp_path.glob("said.*"))
    common = ["--nnodes", "2", "--nproc-per-node", "8", "--master-port", "29500"]
    assert said == [
        [str(work), "-m", "dsv3", "torchrun", *common, "--node-rank", rank, "--master-addr", "gpu01"]
        + ["-m", "dsv3.generate", "--ckpt-path", JOB.ckpt_path, "--device", "cuda", *JOB.options]
        for rank in ("0", "1")
    ]
