"""Scripts that start engines on several machines: golden files, and what is refused."""

import shlex
from pathlib import Path

import pytest
import yaml

from dsv3 import launch
from dsv3.engines import cluster
from dsv3.engines.cluster import Cluster
from dsv3.engines.options import Serve
from dsv3.engines.table import ENGINES, find

GOLDEN = Path(__file__).parents[2] / "golden" / "engines"
MODEL = "/data/it's R1"
SPLITS = {
    "sglang": {"tp": 16},
    "vllm": {"tp": 8, "pp": 2, "mtp": 1},
    "lmdeploy": {"tp": 16},
    "trtllm": {"tp": 16, "fp8_kv_cache": True},
    "ascend": {"tp": 4, "dp": 4},
}
MAKERS = {"ssh": cluster.ssh, "slurm": cluster.slurm, "lws": cluster.lws}
OPEN = {"host": "0.0.0.0", "api_key_env": "DSV3_API_KEY"}


def job(engine: str, folder: str = "/home/me/my course", **fields: object) -> Cluster:
    serve = Serve(**{"model": MODEL, "family": "r1"} | SPLITS[engine] | fields)
    return Cluster(engine=find(engine), serve=serve, hosts=("me@gpu01", "gpu02"), gpus=serve.gpus // 2, folder=folder)


CASES = {
    **{f"{name}.ssh": job(name) for name in SPLITS},
    **{f"{name}.slurm": job(name) for name in SPLITS},
    **{f"{name}.lws": job(name, **OPEN) for name in ("sglang", "vllm", "lmdeploy")},
    "vllm.key.ssh": job("vllm", **OPEN),
    "vllm.key.slurm": job("vllm", **OPEN),
}


def made(case: str) -> str:
    return MAKERS[case.rpartition(".")[2]](CASES[case])


def golden(case: str) -> Path:
    return GOLDEN / f"cluster.{case}.{'yaml' if case.endswith('lws') else 'sh'}"


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    assert made(case) == golden(case).read_text(encoding="utf-8")


def test_no_golden_is_left_over():
    assert set(GOLDEN.glob("cluster.*")) == {golden(case) for case in CASES}


def said(tmp_path: Path) -> list[list[str]]:
    return sorted(file.read_text().splitlines() for file in tmp_path.glob("said.*"))


# ------------------------------------------------------------------------------------------------ Kubernetes


@pytest.mark.parametrize("engine", ["sglang", "vllm", "lmdeploy"])
def test_leader_worker_set(engine):
    at = job(engine, **OPEN)
    group, service = yaml.safe_load_all(cluster.lws(at))
    assert (group["apiVersion"], group["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    for role, pod in (("leader", template["leaderTemplate"]), ("worker", template["workerTemplate"])):
        assert pod["metadata"]["labels"] == {"role": role}
        (container,) = pod["spec"]["containers"]
        assert container["image"] == at.engine.image
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        assert mounts == {"shm": "/dev/shm", "model": MODEL}
        assert volumes["shm"]["emptyDir"] == {"medium": "Memory"}
        assert volumes["model"]["hostPath"] == {"path": MODEL, "type": "Directory"}
    leader, worker = (template[f"{r}Template"]["spec"]["containers"][0] for r in ("leader", "worker"))
    assert leader["env"] == [
        {"name": "DSV3_API_KEY", "valueFrom": {"secretKeyRef": {"name": "dsv3", "key": "api-key"}}}
    ]
    assert "env" not in worker
    assert leader["readinessProbe"]["httpGet"] == {"path": at.engine.health, "port": at.port}
    assert service["spec"]["selector"] == {
        "leaderworkerset.sigs.k8s.io/name": group["metadata"]["name"],
        **template["leaderTemplate"]["metadata"]["labels"],
    }
    assert service["spec"]["ports"] == [{"name": "http", "protocol": "TCP", "port": at.port, "targetPort": at.port}]


# ------------------------------------------------------------------------------------------------ the command line

FLAGS = ["--gpus-per-host", "8", "--model", "deepseek-ai/DeepSeek-R1"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["--ssh", "--engine", "vllm", "--hosts", "a,b", *FLAGS, "--", "--tp", "8"],
            "are 8 GPUs, but hosts x GPUs are 16",
        ),
        (["--ssh", "--engine", "vllm", "--hosts", "a;b", *FLAGS], "'a;b' is not a host name"),
        (["--ssh", "--engine", "vllm", *FLAGS], "--hosts: give the names"),
        (["--ssh", *FLAGS], "--hosts: give the names"),
        (["--lws", "--nodes", "2", *FLAGS], "--lws needs --engine and --nodes N"),
        (["--lws", "--engine", "vllm", "--hosts", "a,b", *FLAGS], "--lws needs --engine and --nodes N"),
        (["--lws", "--engine", "vllm", "--nodes", "2", *FLAGS, "--", "--tp", "16"], "say --host 0.0.0.0 --api-key-env"),
        (
            ["--lws", "--engine", "vllm", "--nodes", "1", *FLAGS, "--", "--tp", "8", "--host", "0.0.0.0"]
            + ["--api-key-env", "K"],
            "for 2 nodes or more",
        ),
        (["--lws", "--engine", "trtllm", "--nodes", "2", *FLAGS, "--", "--tp", "16"], "no manifest is known to work"),
        (
            ["--lws", "--engine", "vllm", "--nodes", "2", "--gpus-per-host", "8", "--model", "R1", "--", "--tp", "16"]
            + ["--host", "0.0.0.0", "--api-key-env", "K"],
            "--model R1: give an absolute path",
        ),
    ],
)
def test_mistakes(argv, words):
    with pytest.raises(ValueError, match=words):
        launch.main(argv)


def test_what_serve_refuses_is_refused_here(capsys):
    argv = ["--ssh", "--engine", "vllm", "--hosts", "a", *FLAGS, "--", "--tp", "8", "--gpu", "H100"]
    with pytest.raises(SystemExit) as stopped:
        launch.main(argv)
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("dsv3 launch: error: DeepSeek-R1 does not fit 8 x H100-80G in FP8")


def test_every_engine_has_its_scripts():
    assert set(SPLITS) == {e.name for e in ENGINES}
    for case in ("ssh", "slurm"):
        assert {c.partition(".")[0] for c in CASES if c.endswith(case)} == set(SPLITS)
    assert shlex.quote(cluster.ADDRESS) == cluster.ADDRESS
