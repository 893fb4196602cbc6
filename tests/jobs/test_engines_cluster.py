"""Scripts that start engines on several machines: golden files, and run with stand-ins for ssh, Slurm and engines."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dsv3 import launch
from dsv3.engines import cluster
from dsv3.engines.cluster import Cluster
from dsv3.engines.options import Serve
from dsv3.engines.table import find
from tests.unit.engines.test_cluster import CASES, MAKERS, OPEN, job, made


def bash_reads(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("case", [c for c in CASES if not c.endswith("lws")])
def test_bash_reads_it_and_every_script_inside(case):
    script = made(case)
    bash_reads(script)
    inside = script.split("<< 'NODE'")[1:]
    assert (
        len(inside)
        == {"ssh": 1 if "trtllm" in case else 2, "slurm": 0 if "trtllm" in case else 1}[case.rpartition(".")[2]]
    )
    for part in inside:
        bash_reads(part.partition("\n")[2].partition("\nNODE\n")[0])


# ------------------------------------------------------------------------------------------------ run


def stand_in(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


SAY = 'printf "%s\\n" "$PWD" "${0##*/}" "$@" "key=$VLLM_API_KEY" > "$OUT.$BASHPID"'


@pytest.fixture
def world(tmp_path):
    """Stand-ins for ssh and Slurm that run everything here -> (folder of the programs, their environment)."""
    bin, work = tmp_path / "bin", tmp_path / "my course"
    bin.mkdir()
    work.mkdir()
    stand_in(bin, "ssh", 'while [[ $1 == -* ]]; do [ "$1" = -o ] && shift; shift; done; shift; sh -c "$*"')
    stand_in(bin, "srun", 'while [[ $1 == -* ]]; do shift; done; for i in 0 1; do SLURM_NODEID=$i "$@"; done')
    stand_in(bin, "scontrol", "echo gpu01; echo gpu02")
    env = {"PATH": f"{bin}:/usr/bin:/bin", "OUT": str(tmp_path / "said"), "SLURM_JOB_NODELIST": "x"}
    return bin, work, env | {"DSV3_API_KEY": "the-secret"}


def said(tmp_path: Path) -> list[list[str]]:
    return sorted(file.read_text().splitlines() for file in tmp_path.glob("said.*"))


def expected(at: Cluster, folder: Path) -> list[list[str]]:
    """The words of each node, from the engine's own command."""
    placed = replace(at.placed, master_addr="gpu01")
    commands = [at.engine.build(replace(placed, node_rank=i)) for i in range(2)]
    keys = ["the-secret" if c.key else "" for c in commands]
    return sorted([str(folder), *c.argv, f"key={key}"] for c, key in zip(commands, keys, strict=True))


@pytest.mark.parametrize("kind", ["ssh", "slurm"])
@pytest.mark.parametrize("fields", [{}, OPEN], ids=["", "key"])
def test_every_node_gets_its_words_whole(kind, fields, world, tmp_path):
    bin, work, env = world
    at = job("vllm", str(work), **fields)
    # Node 0 ends last: with the first that ends, all are ended.
    stand_in(bin, "vllm", f"{SAY}; sleep 2")
    subprocess.run(["bash"], input=MAKERS[kind](at), text=True, check=True, env=env, cwd=tmp_path, timeout=120)
    assert said(tmp_path) == expected(at, work)


def test_slurm_with_ray(world, tmp_path):
    """LMDeploy: the head first, the server behind it, the other node joins, and Ray is stopped at the end."""
    bin, work, env = world
    stand_in(bin, "ray", SAY)
    stand_in(bin, "lmdeploy", SAY)
    subprocess.run(["bash"], input=cluster.slurm(job("lmdeploy", str(work))), text=True, check=True, env=env, cwd=work)
    ran = [words[1:-1] for words in said(tmp_path)]
    assert ["ray", "start", "--head", "--port=6379"] in ran
    assert ["ray", "start", "--address=gpu01:6379", "--block"] in ran
    assert ["ray", "stop"] in ran
    assert [words[:3] for words in ran if words[0] == "lmdeploy"] == [["lmdeploy", "serve", "api_server"]]


@pytest.mark.parametrize("kind", ["ssh", "slurm"])
def test_mpi_starts_the_ranks(kind, world, tmp_path):
    bin, work, env = world
    stand_in(bin, "mpirun", SAY)
    stand_in(bin, "srun", SAY)
    at = job("trtllm", str(work))
    subprocess.run(["bash"], input=MAKERS[kind](at), text=True, check=True, env=env, cwd=tmp_path, timeout=60)
    starter = ["mpirun", "-H", "gpu01:8,gpu02:8", "-n", "16"]
    if kind == "slurm":
        starter = ["srun", "--kill-on-bad-exit=1", "--mpi=pmix"]
    command = at.engine.build(at.placed)
    assert said(tmp_path) == [[str(work), *starter, *command.argv, "key="]]
    assert {name: (work / name).read_text() for name in command.files} == command.files


