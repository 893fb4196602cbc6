"""Generation on tiny-r1: the same tokens alone, in a batch, in waves, in chunks and in every split."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dsv3 import llm as g
from dsv3.convert import convert
from dsv3.download import TINY_R1
from dsv3.fp8_cast_bf16 import cast
from dsv3.generate import main
from dsv3.inference.chat import Reply
from dsv3.inference.decode import generate
from dsv3.inference.fast import Fast
from dsv3.model import Transformer
from dsv3.tiny.data import held_out_set

QUESTIONS = [q for _, q in held_out_set(6, seed=5)] + ["Who are you?", "你好"]


@pytest.fixture(scope="module")
def llm() -> g.LLM:
    return g.load("tiny-r1")


@pytest.fixture(scope="module")
def alone(llm) -> list[Reply]:
    return [llm.chat(q, temperature=0) for q in QUESTIONS]


def test_the_readme_sum(llm):
    reply = llm.chat("37 + 48 = ?", temperature=0)
    assert reply.answer.strip() == "Answer: 85"
    assert "7+8+0=15" in reply.thinking
    assert reply.finish == "stop"


def test_a_batch_of_different_lengths_equals_each_alone(llm, alone):
    assert len({len(llm.tokenizer.encode(q)) for q in QUESTIONS}) > 3
    assert llm.generate(QUESTIONS, temperature=0) == alone


def test_waves_equal_one_batch(alone):
    assert g.load("tiny-r1", max_batch_size=3).generate(QUESTIONS, temperature=0) == alone


@pytest.mark.parametrize("chunk", [1, 5, 7])
def test_chunked_prefill_equals_one_shot(llm, alone, chunk):
    prompts = [llm.tokenizer.prompt([{"role": "user", "content": q}]) for q in QUESTIONS]
    done = [[] for _ in prompts]
    for i, token in generate(llm.model, prompts, eos_id=llm.tokenizer.eos_id, chunk=chunk):
        done[i].append(token)
    assert [llm.tokenizer.decode(tokens) for tokens in done] == [reply.text for reply in alone]


@pytest.fixture(scope="module")
def two_ends(tmp_path_factory) -> Path:
    """tiny-r1 with a second token that ends an answer: the line feed, which is not special."""
    folder = tmp_path_factory.mktemp("ends") / "tiny-r1"
    shutil.copytree(TINY_R1, folder)
    feed = g.Tokenizer(TINY_R1).encode("\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, *feed]}))
    return folder


@pytest.mark.parametrize("form", [{}, {"model": "plain"}, {"mtp": 2}, {"max_batch_size": 3}])
def test_any_of_several_tokens_ends_an_answer(form, alone, two_ends):
    llm = g.load(two_ends, **form)
    replies = llm.generate(QUESTIONS, temperature=0)
    firsts = [reply.text.split("\n")[0] for reply in alone]
    assert [reply.text for reply in replies] == firsts
    assert {reply.finish for reply in replies} == {"stop"}
    assert [reply.tokens for reply in replies] == [len(llm.tokenizer.encode(first)) + 1 for first in firsts]
    assert "".join(llm.stream(QUESTIONS[0], temperature=0)) == firsts[0]


@pytest.mark.parametrize("make", [cast, lambda source, target: convert(source, target, 1)], ids=["cast", "convert"])
def test_all_ends_arrive_in_what_is_made_of_a_checkpoint(make, two_ends, tmp_path):
    make(two_ends, tmp_path / "made")
    assert g.Tokenizer(tmp_path / "made").eos_ids == g.Tokenizer(two_ends).eos_ids != {1}


def test_a_token_that_the_model_does_not_know_is_refused(llm):
    with pytest.raises(ValueError, match="prompt 2 has the token 1024, but the model 1024 rows"):
        generate(llm.model, [[5], [5, 1024]], eos_id=1)


@pytest.fixture(scope="module")
def switched(tmp_path_factory) -> Path:
    """tiny-r1 with a switch like V3.1's: without ``thinking`` the prompt ends in ``</think>``."""
    folder = tmp_path_factory.mktemp("switch") / "tiny-r1"
    shutil.copytree(TINY_R1, folder)
    own = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    switch = r"' }}{% if thinking %}{{ '<think>\n' }}{% else %}{{ '</think>' }}{% endif %}"
    source = own.replace(r"<think>\n' }}", switch)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder


