"""The planner's widget, moved as its user moves it; the browser is not needed for that."""

import re
from html import unescape
from unicodedata import east_asian_width

import pytest

from dsv3.plan import main
from dsv3.said import chinese
from dsv3.show.planner import planner
from dsv3.sizing.offload import files, reports

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")


@pytest.mark.slow
def test_every_choice_is_answered_anew():
    box = planner()
    choices = {c.description: c for c in box.children[0].children}
    answer, picture = box.children[1:]
    assert "DeepSeek-R1 in FP8 on 8 x H20-96G" in answer.value
    assert ": fits" in answer.value
    assert bytes(picture.value[:4]) == b"\x89PNG"
    before = bytes(picture.value)
    choices["GPU"].value = "H100-80G"
    assert "does NOT fit" in answer.value
    assert bytes(picture.value) != before
    choices["GPUs"].value = 16
    assert ": fits" in answer.value
    choices["precision"].value = "bf16"
    assert "does NOT fit" in answer.value
    choices["sequences"].value = 64
    assert "64 sequences of 4,096 tokens" in answer.value


def test_what_cannot_be_says_why():
    box = planner("DeepSeek-V2-Lite-Chat")
    choices = {c.description: c for c in box.children[0].children}
    answer, picture = box.children[1:]
    choices["precision"].value = "fp8"  # 10,944 rows are no whole blocks, so it is not cut but shared out by layers
    choices["GPUs"].value = 64
    assert answer.value.startswith("<p>64 GPUs: more than the model has layers")
    assert picture.layout.display == "none"
    choices["GPUs"].value = 1
    assert "DeepSeek-V2-Lite-Chat in FP8 on 1 x" in answer.value
    assert picture.layout.display is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ram": 100}, "ram = 100: one of None, 64, 128, 192"),
        ({"n": 3}, "n = 3: one of 0, 1, 2, 4"),
        ({"gpu": "TPU"}, "gpu = 'TPU': one of RTX-3090, "),
        ({"model": "R2"}, "model = 'R2': one of tiny-r1, DeepSeek-R1, "),
    ],
)
def test_a_start_that_is_no_choice_is_refused(given, says):
    with pytest.raises(ValueError, match=says) as refusal:
        planner(**given)
    assert type(refusal.value) is ValueError


def said(capsys, *argv):
    with pytest.raises(SystemExit):
        main(list(argv))
    return capsys.readouterr().out.rstrip("\n")


def shown(answer):
    assert answer.value.startswith("<pre>")
    return unescape(re.sub("<[^>]+>", "", answer.value))


def test_with_ram_it_says_what_the_command_says(capsys):
    box = planner(gpu="RTX-4090", n=1, ram=512)
    choices = {c.description: c for c in box.children[0].children}
    answer, picture = box.children[1:]
    assert picture.layout.display == "none"
    assert choices["precision"].disabled
    card = ["--gpu", "RTX-4090", "--gpus"]
    assert shown(answer) == said(capsys, "DeepSeek-R1", *card, "1", "--ram", "512")
    assert answer.value.count('<a href="https://github.com/') == len(reports())
    choices["GPUs"].value = 2
    choices["sequences"].value = 3
    assert shown(answer) == said(capsys, "DeepSeek-R1", *card, "2", "--ram", "512", "--batch", "3")
    choices["GPUs"].value = 0
    choices["RAM, GB"].value = 256
    assert shown(answer) == said(capsys, "DeepSeek-R1", "--ram", "256", "--batch", "3")
    choices["RAM, GB"].value = None
    assert answer.value == "<p>0 GPUs: choose how much RAM there is</p>"
    assert not choices["precision"].disabled


# ------------------------------------------------------------------------------------------------------ in Chinese

# Symbols, programs and a format stay as they are; so do words with a "_", fields of the config.
KEPT = """
    a b c s x ms min flops batch chunk context dim token rank tp pp ep
    generate pytorch ollama compressed-tensors
"""
HOW = "how it is counted"


def in_chinese(**given):
    """The widget's menus by their English names, its answer, and its picture."""
    english, box = planner(), planner(language="zh", **given)
    pairs = zip(english.children[0].children, box.children[0].children, strict=True)
    return {here.description: there for here, there in pairs}, *box.children[1:]


def english_words(text):
    """Words that are no names and no symbols; addresses have none."""
    found = re.findall(r"(?<![\w.*-])[a-z][a-z-]*(?!\w)", re.sub(r"https://\S+", "", text))
    return set(found) - set(KEPT.split())


def test_what_counts_as_english():
    text = "largest context  4,096 tokens (tp 8), n_heads / tp, https://a.org/of"
    assert english_words(text) == {"largest", "tokens"}


@pytest.mark.parametrize("given", [{}, {"gpu": "RTX-4090", "n": 1, "ram": 512}, {"n": 0, "ram": 64}])
def test_in_chinese_no_english_is_left(given):
    english = shown(planner(**given).children[1])
    choices, answer, _ = in_chinese(**given)
    text = shown(answer)
    assert len(english_words(english)) > 40
    assert english_words(text) == set()
    tables = english.split(HOW)[0], text.split(chinese()[HOW])[0]
    numbers = [sorted(re.findall(r"\d(?:[\d,.]*\d)?", table)) for table in tables]
    assert numbers[0] == numbers[1]
    menus = [choice.description for choice in choices.values()]
    menus += [choices[name].options[0][0] for name in ("precision", "RAM, GB")]
    assert [menu for menu in menus if not re.search("[\u4e00-\u9fff]", menu)] == []


def test_in_chinese_the_columns_are_straight():
    _, answer, _ = in_chinese(gpu="RTX-4090", n=1, ram=512)
    lines = shown(answer).split(chinese()[HOW])[0].rstrip().splitlines()[3:]
    assert len(lines) == 1 + len(files())
    assert len({len(line) + sum(east_asian_width(c) in "WF" for c in line) for line in lines}) == 1


def test_in_chinese_a_quantised_checkpoint_and_what_engines_say_of_it():
    choices, answer, picture = in_chinese(model="Kimi-K2-Thinking", gpu="RTX-4090", n=16)
    assert "存储方式：compressed-tensors（4 位，每 32 个权重共用一个缩放因子；未量化：lm_head" in shown(answer)
    assert english_words(shown(answer)) == set()
    assert picture.layout.display is None
    choices["precision"].value = "bf16"
    assert answer.value.startswith("<p>Kimi-K2-Thinking 存的是 compressed-tensors（4 位")
    assert english_words(answer.value[3:-4]) == set()
    assert picture.layout.display == "none"


def test_in_chinese_what_cannot_be_says_why():
    choices, answer, _ = in_chinese(model="tiny-r1", n=1)
    assert shown(answer).startswith("tiny-r1，FP8，1 x H20-96G（tp 1，pp 1，ep 1）")
    choices["GPUs"].value = 64
    assert answer.value == "<p>64 块 GPU：多过模型可分的层数（3）；减少 GPU</p>"
    choices["GPUs"].value = 0
    assert answer.value == "<p>0 块 GPU：选择内存有多大</p>"
    choices["model"].value, choices["context"].value = "Moonlight-16B-A3B", 16384
    too_long = "<p>上下文 16384：Moonlight-16B-A3B 最多 8192</p>"
    choices["GPUs"].value = 1
    assert answer.value == too_long
    choices["RAM, GB"].value = 64
    assert answer.value == too_long
