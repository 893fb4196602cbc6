"""The planner's widget, moved as its user moves it; the browser is not needed for that."""

import re
from html import unescape

import pytest

from dsv3.plan import main
from dsv3.show.planner import planner
from dsv3.sizing.offload import reports

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
