"""The printed scripts, against golden files, and what is refused."""

import shlex
from pathlib import Path

import pytest

from dsv3 import launch
from dsv3.convert import convert

GOLDEN = Path(__file__).parents[1] / "golden"
JOB = launch.Generation(
    hosts=("me@gpu01", "gpu02"),
    gpus=8,
    ckpt_path="/data/it's R1 $mp16",
    options=("--input-file", "my prompts.txt", "--temperature", "0.6"),
    folder="/home/me/my course",
)
MAKERS = {"ssh": launch.ssh, "slurm": launch.slurm}


def script(kind: str, job: launch.Generation = JOB) -> str:
    return MAKERS[kind](job)


@pytest.mark.parametrize("kind", MAKERS)
def test_golden(kind):
    assert script(kind) == (GOLDEN / f"launch.{kind}.sh").read_text(encoding="utf-8")


def test_torchrun_takes_the_flags():
    from torch.distributed.run import get_args_parser

    words = shlex.split(JOB.torchrun("1", "gpu01"))
    args = get_args_parser().parse_args(words[4:])
    assert (args.nnodes, args.nproc_per_node, args.node_rank, args.master_addr) == ("2", "8", 1, "gpu01")
    assert (args.training_script, args.training_script_args[:2]) == ("dsv3.generate", ["--ckpt-path", JOB.ckpt_path])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hosts": ("a b",)}, "'a b' is not a host name"),
        ({"hosts": ("-oProxyCommand=x",)}, "is not a host name"),
        ({"hosts": ("",)}, "is not a host name"),
        ({"hosts": ("a", "a")}, "named twice"),
        ({"gpus": 0}, "--gpus-per-host 0: must be 1 or more"),
        ({"gpus": 257}, "--gpus-per-host 257: must be 1 or more, 256 at most"),
        ({"gpus": 999999999999}, "256 at most"),
        ({"hosts": tuple(f"n{i}" for i in range(4097))}, "--hosts: 4097 of them; 4096 are the most"),
    ],
)
def test_mistakes(changes, words):
    fields = {f: getattr(JOB, f) for f in ("hosts", "gpus", "ckpt_path", "options", "folder")}
    with pytest.raises(ValueError, match=words):
        launch.Generation(**fields | changes)


def test_a_checkpoint_for_other_ranks_and_a_chat_in_a_batch_job(bf16_folder, tmp_path, capsys):
    convert(bf16_folder, tmp_path / "two", 2)
    flags = ["--hosts", "a,b", "--ckpt-path", str(tmp_path / "two"), "--gpus-per-host"]
    with pytest.raises(ValueError, match="converted for 2 ranks, but hosts x GPUs are 4"):
        launch.main(["--ssh", *flags, "2"])
    for chat in ("--interactive", "--interact", "--int"):
        with pytest.raises(ValueError, match="no keyboard for --interactive"):
            launch.main(["--slurm", *flags, "1", "--", chat])
    assert capsys.readouterr().out == ""
    launch.main(["--ssh", *flags, "1", "--", "--interactive"])
    printed = capsys.readouterr().out
    assert f"--ckpt-path {tmp_path}/two --device cuda --interactive" in printed
    launch.main(["--ssh", *flags, "1", "--", "--interactive", "--dev=cpu"])
    assert "cuda" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as usage:
        launch.main(["--ssh", *flags, "1", "--interactive"])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    "options",
    [["--nosuch"], [], ["--interactive", "--temperature", "-1"], ["--interactive", "--device", "tpu"], ["-x"],
     ["--input-file"], ["--interactive", "prompts.txt"], ["--interactive", "--input-file", "a"]],
)  # fmt: skip
def test_options_that_generate_refuses(options, capsys):
    with pytest.raises(SystemExit) as usage:
        launch.main(["--ssh", "--hosts", "a", "--ckpt-path", "R1", "--gpus-per-host", "1", "--", *options])
    assert usage.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("dsv3 launch ... --: error: ")


@pytest.mark.parametrize("nodes", [4097, 99999999999, 10**30, 0, -1])
def test_more_pods_than_any_job_has(nodes):
    with pytest.raises(ValueError, match="--nodes"):
        launch.main(["--lws", "--engine", "vllm", "--nodes", str(nodes), "--gpus-per-host", "1", "--model", "R1"])
