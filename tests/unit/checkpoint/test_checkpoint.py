"""Reading trusts nothing."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dsv3.checkpoint import read
from dsv3.inference.weights import tensor


@pytest.fixture
def folder(fp8_folder, tmp_path) -> Path:
    return Path(shutil.copytree(fp8_folder, tmp_path / "checkpoint"))


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def test_every_tensor_reads_as_safetensors_reads_it(fp8_folder):
    found = read.open_folder(fp8_folder)
    for file in fp8_folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as f:
            for name in f.keys():  # noqa: SIM118 - not a dict
                theirs = f.get_tensor(name)
                assert torch.equal(tensor(found, name).view(torch.uint8), theirs.view(torch.uint8)), name
                if theirs.dim() == 2:
                    part = (slice(theirs.shape[0] // 2, theirs.shape[0]), slice(0, (theirs.shape[1] + 1) // 2))
                    assert torch.equal(tensor(found, name, part).float(), theirs[part].float())


def test_a_single_file_needs_no_index(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert set(read.open_folder(tmp_path)) == {"a", "b"}


def damage(folder: Path, how: str) -> None:
    shard, index = first_shard(folder), folder / read.INDEX
    data = shard.read_bytes()
    if how == "truncated":
        shard.write_bytes(data[:-10])
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "html":
        shard.write_bytes(b"<!DOCTYPE html><html>404</html>" * 10)
    elif how == "lfs":
        shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:e3b0c442\nsize 5\n")
    elif how == "header not JSON":
        shard.write_bytes(data[:8] + b"x" + data[9:])
    elif how == "header too long":
        shard.write_bytes(struct.pack("<Q", 2**60) + data[8:])
    elif how == "shard missing":
        shard.unlink()
    elif how == "outside":
        weight_map = json.loads(index.read_text())["weight_map"]
        index.write_text(json.dumps({"weight_map": weight_map | {"lm_head.weight": "../evil.safetensors"}}))
    elif how == "index wrong":
        weight_map = json.loads(index.read_text())["weight_map"]
        index.write_text(json.dumps({"weight_map": weight_map | {"lm_head.weight": shard.name}}))
    elif how == "index not JSON":
        index.write_text("{")
    elif how == "twice":
        index.unlink()
        shutil.copy(shard, folder / "model-00009-of-00009.safetensors")
    elif how == "no files":
        for file in [index, *folder.glob("*.safetensors")]:
            file.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "model-00001-of-000005.safetensors: truncated: "),
        ("empty", "model-00001-of-000005.safetensors: not a safetensors file, or truncated"),
        ("html", "model-00001-of-000005.safetensors: a web page"),
        ("lfs", "model-00001-of-000005.safetensors: a git-LFS pointer"),
        ("header not JSON", "model-00001-of-000005.safetensors: the safetensors header is invalid"),
        ("header too long", "model-00001-of-000005.safetensors: not a safetensors file"),
        ("shard missing", "model-00001-of-000005.safetensors of 5 files named in .* missing; download again"),
        ("outside", r"not the name of a .safetensors file in the folder: '\.\./evil.safetensors'"),
        ("index wrong", "lm_head.weight not in the file that"),
        ("index not JSON", "not an index of safetensors"),
        ("twice", "is both in .*model-00001-of-000005.safetensors and in .*model-00009"),
        ("no files", "no .safetensors files"),
    ],
)
def test_damage_is_named(folder, how, message):
    damage(folder, how)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read.open_folder(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "I999", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        "no entry",
        None,
    ],
)
def test_header_entries_are_not_trusted(tmp_path, entry):
    header = json.dumps({"bad": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(ValueError, match="model.safetensors: .*header.*entry of 'bad'"):
        read.open_folder(tmp_path)


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    save_file({"a": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    found = read.open_folder(tmp_path)
    read.check(found, {"a": ((2, 3), "fp32")}, {"a"})
    with pytest.raises(ValueError, match=r"b, c, d and 1 more of 5 tensors missing"):
        read.check(found, dict.fromkeys("abcde", ((2, 3), "fp32")), set("abcde"))
    with pytest.raises(ValueError, match="a not in the architecture of config.json; is config.json"):
        read.check(found, {}, set())
    with pytest.raises(ValueError, match=r"a is F32 \[2, 3\], but config.json says F32 \[3, 2\]"):
        read.check(found, {"a": ((3, 2), "fp32")}, {"a"})
    for name, cure in {
        "model.layers.0.mlp.gate_proj.qweight": "quantised in a way that dsv3 does not compute with",
        "model.layers.0.mlp.down_proj.weight_scale_2": "quantised in a way that dsv3 does not compute with",
        "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight": "an adapter's: merge it",
        "model.layers.0.mlp.experts.gate_up_proj": "fused experts in another order",
        "model.layers.0.self_attn.indexer.wk.weight": "DeepSeek-V3.2's sparse attention",
    }.items():
        others = read.Checkpoint(tmp_path, [found["a"]._replace(name=name)])
        with pytest.raises(ValueError, match=f"a of 1 tensors missing; .*{cure}"):
            read.check(others, {"a": ((2, 3), "fp32")}, {"a"})
    with pytest.raises(ValueError, match=r"a is F32 \[2, 3\], but config.json says F8_E4M3"):
        read.check(found, {"a": ((2, 3), "fp8")}, {"a"})


def test_a_header_may_begin_with_any_byte(tmp_path):
    """Its length's lowest byte may be that of '<' or of a blank: 60 and 32."""
    for length in (60, 32, 60 + 256):
        text = b'{"__metadata__":{}}'.ljust(length)
        (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + text)
        assert list(read.header(tmp_path / "m.safetensors")) == []


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0.00 kB"),
        (100, "0.10 kB"),
        (13_259_000, "13.26 MB"),
        (999_000_000, "999.00 MB"),
        (688_586_727_753, "688.59 GB"),
    ],
)
def test_bytes_for_people(nbytes, text):
    assert read.amount(nbytes) == text
