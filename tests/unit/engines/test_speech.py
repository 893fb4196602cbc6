"""How a model talks: told from what its chat template does, and what a command says about it."""

import json
import shutil
from pathlib import Path

import pytest

from dsv3 import launch
from dsv3 import serve as verb
from dsv3.engines import speech
from dsv3.engines.options import Serve
from dsv3.engines.parsers import CALLS, FAMILIES, KIMI_CALLS
from dsv3.engines.table import find
from dsv3.hubs import catalogue
from dsv3.paths import TINY_R1

USER, SAYS, END = "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
TURN = "{% for m in messages %}{% if m.role == 'user' %}" + USER + "{{ m.content }}{% else %}" + SAYS
STRIP = TURN + "{{ m.content.split('</think>')[-1] }}" + END + "{% endif %}{% endfor %}"
KEEP = TURN + "{{ m.content }}" + END + "{% endif %}{% endfor %}"
ASK = "{% if add_generation_prompt %}" + SAYS
MOON = (
    "{% for m in messages %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{THOUGHT}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
)
TEMPLATES = {
    "r1": STRIP + ASK + "<think>\n{% endif %}",
    "r1, which opens no thought": STRIP + ASK + "{% endif %}",  # January 2025, and R1-0528
    "r1 that has a word for it": "{# thinking is not asked for #}" + STRIP + ASK + "<think>\n{% endif %}",
    "v3": KEEP + ASK + "{% endif %}",
    "v3.1": "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    + STRIP
    + ASK
    + "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}",
    "v3.1 in other words": STRIP + ASK + "{{ '<think>' if thinking | default(false) else '</think>' }}{% endif %}",
    "moonlight": MOON.replace("{THOUGHT}", ""),
    "kimi-k2": "{% if tools %}" + KIMI_CALLS[0] + "{% endif %}" + MOON.replace("{THOUGHT}", ""),
    "kimi-k2-thinking": "{% if tools %}"
    + KIMI_CALLS[0]
    + "{% endif %}"
    + MOON.replace("{THOUGHT}", "{% if m.role == 'assistant' %}<think></think>{% endif %}"),
    "gigachat3": "{% for m in messages %}{{ m.role }}<|role_sep|>\n{{ m.content }}<|message_sep|>{% endfor %}"
    "{% if add_generation_prompt %}assistant<|role_sep|>\n{% endif %}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Called so that its name says nothing."""
    return Path(shutil.copytree(TINY_R1, tmp_path / "checkpoint"))


def edit(folder: Path, file: str, **changes: object) -> None:
    values = json.loads((folder / file).read_text(encoding="utf-8")) | changes
    text = json.dumps({k: v for k, v in values.items() if v is not None}, ensure_ascii=False)
    (folder / file).write_text(text, encoding="utf-8")


def give(folder: Path, template: object, **config: object) -> None:
    edit(folder, "tokenizer_config.json", chat_template=template)
    edit(folder, "config.json", **config)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_template_tells(folder, kind):
    give(folder, TEMPLATES[kind])
    assert speech.of(str(folder)).family == kind.partition(",")[0].partition(" ")[0]


def test_a_template_in_a_file_of_its_own_or_one_of_several(folder):
    give(folder, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATES["v3"]}])
    assert speech.of(str(folder)).family == "v3"
    (folder / "chat_template.jinja").write_text(TEMPLATES["v3.1"], encoding="utf-8")
    assert speech.of(str(folder)).family == "v3.1"


def test_tiktoken_says_its_special_tokens_in_the_settings(folder):
    """Kimi-K2's first template has no word of calls."""
    give(folder, TEMPLATES["moonlight"])
    (folder / "tokenizer.json").unlink()
    edit(folder, "tokenizer_config.json", added_tokens_decoder={"1": {"content": KIMI_CALLS[0]}})
    assert speech.of(str(folder)).family == "kimi-k2"