def test_options_reach_the_chat_template(switched, alone):
    llm, told = g.load(switched), {"chat_template_kwargs": {"thinking": True}}
    assert llm.generate(QUESTIONS, temperature=0, **told) == alone
    assert llm.chat(QUESTIONS[0], temperature=0, **told) == alone[0]
    assert "".join(llm.stream(QUESTIONS[0], temperature=0, **told)) == alone[0].text
    assert llm.opens_thinking(QUESTIONS[0], **told)
    assert not llm.opens_thinking(QUESTIONS[0])
    assert llm.chat(QUESTIONS[0], temperature=0, max_new_tokens=5).thinking == ""


def test_an_option_that_the_template_does_not_read_is_told(switched, llm):
    with pytest.warns(UserWarning, match="tokenizer_config.json: the chat template does not use thinking"):
        llm.chat("1 + 1 = ?", max_new_tokens=1, chat_template_kwargs={"thinking": True})
    for ask in (llm.chat, llm.stream, llm.opens_thinking):
        with pytest.raises(ValueError, match="chat_template_kwargs: messages is not the template's"):
            ask("1 + 1 = ?", chat_template_kwargs={"messages": []})


def test_naive_attention_equals_absorbed(alone):
    assert g.load("tiny-r1", attn="naive").generate(QUESTIONS, temperature=0) == alone


@pytest.mark.parametrize(
    "form", [{"model": "plain"}, {"gemm": "w8a16"}, {"gemm": "w8a16", "model": "plain"}, {"mtp": 2}]
)
def test_every_form_gives_the_same_tokens(form, alone):
    assert g.load("tiny-r1", **form).generate(QUESTIONS, temperature=0) == alone


@pytest.mark.parametrize(("asked", "kind"), [({}, "fast"), ({"model": "plain"}, "plain"), ({"attn": "naive"}, "plain")])
def test_what_is_loaded_says_what_it_is(asked, kind):
    llm = g.load("tiny-r1", gemm="w8a16", device="cpu", **asked)
    assert repr(llm) == f"LLM(model='{kind}', device='cpu', gemm='w8a16')"
    assert isinstance(llm.model, Fast if kind == "fast" else Transformer)


@torch.inference_mode()
def test_no_choice_was_near_a_tie(llm, alone):
    """How much the likeliest token is ahead, along the sums, and how far two forms of the model differ."""
    other = g.load("tiny-r1", model="plain", attn="naive").model
    margins, differences = [], []
    for question, reply in list(zip(QUESTIONS, alone, strict=True))[:6]:
        prompt = llm.tokenizer.prompt([{"role": "user", "content": question}])
        tokens = torch.tensor([prompt + llm.tokenizer.encode(reply.text)])
        logits, others = (m.logits(m(tokens))[0, len(prompt) - 1 :] for m in (llm.model, other))
        best = logits.topk(2, dim=-1).values
        margins.append((best[:, 0] - best[:, 1]).min().item())
        differences.append((logits - others).abs().max().item())
    assert min(margins) > 2 * max(differences), (min(margins), max(differences))


