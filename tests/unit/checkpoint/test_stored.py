"""Checkpoints as people have them: each form gives the numbers of the original, through every verb that reads it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from small import SMALL, rewrite

from dsv3 import bf16_cast_fp8, fp8_cast_bf16, load
from dsv3.checkpoint import read
from dsv3.checkpoint.stored import open_model
from dsv3.config import ModelConfig
from dsv3.convert import convert
from dsv3.inference import weights
from dsv3.inference.fast import Fast
from dsv3.model import Transformer
from dsv3.runtime import Runtime
from dsv3.slice import cut_out
from dsv3.verify import verify

Tensors = dict[str, torch.Tensor]
BIAS = "e_score_correction_bias"
MTP = f"model.layers.{SMALL.n_layers}."
IDS = torch.arange(40).view(2, 20) * 7 % SMALL.vocab_size


def nothing(tensors: Tensors) -> None:
    """Leave it as it is."""


def drop(pattern: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if re.search(pattern, n)]:
            del tensors[name]

    return change


def retype(pattern: str, dtype: torch.dtype) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors |= {n: w.to(dtype) for n, w in tensors.items() if re.search(pattern, n)}

    return change


def add(name: str, *shape: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(shape)})


def differ(tensors: Tensors) -> None:
    tensors[f"{MTP}embed_tokens.weight"] = tensors["model.embed_tokens.weight"] + 1
    tensors[f"{MTP}shared_head.head.weight"] = tensors["lm_head.weight"] + 1


def fuse(tensors: Tensors) -> None:
    """As transformers 5 keeps experts in memory, and saves them with save_original_format=False."""
    for suffix, end in (("", ".weight"), ("_scale_inv", ".weight_scale_inv")):
        for layer in range(SMALL.n_dense_layers, SMALL.n_layers + 1):
            at = f"model.layers.{layer}.mlp.experts."
            if f"{at}0.up_proj{end}" in tensors:
                take = {
                    part: [tensors.pop(f"{at}{e}.{part}{end}") for e in range(SMALL.n_routed_experts)]
                    for part in ("gate_proj", "up_proj", "down_proj")
                }
                pairs = zip(take["gate_proj"], take["up_proj"], strict=True)
                tensors[f"{at}gate_up_proj{suffix}"] = torch.stack([torch.cat(pair) for pair in pairs])
                tensors[f"{at}down_proj{suffix}"] = torch.stack(take["down_proj"])


@dataclass
class Form:
    """What is changed, and what is said.

    ``mtp``: whether there is a layer to guess with. ``rounds``: names and the type to which the change rounds them.
    """

    change: Callable[[Tensors], None]
    says: str | None
    config: dict | None = None
    mtp: bool = True
    rounds: tuple[str, torch.dtype] | None = None


FORMS = {
    "as it is": Form(nothing, None),
    "no MTP layer": Form(drop(MTP), "without the MTP layer that config.json names", mtp=False),
    "no MTP layer, and none named": Form(drop(MTP), None, {"num_nextn_predict_layers": 0}, mtp=False),
    "half an MTP layer": Form(drop(MTP + r"(eh_proj|mlp\.experts\.[4-7])"), "not the whole MTP layer", mtp=False),
    "MTP's experts alone": Form(drop(MTP + r"(?!mlp\.experts)"), "not the whole MTP layer", mtp=False),
    "one of two MTP layers": Form(nothing, "without 1 of the MTP layers", {"num_nextn_predict_layers": 2}),
    "an MTP layer that is not named": Form(nothing, None, {"num_nextn_predict_layers": None}),
    "half an MTP layer, not named": Form(drop(MTP + "mlp"), "whole MTP layer", {"num_nextn_predict_layers": 0}, False),
    "MTP without its copies": Form(drop(MTP + r"(embed_tokens|shared_head\.head)"), None),
    "MTP's copies differ": Form(differ, None),
    "MTP's copy has another shape": Form(add(f"{MTP}embed_tokens.weight", 3, 128), None),
    "what RoPE computes": Form(add("model.layers.0.self_attn.rotary_emb.inv_freq", 32), "inv_freq left out: "),
    "scales of a KV cache": Form(add("model.layers.1.self_attn.k_scale"), "k_scale left out: for a KV cache in FP8"),
    "norms in F16": Form(retype("norm", torch.float16), None),
    "the gate's bias in F16": Form(retype(BIAS, torch.float16), None, rounds=(BIAS, torch.float16)),
    "the gate's bias in BF16": Form(retype(BIAS, torch.bfloat16), None, rounds=(BIAS, torch.bfloat16)),
    "embedding and head in F32": Form(retype("embed_tokens|lm_head", torch.float32), None),
    "fused experts": Form(fuse, "fused experts .* are taken apart"),
}
BF16_FORMS = {name: FORMS[name] for name in ("as it is", "no MTP layer", "half an MTP layer", "fused experts")} | {
    "F16": Form(retype("", torch.float16), None, {"torch_dtype": "float16"}, rounds=("", torch.float16)),
    "F32": Form(retype("", torch.float32), None, {"torch_dtype": "float32"}),
    "the quantization_config that a cast left": Form(
        nothing,
        "has a quantization_config, but no matrix is FP8",
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    ),
    "spelled as transformers 5 does": Form(nothing, None, {"torch_dtype": None, "dtype": "bfloat16"}),
}


@torch.inference_mode()
def logits(folder: Path, ids: torch.Tensor = IDS, fast: bool = True, **form) -> torch.Tensor:
    """Without the tokenizer, which takes longer than the rest. ``form``: of the ``Runtime``."""
    cfg, run = ModelConfig.load(folder), Runtime(**form)
    source = weights.find(folder, cfg, run, mtp=False)
    plain = Transformer(source.cfg, run)
    weights.load(plain, folder, cfg, source)
    model = Fast(plain) if fast else plain
    return model.logits(model(ids))


def answers(folder: Path, drafts: int) -> list[str]:
    replies = load(folder, gemm="bf16", mtp=drafts).generate(["37 + 48 = ?", "Hello"], max_new_tokens=12)
    return [reply.text for reply in replies]


def check(folder: Path, original: Path, form: Form, tmp_path: Path, capsys) -> None:
    """Every verb that reads a folder takes this one, and they agree."""
    llm = load(folder, gemm="bf16")
    assert bool(llm.notes) == bool(form.says)
    assert form.says is None or re.search(form.says, llm.notes[0])
    if form.rounds:
        original = rewrite(original, tmp_path / "rounded", retype(*form.rounds))
        original = rewrite(original, tmp_path / "original", retype(form.rounds[0], torch.float32))
    assert torch.equal(logits(folder), logits(original))
    convert(folder, tmp_path / "mp1", 1)
    said = capsys.readouterr().err
    assert form.says is None or re.search(form.says, said)
    assert torch.equal(logits(tmp_path / "mp1"), logits(folder))
    assert not verify(tmp_path / "mp1", folder)
    if form.mtp:
        assert answers(folder, drafts=2) == answers(original, drafts=0)
        assert load(tmp_path / "mp1", mtp=1).model.mtp
    else:
        for at in (folder, tmp_path / "mp1"):
            with pytest.raises(ValueError, match="has no whole MTP layer to guess with"):
                load(at, mtp=1)
    layers = [1, SMALL.n_layers] if form.mtp else [1]
    cut_out(folder, tmp_path / "slice", layers, experts=list(range(SMALL.n_routed_experts)))
    cut_out(original, tmp_path / "slice of the original", layers, experts=list(range(SMALL.n_routed_experts)))
    assert torch.equal(logits(tmp_path / "slice"), logits(tmp_path / "slice of the original"))
    if form.mtp:
        load(tmp_path / "slice", mtp=1)


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_an_fp8_checkpoint(name, fp8_folder, tmp_path, capsys):
    form = FORMS[name]
    folder = rewrite(fp8_folder, tmp_path / "in", form.change, form.config)
    check(folder, fp8_folder, form, tmp_path, capsys)
    fp8_cast_bf16.cast(folder, tmp_path / "bf16")
    assert torch.equal(logits(tmp_path / "bf16"), logits(folder))
    assert not verify(tmp_path / "bf16", folder)
    bf16_cast_fp8.cast(tmp_path / "bf16", tmp_path / "again", folder)
    assert torch.equal(logits(tmp_path / "again"), logits(folder))


@pytest.mark.parametrize("name", BF16_FORMS)
def test_forms_of_a_bf16_checkpoint(name, bf16_folder, tmp_path, capsys):
    form = BF16_FORMS[name]
    folder = rewrite(bf16_folder, tmp_path / "in", form.change, form.config)
    check(folder, bf16_folder, form, tmp_path, capsys)
    bf16_cast_fp8.cast(folder, tmp_path / "fp8")
    assert ModelConfig.load(tmp_path / "fp8").fp8
    assert open_model(tmp_path / "fp8", ModelConfig.load(tmp_path / "fp8")).cfg.fp8


MIXED = {
    "kv_b_proj": (r"kv_b_proj", torch.float16),
    "o_proj, and one of two joined matrices": (r"o_proj|kv_a_proj|mlp\.gate_proj", torch.bfloat16),
    "some experts": (r"experts\.[0-3]\.", torch.bfloat16),
    "an expert's one matrix": (r"experts\.2\.(up|down)_proj", torch.bfloat16),
    "the MTP layer": (MTP, torch.bfloat16),
}


@pytest.mark.parametrize("name", MIXED)
def test_matrices_that_an_fp8_checkpoint_leaves_as_they_are(name, fp8_folder, bf16_folder, tmp_path, capsys):
    """modules_to_not_convert, ignored_layers: what has no scale is taken as it stands."""
    (pattern, dtype), plain = MIXED[name], {}
    rewrite(bf16_folder, tmp_path / "plain", plain.update)

    def leave(tensors: Tensors) -> None:
        for weight in [n for n in tensors if re.search(pattern, n) and f"{n}_scale_inv" in tensors]:
            tensors[weight] = plain[weight].to(dtype)
            del tensors[f"{weight}_scale_inv"]

    folder = rewrite(fp8_folder, tmp_path / "in", leave)
    check(folder, fp8_folder, Form(nothing, "matrices not in FP8; read as they are"), tmp_path, capsys)
    fp8_cast_bf16.cast(folder, tmp_path / "bf16")
    assert torch.equal(logits(tmp_path / "bf16"), logits(fp8_folder))
    bf16_cast_fp8.cast(tmp_path / "bf16", tmp_path / "again", folder)
    assert {e.name: e.dtype for e in read.open_folder(tmp_path / "again").values() if e.dtype == "F8_E4M3"} == {
        e.name: e.dtype for e in read.open_folder(folder).values() if e.dtype == "F8_E4M3"
    }
    forms: dict[Literal["w8a16", "fp8"], float] = {"w8a16": 1e-4, "fp8": 0.02}
    for gemm, close in forms.items():  # weights stay FP8 in the model
        plain = logits(folder, fast=False, gemm=gemm, dtype=torch.float32)
        assert (plain - logits(folder, gemm=gemm, dtype=torch.float32)).abs().median() < close * plain.abs().max()
        few = logits(folder, IDS[:1, :1], gemm=gemm)  # in BF16 by C, where there is a compiler
        assert (plain[:1, :1] - few).abs().median() < 0.02 * plain.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_of_other_types(dtype, fp8_folder, tmp_path):
    folder = rewrite(fp8_folder, tmp_path / "in", retype("_scale_inv", dtype))
    fp8_cast_bf16.cast(folder, tmp_path / "bf16")
    assert torch.equal(logits(tmp_path / "bf16"), logits(folder))
    bf16_cast_fp8.cast(tmp_path / "bf16", tmp_path / "again", folder)
    assert torch.equal(logits(tmp_path / "again"), logits(folder))


def test_scales_that_are_powers_of_two(fp8_folder, tmp_path):
    """transformers saves a V3.1's scales (ue8m0) as F8_E8M0: eight bits, the exponent."""

    def round_up(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.endswith("_scale_inv")]:
            tensors[name] = torch.exp2(tensors[name].log2().ceil())

    plain = rewrite(fp8_folder, tmp_path / "plain", round_up)
    folder = rewrite(plain, tmp_path / "in", retype("_scale_inv", torch.float8_e8m0fnu))
    for gemm in ("bf16", "w8a16"):
        assert torch.equal(logits(folder, gemm=gemm), logits(plain, gemm=gemm))
    convert(folder, tmp_path / "mp1", 1)
    assert torch.equal(logits(tmp_path / "mp1"), logits(plain))
    fp8_cast_bf16.cast(folder, tmp_path / "bf16")
    assert torch.equal(logits(tmp_path / "bf16"), logits(plain))
    bf16_cast_fp8.cast(tmp_path / "bf16", tmp_path / "again", folder)
    assert torch.equal(logits(tmp_path / "again"), logits(plain))
    every = torch.arange(1, 255, dtype=torch.uint8)
    assert torch.equal(weights.powers(every), every.view(torch.float8_e8m0fnu).float())
    assert weights.powers(torch.zeros(1, dtype=torch.uint8)).item() == 2.0**-127