@pytest.mark.parametrize(
    ("kind", "config", "family"),
    [
        ("r1", {"model_type": "qwen2"}, "distill"),
        ("r1, which opens no thought", {"model_type": "qwen3"}, "distill"),
        ("v3", {"model_type": "deepseek_v2"}, "v2"),
        ("v3.1", {"model_type": "deepseek_v32"}, "v3.2-exp"),
        ("v3.1", {"model_type": "deepseek_v4"}, "v4"),
        ("v3", {"model_type": "glm4_moe_lite"}, "glm-4.7-flash"),
        ("v3", {"model_type": "kimi_vl", "_name_or_path": "moonshotai/Kimi-VL-A3B-Thinking"}, "kimi-vl-thinking"),
        ("v3", {"_name_or_path": "deepseek-ai/DeepSeek-Prover-V2-671B"}, "prover"),
        ("v3", {"_name_or_path": "deepseek-ai/DeepSeek-R1"}, "v3"),  # the template's word counts
        (None, {}, None),
        (None, {"model_type": "deepseek_v32"}, "v3.2"),
        (None, {"model_type": "deepseek_v41"}, "v4.1"),
        (None, {"model_type": "deepseek_v4", "_name_or_path": "deepseek-ai/DeepSeek-V4-Flash-Base"}, "base"),
        (None, {"model_type": "deepseek_v2"}, None),
        (None, {"model_type": "deepseek_v32", "_name_or_path": "DeepSeek-V3.2-Speciale"}, "v3.2-speciale"),
    ],
)
def test_architectures_and_names_help(folder, kind, config, family):
    give(folder, TEMPLATES.get(kind), **config)
    assert speech.of(str(folder)).family == family


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("[INST] {{ messages[0].content }} [/INST]", "none of those that are known"),
        ("{% for", "the chat template fails"),
        ("{{ raise_exception('no') }}", "the chat template fails: no"),
        ("x" * 300_000, "are the most"),
    ],
)
def test_what_is_not_known_gets_no_parser_and_a_line(folder, template, words):
    give(folder, template)
    heard, asked = speech.of(str(folder)), Serve(model=str(folder))
    assert heard.family is None
    assert words in heard.why
    (line,) = speech.notes(find("vllm"), asked, heard)
    assert "no reasoning or tool-call parser; --family says it: r1, v3, " in line
    assert speech.told(asked, heard).family is None
    assert speech.told(Serve(model=str(folder), family="v3.1"), heard).family == "v3.1"


def test_ids_talk_as_the_catalogue_says():
    for model in catalogue.models():
        if model.huggingface:
            found = speech.of(model.huggingface)
            assert found.family in FAMILIES, model.name
    assert speech.of("deepseek-ai/DeepSeek-V3.1").family == "v3.1"
    assert speech.of("someone/else").family is None
    assert set(catalogue.FAMILIES) <= set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "name", "fine"),
    [
        ("v3.2", "DeepSeek-V3.2-Exp-W8A8", "v3.2-exp"),
        ("v3.2", "DeepSeek-V3.2-NVFP4", "v3.2"),
        ("v3.2", "DeepSeek-V3.2-Speciale", "v3.2-speciale"),
        ("v4", "DeepSeek-V4.1-Flash", "v4.1"),
        ("v4", "DeepSeek-V4-Pro", "v4"),
        ("kimi-vl", "Kimi-VL-A3B-Thinking-2506", "kimi-vl-thinking"),
    ],
)
def test_names_split_a_family(family, name, fine):
    assert speech._split(family, name) == fine
    assert fine in FAMILIES


# ------------------------------------------------------------------------------------------------ commands


def printed(capsys: pytest.CaptureFixture, *flags: str) -> tuple[list[str], list[str]]:
    """The notes and the command's words of a dry run."""
    verb.main(["--dry-run", *flags])
    out = capsys.readouterr().out
    notes, _, command = out.partition("# Flags as in")
    return notes.splitlines(), command.splitlines()[-1:] + [w.strip(" \\") for w in command.splitlines()]


