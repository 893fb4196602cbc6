"""What is said before llama.cpp's converter starts: source, folder, shape, target, tokenizer; and its command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from dsv3.checkpoint.gguf import TYPES
from dsv3.config import ModelConfig
from dsv3.engines import converter
from dsv3.engines.converter import PRE_TOKENIZERS, Order
from dsv3.layout import layout
from dsv3.paths import TINY_R1
from dsv3.tiny.data import held_out_set
from dsv3.tiny.tokenizer import corpus
from tests.unit.checkpoint.test_gguf import ARRAY, STRING, UINT32, made, text
from tests.unit.engines.test_checks import says

CFG = ModelConfig.load(TINY_R1)
FOUND = {"architecture": "deepseek2", "drops_mtp": True, "pre_tokenizer": None, "last_id": 1023}


def order_in(folder: Path) -> Order:
    """An order with the files by which llama.cpp's source is known."""
    for name in converter.FILES:
        (folder / "llama.cpp" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "llama.cpp" / name).touch()
    return Order(folder=TINY_R1, llama_cpp=folder / "llama.cpp", outfile=folder / "x.gguf")


@pytest.fixture
def order(tmp_path) -> Order:
    return order_in(tmp_path)


def refused(order, **changes):
    return list(converter.refusals(replace(order, **changes)))


def test_nothing_is_wrong_with_tiny_r1(order):
    assert refused(order) == []


def test_the_command(order):
    built = converter.command(order, order.outfile, "smollm")
    folder, words = str(TINY_R1), ("--outfile", str(order.outfile), "--outtype", "bf16")
    assert built.argv[2:] == (str(order.llama_cpp), "convert", "smollm", folder, *words)
    assert converter.command(order, order.outfile, None).argv[4] == "-"


def test_where_the_source_is_not(order, tmp_path):
    (order.llama_cpp / "conversion" / "base.py").unlink()
    assert says(refused(order), "no conversion/base.py there; git clone https://github.com/ggml-org/llama.cpp")
    (tmp_path / "sdist" / "vendor").mkdir(parents=True)
    order.llama_cpp.rename(tmp_path / "sdist" / "vendor" / "llama.cpp")
    lines = refused(order, llama_cpp=tmp_path / "sdist")
    assert says(lines, f"say --llama-cpp {tmp_path}/sdist/vendor/llama.cpp")


