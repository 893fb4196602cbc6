"""Conversion: byte for byte what the straightforward way gives, and nothing dropped in silence."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from oracle import NAMES
from safetensors.torch import load_file
from small import SMALL

from dsv3.checkpoint import read
from dsv3.convert import convert, main

CUT = {"wq": 0, "wq_b": 0, "wkv_b": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "embed": 0, "head": 0}


def in_memory(folder: Path, ranks: int) -> list[dict]:
    """The official converter's way: everything in memory, renamed part by part, narrowed, MTP layer left out."""
    out = [{} for _ in range(ranks)]
    for file in folder.glob("*.safetensors"):
        for name, whole in load_file(file).items():
            if name.startswith(f"model.layers.{SMALL.n_layers}."):
                continue
            name = name.removeprefix("model.").replace("weight_scale_inv", "scale")
            name = ".".join(NAMES.get(part, part) for part in name.split("."))
            for rank in range(ranks):
                part = whole
                expert = re.search(r"\.experts\.(\d+)\.", name)
                dim = CUT.get(name.split(".")[-2])
                if expert:
                    if int(expert[1]) // (SMALL.n_routed_experts // ranks) != rank:
                        continue
                elif dim is not None:
                    share = whole.shape[dim] // ranks
                    part = whole.narrow(dim, rank * share, share)
                out[rank][name] = part.contiguous()
    return out


def bits(tensor):
    import torch

    return tensor.view(torch.uint8)


@pytest.mark.parametrize(("precision", "ranks"), [("fp8", 1), ("fp8", 2), ("bf16", 1), ("bf16", 2), ("bf16", 4)])
def test_files_equal_the_straightforward_way(precision, ranks, fp8_folder, bf16_folder, tmp_path):
    source = fp8_folder if precision == "fp8" else bf16_folder
    convert(source, tmp_path, ranks)
    for rank, expected in enumerate(in_memory(source, ranks)):
        got = load_file(tmp_path / f"model{rank}-mp{ranks}.safetensors")
        assert set(got) == set(expected)
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype
            assert got[name].shape == tensor.shape
            assert bits(got[name]).equal(bits(tensor)), name


