"""A whole model on the interpreted kernels: tiny-r1, chosen by ``pick`` alone."""

from dataclasses import replace

import torch

from dsv3.cache import Cache
from dsv3.inference.fast import Fast
from dsv3.inference.graph import Replayed
from dsv3.inference.step import Step
from dsv3.kernels import pick, reference, triton
from dsv3.llm import load
from dsv3.model import Transformer


def run_on(model: Transformer, kernels) -> torch.Tensor:
    for module in model.modules():
        if hasattr(module, "run"):
            module.run = replace(module.run, kernels=kernels)
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).float()


def test_pick_says_what_it_chose():
    choice = pick(torch.device("cpu"))
    assert (choice.kernels, choice.gemm) == (triton, "fp8")
    assert "TRITON_INTERPRET=1" in choice.why


def test_tiny_r1_gives_the_references_logits():
    model = load("tiny-r1", model="plain").model
    assert model.run.kernels.__name__ == "dsv3.kernels.triton"
    ours, theirs = run_on(model, triton), run_on(model, reference)
    # Quantised inputs are equal; products differ by float32 summation, which BF16 now and then rounds to a neighbour.
    assert (ours - theirs).abs().max() <= 2.0**-7 * theirs.abs().max()
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@torch.inference_mode()
def test_a_decode_step_gives_the_references_logits():
    """Two sequences of different lengths, FP8: all kernels of a step, one behind the other."""
    assert isinstance(load("tiny-r1").model, Replayed)
    found = []
    for kernels in (triton, reference):
        model = load("tiny-r1", model="plain").model
        for module in model.modules():
            if hasattr(module, "run"):
                module.run = replace(module.run, kernels=kernels)
        model.run = replace(model.run, kernels=kernels)
        step, cache = Step(Fast(model)), Cache()
        step(torch.tensor([[5, 6, 7], [8, 9, 10]]), 0, cache)
        found.append(step.logits(step(torch.tensor([[11], [12]]), torch.tensor([3, 2]), cache)))
    ours, theirs = found
    assert (ours - theirs).abs().max() <= 2.0**-4 * theirs.abs().max()
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