@pytest.mark.slow
def test_transformers_gives_the_same_tokens_on_the_cast(alone, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cast(TINY_R1, tmp_path / "bf16")
    theirs, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "bf16", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert all(name.startswith("model.layers.3.") for name in info["unexpected_keys"]), "only the MTP layer"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bf16")
    for question, mine in zip(QUESTIONS, alone, strict=True):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        done = theirs.generate(**asked, max_new_tokens=200, do_sample=False)
        text = tokenizer.decode(done[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text == mine.text


WRONG_LOADS = {
    "max_batch_size": (0, -1, 1.5, 10**12, "5", True),
    "max_seq_len": (64.5, 0, 1, 10**12, "64"),
    "model": ("slow", None, True, ""),
    "gemm": ("int4", "", 5),
    "attn": ("flash", None),
    "numerics": ("x", None),
    "mtp": (-1, 1.0, 10**9, None, "1"),
    "dtype": ("bf16", torch.int8, None, torch.float8_e4m3fn),
    "config": (5, "", b"config_16B.json"),
    "tp": (5, "2", True),
    "device": ("nonsense", "cuda:99", "meta", 1.5, "cpu:1"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in WRONG_LOADS.items() for value in row])
def test_arguments_of_load_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        g.load("tiny-r1", **{name: value})


@pytest.mark.parametrize("flag", ["--ckpt-path", "--config", "--input-file", "--output-file"])
def test_an_empty_path_is_not_the_current_folder(flag):
    flags = {"--ckpt-path": "tiny-r1", "--input-file": "prompts.txt", flag: ""}
    with pytest.raises(FileNotFoundError, match="a path is empty"):
        main([word for pair in flags.items() for word in pair])


@pytest.mark.parametrize("path", [None, b"R1", "", 5, True, ["R1"]])
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="path = "):
        g.load(path)


@pytest.mark.parametrize(
    "prompts", ["37 + 48 = ?", b"37", None, 5, {"a": 1}, [5], [None], [["x"]], [[]], [""], ["\ud800"]]
)
def test_what_is_no_list_of_prompts(prompts, llm):
    with pytest.raises(ValueError, match="prompt|message 1"):
        llm.generate(prompts)


@pytest.mark.parametrize(
    "message",
    [5, None, {}, [], "", "\ud800", ["x"], [{"role": "user"}], [{"content": "x"}], [{"role": "bot", "content": "x"}],
     [{"role": "user", "content": None}], [{"role": "user", "content": "x", "at": object()}],
     [{"role": "user", "content": "x", "at": {1, 2}}], [{"role": "user", "content": "x", "at": b"x"}],
     [{"role": "user", "content": "x", (1, 2): "x"}]],
)  # fmt: skip
def test_what_is_no_conversation(message, llm):
    for ask in (llm.chat, llm.stream, llm.opens_thinking):
        with pytest.raises(ValueError, match="prompt|message 1"):
            ask(message)


def test_no_prompts_no_answers(llm):
    assert llm.generate([]) == []


def test_answers_come_one_by_one(llm, alone):
    answers = g.load("tiny-r1", max_batch_size=2).answers(iter(QUESTIONS), temperature=0)
    assert next(answers) == alone[0]
    assert list(answers) == alone[1:]


def test_streaming_gives_the_same_text(llm, alone):
    assert "".join(llm.stream(QUESTIONS[0], temperature=0)) == alone[0].text


def test_a_conversation(llm):
    reply = llm.chat(
        [
            {"role": "user", "content": "12 + 13 = ?"},
            {"role": "assistant", "content": "Answer: 25"},
            {"role": "user", "content": "What is 37 + 48?"},
        ],
        temperature=0,
    )
    assert reply.answer.strip() == "Answer: 85"


def test_the_limit_cuts_off_and_says_so(llm):
    reply = llm.chat("37 + 48 = ?", temperature=0, max_new_tokens=5)
    assert (reply.tokens, reply.finish, reply.answer) == (5, "length", "")


def small_context(length: int) -> g.LLM:
    return g.load("tiny-r1", max_seq_len=length)


def test_the_context_ends_an_answer(llm):
    prompt = llm.tokenizer.prompt([{"role": "user", "content": "37 + 48 = ?"}])
    reply = small_context(len(prompt) + 7).chat("37 + 48 = ?", temperature=0)
    assert (reply.tokens, reply.finish) == (7, "context")


@pytest.mark.parametrize("room", [0, -1])
def test_a_prompt_that_fills_the_context_is_refused(llm, room):
    prompt = llm.tokenizer.prompt([{"role": "user", "content": "37 + 48 = ?"}])
    with pytest.raises(ValueError, match=rf"prompt 1 has {len(prompt)} tokens, the context {len(prompt) + room}"):
        small_context(len(prompt) + room).chat("37 + 48 = ?", temperature=0)


def test_a_seed_fixes_the_answer(llm):
    def ask(seed: int) -> str:
        return llm.chat("Hello", temperature=3.0, seed=seed, max_new_tokens=20).text

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) > 1
