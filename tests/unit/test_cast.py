"""FP8 -> BF16: bit for bit the definition, complete, and loadable by transformers."""

import json
import shutil

import pytest
import torch
from small import SMALL, rewrite

from dsv3 import load
from dsv3.checkpoint import read
from dsv3.fp8_cast_bf16 import cast, main
from dsv3.inference.weights import tensor
from dsv3.layout import layout


def test_every_value_is_the_rounded_product(fp8_folder, bf16_folder):
    before, after = read.open_folder(fp8_folder), read.open_folder(bf16_folder)
    for row in layout(SMALL):
        if row.is_scale:
            assert row.hf not in after
        elif row.kind != "fp8":
            assert before.read(row.hf) == after.read(row.hf)
        else:
            scale = tensor(before, row.scale().hf)
            w = tensor(before, row.hf).float()
            for i in range(0, row.shape[0], 128):
                for j in range(0, row.shape[1], 128):
                    w[i : i + 128, j : j + 128] *= scale[i // 128, j // 128]
            assert torch.equal(tensor(after, row.hf), w.bfloat16()), row.hf
    ragged = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    assert after[ragged].shape == (576, 128)


def test_config_and_index_are_made_anew(fp8_folder, bf16_folder):
    before, after = (json.loads((f / "config.json").read_text()) for f in (fp8_folder, bf16_folder))
    assert after == {k: v for k, v in before.items() if k != "quantization_config"}
    assert after["torch_dtype"] == "bfloat16"
    index = json.loads((bf16_folder / read.INDEX).read_text())
    found = read.open_folder(bf16_folder)
    assert index["metadata"]["total_size"] == sum(e.stop - e.start for e in found.values())
    assert index["weight_map"] == {name: e.file.name for name, e in found.items()}
    assert (bf16_folder / "tokenizer.json").read_bytes() == (fp8_folder / "tokenizer.json").read_bytes()
    assert (bf16_folder / "generation_config.json").is_file()


def rebuild(source, target, move: str | None = None, drop: str | None = None) -> None:
    """Copy a checkpoint with one tensor moved to the last shard, or dropped."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    index = json.loads((target / read.INDEX).read_text())
    files = sorted(target.glob("*.safetensors"))
    loaded = {f: load_file(f) for f in files}
    name = move or drop
    home = target / index["weight_map"].pop(name)
    value = loaded[home].pop(name)
    if move:
        loaded[files[-1]][name] = value
        index["weight_map"][name] = files[-1].name
    for f in (home, files[-1]):
        save_file(loaded[f], f)
    (target / read.INDEX).write_text(json.dumps(index))


SCALE = "model.layers.0.self_attn.q_a_proj.weight_scale_inv"


def test_a_scale_may_lie_in_another_shard(fp8_folder, bf16_folder, tmp_path):
    rebuild(fp8_folder, tmp_path / "moved", move=SCALE)
    assert read.open_folder(tmp_path / "moved")[SCALE].file.name.startswith("model-00005")
    cast(tmp_path / "moved", tmp_path / "out")
    name = SCALE.removesuffix("_scale_inv")
    assert read.open_folder(tmp_path / "out").read(name) == read.open_folder(bf16_folder).read(name)


def test_a_missing_scale_is_an_error(fp8_folder, tmp_path):
    rebuild(fp8_folder, tmp_path / "less", drop=SCALE)
    with pytest.raises(ValueError, match=f"{SCALE} of .* tensors missing"):
        cast(tmp_path / "less", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_fp8_is_refused(bf16_folder, tmp_path):
    with pytest.raises(ValueError, match="already BF16"):
        cast(bf16_folder, tmp_path / "out")
    with pytest.raises(ValueError, match="the output folder is the input folder"):
        cast(bf16_folder, bf16_folder)


def test_a_gpu_is_left_alone_unless_asked_for(fp8_folder, bf16_folder, tmp_path, monkeypatch):
    """Starting CUDA takes longer than casting a small checkpoint, so the CPU does it where a GPU is there, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was started"))
    main(["--input-fp8-hf-path", str(fp8_folder), "--output-bf16-hf-path", str(tmp_path / "out")])
    for file in bf16_folder.glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_gpu_that_is_asked_for_must_be_there(fp8_folder, tmp_path, more):
    folders = ["--input-fp8-hf-path", str(fp8_folder), "--output-bf16-hf-path", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="--device cuda: no GPU is seen here"):
        main([*folders, "--device", "cuda", *more])
    assert not (tmp_path / "out").exists()


@torch.inference_mode()
def test_transformers_loads_the_cast_and_agrees(fp8_folder, bf16_folder):
    from transformers import AutoModelForCausalLM

    theirs, info = AutoModelForCausalLM.from_pretrained(bf16_folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert all("layers.2." in key for key in info["unexpected_keys"]), "only the MTP layer may be left over"
    ids = torch.randint(0, SMALL.vocab_size, (2, 17), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    cast_model = load(bf16_folder, dtype=torch.float32).model
    logits = cast_model.logits(cast_model(ids))
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    # Dequantised at loading, straight to float32: the cast's rounding to BF16 is all that differs.
    fp8_model = load(fp8_folder, dtype=torch.bfloat16, gemm="bf16").model
    again = load(bf16_folder, dtype=torch.bfloat16).model
    assert torch.equal(fp8_model(ids), again(ids))


def test_back_to_fp8_with_the_original_scales_is_bit_for_bit(fp8_folder, bf16_folder, tmp_path, capsys):
    from dsv3.bf16_cast_fp8 import cast as back

    back(bf16_folder, tmp_path, fp8_folder)
    before, after = read.open_folder(fp8_folder), read.open_folder(tmp_path)
    assert before.keys() == after.keys()
    assert all(before.read(name) == after.read(name) for name in before)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((fp8_folder / "config.json").read_text())
    assert "values, all exact" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_back_to_fp8_takes_other_floats(fp8_folder, bf16_folder, tmp_path, dtype):
    """Every value of the cast stands in the other type, too; so the original scales give the original bytes."""
    from dsv3.bf16_cast_fp8 import cast as back

    def cast_all(tensors: dict) -> None:
        tensors |= {name: w.to(dtype) for name, w in tensors.items() if w.dim() == 2}

    rewrite(bf16_folder, tmp_path / "in", cast_all)
    for name, scales in {"given": fp8_folder, "new": None}.items():
        back(tmp_path / "in", tmp_path / name, scales)
        back(bf16_folder, tmp_path / f"{name} too", scales)
        one, two = read.open_folder(tmp_path / name), read.open_folder(tmp_path / f"{name} too")
        assert all(one.read(n) == two.read(n) for n in one if one[n].dtype == "F8_E4M3" or n.endswith("_scale_inv"))


def test_back_to_fp8_with_new_scales_says_the_error(bf16_folder, tmp_path, capsys):
    from dsv3.bf16_cast_fp8 import cast as back

    weights = tmp_path / "finetuned"
    shutil.copytree(bf16_folder, weights)
    name = "model.layers.0.mlp.gate_proj.weight"
    entry = read.open_folder(weights)[name]
    with entry.file.open("r+b") as f:  # other values, so that they are not on the FP8 grid
        f.seek(entry.start)
        values = torch.randn(entry.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
        f.write(values.view(torch.uint8).numpy().tobytes())
    back(weights, tmp_path / "fp8")
    said = capsys.readouterr().err.splitlines()[-1]
    assert 0.001 < float(said.split("% relative")[0].split()[-1]) / 100 < 0.03
    cast(tmp_path / "fp8", tmp_path / "again")
    again = tensor(read.open_folder(tmp_path / "again"), name).float()
    error = (again - values.float()).norm() / values.float().norm()
    assert 0.01 < error < 0.03  # E4M3 has 4 significant bits
    with pytest.raises(ValueError, match="already FP8"):
        back(tmp_path / "fp8", tmp_path / "twice")