def test_parsers_only_for_tokens_that_are_there(folder, capsys):
    """vLLM stops at the start otherwise: 'cannot be used with the tokenizer of'."""
    flags = ["--engine", "vllm", "--model", str(folder)]
    notes, words = printed(capsys, *flags)
    assert "--reasoning-parser deepseek_r1" in words
    assert not any("tool" in word for word in words)
    assert any(f"no parser deepseek_v3: it looks for {' and '.join(CALLS)}" in note for note in notes)
    edit(folder, "tokenizer_config.json", added_tokens_decoder={str(i): {"content": c} for i, c in enumerate(CALLS)})
    notes, words = printed(capsys, *flags)
    assert "--tool-call-parser deepseek_v3" in words
    assert "--chat-template examples/tool_chat_template_deepseekr1.jinja" in notes[0]
    notes, words = printed(capsys, *flags, "--no-reasoning-parser", "--no-tool-call-parser")
    assert not any("-parser" in word for word in [*notes, *words])


def test_v31_is_told_how_to_think(folder, capsys):
    give(folder, TEMPLATES["v3.1"])
    notes, words = printed(capsys, "--engine", "sglang", "--model", str(folder))
    assert "--reasoning-parser deepseek-v3" in words
    assert any('{"chat_template_kwargs": {"thinking": true}}' in note for note in notes)


def test_an_engine_without_a_parser_for_a_model_that_thinks(folder, capsys):
    give(folder, TEMPLATES["v3.1"])
    notes, words = printed(capsys, "--engine", "trtllm", "--model", str(folder))
    assert not any("parser" in word for word in words)
    assert "# TensorRT-LLM has no reasoning parser for v3.1: a thought stands in the answer, up to </think>" in notes
    notes, _ = printed(capsys, "--engine", "trtllm", "--model", "deepseek-ai/DeepSeek-V3", "--tp", "8")
    assert not any("reasoning" in note for note in notes)


@pytest.fixture
def tiktoken(folder: Path) -> Path:
    """As Kimi-K2 and Moonlight come: a tokenizer that is Python code."""
    (folder / "tokenizer.json").unlink()
    (folder / "tiktoken.model").write_text("IQ== 0\n")
    (folder / "tokenization_kimi.py").write_text("")
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]})
    return folder


@pytest.mark.parametrize("engine", ["sglang", "vllm", "lmdeploy", "trtllm"])
def test_python_of_the_repository_runs_when_somebody_says_so(tiktoken, capsys, engine):
    flags = ["--engine", engine, "--model", str(tiktoken)]
    notes, words = printed(capsys, *flags)
    assert "--trust-remote-code" in [w.replace("_", "-") for w in words]
    assert any("runs Python of the model's repository (tokenization_kimi.py): read it" in note for note in notes)
    with pytest.raises(SystemExit):
        verb.main(flags)
    assert "(tokenization_kimi.py), which the engine would run: read it, then say" in capsys.readouterr().err


def test_python_files_that_are_not_there(tiktoken, capsys):
    (tiktoken / "tokenization_kimi.py").unlink()
    with pytest.raises(SystemExit):
        verb.main(["--engine", "vllm", "--model", str(tiktoken), "--dry-run"])
    said = capsys.readouterr().err
    assert "auto_map names tokenization_kimi.py, which is not there, and the engine stops: copy it" in said
    assert "leave out" not in said


