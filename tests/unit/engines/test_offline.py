"""Offline batches: the engines' arguments, and what fails before or in an engine. ``tests/vllm`` runs a real one."""

import sys

import pytest

from dsv3.cli import run
from dsv3.engines.offline import arguments, main
from dsv3.engines.options import Serve
from dsv3.engines.table import find
from dsv3.paths import TINY_R1

R1 = Serve(model="R1", tp=8, mtp=1, context=4096)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            "vllm",
            {
                "model": "R1",
                "tensor_parallel_size": 8,
                "pipeline_parallel_size": 1,
                "enable_expert_parallel": True,
                "max_model_len": 4096,
                "speculative_config": {"method": "mtp", "num_speculative_tokens": 1},
            },
        ),
        (
            "sglang",
            {
                "model_path": "R1",
                "tp_size": 8,
                "pp_size": 1,
                "context_length": 4096,
                "speculative_algorithm": "EAGLE",
                "speculative_num_steps": 1,
                "speculative_eagle_topk": 1,
                "speculative_num_draft_tokens": 2,
            },
        ),
        (
            "lmdeploy",
            {
                "model_path": "R1",
                "tp": 8,
                "session_len": 4096,
                "speculative_config": {"method": "deepseek_mtp", "num_speculative_tokens": 1},
            },
        ),
        (
            "trtllm",
            {
                "model": "R1",
                "tensor_parallel_size": 8,
                "moe_expert_parallel_size": 8,
                "pipeline_parallel_size": 1,
                "max_seq_len": 4096,
                "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1},
            },
        ),
    ],
)
def test_arguments(engine, expected):
    assert arguments(engine, R1) == expected


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_arguments_are_the_flags_of_the_server(engine):
    """Both classes take the server's flags as keywords."""
    only_server = ("host", "port", "reasoning_parser")
    flags = {flag.words[0].removeprefix("--").replace("-", "_") for flag in find(engine).build(R1).flags}
    names = {name for name in arguments(engine, R1) if name not in ("model", "pipeline_parallel_size", "pp_size")}
    assert flags - set(only_server) - {"model"} == names


def test_what_has_no_offline_interface():
    with pytest.raises(ValueError, match="--engine ascend: offline batches know vllm"):
        arguments("ascend", R1)
    with pytest.raises(ValueError, match="one machine"):
        arguments("vllm", Serve(model="R1", tp=16, nnodes=2, master_addr="node0"))


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--max-new-tokens", "0"), 2, "max_new_tokens = 0: must be a whole number from 1"),
        (("--temperature", "-1"), 2, "temperature = -1.0: must be 0"),
        (("--cpu", "--engine", "sglang"), 2, "--cpu is of --engine vllm"),
        (("--engine", "ascend"), 2, "invalid choice"),
        (("--tp", "0"), 1, "--tp 0: must be 1"),
        (("--input-file", "no-such-file"), 1, "no-such-file: no such file"),
        (("--model", "no-such-folder"), 1, "no-such-folder"),
    ],
)
def test_the_command_refuses(tmp_path, monkeypatch, capsys, flags, code, words):
    (tmp_path / "prompts.txt").write_text("37 + 48 = ?\n")
    monkeypatch.chdir(tmp_path)
    argv = ["--engine", "vllm", "--model", str(TINY_R1), "--input-file", "prompts.txt", "--python", sys.executable]
    with pytest.raises(SystemExit) as ended:
        run(main, [*argv, *flags])
    out, err = capsys.readouterr()
    assert ended.value.code == code
    assert words in err.splitlines()[-1]
    assert out == ""
