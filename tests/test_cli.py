"""The command line as a user meets it: real processes, bad input, one clear line, nothing left behind."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsv3.cli import VERBS
from dsv3.convert import convert


def dsv3(*args: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess:
    run = [sys.executable, "-m", "dsv3", *map(str, args)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(run, input=stdin, env=env, capture_output=True, text=True, timeout=120)


def fails(done: subprocess.CompletedProcess, verb: str, *words: str) -> None:
    """Exit code 1 and one line, which names the verb, what is wrong and what to do."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if "no FP8 units" not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"dsv3 {verb}: error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


def changed(folder: Path, target: Path, **fields: object) -> Path:
    """A copy with other values in config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("37 + 48 = ?\n", encoding="utf-8")
    return file


def test_help_and_version():
    assert "convert" in dsv3("--help").stdout
    assert dsv3("--version").stdout.startswith("dsv3 0.")
    for verb in VERBS:
        done = dsv3(verb, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: dsv3 {verb}")


def test_an_unknown_verb():
    done = dsv3("covnert")
    assert done.returncode == 2
    assert "no verb 'covnert'" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_reports():
    done = dsv3("doctor")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("ok       python")
    assert any(line.split()[1] == "torch" for line in done.stdout.splitlines())


def test_download_is_offline_and_complete(tmp_path):
    done = dsv3("download", "--model", "tiny-r1", "--local-dir", tmp_path / "a", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    from dsv3.checkpoint.read import open_folder
    from dsv3.download import TINY_R1

    assert open_folder(tmp_path / "a").keys() == open_folder(TINY_R1).keys()
    for file in TINY_R1.iterdir():
        assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes()


def test_download_mistakes(tmp_path):
    fails(dsv3("download", "--model", "tiny-r2", "--local-dir", tmp_path / "a"), "download", "'tiny-r2'", "tiny-r1")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "other.safetensors").write_bytes(b"")
    done = dsv3("download", "--model", "tiny-r1", "--local-dir", tmp_path / "b")
    fails(done, "download", "holds another checkpoint", "empty folder")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b", "other.safetensors"]


def cast(source: Path, target: Path) -> subprocess.CompletedProcess:
    return dsv3("fp8_cast_bf16", "--input-fp8-hf-path", source, "--output-bf16-hf-path", target)


def test_cast_mistakes(fp8_folder, bf16_folder, tmp_path):
    out = tmp_path / "out"
    fails(cast(tmp_path / "none", out), "fp8_cast_bf16", "none: not found; give a checkpoint folder")
    fails(cast(bf16_folder, out), "fp8_cast_bf16", "already BF16")
    fails(cast(fp8_folder, fp8_folder), "fp8_cast_bf16", "output folder is the input folder")
    qwen = changed(fp8_folder, tmp_path / "qwen", model_type="qwen2")
    fails(cast(qwen, out), "fp8_cast_bf16", "model_type is 'qwen2'", "distillations")
    shard = sorted(qwen.glob("*.safetensors"))[0]
    cut = changed(fp8_folder, tmp_path / "cut")
    (cut / shard.name).write_bytes(shard.read_bytes()[:-1])
    fails(cast(cut, out), "fp8_cast_bf16", shard.name, "truncated", "fetch it again")
    assert not out.exists()


def test_convert_mistakes(bf16_folder, tmp_path):
    def run(experts: int, ranks: int, source: Path = bf16_folder) -> subprocess.CompletedProcess:
        args = ["--hf-ckpt-path", source, "--save-path", tmp_path / "out", "--n-experts", experts]
        return dsv3("convert", *args, "--model-parallel", ranks)

    fails(run(8, 3), "convert", "n_heads = 4 does not divide by 3", "counts that work: 1, 2, 4")
    fails(run(16, 2), "convert", "has 8", "--n-experts 8")
    deeper = changed(bf16_folder, tmp_path / "deeper", num_hidden_layers=3)
    fails(run(8, 2, deeper), "convert", "tensors missing", "config.json")
    assert not (tmp_path / "out").exists()


def test_verify_slice_and_back_to_fp8_mistakes(bf16_folder, fp8_folder, tmp_path):
    fails(dsv3("verify", tmp_path / "none", "--source", bf16_folder), "verify", "none: no such folder")
    convert(bf16_folder, tmp_path / "two", 2)
    (tmp_path / "two" / "model1-mp2.safetensors").unlink()
    done = dsv3("verify", tmp_path / "two", "--source", bf16_folder)
    fails(done, "verify", "model1-mp2.safetensors: missing", "--repair")
    flags = ("--hf-ckpt-path", bf16_folder, "--save-path", tmp_path / "out", "--layers", "0,9", "--experts", "0-3")
    fails(dsv3("slice", *flags), "slice", "has no layer 9")
    flags = ("--input-bf16-hf-path", fp8_folder, "--output-fp8-hf-path", tmp_path / "out")
    fails(dsv3("bf16_cast_fp8", *flags), "bf16_cast_fp8", "already FP8")
    assert not (tmp_path / "out").exists()


def test_generate_mistakes(bf16_folder, prompts, tmp_path):
    def run(folder: object, *args: object) -> subprocess.CompletedProcess:
        return dsv3("generate", "--ckpt-path", folder, *(args or ("--input-file", prompts)))

    fails(run(tmp_path / "none"), "generate", "none: no such folder", "tiny-r1")
    fails(run(bf16_folder, "--input-file", tmp_path / "none.txt"), "generate", "none.txt: no such file")
    fails(run(bf16_folder, "--input-file", prompts, "--config", "config_1B.json"), "generate", "config_671B.json")
    (tmp_path / "empty.txt").write_text("\n \n")
    fails(run(bf16_folder, "--input-file", tmp_path / "empty.txt"), "generate", "holds no prompt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    fails(run(bf16_folder, "--input-file", tmp_path / "latin.txt"), "generate", "not UTF-8")
    narrow = changed(bf16_folder, tmp_path / "narrow", max_position_embeddings=5)
    fails(run(narrow), "generate", "prompt 1 has", "the context 5")
    convert(bf16_folder, tmp_path / "two", 2)
    fails(run(tmp_path / "two"), "generate", "converted for 2 ranks", "--nproc-per-node 2")
    (tmp_path / "two" / "tokenizer.json").unlink()
    done = dsv3("generate", "--ckpt-path", bf16_folder)
    assert done.returncode == 2
    assert "give either --interactive or --input-file" in done.stderr


def test_torchrun_with_a_wrong_number_of_ranks(bf16_folder, prompts, tmp_path):
    convert(bf16_folder, tmp_path / "one", 1)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dsv3.generate"]
    run += ["--ckpt-path", str(tmp_path / "one"), "--input-file", str(prompts)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    for rank in (0, 1):
        line = f"dsv3 generate (rank {rank}): error: {tmp_path / 'one'}: converted for 1 ranks, but WORLD_SIZE is 2"
        if line in done.stderr:
            break
    else:
        pytest.fail(done.stderr)
    assert "in load\n" not in done.stderr, "no traceback of ours"


def test_batch_files(prompts, tmp_path):
    prompts.write_text("37 + 48 = ?\n\n   \n  12 加 30 等于多少？\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    args = ["--ckpt-path", "tiny-r1", "--input-file", prompts, "--output-file", out, "--temperature", "0"]
    done = dsv3("generate", *args)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["prompt"] for r in rows] == ["37 + 48 = ?", "  12 加 30 等于多少？"]
    assert [r["answer"].strip() for r in rows] == ["Answer: 85", "答案：42"]
    assert set(rows[0]) == {"prompt", "thinking", "answer", "tokens", "finish"}
    blocks = done.stdout.split("Prompt: ")[1:]
    assert blocks[0] == f"37 + 48 = ?\nCompletion: {rows[0]['thinking']}</think>{rows[0]['answer']}\n\n"


@pytest.mark.parametrize("end", ["/exit\n", ""], ids=["exit", "ctrl-d"])
def test_a_chat(end):
    talk = "37 + 48 = ?\n/clear\n\nWhat is 20 + 22?\n" + end
    done = dsv3("generate", "--ckpt-path", "tiny-r1", "--interactive", "--temperature", "0", stdin=talk)
    assert done.returncode == 0, done.stderr
    assert "Answer: 85\n" in done.stdout
    assert "Answer: 42\n" in done.stdout
    assert done.stdout.count(">>> ") == 5


def test_an_interruption_ends_without_a_traceback():
    run = [sys.executable, "-m", "dsv3", "generate", "--ckpt-path", "tiny-r1", "--interactive"]
    chat = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert chat.stdout.read(3) == ">>>"
    time.sleep(0.5)  # the keyboard is waited for a moment after the prompt
    chat.send_signal(2)
    assert chat.wait(60) == 130  # with its keyboard still open: at its end the chat would end by itself
    assert "Traceback" not in chat.communicate()[1]