def test_python_that_is_not_needed(folder, capsys):
    flags = ["--engine", "vllm", "--model", str(folder), "--trust-remote-code"]
    notes, words = printed(capsys, *flags)
    assert "--trust-remote-code" in words
    assert any("not needed for this model" in note for note in notes)
    edit(folder, "config.json", auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config"})
    assert "--trust-remote-code" not in printed(capsys, *flags[:-1])[1]
    with pytest.raises(SystemExit):
        verb.main([*flags, "--dry-run"])
    assert "configuration_deepseek.py, which is not there" in (said := capsys.readouterr().err)
    assert "or leave out --trust-remote-code" in said


def test_a_script_for_several_hosts_wants_the_yes_too(tiktoken, capsys):
    flags = ["--ssh", "--engine", "vllm", "--hosts", "a,b", "--gpus-per-host", "1", "--model", str(tiktoken), "--"]
    flags += ["--tp", "1", "--pp", "2"]
    with pytest.raises(SystemExit):
        launch.main(flags)
    assert "read it, then say --trust-remote-code" in capsys.readouterr().err
    launch.main([*flags, "--trust-remote-code"])
    said = capsys.readouterr()
    assert said.out.count("--trust-remote-code") == said.out.count("--reasoning-parser deepseek_r1") == 2
    assert "runs Python of the model's repository" in said.err


def test_a_script_for_a_folder_of_the_hosts_says_that_it_knows_nothing_of_it(capsys):
    flags = ["--slurm", "--engine", "sglang", "--hosts", "a,b", "--gpus-per-host", "8", "--model", "/data/R1", "--"]
    launch.main([*flags, "--tp", "16"])
    said = capsys.readouterr()
    assert "how /data/R1 talks is not known here" in said.err
    assert "parser" not in said.out
    launch.main([*flags, "--tp", "16", "--family", "r1"])
    said = capsys.readouterr()
    assert "not known" not in said.err
    assert "--reasoning-parser deepseek-r1 --tool-call-parser deepseekv3" in said.out


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("moonshotai/Kimi-K2-Instruct", "--tool-call-parser kimi_k2 --enable-auto-tool-choice --trust-remote-code"),
        (
            "moonshotai/Kimi-K2-Thinking",
            "--reasoning-parser kimi_k2 --tool-call-parser kimi_k2 --enable-auto-tool-choice --trust-remote-code",
        ),
        ("moonshotai/Moonlight-16B-A3B", "--trust-remote-code"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "--reasoning-parser deepseek_r1"),
        ("https://huggingface.co/deepseek-ai/DeepSeek-V3.1", "--reasoning-parser deepseek_v3"),
        ("nvidia/DeepSeek-R1-FP4", "--reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3"),
        ("ai-sage/GigaChat3-10B-A1.8B", "--tool-call-parser gigachat3 --enable-auto-tool-choice"),
        ("zai-org/GLM-4.7-Flash", "--reasoning-parser glm45 --tool-call-parser glm47"),
        ("deepseek-ai/DeepSeek-V3.2", "--reasoning-parser deepseek_v3 --tool-call-parser deepseek_v32"),
        ("deepseek-ai/DeepSeek-V3.2-Exp-Base", ""),
        ("deepseek-ai/DeepSeek-V4.1-Flash", "--reasoning-parser deepseek_v41 --tool-call-parser deepseek_v41"),
    ],
)
def test_ids_of_the_catalogue_are_served(capsys, model, words):
    """All of them, whether dsv3 runs their architecture itself or not."""
    _, command = printed(capsys, "--engine", "vllm", "--model", model)
    about = " ".join(w for w in command if w.startswith(("--reasoning", "--tool", "--enable-auto", "--trust")))
    assert about.startswith(words)
    assert bool(about) == bool(words)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("deepseek-V3.1", "deepseek-ai/DeepSeek-V3.1"),
        ("Kimi-K2-Instruct", "moonshotai/Kimi-K2-Instruct"),
        ("R1", "R1"),  # may be a folder of another machine
    ],
)
def test_full_names_become_ids(capsys, name, served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, command = printed(capsys, "--engine", "vllm", "--model", name)
    assert f"vllm serve {served} " in " ".join(command)
    (tmp_path / name).mkdir()
    with pytest.raises(SystemExit):
        verb.main(["--engine", "vllm", "--model", name, "--dry-run"])
    assert f"{name}/config.json: not found" in capsys.readouterr().err


def test_another_folders_python_is_not_looked_for_here():
    assert speech._python({"auto_map": {"AutoTokenizer": "owner/name--tokenization_x.T"}}, "AutoTokenizer") == []