def test_the_mtp_layer_has_files_of_its_own(bf16_folder, tmp_path):
    """At layer 2 here, at 61 in R1: its place comes from the config (C3)."""
    convert(bf16_folder, tmp_path, 2)
    mtp = [load_file(tmp_path / f"mtp{rank}-mp2.safetensors") for rank in range(2)]
    assert all(name.startswith("mtp.0.") for part in mtp for name in part)
    assert {"mtp.0.enorm.weight", "mtp.0.eh_proj.weight", "mtp.0.block.attn.wo.weight", "mtp.0.norm.weight"} <= set(
        mtp[0]
    )
    assert not {"mtp.0.embed.weight", "mtp.0.head.weight"} & set(mtp[0])
    experts = [{int(m[1]) for n in part if (m := re.search(r"experts\.(\d+)\.", n))} for part in mtp]
    assert experts == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_what_stands_beside_the_tensors_comes_along(bf16_folder, tmp_path):
    convert(bf16_folder, tmp_path, 2)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (bf16_folder / name).read_bytes()
    assert not (tmp_path / read.INDEX).exists()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("precision", "ranks", "message"),
    [
        ("bf16", 3, "cannot split over 3 ranks: n_heads = 4 does not divide by 3; counts that work: 1, 2, 4$"),
        (
            "fp8",
            4,
            r"cannot split over 4 ranks: .* FP8 blocks of 128; .* work: 1, 2 \(after a cast to BF16: 1, 2, 4\)",
        ),
    ],
)
def test_ranks_that_do_not_work_are_refused(precision, ranks, message, fp8_folder, bf16_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(fp8_folder if precision == "fp8" else bf16_folder, tmp_path / "out", ranks)
    assert not (tmp_path / "out").exists()


def test_a_wrong_number_of_experts_is_refused(bf16_folder, tmp_path):
    """The demo drops the experts above it and exits with 0 (B5)."""
    args = ["--hf-ckpt-path", str(bf16_folder), "--save-path", str(tmp_path / "out"), "--model-parallel", "2"]
    with pytest.raises(ValueError, match="--n-experts 4: .* has 8; say --n-experts 8"):
        main([*args, "--n-experts", "4"])
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_is_an_error(bf16_folder, tmp_path):
    """The demo writes a checkpoint without those tensors and exits with 0 (B6), with an index or without one."""
    source = Path(shutil.copytree(bf16_folder, tmp_path / "in"))
    (source / "model-00002-of-000005.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-000005.safetensors of 5 files"):
        convert(source, tmp_path / "out", 2)
    (source / read.INDEX).unlink()
    with pytest.raises(ValueError, match=r"and \d+ more of \d+ tensors missing"):
        convert(source, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_an_mtp_embedding_that_differs_is_told(bf16_folder, tmp_path, capsys):
    from safetensors.torch import save_file

    source = Path(shutil.copytree(bf16_folder, tmp_path / "in"))
    name = "model.layers.2.embed_tokens.weight"
    file = source / json.loads((source / read.INDEX).read_text())["weight_map"][name]
    tensors = load_file(file)
    tensors[name] = tensors[name] + 1
    save_file(tensors, file)
    convert(source, tmp_path / "out", 2)
    said = capsys.readouterr().err
    assert f"{name} is left out, though not equal to model.embed_tokens.weight: MTP guesses with that one" in said
    assert "shared_head" not in said


def test_a_dry_run_says_what_would_be_written_and_leaves_nothing(bf16_folder, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--hf-ckpt-path", str(bf16_folder), "--save-path", str(out), "--n-experts", "8", "--model-parallel", "2"]
    main([*flags, "--dry-run"])
    said = capsys.readouterr().out
    assert not out.exists()
    main(flags)
    for file in out.iterdir():
        assert f"{read.amount(file.stat().st_size):>13}  {file.name}" in said
    assert "room needed" in said
    assert "minutes, copying" in said


def test_progress_is_shown_on_a_terminal_only(bf16_folder, tmp_path, capsys, monkeypatch):
    import sys

    convert(bf16_folder, tmp_path / "quiet", 2)
    assert "left" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    convert(bf16_folder, tmp_path / "seen", 2)
    shown = capsys.readouterr().err
    assert re.search(r"convert to 2 ranks +\d+%  [\d.]+ GB/s  \d+:\d\d left", shown)
    assert re.search(r"seen: 4 files, \d+\.\d\d MB \(\d+\.\d\d MB in \d+.\d s, ", shown.splitlines()[-1])


def test_only_what_belongs_to_a_checkpoint_is_carried_over(bf16_folder, tmp_path):
    source = shutil.copytree(bf16_folder, tmp_path / "in")
    (tmp_path / "secret").write_text("KEY")
    for name in ("hf_token", "tokens.bin", "tokenizer_x.json", "tokenization_x.py", "chat_template.txt", "token.part"):
        (source / name).write_text("KEY")
    (source / "tokenizer_y.json").symlink_to(tmp_path / "secret")
    carried = {"special_tokens_map.json", "merges.txt", "chat_template.jinja", "README.md", "tokenizer.model"}
    carried |= {"added_tokens.json", "chat_template.json", "tiktoken.model", "vocab.json"}
    for name in carried - {"merges.txt"}:
        (source / name).write_text("x")
    (source / "merges.txt").symlink_to("README.md")  # a link inside the folder
    convert(source, tmp_path / "out", 1)
    there = {f.name for f in (tmp_path / "out").iterdir() if f.suffix != ".safetensors"} - {".dsv3-made"}
    own = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert there == carried | (own & {f.name for f in bf16_folder.iterdir()})


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "README.md"])
def test_a_link_out_of_the_folder_is_not_carried_over(bf16_folder, tmp_path, name):
    source = shutil.copytree(bf16_folder, tmp_path / "in")
    (tmp_path / "secret").write_text("KEY")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=f"{name}: a link out of the folder"):
        convert(source, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_the_hub_caches_links_are_carried_over(bf16_folder, tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    shutil.copytree(bf16_folder, tmp_path / "models--x" / "blobs")
    for file in bf16_folder.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    convert(snapshot, tmp_path / "out", 1)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (bf16_folder / "tokenizer.json").read_bytes()
