"""Whatever a file or a number claims: one clear line, in seconds, without filling the memory."""

import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv3.cli import describe
from dsv3.download import TINY_R1
from dsv3.inference.chat import Tokenizer

ROOM = 2_000_000_000  # bytes that a verb without torch may take


def dsv3(*args: object, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dsv3", *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM)),
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One line of bounded length, behind argparse's usage if there is one, that a terminal can show."""
    assert done.returncode in (1, 2), done.stderr[-2000:]
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 or done.stderr == line + "\n"
    assert len(line) < 600
    assert line.isprintable()
    for word in words:
        assert word in line


def convert(folder: Path, target: Path) -> subprocess.CompletedProcess:
    return dsv3("convert", "--hf-ckpt-path", folder, "--save-path", target, "--n-experts", 16, "--model-parallel", 2)


@pytest.fixture
def tiny(tmp_path) -> Path:
    return shutil.copytree(TINY_R1, tmp_path / "tiny")


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path.name)
    os.chdir(here)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": a_socket,
    "folder": Path.mkdir,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link in a circle": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
}
SHARD = "model-00003-of-000005.safetensors"


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(
    "name",
    [SHARD, "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
     "tokenizer_config.json", "chat_template.jinja"],
)  # fmt: skip
def test_special_files_are_not_waited_for(tiny, tmp_path, name, kind):
    (tiny / name).unlink(missing_ok=True)
    SPECIAL[kind](tiny / name)
    refused(convert(tiny, tmp_path / "out"), name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "link in a circle"])
def test_special_files_and_the_other_readers(tiny, tmp_path, kind):
    for name in (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
        "generation_config.json", "config.json",
    ):  # fmt: skip
        folder = shutil.copytree(TINY_R1, tmp_path / name)
        (folder / name).unlink(missing_ok=True)
        SPECIAL[kind](folder / name)
        with pytest.raises((ValueError, OSError)) as error:
            Tokenizer(folder)
        assert name in describe(error.value)
    SPECIAL[kind](tmp_path / "hashes")
    refused(dsv3("verify", tiny, "--manifest", tmp_path / "hashes"), "hashes")
    (tiny / "model.safetensors.index.json").unlink()
    (tiny / SHARD).unlink()
    SPECIAL[kind](tiny / SHARD)
    refused(dsv3("serve", "--engine", "vllm", "--model", tiny, "--dry-run"), SHARD)
    (tiny / "config.json").unlink()
    SPECIAL[kind](tiny / "config.json")
    refused(dsv3("serve", "--engine", "vllm", "--model", tiny, "--dry-run"), "config.json")
    refused(dsv3("plan", tiny), "config.json")


def sparse(path: Path, size: int) -> None:
    path.write_bytes(b"")
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("name", "size"),
    [("config.json", 500_000_000), ("tokenizer.json", 10**11), ("tokenizer_config.json", 10**11),
     ("README.md", 10**11), ("model.safetensors.index.json", 10**11)],
)  # fmt: skip
def test_files_that_are_far_too_long(tiny, tmp_path, name, size):
    sparse(tiny / name, size)
    refused(convert(tiny, tmp_path / "out"), name, "longer than")


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (b'{"a":[' + b"[]," * 30_000_000 + b"1]}", "more than 6,000,000 values"),
        (b'{"a":[' + b"[]," * 2_990_000 + b"1]}", "entry of 'a'"),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5_000 + b'],"data_offsets":[0,4]}}', "invalid"),
        (b'{"' + b"x" * 21_000_000 + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "..."),
        (b'{"\\u001b[31m\\u202e\\u0085\\u2028":1}', "invalid"),
        (b'{"a":' * 1_000_000, "nested too deeply"),
    ],
    ids=["lists", "fewer lists", "long number", "long name", "escape codes", "nested"],
)
def test_headers_that_would_fill_the_memory_or_the_screen(tiny, tmp_path, header, word):
    (tiny / "model.safetensors.index.json").unlink()
    (tiny / "z.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0000")
    refused(convert(tiny, tmp_path / "out"), word)


@pytest.mark.parametrize("text", [b'{"a":' * 10_000, b"[" * 10_000_000, b"\xff\xfe{", b'{"a": ' + b"9" * 5_000 + b"}"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_made_to_hurt(tiny, tmp_path, name, text):
    (tiny / name).write_bytes(text)
    refused(convert(tiny, tmp_path / "out"), name)


def test_a_config_that_promises_more_than_the_files_hold_takes_no_memory(tiny, tmp_path):
    """The model would take 40 TB. ``generate`` imports torch, which takes more room than the other verbs."""
    config = json.loads((tiny / "config.json").read_text()) | {"vocab_size": 10_000_000, "hidden_size": 1_000_000}
    (tiny / "config.json").write_text(json.dumps(config))
    (tmp_path / "p").write_text("1 + 1 = ?\n")
    done = subprocess.run(
        [sys.executable, "-m", "dsv3", "generate", "--ckpt-path", tiny, "--input-file", tmp_path / "p"],
        capture_output=True, timeout=120, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    refused(done, "model.embed_tokens.weight is BF16 [1024, 256]", "config.json says BF16 [10000000, 1000000]")


LONG = "9" * 5_000
SLICE = ("slice", "--hf-ckpt-path", "x", "--save-path", "o")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", "1000000000"], "take fewer"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", LONG], "--gpus"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", "１２"], "--gpus"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", "8", "--context", str(10**15)], "--context"),
        (["plan", "DeepSeek-R1", "--batch", str(10**12)], "--batch"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", "8", "--tp", "1000000000"], "--gpus says 8"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", "1000000000", "--tp", "8"], "pp = 125000000"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--gpus", "8", "--ep", "1000000000"], "ep = 1000000000"),
        (["plan", "DeepSeek-R1", "--gpu", "H100", "--price", "1e308"], "--price"),
        (["plan", "DeepSeek-R1", "--rate", "nan"], "--rate"),
        (
            [*SLICE, "--layers", "0", "--experts", "0-99999999999"],
            "million",
        ),
        ([*SLICE, "--layers", "5-2", "--experts", "0"], "write 2-5"),
        ([*SLICE, "--layers", "１", "--experts", "0"], "numbers"),
        ([*SLICE, "--layers", LONG, "--experts", "0"], "numbers"),
        ([*SLICE, "--layers", "0", "--experts", "0-999999,0-999999"], "more than 1,000,000"),
        (
            ["convert", "--hf-ckpt-path", TINY_R1, "--save-path", "o", "--n-experts", "16", "--model-parallel", 10**9],
            "cannot split over 1000000000 ranks",
        ),
        (
            ["convert", "--hf-ckpt-path", TINY_R1, "--save-path", "o", "--n-experts", "-1", "--model-parallel", "2"],
            "say --n-experts 16",
        ),
    ],
)
def test_numbers_on_the_command_line(args, word, tmp_path):
    refused(dsv3(*args), word)