def test_folders_that_it_cannot_read(order, tmp_path):
    assert says(refused(order, folder=tmp_path / "none"), f"{tmp_path / 'none'}: no such folder")
    folder = tmp_path / "R1"
    shutil.copytree(TINY_R1, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(tmp_path / name)
        (line,) = refused(order, folder=folder)
        assert f"no {name}, nor another tokenizer" in line or f"{name}: not found, and the converter reads it" in line
        (tmp_path / name).rename(folder / name)
    part = next(folder.glob("model-00002-*"))
    part.unlink()
    assert says(refused(order, folder=folder), part.name)
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").touch()
    assert says(refused(order, folder=folder), "the converter unpickles, which is not done here")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    )
    assert says(refused(order, folder=folder), "stored as AWQ; whether the converter reads that is not known")
    config["model_type"], config["quantization_config"] = "llama", None
    (folder / "config.json").write_text(json.dumps(config))
    assert says(refused(order, folder=folder), "not a DeepSeek-V2 or V3")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_group": 16}, "num_experts_per_tok = 4: the chosen groups hold 2"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu': only 'silu' is supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling of type 'linear': only 'yarn' is supported"),
        ({"rope_theta": float("nan")}, "rope_theta = nan: must be a number"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
    ],
)
def test_why_a_config_is_not_that_of_a_model_that_it_makes_is_said(order, tmp_path, changes, words):
    folder = tmp_path / "R1"
    shutil.copytree(TINY_R1, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    (line,) = refused(order, folder=folder)
    assert line.startswith(f"{folder / 'config.json'}: not a DeepSeek-V2 or V3 as it is known here: ")
    assert words in line
    assert line.endswith("; for other models start convert_hf_to_gguf.py yourself")


def test_an_architecture_that_is_no_list(order, tmp_path):
    folder = tmp_path / "R1"
    shutil.copytree(TINY_R1, folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": "DeepseekV3ForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    why = 'architectures is a text, and the converter reads a list: ["DeepseekV3ForCausalLM"]'
    assert refused(order, folder=folder) == [f"{folder / 'config.json'}: {why}"]


@pytest.mark.parametrize("names", [None, [], [3]])
def test_a_config_that_does_not_name_its_architecture(order, tmp_path, names):
    folder = tmp_path / "R1"
    shutil.copytree(TINY_R1, folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": names}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    (line,) = refused(order, folder=folder)
    assert line.startswith(f"{folder / 'config.json'}: lacks architectures, by which the converter knows a model; copy")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_routed_experts": 2048}, "n_routed_experts = 2048: llama.cpp takes 2 to 1024"),
        (
            {"n_expert_groups": 16, "n_limited_groups": 8, "topk_method": "group_limited_greedy"},
            "n_group = 16: llama.cpp wants fewer groups than the 16 experts",
        ),
        ({"n_limited_groups": 4}, "topk_group = 4: llama.cpp wants less than n_group = 4"),
        ({"n_layers": 27}, "num_hidden_layers = 27: llama.cpp takes such a model for one without q_lora_rank"),
        ({"n_layers": 48, "vocab_size": 128256}, "num_hidden_layers = 48"),
        ({"q_lora_rank": 0}, "q_lora_rank = null: llama.cpp reads that with 26 or 27 layers only, and here are 3"),
    ],
)
def test_shapes_at_which_llama_cpp_aborts(changes, words):
    (line,) = converter.of_shape(replace(CFG, **changes))
    assert line.startswith(words)


def test_shapes_that_it_takes():
    for cfg in (CFG, replace(CFG, n_layers=27, q_lora_rank=0), replace(CFG, n_expert_groups=1, n_limited_groups=1)):
        assert not list(converter.of_shape(cfg))


def test_targets_that_cannot_be_written(order, tmp_path, monkeypatch):
    order.outfile.touch()
    assert says(refused(order), "is there; move it away or give another name")
    assert says(refused(order, outfile=tmp_path / "x.bin"), "must end in .gguf")
    assert says(refused(order, outfile=tmp_path / "x-00001-of-00002.gguf"), "part of a split file")
    assert says(refused(order, outfile=tmp_path / "none" / "x.gguf"), "none: no such folder")
    assert refused(order, outfile=tmp_path / f"{'x' * 235}.gguf") == []
    assert says(refused(order, outfile=tmp_path / f"{'x' * 236}.gguf"), "its name is longer than 240 bytes")
    converter.part_of(tmp_path / "w.gguf").touch()
    assert refused(order, outfile=tmp_path / "w.gguf") == [
        f"{tmp_path / 'w.gguf.part'}: is there: another run writes it still, or was killed and left it; "
        "if none does, remove it"
    ]
    monkeypatch.setattr(converter, "free_bytes", lambda folder: 10**6)
    assert says(refused(order, outfile=tmp_path / "y.gguf"), "0.02 GB are needed, and 0.00 GB are free")


def test_the_room_that_each_type_needs(order):
    """Matrices in the type, all else in float32, without the MTP layer; the tokenizer on top."""
    rows = list(layout(replace(CFG, dtype="bf16", n_mtp_layers=0)))
    plain = sum(row.numel for row in rows if len(row.shape) == 1 or ".gate." in row.name)
    matrices = sum(row.numel for row in rows) - plain
    for outtype, kind in (("bf16", 30), ("q8_0", 8), ("f32", 0)):
        _, block, nbytes = TYPES[kind]
        wanted = converter.nbytes(replace(order, outtype=outtype), CFG) - (TINY_R1 / "tokenizer.json").stat().st_size
        assert wanted == 4 * plain + matrices // block * nbytes


# ---- what the converter says


def test_a_tokenizer_that_it_does_not_know_is_told_by_its_splits(order, tmp_path):
    said = converter._understood(order, FOUND)
    assert (said.pre_tokenizer, said.wrong) == ("smollm", ())
    assert says(list(said.notes), "the MTP layer is left out")
    assert says(list(said.notes), "the converter dequantises them itself")
    known = converter._understood(order, FOUND | {"pre_tokenizer": "deepseek-v3"})
    assert known.pre_tokenizer is None
    assert says(list(known.notes), "known to the converter, as deepseek-v3")
    folder = tmp_path / "R1"
    shutil.copytree(TINY_R1, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for patterns, name in PRE_TOKENIZERS.items():
        tokenizer["pre_tokenizer"] = json.loads(sequence(*patterns).__getstate__())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        assert converter._understood(replace(order, folder=folder), FOUND).pre_tokenizer == name
    for other in (sequence(r"\p{N}"), pre_tokenizers.ByteLevel(), sequence(*patterns, use_regex=True)):
        tokenizer["pre_tokenizer"] = json.loads(other.__getstate__())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        assert says(
            list(converter._understood(replace(order, folder=folder), FOUND).wrong), "does not know this tokeniz"
        )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"missing": ["torch", "yaml"]},
            "lacks torch, yaml, which the converter imports: PYTHON -m pip install torch pyy",
        ),
        ({"error": "KeyError: 'x'"}, "the converter cannot read it: KeyError: 'x'"),
        (FOUND | {"architecture": None}, "for this converter nothing that it knows, not deepseek2"),
        (FOUND | {"architecture": "llama"}, "for this converter llama, not deepseek2"),
        (FOUND | {"last_id": 1024}, "the tokenizer has id 1024, and vocab_size is 1024"),
    ],
)
def test_answers_that_end_it(order, answer, words):
    (line,) = converter._understood(replace(order, python="PYTHON"), answer).wrong
    assert words in line


