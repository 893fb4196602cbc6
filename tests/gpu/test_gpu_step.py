"""A captured decode step on a real GPU: the tokens of the same step launched anew, twice the same bits."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

from dsv3 import llm as g
from dsv3.inference import graph
from dsv3.inference.graph import Replayed, call_again, cuda_graphs
from dsv3.kernels import pick
from dsv3.tiny.data import held_out_set
from dsv3.tiny.evaluate import evaluate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
QUESTIONS = [q for _, q in held_out_set(6, seed=5)] + ["Who are you?", "你好"]


def on_gpu(**options) -> g.LLM:
    llm = g.load("tiny-r1", device="cuda", max_seq_len=512, **options)
    if not isinstance(llm.model, Replayed):
        pytest.skip(f"nothing is captured here: {'; '.join(llm.notes)}")
    return llm


@pytest.mark.filterwarnings("error:a step cannot be captured")
@pytest.mark.parametrize("gemm", ["bf16", "fp8"])
@pytest.mark.parametrize("mtp", [0, 2])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "seed": 3}], ids=str)
def test_captured_equals_launched_anew_and_repeats_its_bits(gemm, mtp, options, monkeypatch):
    """In a room that grows, with sequences that end at different steps."""
    if gemm == "fp8" and pick(torch.device("cuda")).gemm != "fp8":
        pytest.skip("this GPU has no FP8 units")
    monkeypatch.setattr(graph, "SHORTEST", 64)
    llm = on_gpu(gemm=gemm, mtp=mtp)
    step = llm.model.step
    said = []
    for make in (call_again, cuda_graphs, cuda_graphs):
        llm.model = Replayed(step, make)
        said.append(llm.generate(QUESTIONS, max_new_tokens=100, **options))
        assert len(llm.model.rooms) == 1
        assert llm.model.rooms[0].length > 64
    assert said[0] == said[1] == said[2]


@torch.inference_mode()
def test_a_replay_reads_what_is_new_and_repeats_its_bits():
    model = on_gpu().model
    x = torch.arange(40, 70, device="cuda").view(3, 10)
    with model.room(3) as room:
        model(x, 0, room)
        once = [model(x[:, :1] + i, [10 + i, 9 + i, 8 + i], room) for i in range(3)]
        again = [model(x[:, :1] + i, [10 + i, 9 + i, 8 + i], room) for i in range(3)]
        assert len(room.recorded) == 1
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], once[1])


@torch.inference_mode()
@pytest.mark.parametrize("start", [0, 100])
def test_prompts_unfolded_are_near_the_absorbed_form(start):
    """BF16, so that no FP8 step hides a mistake; the middle token counts, since near ties choose other experts."""
    model = on_gpu(gemm="bf16").model
    x = torch.randint(40, 900, (2, start + 150), generator=torch.Generator().manual_seed(start)).cuda()
    found = []
    for places in (start, torch.full((2,), start, device="cuda")):
        with model.room(2) as room:
            room.fit(start + 150)
            if start:
                model(x[:, :start], 0, room)
            found.append(model.step(x[:, start:], places, room).float())
    off = (found[0] - found[1]).norm(dim=-1) / found[1].norm(dim=-1)
    assert off.median() < 0.02


@torch.inference_mode()
def test_answers_are_right():
    llm = on_gpu()
    sums = held_out_set(40, seed=21)
    assert evaluate(llm, sums)["all"] >= 95
    assert llm.chat("37 + 48 = ?").answer.strip() == "Answer: 85"
