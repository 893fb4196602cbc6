"""The planner's widget, moved as its user moves it; the browser is not needed for that."""

import pytest

from dsv3.show.planner import planner

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
