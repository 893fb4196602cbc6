"""The table of known failures, fed with what people really saw (``failures_known.json``) and with lines that only look
like it (``failures_near.json``)."""

import argparse
import importlib
import json
import re
import shlex
import time
from pathlib import Path

import pytest

from dsv3.cli import VERBS
from dsv3.explain import LONGEST, SORTS, appendix, compiled, explain, failures, language_of, plain

HERE = Path(__file__).parent
# As they stand in the threads, long lines cut at the end.
KNOWN = json.loads((HERE / "failures_known.json").read_text(encoding="utf-8"))
NEAR = json.loads((HERE / "failures_near.json").read_text(encoding="utf-8"))
# What the Chinese edition does not write: its page of terms says what stands instead.
FORBIDDEN = ["令牌", "词元", "秩", "排名", "升腾", "标记器", "管道", "您", "被"]


def each(table):
    return [pytest.param(name, text, id=name) for name, texts in table.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), each(KNOWN))
def test_real_strings(name, text):
    assert explain(text).name == name
    assert explain(f"INFO 03-22 loading\n{text}\nINFO 03-22 bye").name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AttributeError: “DynamicCache” object has no attribute ‘get_max_length’", "cache that has changed"),
        ('KeyError: "model.layers.7.mlp.down_proj.weight_scale_inv"', "FP8 scales without a place"),
        ("no module named `ipykernel`", "kernel's Python without"),
        ("\x1b[1;31mtorch.OutOf\x1b[0mMemoryError\x1b[0m: x", "out of GPU memory"),
        ("IMPORTERROR: LIBCUDA.SO.1: CANNOT OPEN SHARED OBJECT FILE", "driver's library"),
    ],
)
def test_case_quotes_and_colours_do_not_matter(text, name):
    assert explain(text).name.startswith(name)


def test_every_failure_has_a_string_that_only_it_explains():
    assert set(KNOWN) == {f.name for f in failures()}
    for f in failures():
        rivals = [g for g in failures() if g is not f and SORTS.index(g.sort) >= SORTS.index(f.sort)]
        alone = [t for t in KNOWN[f.name] if not any(compiled(g.pattern).search(plain(t)) for g in rivals)]
        assert alone, f.name


@pytest.mark.parametrize("f", failures(), ids=lambda f: f.name)
def test_every_failure_is_whole(f):
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", f.thread)
    for sentence in (f.cause, f.cure):
        assert re.fullmatch(r"[A-Za-z0-9'-].{6,280}\.", sentence), sentence
    assert "\n" not in f.command
    assert re.compile(f.pattern).pattern
    assert not compiled(f.pattern).search("")
    if f.sort == "shell":
        assert f.cause.startswith("Only the outer shell: ")
        assert f.zh["cause"].startswith("这只是外层报错：")
    if f.sort == "harmless":
        assert f.cause.startswith(("Harmless", "A warning: "))


@pytest.mark.parametrize("f", failures(), ids=lambda f: f.name)
def test_the_chinese_text(f):
    assert set(f.zh) == {"cause", "cure"}
    for sentence in f.zh.values():
        assert re.search("[一-鿿]{2}", sentence)
        assert sentence.endswith("。")
        assert not [word for word in FORBIDDEN if word in sentence]
        assert not re.search(r"[一-鿿][,;:!?]|[，。；：][ ]", sentence), "full-width punctuation, no space after it"
        assert not re.search(r"[一-鿿][A-Za-z0-9]|[A-Za-z0-9][一-鿿]", sentence), "a space between the scripts"
    assert f.text("zh").startswith(("可能是：" if f.sort == "guess" else "") + f.zh["cause"])


@pytest.mark.parametrize("text", [*NEAR, "x" * 5_000_000])
def test_what_is_not_known(text):
    assert explain(text) is None


WARNING = "Some weights of the model checkpoint at X were not used when initializing DeepseekV3ForCausalLM: ['a']"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{WARNING}\ntorch.OutOfMemoryError: CUDA out of memory.", "out of GPU memory"),
        (f"torch.OutOfMemoryError: CUDA out of memory.\n{WARNING}", "out of GPU memory"),
        (
            "KeyError: 'layers.61.mlp.experts.w2_weight'\nRuntimeError: Engine core initialization failed.",
            "MTP layer that the",
        ),
        ("Address already in use\nChildFailedError:\nRendezvousConnectionError: x", "port in use"),
        ("unhandled system error\nAttributeError: 'DeepseekV3Config' object has no attribute 'x'", "config of another"),
        ("RuntimeError: NCCL error: unhandled system error\nChildFailedError", "torchrun: a rank failed"),
        ("CUDA out of memory\nConnection closed by remote peer\nChildFailedError", "out of GPU memory"),
        (
            "HTTP status client error (429 Too Many Requests)\nHfHubHTTPError: 504 Server Error for url: https://hf.co/x",
            "hub that",
        ),
    ],
)
def test_which_of_several_is_the_answer(text, name):
    assert explain(text).name.startswith(name)


def test_a_guess_says_so():
    guesses = [f for f in failures() if f.sort == "guess"]
    assert len(guesses) > 9
    assert all(f.text().startswith(f"perhaps: {f.name}: ") for f in guesses)
    assert not any(f.text().startswith("perhaps") for f in failures() if f.sort != "guess")


class Parsed(Exception):
    pass


@pytest.mark.parametrize("command", sorted({f.command for f in failures() if "dsv3" in f.command}))
def test_dsv3_takes_its_commands(command, monkeypatch):
    """Every flag of a command is one that the verb has."""
    words = shlex.split(command.partition(" < ")[0])
    if "-m" in words:  # python -m dsv3.generate, torchrun ... -m dsv3.generate
        start = words.index("-m") + 1
        module, argv = words[start], words[start + 1 :]
    else:
        start = words.index("dsv3") + 1
        assert words[start] in VERBS
        module, argv = f"dsv3.{words[start]}", words[start + 1 :]
    parse = argparse.ArgumentParser.parse_args

    def only(*args, **kwargs):
        parse(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only)
    with pytest.raises(Parsed):
        importlib.import_module(module).main(argv)


@pytest.mark.parametrize(
    ("env", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "C", "LC_ALL": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "de_DE"}, "en"),
        ({"LANG": "de_DE", "LC_MESSAGES": "zh_CN", "LC_ALL": ""}, "zh"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, "en"),
    ],
)
def test_the_language_is_gettexts(env, language):
    assert language_of(env) == language


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_appendix_is_the_table(language):
    head, line, *rows = appendix(language).splitlines()
    assert len(rows) == len(failures())
    for row, f in zip(rows, failures(), strict=True):
        assert len(re.findall(r"(?<!\\)\|", row)) == 5
        assert f.thread in row
        assert (f.cure if language == "en" else f.zh["cure"]).replace("|", "\\|") in row


@pytest.mark.parametrize("unit", ["9", "KeyError: 'model.layers.", "exitcode      "])
def test_hostile_texts_take_seconds(unit):
    start = time.monotonic()
    explain((unit * LONGEST)[:LONGEST])
    assert time.monotonic() - start < 60


def test_no_pattern_is_slow_on_its_own_beginning():
    for f in failures():
        for text in KNOWN[f.name]:
            for part in (text[: len(text) // 2], text[:-1]):
                hostile = (part * (30_000 // len(part)))[:30_000]
                start = time.monotonic()
                for _ in compiled(f.pattern).finditer(plain(hostile)):
                    pass
                assert time.monotonic() - start < 2, (f.name, part)
