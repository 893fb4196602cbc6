"""Loading: every split of every form of the checkpoint is the same model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small import SMALL

from dsv3 import load
from dsv3.convert import convert
from dsv3.inference.weights import load as load_weights
from dsv3.lab.threads import on_ranks
from dsv3.model import Transformer
from dsv3.ranks.parallel import Parallel
from dsv3.runtime import Runtime

FORMS = [
    ("bf16", 1, True, "bf16"), ("bf16", 2, True, "bf16"), ("bf16", 4, True, "bf16"), ("bf16", 4, False, "bf16"),
    ("fp8", 1, True, "bf16"), ("fp8", 2, True, "bf16"), ("fp8", 2, False, "bf16"), ("fp8", 2, True, "fp8"),
    ("fp8", 2, False, "fp8"), ("fp8", 4, False, "bf16"),
]  # fmt: skip


def logits(folder: Path, ranks: int, gemm: str) -> list[torch.Tensor]:
    ids = torch.randint(0, SMALL.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))

    def rank(tp: Parallel) -> torch.Tensor:
        model = load(folder, tp=tp, gemm=gemm, dtype=torch.float32).model
        return model.logits(model(ids))

    return on_ranks(ranks, rank)


@pytest.mark.parametrize(("precision", "ranks", "converted", "gemm"), FORMS)
def test_every_split_of_every_form_is_the_same_model(
    precision, ranks, converted, gemm, fp8_folder, bf16_folder, tmp_path
):
    """FP8 on 4 ranks straight from the Hugging Face folder cuts inside blocks; dequantised, that is allowed."""
    source = fp8_folder if precision == "fp8" else bf16_folder
    folder = source
    if converted:
        folder = tmp_path
        convert(source, folder, ranks)
    expected = logits(source, 1, gemm)[0]
    for mine in logits(folder, ranks, gemm):
        # FP8 products quantise what each rank holds of an input, whole groups of 128: nothing else differs either.
        assert (mine - expected).abs().max() < 1e-5 * expected.abs().max()


def test_fp8_products_stay_near_dequantised_ones(fp8_folder):
    """Quantising activations costs a few percent a layer, and changes the routing of some tokens."""
    plain, quantised = (logits(fp8_folder, 1, gemm)[0] for gemm in ("bf16", "fp8"))
    error = (plain - quantised).norm() / plain.norm()
    assert 0.001 < error < 0.3


def test_the_mtp_layer_loads_from_both_forms(bf16_folder, tmp_path):
    from dsv3.config import ModelConfig

    cfg = ModelConfig.load(bf16_folder)
    convert(bf16_folder, tmp_path, 1)
    states = []
    for folder in (bf16_folder, tmp_path):
        model = Transformer(cfg, Runtime())
        load_weights(model, folder, cfg)
        states.append(model.state_dict())
    assert "mtp.0.eh_proj.weight" in states[0]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_a_wrong_world_size_says_what_fits(bf16_folder, tmp_path):
    convert(bf16_folder, tmp_path, 2)
    with pytest.raises(
        ValueError, match="converted for 2 ranks, but WORLD_SIZE is 1; start with torchrun --nproc-per-node 2"
    ):
        load(tmp_path)


def test_a_missing_rank_file_is_named(bf16_folder, tmp_path):
    convert(bf16_folder, tmp_path, 2)
    (tmp_path / "model1-mp2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model1-mp2.safetensors missing; convert again"):
        load(tmp_path, tp=Parallel(1, 2))


def test_fp8_weights_must_be_cut_on_blocks(fp8_folder):
    with pytest.raises(ValueError, match="cannot split over 4 ranks: .* FP8 blocks"):
        load(fp8_folder, tp=Parallel(0, 4), gemm="fp8")


def test_how_weights_are_stored_comes_from_the_folder(fp8_folder, bf16_folder, tmp_path):
    """With the demo one must edit "dtype" in the config after a cast (C19)."""
    demo = {k: v for k, v in vars(SMALL).items() if v is not None} | {"dtype": "fp8"}
    (tmp_path / "demo.json").write_text(json.dumps(demo))
    for folder in (fp8_folder, bf16_folder):
        own, given = load(folder), load(folder, config=tmp_path / "demo.json")
        ids = torch.tensor([[1, 2, 3]])
        with torch.inference_mode():
            assert torch.equal(own.model(ids), given.model(ids))


def test_a_converted_folder_without_config_takes_the_given_one(bf16_folder, tmp_path):
    """As the official converter leaves it: tensors and tokenizer only."""
    convert(bf16_folder, tmp_path / "out", 1)
    config = shutil.move(tmp_path / "out" / "config.json", tmp_path / "mine.json")
    with pytest.raises(FileNotFoundError, match="config.json: not found"):
        load(tmp_path / "out")
    assert load(tmp_path / "out", config=config).model.cfg.dim == SMALL.dim
