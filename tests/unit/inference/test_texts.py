"""The text files of a checkpoint folder: what transformers makes of them is made of them here."""

import json
import random
import shutil
from pathlib import Path

import pytest

from dsv3.inference.chat import Tokenizer, opens_thinking
from dsv3.inference.texts import end_ids, template_options
from dsv3.paths import TINY_R1

BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
HELLO = [{"role": "user", "content": "Hello <b>"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1 = ?"},
    {"role": "assistant", "content": "<think>\nsum\n</think>\n\nAnswer: 2", "reasoning": "sum", "tool_calls": None},
    {"role": "tool", "content": "3"},
    {"role": "user", "content": "ü 2 + 2 = ?"},
]
SIMPLE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}[assistant]"


def folder_with(folder: Path, **files: object) -> Path:
    """tiny-r1's tokenizer.json in ``folder``, and ``files``: text or JSON, by names like ``config_json``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY_R1 / "tokenizer.json", folder)
    for name, content in files.items():
        file = folder / ".".join(name.rsplit("_", 1))
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        file.write_text(text, encoding="utf-8")
    return folder


def same_as_transformers(folder: Path, messages: list[dict], **options: object) -> Tokenizer:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer(folder)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options)
    assert ours.prompt(messages, options) == ids
    marks = ours.think_ids or ()  # a drawn file may call them special; here they stay
    assert ours.decode(i for i in ids if i not in marks) == theirs.decode(
        [i for i in ids if i not in marks], skip_special_tokens=True
    )
    end = theirs.eos_token_id
    assert end is None or end in ours.eos_ids or end >= 1024, "or a new token, which no model has learned"
    return ours


# ------------------------------------------------------------------------------------------------ templates

# Each does what some public family's does, in our own words: the constructs are theirs, the texts are not.
TEMPLATES = {
    "the last turn decides, a switch opens or closes the thinking": (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% set ns = namespace(user=false) %}"
        "{{ bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.user = true %}"
        "{{ '<｜User｜>' + message['content'] }}{%- elif message['role'] == 'assistant' %}"
        "{%- set content = message['content'] %}{%- if '</think>' in content %}"
        "{%- set content = content.split('</think>', 1)[1] %}{%- endif %}{{ '<｜Assistant｜></think>' + content }}"
        "{{ eos_token }}{%- endif %}{%- endfor %}{% if add_generation_prompt and ns.user %}{{ '<｜Assistant｜>' }}"
        "{%- if thinking %}{{ '<think>' }}{%- else %}{{ '</think>' }}{%- endif %}{% endif %}"
    ),
    "a thought that is always open, roles that must be known": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{%- for m in messages if m['role'] == 'system' %}{{ m['content'] }}{%- endfor %}"
        "{%- for m in messages %}{%- if m['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
        "{{ raise_exception('unknown role') }}{%- endif %}{{ '<｜' ~ m['role'] | capitalize ~ '｜>' ~ m.content }}"
        "{%- if m['tool_calls'] is defined %}calls{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
    ),
    "names before colons": (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + "
        "eos_token }}{% else %}{{ message['role'] | title + ': ' + message['content'] + '\n\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    "tools that were not given": (
        "{%- if tools is not none %}has tools{{ tools | tojson(separators=(',', ':')) }}{%- endif %}"
        "{%- if documents is defined and not documents %}no documents{%- endif %}"
        "{%- macro shown(m) -%}{{ m.get('content', '') | trim }}{%- endmacro -%}"
        "{%- for m in messages -%}{%- if loop.first and m.role != 'system' -%}<|system|>helpful{%- endif -%}"
        "<|{{ m.role }}|>{{ shown(m) }}\n{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
    ),
    "a date, and a loop that is left": (
        "{%- if strftime_now is defined %}{%- set today = strftime_now('%d %b %Y') %}{%- endif %}Today: {{ today }}\n"
        "{%- for m in messages[::-1] %}{%- if m.role == 'tool' %}{%- continue %}{%- endif %}{{ m.content }}"
        "{%- if loop.index > 2 %}{%- break %}{%- endif %}{%- endfor %}"
    ),
    "thinking that is switched off, and a thought by its field": (
        "{%- for m in messages %}{{ '<|' + m.role + '|>' }}{%- if m.reasoning_content is string %}"
        "{{ '[' + m.reasoning_content + m.thinking + ']' }}{%- endif %}{% generation %}{{ m.content }}"
        "{% endgeneration %}\n"
        "{%- endfor %}{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
        "{%- endif %}{{ reasoning_effort | default('medium') }}"
    ),
    "JSON as it is asked for": (
        "{{ messages | tojson }}{{ messages | tojson(indent=4, sort_keys=true) }}"
        "{{ {'b': 'é<', 'a': [1, none]} | tojson(ensure_ascii=true, separators=(', ', ': ')) }}"
    ),
    "white space around blocks": "  {% for m in messages %}\n    {{ m.content }}\n  {% endfor %}\n\t{# no #}\nend\n",
}


@pytest.mark.parametrize("options", [{}, {"thinking": True, "enable_thinking": False, "reasoning_effort": "high"}])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name, options, tmp_path):
    settings = {"bos_token": BOS, "eos_token": EOS}
    folder = folder_with(tmp_path, tokenizer_config_json=settings, chat_template_jinja=TEMPLATES[name])
    for messages in (HELLO, TALK):
        same_as_transformers(folder, messages, **options)


def two_places(default: str) -> dict[str, dict[str, object]]:
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": default}]
    return {
        "in the settings": {"tokenizer_config_json": {"chat_template": default}},
        "a list in the settings": {"tokenizer_config_json": {"chat_template": several}},
        "names in the settings": {"tokenizer_config_json": {"chat_template": {"default": default, "rag": "x"}}},
        "a file": {"chat_template_jinja": default},
        "a file before settings": {"chat_template_jinja": default, "tokenizer_config_json": {"chat_template": "no"}},
        "a file before older JSON": {"chat_template_jinja": default, "chat_template_json": {"chat_template": "no"}},
        "settings before older JSON": {
            "tokenizer_config_json": {"chat_template": default}, "chat_template_json": {"chat_template": "no"}
        },
    }  # fmt: skip


@pytest.mark.parametrize("place", two_places(""))
def test_a_template_is_found_where_transformers_finds_it(place, tmp_path):
    files = two_places(SIMPLE)[place] | {"special_tokens_map_json": {"eos_token": EOS, "bos_token": {"content": BOS}}}
    same_as_transformers(folder_with(tmp_path, **files), TALK)


@pytest.mark.parametrize("name", ["default", "tool_use"])
def test_templates_in_a_folder_of_their_own(name, tmp_path):
    folder = folder_with(tmp_path, chat_template_jinja=SIMPLE, tokenizer_config_json={"eos_token": EOS})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / f"{name}.jinja").write_text("another: {{ messages[0].content }}")
    same_as_transformers(folder, TALK)


def test_a_processors_template_counts_where_there_is_no_other(tmp_path):
    settings = {"eos_token": EOS}
    folder = folder_with(
        tmp_path, tokenizer_config_json=settings, chat_template_json={"chat_template": "a {{ 1 + 1 }}"}
    )
    assert Tokenizer(folder).prompt(HELLO) == Tokenizer(folder).encode("a 2")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "has no chat template: .*put the original's there"),
        ({"tokenizer_config_json": {"chat_template": 7}}, "has no chat template"),
        ({"tokenizer_config_json": {"chat_template": ""}}, "has no chat template"),
        (
            {"tokenizer_config_json": {"chat_template": [7, {"name": "rag", "template": "x"}]}},
            "templates are rag, none",
        ),
        ({"tokenizer_config_json": {"chat_template": {"rag": "x", "a\x1b[31m": "y"}}}, "templates are rag, a.*none is"),
        ({"chat_template_json": {"chat_template": {"agent": "x"}}}, "templates are agent, none is named default"),
        ({"chat_template_json": "{"}, "chat_template.json: damaged"),
    ],
)
def test_without_a_template_the_line_says_what_to_do(files, reason, tmp_path):
    with pytest.raises(ValueError, match=reason) as error:
        Tokenizer(folder_with(tmp_path, special_tokens_map_json={"eos_token": EOS}, **files))
    assert str(error.value).isprintable()


# -------------------------------------------------------------------------------------------------- options


def switched(tmp_path: Path) -> Tokenizer:
    template = TEMPLATES["the last turn decides, a switch opens or closes the thinking"]
    settings = {"bos_token": BOS, "eos_token": EOS, "chat_template": template}
    return Tokenizer(folder_with(tmp_path, tokenizer_config_json=settings))


@pytest.mark.parametrize(("options", "opened"), [({}, False), ({"thinking": False}, False), ({"thinking": True}, True)])
def test_the_switch_of_the_thinking(options, opened, tmp_path):
    tokenizer = switched(tmp_path)
    for messages in (HELLO, TALK, [{"role": "user", "content": "What does <think> do?"}]):
        prompt = tokenizer.prompt(messages, options)
        assert opens_thinking(prompt, tokenizer.think_ids) is opened
        assert prompt[-1] == tokenizer.encode("<think>" if opened else "</think>")[0]


def test_an_option_that_is_not_read_is_told(tmp_path):
    tokenizer = switched(tmp_path)
    assert tokenizer.unused({"thinking": True}) is None
    assert "does not use enable_thinking; " in str(tokenizer.unused({"thinking": True, "enable_thinking": True}))
    assert tokenizer.prompt(HELLO, {"enable_thinking": True}) == tokenizer.prompt(HELLO)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (None, {}),
        ("{}", {}),
        ({}, {}),
        ('{"thinking": true}', {"thinking": True}),
        ({"a": [1, None]}, {"a": [1, None]}),
    ],
)
def test_options_of_the_template(given, options):
    assert template_options(given) == options


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("thinking", "Expecting value"),
        ("", "Expecting value"),
        ("[1]", "no object of names"),
        ("true", "no object of names"),
        (5, "no object of names"),
        ({5: 1}, "no object of names"),
        ({"x": {1, 2}}, "not JSON serializable"),
        ({"x": "\ud800"}, "surrogates not allowed"),
        ('{"x": "\\ud800"}', "surrogates not allowed"),
        ("[" * 100_000, "recursion"),
        ('{"messages": []}', "messages is not the template's"),
        ({"tools": []}, "tools is not the template's"),
        ({"add_generation_prompt": False}, "add_generation_prompt is not the template's"),
        ({"x" * 100_000: {1}}, "not JSON serializable"),
    ],
)
def test_what_is_no_option(given, reason):
    with pytest.raises(ValueError, match=f"chat_template_kwargs.*: .*{reason}") as error:
        template_options(given)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


# --------------------------------------------------------------------------------------------------- tokens


def drawn(rng: random.Random) -> dict[str, object]:
    """Files beside tokenizer.json as they may come, or not."""
    added = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}

    def token(text: str) -> object:
        return rng.choice([text, {"__type": "AddedToken", "content": text, **added}])

    settings: dict[str, object] = {"tokenizer_class": rng.choice(["TokenizersBackend", "LlamaTokenizerFast"])}
    words = [BOS, EOS, "<｜▁pad▁｜>", "[NEW]", "Hello", "<think>"]
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "image_token"):
        if rng.random() < 0.6:
            settings[name] = rng.choice([None, token(rng.choice(words))])
    if rng.random() < 0.4:
        # transformers 5 takes what stands here for added tokens, and the rest from tokenizer.json.
        settings["added_tokens_decoder"] = {
            str(number): {"content": text, "special": rng.random() < 0.5, **added}
            for number, text in enumerate([BOS, EOS, "1 +", "[MORE]"])
            if rng.random() < 0.7
        }
    if rng.random() < 0.4:
        settings[rng.choice(["additional_special_tokens", "extra_special_tokens"])] = ["brief", "[EXTRA]"]
    if rng.random() < 0.2:
        settings["add_bos_token"] = True
    files: dict[str, object] = {"tokenizer_config_json": settings} if rng.random() < 0.9 else {}
    if rng.random() < 0.5:
        special = {name: rng.choice([text, {"content": text, **added}]) for name, text in (("eos_token", EOS),)}
        files["special_tokens_map_json"] = special | ({"bos_token": BOS} if rng.random() < 0.5 else {})
    if rng.random() < 0.3:
        files["added_tokens_json"] = {"[OLD]": 1030, EOS: 1, "sum": 1031}
    template = (
        SIMPLE + "{{ image_token }}|{{ pad_token }}{{ unk_token is defined }} [NEW][MORE][EXTRA][OLD] Hello sum 1 +"
    )
    return files | {"chat_template_jinja": template, "generation_config_json": {"eos_token_id": 1}}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_files_come_the_prompt_is_that_of_transformers(seed, tmp_path):
    same_as_transformers(folder_with(tmp_path, **drawn(random.Random(seed))), TALK)


def test_a_thought_is_shown_where_a_file_calls_its_marks_special(tmp_path):
    folder = folder_with(tmp_path, chat_template_jinja=SIMPLE, special_tokens_map_json={"eos_token": EOS})
    own = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in own["added_tokens"]:
        token["special"] = True
    (folder / "tokenizer.json").write_text(json.dumps(own), encoding="utf-8")
    tokenizer = Tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(f"{BOS}<think>é\n</think>2{EOS}")) == "<think>é\n</think>2"


# ------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("generation", "config", "found"),
    [
        (None, None, set()),
        ({}, {}, set()),
        ({"eos_token_id": None}, {"eos_token_id": None}, set()),
        ({"eos_token_id": 5}, None, {5}),
        (None, {"eos_token_id": [5, 7]}, {5, 7}),
        ({"eos_token_id": [3, 9]}, {"eos_token_id": 1}, {1, 3, 9}),
        ({"eos_token_id": -1}, {"eos_token_id": []}, set()),
    ],
)
def test_the_ids_that_end_an_answer(generation, config, found, tmp_path):
    files = {"generation_config_json": generation, "config_json": config}
    folder_with(tmp_path, **{name: value for name, value in files.items() if value is not None})
    assert end_ids(tmp_path) == found


@pytest.mark.parametrize("value", ["1", 1.0, True, [1, None], [[1]], {"a": 1}, "x" * 100_000])
@pytest.mark.parametrize("name", ["generation_config", "config"])
def test_an_id_that_is_none(name, value, tmp_path):
    folder_with(tmp_path, **{f"{name}_json": {"eos_token_id": value}})
    with pytest.raises(
        ValueError, match=rf"{name}.json: eos_token_id is .*, must be a whole number or a list"
    ) as error:
        end_ids(tmp_path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"tokenizer_config_json": {"eos_token": EOS}}, {1}),
        ({"tokenizer_config_json": {"eos_token": {"content": EOS}}}, {1}),
        ({"special_tokens_map_json": {"eos_token": EOS}}, {1}),
        ({"tokenizer_config_json": {"eos_token": None}, "generation_config_json": {"eos_token_id": 3}}, {3}),
        ({"tokenizer_config_json": {"eos_token": "[no such]"}, "config_json": {"eos_token_id": [7, 3]}}, {3, 7}),
        ({"tokenizer_config_json": {"eos_token": EOS}, "generation_config_json": {"eos_token_id": [1, 3]},
          "config_json": {"eos_token_id": 4}}, {1, 3, 4}),
    ],
)  # fmt: skip
def test_any_of_them_ends_it(files, ids, tmp_path):
    tokenizer = Tokenizer(folder_with(tmp_path, chat_template_jinja=SIMPLE, **files))
    assert tokenizer.eos_ids == ids
    assert tokenizer.eos_id == min(ids)


@pytest.mark.parametrize("eos", [None, "[no such]"])
def test_an_answer_needs_an_end(eos, tmp_path):
    with pytest.raises(ValueError, match=r"no token ends an answer: eos_token (None|'\[no such\]') is not in"):
        Tokenizer(folder_with(tmp_path, chat_template_jinja=SIMPLE, tokenizer_config_json={"eos_token": eos}))


# ----------------------------------------------------------------------------------- other kinds of tokenizers


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"tiktoken.model": ""}, "is tiktoken's; .*tiktoken blobfile.*own code: python -c .*trust_remote_code=True"),
        ({"qwen.tiktoken": ""}, "is tiktoken's"),
        ({"tokenizer_config.json": '{"tokenizer_class": "TikTokenTokenizer"}'}, "is tiktoken's"),
        (
            {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["own.TikTokenTokenizer", null]}}'},
            "is tiktoken's",
        ),
        ({"tokenizer.model": "", "tiktoken.model": ""}, "is tiktoken's"),
        ({"tokenizer.model": ""}, "is SentencePiece's; .*transformers sentencepiece .*, then: python -c"),
        ({"vocab.json": "{}", "merges.txt": ""}, "is vocab.json and merges.txt; .*backend_tokenizer.save"),
        ({"vocab.json": "{}"}, "no tokenizer.json; copy it from the original"),
        ({}, "no tokenizer.json; copy it from the original"),
    ],
)
def test_another_kind_of_tokenizer_is_named_with_the_way_to_convert_it(files, reason, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(
        FileNotFoundError, match=f"no tokenizer.json.*{reason.removeprefix('no tokenizer.json')}"
    ) as error:
        Tokenizer(tmp_path)
    assert len(str(error.value).removeprefix(str(tmp_path))) < 400