def test_a_head_that_is_the_embedding(bf16_folder, tmp_path):
    def tie(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[f"{MTP}shared_head.head.weight"] = tensors["lm_head.weight"].clone()

    expected = rewrite(bf16_folder, tmp_path / "untied", tie)
    folder = rewrite(bf16_folder, tmp_path / "in", drop("lm_head|shared_head.head"), {"tie_word_embeddings": True})
    assert load(folder).notes == (f"{folder}: the head is the embedding (tie_word_embeddings)",)
    assert torch.equal(logits(folder), logits(expected))
    convert(folder, tmp_path / "mp1", 1)
    assert torch.equal(logits(tmp_path / "mp1"), logits(expected))
    bf16_cast_fp8.cast(folder, tmp_path / "fp8")
    assert "lm_head.weight" in read.open_folder(tmp_path / "fp8")


@pytest.mark.parametrize("other", ["adapter_model.safetensors", "optimizer.safetensors", "model.fp16.safetensors"])
def test_other_files_beside_a_single_one(other, bf16_folder, tmp_path, capsys):
    folder = rewrite(bf16_folder, tmp_path / "in", nothing)
    save_file({"base_model.model.model.layers.0.self_attn.q_a_proj.lora_A.weight": torch.zeros(4, 4)}, folder / other)
    form = Form(nothing, rf"{re.escape(other)} left out: not of this checkpoint; model\.safetensors is")
    check(folder, bf16_folder, form, tmp_path, capsys)


def test_one_file_beside_the_index_of_shards_that_are_gone(bf16_folder, tmp_path):
    folder = rewrite(bf16_folder, tmp_path / "in", nothing)
    shutil.copy(bf16_folder / read.INDEX, folder)
    assert torch.equal(logits(folder), logits(bf16_folder))


def test_one_file_beside_the_shards_that_an_index_names(bf16_folder, tmp_path):
    folder = Path(shutil.copytree(bf16_folder, tmp_path / "in"))
    save_file({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    assert load(folder).notes == (
        f"{folder}: model.safetensors left out: not of the files that model.safetensors.index.json names",
    )


@pytest.mark.parametrize(
    ("gone", "says"),
    [(MTP + "eh_proj", "eh_proj.weight named in .*, and in no file"), ("lm_head", "lm_head.weight of .* missing")],
)
def test_an_index_that_still_names_what_is_gone(gone, says, bf16_folder, tmp_path):
    folder = rewrite(bf16_folder, tmp_path / "in", drop(gone))
    names = read.open_folder(bf16_folder)
    (folder / read.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    if gone.startswith(MTP):
        assert re.search(says, load(folder).notes[0])
        assert torch.equal(logits(folder), logits(bf16_folder))
    else:
        with pytest.raises(ValueError, match=says):
            load(folder)


def test_pickled_weights_are_named_and_not_opened(bf16_folder, tmp_path):
    folder = rewrite(bf16_folder, tmp_path / "in", nothing)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="but pytorch_model.bin, which is a program: save it as .safetensors"):
        load(folder)


def test_a_slice_renumbers_what_its_config_leaves_unquantised(fp8_folder, tmp_path):
    quantization = json.loads((fp8_folder / "config.json").read_text())["quantization_config"]
    modules = ["lm_head", "model.layers.0.mlp", "model.layers.1.self_attn.kv_b_proj"]
    config = {"quantization_config": quantization | {"modules_to_not_convert": modules}}
    cut_out(rewrite(fp8_folder, tmp_path / "in", nothing, config), tmp_path / "out", [1], [0, 1, 2, 3])
    written = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert written["modules_to_not_convert"] == ["lm_head", "model.layers.0.self_attn.kv_b_proj"]


def test_shards_without_an_index_beside_others_name_the_other(bf16_folder, tmp_path):
    """Nothing says which files are the checkpoint's, so all are taken."""
    folder = Path(shutil.copytree(bf16_folder, tmp_path / "in"))
    (folder / read.INDEX).unlink()
    assert torch.equal(logits(folder), logits(bf16_folder))
    save_file({"x.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter_model.safetensors: x.lora_A.weight not in .*: merge it"):
        load(folder)


def test_weights_by_links_beside_a_config_of_ones_own(bf16_folder, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for file in bf16_folder.iterdir():
        (folder / file.name).symlink_to(file) if file.suffix == ".safetensors" else shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 99}))
    convert(folder, tmp_path / "mp1", 1)
    assert load(tmp_path / "mp1").model.cfg.max_seq_len == 99
    assert not any(os.path.islink(file) for file in (tmp_path / "mp1").iterdir())


REFUSED = {
    "a matrix and no scale": (
        drop(r"layers\.0\.self_attn\.o_proj\.weight_scale_inv"),
        "o_proj.weight_scale_inv of 167 tensors missing",
    ),
    "no scales at all": (drop("_scale_inv"), "tensors missing"),
    "a plain matrix with a scale": (
        retype(r"layers\.0\.self_attn\.o_proj\.weight$", torch.bfloat16),
        "is BF16",
    ),
    "a layer more": (
        lambda tensors: tensors.update({f"model.layers.{SMALL.n_layers + 1}.input_layernorm.weight": torch.ones(128)}),
        "not in the architecture",
    ),
    "experts fused and one by one": (
        add("model.layers.1.mlp.experts.down_proj", SMALL.n_routed_experts, SMALL.dim, SMALL.moe_inter_dim),
        "down_proj.weight stands there by itself and among fused experts",
    ),
    "a tensor that nobody knows": (add("model.layers.0.self_attn.sinks", 4), "sinks not in the architecture"),
    "fused experts, other": (
        add("model.layers.1.mlp.experts.gate_up_proj", 4, 256, 128),
        "in another order",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_give_a_wrong_result_is_refused(name, fp8_folder, tmp_path):
    change, message = REFUSED[name]
    folder = rewrite(fp8_folder, tmp_path / "in", change)
    verbs = (
        load,
        lambda at: convert(at, tmp_path / "out", 1),
        lambda at: fp8_cast_bf16.cast(at, tmp_path / "out"),
        lambda at: cut_out(at, tmp_path / "out", [0, 1], [0, 1, 2, 3]),
    )
    for verb in verbs:
        with pytest.raises(ValueError, match=message) as error:
            verb(folder)
        assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_fp8_without_a_quantization_config_is_refused(fp8_folder, tmp_path):
    folder = rewrite(fp8_folder, tmp_path / "in", drop("_scale_inv"), {"quantization_config": None})
    with pytest.raises(ValueError, match="is F8_E4M3 .*without a quantization_config; take the original config.json"):
        load(folder)
