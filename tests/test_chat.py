"""The tokenizer and the chat template: R1's behaviour, and text that survives every way of loading it."""

import shutil

import pytest

from dsv3.download import TINY_R1
from dsv3.inference.chat import Reply, Tokenizer, split_thinking

TEXTS = [
    "hello world how are you",
    "  two leading spaces, a tab\tand\nlines\n\n",
    "37加48等于多少？ 37 + 48 = ?",
    "émile 🙂 naïve \u200b x",
    "<think>\nI know.\n</think>\n\nAnswer: 85",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_R1)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("with_config", [True, False])
def test_auto_tokenizer_agrees_with_and_without_config(tokenizer, tmp_path, with_config):
    from transformers import AutoTokenizer

    for file in TINY_R1.glob("*.json"):
        if with_config or file.name != "config.json":
            shutil.copy(file, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert theirs.decode(theirs.encode(text, add_special_tokens=False)) == text
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "37 + 48 = ?"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer.prompt(messages)
    assert theirs.eos_token_id == tokenizer.eos_id


def test_special_tokens_are_spelled_as_r1_spells_them(tokenizer):
    spelled = (
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<think>",
        "</think>",
        "<｜▁pad▁｜>",
    )
    for token in spelled:
        assert len(tokenizer.encode(token)) == 1, token
    assert tokenizer.encode("<｜begin▁of▁sentence｜>") == [0]
    assert tokenizer.encode("<｜end▁of▁sentence｜>") == [tokenizer.eos_id] == [1]


def test_every_digit_is_a_token(tokenizer):
    assert len(tokenizer.encode("1234567890")) == 10


def text_of(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> str:
    return tokenizer._tokenizer.decode(tokenizer.prompt(messages), skip_special_tokens=False)


def test_the_prompt_opens_the_thinking(tokenizer):
    prompt = text_of(tokenizer, [{"role": "user", "content": "1 + 1 = ?"}])
    assert prompt == "<｜begin▁of▁sentence｜><｜User｜>1 + 1 = ?<｜Assistant｜><think>\n"


def test_earlier_thinking_is_dropped_and_the_system_prompt_comes_first(tokenizer):
    prompt = text_of(
        tokenizer,
        [
            {"role": "user", "content": "1 + 1 = ?"},
            {"role": "assistant", "content": "<think>\nlong thoughts\n</think>\n\nAnswer: 2"},
            {"role": "user", "content": "2 + 2 = ?"},
            {"role": "system", "content": "SYSTEM"},
        ],
    )
    assert prompt == (
        "<｜begin▁of▁sentence｜>SYSTEM<｜User｜>1 + 1 = ?<｜Assistant｜>Answer: 2<｜end▁of▁sentence｜>"
        "<｜User｜>2 + 2 = ?<｜Assistant｜><think>\n"
    )


def test_the_training_text_is_the_prompt_that_the_template_makes(tokenizer):
    from dsv3.tiny.data import Turn
    from dsv3.tiny.tokenizer import conversation

    turns = [Turn("1 + 1 = ?", "steps", "Answer: 2"), Turn("2 + 2 = ?", "steps", "Answer: 4")]
    messages = [
        {"role": "user", "content": "1 + 1 = ?"},
        {"role": "assistant", "content": "steps\n</think>\n\nAnswer: 2"},
        {"role": "user", "content": "2 + 2 = ?"},
    ]
    assert tokenizer.encode(conversation(turns)[0]) == tokenizer.prompt(messages)


def test_streaming_never_shows_half_a_character(tokenizer):
    text = "加 🙂 é"
    pieces = list(tokenizer.stream(tokenizer.encode(text)))
    assert "".join(pieces) == text
    assert len(tokenizer.encode("🙂")) > 1, "or this test shows nothing"
    assert not any("\ufffd" in piece for piece in pieces)


def test_streaming_shows_what_is_left_of_a_broken_character(tokenizer):
    assert "".join(tokenizer.stream(tokenizer.encode("a🙂")[:-1])).startswith("a")


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer"),
    [
        ("steps\n</think>\n\nAnswer: 2", True, "steps\n", "\n\nAnswer: 2"),
        ("<think>steps</think>x", False, "steps", "x"),
        ("steps without an end", True, "steps without an end", ""),
        ("no thinking at all", False, "", "no thinking at all"),
    ],
)
def test_split_thinking(text, opened, thinking, answer):
    assert split_thinking(text, opened) == (thinking, answer)


def test_a_reply_prints_its_answer():
    assert str(Reply("steps", "\n\nAnswer: 2", 5, "stop")) == "Answer: 2"
    assert str(Reply("cut off", "", 5, "length")) == "cut off"


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(fp8_folder, tmp_path, name):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((fp8_folder / file).read_bytes())
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="tokenizer.json or tokenizer_config.json is damaged"):
        Tokenizer(tmp_path)