def sequence(*patterns, use_regex=False):
    cuts = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


# llama.cpp's "smollm" (src/llama-vocab.cpp).
SMOLLM = (r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)")


def test_tiny_r1s_texts_give_the_same_tokens_with_smollms_splits():
    """All that it was trained on and is asked; not two blanks before a word, nor a word that an apostrophe begins."""
    ours, theirs = (Tokenizer.from_file(str(TINY_R1 / "tokenizer.json")) for _ in range(2))
    theirs.pre_tokenizer = sequence(*SMOLLM)
    texts = {*corpus(n=1000), *(question for _, question in held_out_set(1000))}
    assert len(texts) > 2000
    for each in texts:
        assert theirs.encode(each).ids == ours.encode(each).ids, each
    for each in ("a  word", "'the' word"):
        assert theirs.encode(each).ids != ours.encode(each).ids


# ---- what it made


def test_a_file_that_is_not_the_folders_model(order):
    def write(layers=3, tokens=1024, architecture="deepseek2"):
        raw = b"".join(text("a") for _ in range(tokens))
        values = [
            ("general.architecture", STRING, text(architecture)),
            ("deepseek2.block_count", UINT32, layers.to_bytes(4, "little")),
            ("tokenizer.ggml.tokens", ARRAY, STRING.to_bytes(4, "little") + tokens.to_bytes(8, "little") + raw),
        ]
        order.outfile.write_bytes(made(values, [("output.weight", (32, 1), 0, 0)], 128))

    write()
    assert converter.read_back(order.outfile, order) == "deepseek2, 1 tensors, 0.0 MB"
    for wrong in ({"layers": 4}, {"tokens": 3}, {"architecture": "llama"}):
        write(**wrong)
        with pytest.raises(ValueError, match="what the converter made is not the folder's model"):
            converter.read_back(order.outfile, order)
