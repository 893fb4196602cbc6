"""The tokenizer and the chat template: R1's behaviour, and text that survives every way of loading it."""

import json
import shutil
from pathlib import Path

import pytest

from dsv3.download import TINY_R1
from dsv3.inference.chat import Reply, Tokenizer, split_thinking
from dsv3.inference.template import Template

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
        ("\n<think>steps without an end", False, "steps without an end", ""),
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
    with pytest.raises(ValueError, match=f"{name}: damaged"):
        Tokenizer(tmp_path)


MESSAGES = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "more than 2 s"),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(100) }}", "more than 2 s"),
        ("{{ ([[1] * 1000] * 100000)|sum(start=[])|length }}", "more than 2 s"),
        ("{{ 'a' * 3000000000 }}", "500 MB"),
        ("{% set n = 3000000000 %}{{ 'a' * n }}", "500 MB"),
        ("{{ '%1000000000d' % 1 }}", "500 MB"),
        ("{{ '{:1000000000}'.format(1) }}", "500 MB"),
        ("{{ 'a'.center(1000000000) }}", "500 MB"),
        ("{{ [1]|batch(1000000000, 0)|list|length }}", "500 MB"),
        ("{{ 'a\\nb'|indent(1000000000) }}", "500 MB"),
        ("{{ range(100000)|join('x' * 100000) }}", "500 MB"),
        (
            "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "500 MB",
        ),
        ("{{ 'a' * 3000000 }}", "3,000,000 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}", "RecursionError"),
        ("x" * 50_000_000, "50,000,000 characters; 200,000 are the most"),
        ("{{ 10**100000 }}", "Exceeds the limit"),
        ("{% if %}", r"Expected an expression.*\(line 1\)"),
        ("{{ foo() }}", "'foo' is undefined"),
        ("{{ raise_exception('roles\\nmust alternate') }}", "fails: roles must alternate"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{% include 'x' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_made_to_hurt(source, reason):
    with pytest.raises(ValueError, match=f"t.jinja: .*{reason}") as error:
        Template(Path("t.jinja"), source).render(MESSAGES)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


@pytest.mark.slow
def test_a_template_goes_on_after_it_hit_a_limit():
    source = "{% if n %}{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}{% endif %}done"
    template = Template(Path("t.jinja"), source)
    with pytest.raises(ValueError, match="more than 2 s"):
        template.render({"n": 100_000})
    assert template.render({"n": 0}) == "done"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% continue %}x{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{{ messages|tojson }}{{ messages|tojson(indent=2) }}{{ {'b': '<é>', 'a': 1}|tojson(sort_keys=true) }}",
        "{{ strftime_now('%Y') }}",
        "[{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ mask_token is defined }}]",
        "  {% if add_generation_prompt %}\n  yes\n  {% endif %}\n {{- '  x' }}\n",
    ],
)
def test_what_transformers_gives_templates_they_have_here(tmp_path, source):
    from transformers import AutoTokenizer

    for file in TINY_R1.glob("*.json"):
        shutil.copy(file, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    messages = [{"role": "user", "content": "ü <b>"}, {"role": "assistant", "content": "y"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == Tokenizer(tmp_path).prompt(messages)


def changed(folder: Path, name: str, **fields: object) -> Path:
    for file in TINY_R1.glob("token*.json"):
        shutil.copy(file, folder)
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(values | fields), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("eos_token", 7, "tokenizer_config.json: eos_token is 7, must be text"),
        ("eos_token", ["a"], "tokenizer_config.json: eos_token is .* must be text"),
        ("eos_token", {"text": "a"}, "tokenizer_config.json: eos_token is .* must be text"),
        ("eos_token", {"content": "a", "lstrip": "b"}, "tokenizer_config.json: eos_token is .* must be text"),
        ("eos_token", None, "eos_token None is not in tokenizer.json"),
        ("eos_token", "x" * 100_000, "eos_token 'xxx.* is not in tokenizer.json"),
        ("pad_token", 7, "tokenizer_config.json: pad_token is 7"),
        ("extra_special_tokens", 7, "tokenizer_config.json: extra_special_tokens is 7"),
        ("additional_special_tokens", [7], "tokenizer_config.json: extra_special_tokens is 7"),
        ("added_tokens_decoder", [7], "tokenizer_config.json: added_tokens_decoder is .*, must be an object"),
        ("added_tokens_decoder", {"x": "y"}, "tokenizer_config.json: an added token's number is none"),
        ("added_tokens_decoder", {"7": 7}, "tokenizer_config.json: an added token is 7"),
    ],
)
def test_odd_settings(tmp_path, field, value, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Tokenizer(changed(tmp_path, "tokenizer_config.json", **{field: value}))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"model": {"type": "BPE"}}', "[" * 100_000])
def test_json_that_is_no_tokenizer(tmp_path, text):
    changed(tmp_path, "tokenizer_config.json")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="tokenizer.json: damaged, or no tokenizer"):
        Tokenizer(tmp_path)


def test_tokens_that_the_model_does_not_know_are_refused(tokenizer):
    tokenizer.check(1024)
    tokenizer.check(2000)
    with pytest.raises(ValueError, match="tokenizer.json: has a token 1023, but the model 1023 rows"):
        tokenizer.check(1023)


def test_reserved_tokens_behind_the_last_row_are_none_of_the_models(tmp_path):
    folder = changed(tmp_path, "tokenizer_config.json", additional_special_tokens=["[reserved]"])
    Tokenizer(folder).check(1024)
    own = changed(tmp_path, "tokenizer_config.json", eos_token=None)
    (own / "generation_config.json").write_text('{"eos_token_id": [1024, 5000]}')
    with pytest.raises(ValueError, match="token 1024 ends an answer, but the model has 1024 rows"):
        Tokenizer(own).check(1024)
