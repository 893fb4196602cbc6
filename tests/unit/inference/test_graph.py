"""Decoding in rooms, with steps that are called where a GPU replays them: the same tokens, whatever comes and goes."""

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from dsv3 import llm as g
from dsv3.inference import graph
from dsv3.inference.decode import generate
from dsv3.inference.fast import Fast
from dsv3.inference.graph import Replayed, Room, recorded, size
from dsv3.inference.sampling import Chooser
from dsv3.inference.step import Step
from dsv3.kernels import reference
from dsv3.lab.threads import on_ranks
from dsv3.model import Transformer
from dsv3.runtime import Runtime
from dsv3.tiny.data import held_out_set

QUESTIONS = [q for _, q in held_out_set(4, seed=5)] + ["Who are you?", "你好"]


def pair(**options) -> tuple[g.LLM, g.LLM]:
    """tiny-r1 as ``Fast`` and in rooms, in float32, for which both are the same numbers but for rounding."""
    one, other = (g.load("tiny-r1", **{"dtype": torch.float32, "max_seq_len": 250} | options) for _ in range(2))
    other.model = Replayed(Step(other.model))
    return one, other


@pytest.mark.parametrize("mtp", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_p": 0.95, "top_k": 40, "seed": 3}], ids=str)
def test_the_same_tokens_in_any_batch_with_guesses_and_when_sampling(mtp, batch, options):
    """Prompts of several lengths; sequences end at different steps; in waves of three the room is used again."""
    fast, rooms = pair(max_batch_size=batch, mtp=mtp)
    options |= {"max_new_tokens": 40}
    assert rooms.generate(QUESTIONS, **options) == fast.generate(QUESTIONS, **options)
    assert vars(rooms.stats).keys() == vars(fast.stats).keys()
    for count in ("steps", "tokens", "drafted", "accepted"):
        assert getattr(rooms.stats, count) == getattr(fast.stats, count)
    assert len(rooms.model.rooms) == 1


@pytest.mark.parametrize("budget", [0, 3, 20])
def test_a_budget_of_thinking_holds_in_rooms(budget):
    fast, rooms = pair()
    options = {"think_budget": budget, "max_new_tokens": 40}
    assert rooms.generate(QUESTIONS, **options) == fast.generate(QUESTIONS, **options)
    assert vars(rooms.stats)["tokens"] == vars(fast.stats)["tokens"]


@pytest.mark.parametrize(("options", "ahead"), [({}, True), ({"mtp": 1}, False), ({"think_budget": 5}, False)], ids=str)
def test_the_next_step_is_launched_before_the_last_ones_tokens_are_read(options, ahead, monkeypatch):
    """But for the first token, which waits for no capture, and the last, which the limit ends."""
    llm = pair(mtp=options.get("mtp", 0))[1]
    done, advance, give = [], Room.advance, Chooser.begin

    def begin(chooser, logits):
        chosen, read = give(chooser, logits)
        return chosen, lambda: done.append("read") or read()

    monkeypatch.setattr(Room, "advance", lambda *args: done.append("step") or advance(*args))
    monkeypatch.setattr(Chooser, "begin", begin)
    budget = {"think_budget": options["think_budget"]} if "think_budget" in options else {}
    llm.generate(QUESTIONS[:1], max_new_tokens=5, **budget)
    assert done == ["step", *["step", "read"] * 3] if ahead else "read" not in done


@pytest.mark.parametrize("gemm", ["bf16", "fp8"])
def test_bf16_and_fp8_give_todays_tokens(gemm):
    fast, rooms = pair(dtype=torch.bfloat16, gemm=gemm)
    assert rooms.generate(QUESTIONS[:4], max_new_tokens=60) == fast.generate(QUESTIONS[:4], max_new_tokens=60)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fifty_held_out_sums(dtype):
    sums = [q for _, q in held_out_set(50, seed=1)]
    fast, rooms = pair(dtype=dtype, max_batch_size=50)
    assert rooms.generate(sums) == fast.generate(sums)


@pytest.mark.parametrize("chunk", [1, 5, 7])
def test_prompts_in_chunks(chunk):
    fast, rooms = pair()
    prompts = [fast.tokenizer.prompt([{"role": "user", "content": q}]) for q in QUESTIONS]
    options = {"eos_id": fast.tokenizer.eos_id, "max_new_tokens": 8}
    whole = list(generate(fast.model, prompts, **options))
    assert list(generate(rooms.model, prompts, chunk=chunk, **options)) == whole


def test_a_room_grows_and_forgets_what_was_recorded(monkeypatch):
    monkeypatch.setattr(graph, "SHORTEST", 16)
    fast, rooms = pair(mtp=1)
    told = []
    rooms.model.tell = told.append
    assert rooms.generate(QUESTIONS[:3], max_new_tokens=60) == fast.generate(QUESTIONS[:3], max_new_tokens=60)
    (room,) = rooms.model.rooms
    assert (room.rows, room.length) == (4, 128)
    lengths = [line.split(" tokens, ")[1].split()[0] for line in told]
    assert len(set(lengths)) > 1
    assert sorted(lengths, key=int) == lengths
    assert all("of 4 x" in line or "of 2 x" in line or "of 1 x" in line for line in told)
    assert "of a step" not in rooms.model.held
    assert "caches of 4 x 128 tokens" in rooms.model.held
    assert room.nbytes == 4 * 128 * (512 + 64) * 4 * 4  # 3 layers and the MTP layer, in float32


def test_a_context_is_filled_to_its_end():
    for mtp in (0, 3):
        fast, rooms = pair(max_seq_len=64, mtp=mtp)
        options = {"temperature": 9.0, "max_new_tokens": 1000}
        replies = rooms.generate(QUESTIONS[4:], **options)
        assert replies == fast.generate(QUESTIONS[4:], **options)
        assert {reply.finish for reply in replies} == {"context"}
        assert rooms.model.rooms[0].length <= 64 + graph.AHEAD


def test_two_conversations_at_once_have_two_rooms():
    fast, rooms = pair()
    expected = ["".join(fast.stream(q, max_new_tokens=20)) for q in QUESTIONS[:3]]
    one, other = (rooms.stream(q, max_new_tokens=20) for q in QUESTIONS[:2])
    said = ["", ""]
    for a, b in zip(one, other, strict=False):
        said[0], said[1] = said[0] + a, said[1] + b
    assert expected[0].startswith(said[0]) or said[0].startswith(expected[0])
    said[0] += "".join(one)
    said[1] += "".join(other)
    assert len(rooms.model.rooms) == 2
    assert all(expected[i].startswith(said[i]) and said[i] for i in range(2))
    unfinished = rooms.stream(QUESTIONS[0], max_new_tokens=20)
    next(unfinished)
    assert "".join(rooms.stream(QUESTIONS[2], max_new_tokens=20)) == expected[2]
    unfinished.close()
    assert not any(room.batch for room in rooms.model.rooms)
    assert len(rooms.model.rooms) == 2


@torch.inference_mode()
def test_rows_move_up_and_nobodys_rows_write_nothing():
    rooms = pair()[1].model
    x = torch.arange(40, 60).view(4, 5)
    with rooms.room(4) as room:
        rooms(x, 0, room)
        before = {layer: kept[0].clone() for layer, kept in room.layers.items()}
        room.keep([1, 3])
        for layer, (kept,) in room.layers.items():
            assert torch.equal(kept[:2, :5], before[layer][[1, 3], :5])
        room.keep([0, 1])
        room.batch = 1  # one of the bucket's two rows is left
        rooms(torch.tensor([[7]]), [5], room)
        room.batch = 3
        left = {layer: kept[0].clone() for layer, kept in room.layers.items()}
        rooms(torch.tensor([[7], [8], [9]]), [5, 5, 5], room)
        for layer, (kept,) in room.layers.items():
            assert torch.equal(kept[3], left[layer][3])  # the row of nobody
            assert not torch.equal(kept[2], left[layer][2])
    assert sorted(room.recorded) == [(False, 1, 1), (False, 4, 1)]


@torch.inference_mode()
def test_it_is_a_model_as_the_others_too():
    fast, rooms = (llm.model for llm in pair(mtp=1))
    x, tokens = torch.arange(40, 60).view(2, 10), torch.tensor([[3], [4]])
    for at in (0, torch.tensor([0, 0])):
        h = fast(x)
        assert torch.allclose(rooms(x, at), h, atol=1e-4)
        assert torch.allclose(rooms.logits(h), fast.logits(h), atol=1e-4)
        assert torch.allclose(rooms.predict(h[:, :1], tokens, at), fast.predict(h[:, :1], tokens), atol=1e-4)


@pytest.mark.parametrize(("n", "least", "most", "found"), [
    (1, 1, 8, 1), (3, 1, 8, 4), (5, 1, 6, 6), (8, 1, 8, 8), (9, 1, 8, 9), (1, 1024, 300, 300), (1, 1024, 5000, 1024),
    (1025, 1024, 5000, 2048), (4097, 1024, 5000, 5000), (5001, 1024, 5000, 5001),
])  # fmt: skip
def test_sizes(n, least, most, found):
    assert size(n, least, most) == found


def test_who_decodes_in_rooms():
    cfg = g.load("tiny-r1").model.cfg

    def fast(**run) -> Fast:
        return Fast(Transformer(cfg, Runtime(**run)))

    other = ModuleType("kernels")  # stands for Triton's, in the interpreter
    assert [type(x) for x in recorded(fast())] == [Fast, type(None)]
    assert isinstance(recorded(fast(kernels=other))[0], Replayed)
    slow, why = recorded(fast(kernels=other, gemm="w8a16"))
    assert isinstance(slow, Fast)
    assert why == (
        "decoding is slow, one small operation after the other: w8a16 dequantises each matrix when it is multiplied"
    )


def test_a_room_has_no_more_rows_than_the_model_allows():
    rooms = pair(max_batch_size=3)[1].model
    with rooms.room(3) as room:
        room.fit(10)
        assert (room.rows, room.length) == (3, 250 + graph.AHEAD)
        assert isinstance(room, Room)


def test_ranks_decode_in_rooms_as_one_does():
    fast, _ = pair(max_batch_size=3)
    expected = fast.generate(QUESTIONS[:3], max_new_tokens=12)

    def answers(tp):
        llm = g.load("tiny-r1", dtype=torch.float32, max_seq_len=250, max_batch_size=3, tp=tp)
        llm.model = Replayed(Step(llm.model))
        return llm.generate(QUESTIONS[:3], max_new_tokens=12)

    assert on_ranks(2, answers) == [expected] * 2


class Spy(TorchDispatchMode):
    """Names of the torch operations that run meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(str(operation).split(".")[1])
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("gemm", ["bf16", "fp8"])
@pytest.mark.parametrize("guesses", [False, True])
@torch.inference_mode()
def test_beside_the_kernels_a_step_does_little_and_nothing_that_waits(gemm, guesses):
    """What is captured may not ask the device for a number, nor make a tensor of numbers from Python."""

    def unseen(function):
        def call(*args, **options):
            with _disable_current_modes():
                return function(*args, **options)

        return call

    kernels = ModuleType("kernels")
    for name in reference.__all__:
        setattr(kernels, name, unseen(getattr(reference, name)))
    plain = g.load("tiny-r1", model="plain", gemm=gemm, mtp=1).model
    for module in plain.modules():
        if hasattr(module, "run"):
            module.run = replace(module.run, kernels=kernels)
    model = Replayed(Step(Fast(plain)))
    with model.room(2) as room:
        room.fit(10)
        step = room.prepare(guesses, 2, 3)
        with Spy() as spy:
            step.replay()
    views = {"unsqueeze", "slice", "split_with_sizes", "view", "flatten", "_unsafe_view", "t", "transpose"}
    assert spy.names <= views | {"arange", "add", "clamp", "embedding", "cat", "linear", "mm", "new_empty"}
    assert "embedding" in spy.names
