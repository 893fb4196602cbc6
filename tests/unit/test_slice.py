"""A slice is a model of its own, made of the source's bytes."""

import pytest
import torch
from small import SMALL

from dsv3 import load
from dsv3.checkpoint import read
from dsv3.config import ModelConfig
from dsv3.inference.weights import tensor
from dsv3.slice import cut_out, main, numbers


def test_a_slice_of_everything_is_the_whole(fp8_folder, tmp_path):
    cut_out(fp8_folder, tmp_path, [0, 1, 2], list(range(8)))
    before, after = read.open_folder(fp8_folder), read.open_folder(tmp_path)
    assert before.keys() == after.keys()
    assert all(before.read(name) == after.read(name) for name in before)
    assert ModelConfig.load(tmp_path) == ModelConfig.load(fp8_folder)


def test_layers_and_experts_are_renumbered(fp8_folder, tmp_path):
    """Layer 1 and MTP, four experts, one of each group but the last, which gives none."""
    main(
        ["--hf-ckpt-path", str(fp8_folder), "--save-path", str(tmp_path), "--layers", "1-2", "--experts", "0,2,3,5"],
    )
    cfg = ModelConfig.load(tmp_path)
    assert (cfg.n_layers, cfg.n_dense_layers, cfg.n_mtp_layers, cfg.n_routed_experts) == (1, 0, 1, 4)
    assert (cfg.n_expert_groups, cfg.n_activated_experts) == (1, 2)
    before, after = read.open_folder(fp8_folder), read.open_folder(tmp_path)
    old, new = "model.layers.1.mlp.", "model.layers.0.mlp."
    for i, expert in enumerate((0, 2, 3, 5)):
        name = "gate_proj.weight"
        assert before.read(f"{old}experts.{expert}.{name}") == after.read(f"{new}experts.{i}.{name}")
    for name in ("gate.weight", "gate.e_score_correction_bias"):
        assert torch.equal(tensor(before, old + name)[[0, 2, 3, 5]], tensor(after, new + name))
    mtp = "eh_proj.weight"
    assert before.read(f"model.layers.2.{mtp}") == after.read(f"model.layers.1.{mtp}")
    model = load(tmp_path).model
    assert torch.isfinite(model.logits(model(torch.tensor([[1, 2, 3]])))).all()


def test_groups_stay_where_each_keeps_as_many(fp8_folder, tmp_path):
    cut_out(fp8_folder, tmp_path, [0, 1], list(range(8)))
    assert ModelConfig.load(tmp_path).n_expert_groups == SMALL.n_expert_groups


@pytest.mark.parametrize(
    ("layers", "experts", "message"),
    [
        ([3], [0], "has no layer 3; they are 0 to 2"),
        ([0], [8], "has no expert 8; they are 0 to 7"),
        ([2], [0], "choose at least one layer"),
        ([0], [], "one expert"),
    ],
)
def test_what_the_source_does_not_have_is_refused(fp8_folder, tmp_path, layers, experts, message):
    with pytest.raises(ValueError, match=message):
        cut_out(fp8_folder, tmp_path / "out", layers, experts)
    assert not (tmp_path / "out").exists()


def test_lists_of_numbers():
    assert numbers("0,3,8-11") == [0, 3, 8, 9, 10, 11]
    with pytest.raises(Exception, match="write numbers and ranges"):
        numbers("3-")