def running(word: str) -> bool:
    return subprocess.run(["pgrep", "-f", word], capture_output=True).returncode == 0


def wait_until(what, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_node_outlives_the_ssh_script(how, world, tmp_path):
    """Each node starts a process of its own, which must end, too, even if the script is killed outright."""
    bin, work, env = world
    stand_in(bin, "vllm", f"sleep 98765{os.getpid()} & {SAY}; wait")
    script = tmp_path / "start.sh"
    script.write_text(cluster.ssh(job("vllm", str(work))))
    started = subprocess.Popen(["bash", script], env=env, cwd=tmp_path)
    mark = f"sleep 98765{os.getpid()}"
    wait_until(lambda: len(said(tmp_path)) == 2 and running(mark))
    started.send_signal(how)
    started.wait(timeout=60)
    wait_until(lambda: not running(mark))


def test_a_node_that_fails_ends_the_others(world, tmp_path):
    bin, work, env = world
    stand_in(bin, "vllm", f'[[ "$*" == *headless* ]] && exit 7\n{SAY}; sleep 43210{os.getpid()}')
    script = cluster.ssh(job("vllm", str(work)))
    done = subprocess.run(["bash"], input=script, text=True, env=env, cwd=tmp_path, timeout=60)
    assert done.returncode == 7
    wait_until(lambda: not running(f"sleep 43210{os.getpid()}"))


@pytest.mark.parametrize("key", [None, "sec ret", "secret\r", "secret\n"])
@pytest.mark.parametrize("kind", ["ssh", "slurm"])
def test_no_key_no_start(kind, key, world, tmp_path):
    bin, work, env = world
    stand_in(bin, "vllm", SAY)
    env.pop("DSV3_API_KEY")
    env |= {"DSV3_API_KEY": key} if key else {}
    script = MAKERS[kind](job("vllm", str(work), **OPEN))
    done = subprocess.run(["bash"], input=script, text=True, env=env, cwd=tmp_path, timeout=60, capture_output=True)
    assert done.returncode != 0
    assert f"DSV3_API_KEY: {'its value is no key' if key else 'not set'}" in done.stderr
    assert "sec" not in done.stderr
    assert said(tmp_path) == []


@pytest.mark.parametrize("pods", [2, 3])
def test_pods_run_the_words_of_their_rank(pods, world, tmp_path):
    bin, _, env = world
    stand_in(bin, "vllm", SAY)
    serve = Serve(model="deepseek-ai/DeepSeek-R1", tp=8, pp=pods, **OPEN)
    hosts = tuple(f"pod{i}" for i in range(pods))
    at = Cluster(engine=find("vllm"), serve=serve, hosts=hosts, gpus=8, folder="/")
    group, _ = yaml.safe_load_all(cluster.lws(at))
    template = group["spec"]["leaderWorkerTemplate"]
    assert [v["name"] for v in template["leaderTemplate"]["spec"]["volumes"]] == ["shm"]  # an id is downloaded
    for rank in range(pods):
        container = template["workerTemplate" if rank else "leaderTemplate"]["spec"]["containers"][0]
        run = [*container["command"], *container["args"]]
        env |= {
            "LWS_LEADER_ADDRESS": "leader.svc",
            "LWS_WORKER_INDEX": str(rank),
            "OUT": str(tmp_path / f"said.{rank}"),
        }
        subprocess.run(run, env=env, cwd=tmp_path, check=True)
        (ran,) = [f.read_text().splitlines()[1:-1] for f in tmp_path.glob(f"said.{rank}.*")]
        place = replace(at.placed, node_rank=rank, master_addr="leader.svc")
        assert ran == list(at.engine.build(place).argv)


# ------------------------------------------------------------------------------------------------ the command line

FLAGS = ["--gpus-per-host", "8", "--model", "deepseek-ai/DeepSeek-R1"]


def run(capsys: pytest.CaptureFixture, *argv: str) -> str:
    launch.main(list(argv))
    return capsys.readouterr().out


def test_the_verb_prints_them(capsys):
    out = run(
        capsys, "--ssh", "--engine", "sglang", "--hosts", "a,b", *FLAGS, "--", "--tp", "16", "--no-reasoning-parser"
    )
    bash_reads(out)
    assert "--dist-init-addr a:29500" in out
    assert "reasoning" not in out
    out = run(
        capsys, "--slurm", "--engine", "vllm", "--hosts", "a", *FLAGS, "--python", "/e/bin/python", "--", "--tp", "8"
    )
    assert "exec /e/bin/vllm serve deepseek-ai/DeepSeek-R1 --tensor-parallel-size 8 --enable" in out
    assert "nnodes" not in out
    options = ["--tp", "8", "--pp", "2", "--host", "0.0.0.0", "--api-key-env", "K"]
    out = run(capsys, "--lws", "--engine", "vllm", "--nodes", "2", *FLAGS, "--", *options)
    assert [d["kind"] for d in yaml.safe_load_all(out)] == ["LeaderWorkerSet", "Service"]
