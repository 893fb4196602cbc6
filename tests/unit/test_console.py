"""What a chat makes of an unfinished thought."""

import dsv3
from dsv3.generate import _answer, _folded
from dsv3.inference.sampling import Sampling


def test_an_unfinished_thought_does_not_come_back():
    """The demo sends it back with the next question (B16)."""
    llm = dsv3.load("tiny-r1")
    messages = [{"role": "user", "content": "37 + 48 = ?"}]
    assert _answer(llm, False, messages, Sampling(max_new_tokens=5), show=True) is None
    assert _answer(llm, False, messages, Sampling(max_new_tokens=100), show=True) == "Answer: 85"
    assert _answer(llm, False, messages, Sampling(max_new_tokens=100), show=False) == "Answer: 85"


def test_folding_hides_only_the_thought():
    assert "".join(_folded(["a", "b</think>", "c"], opened=True)) == "(thinking ...)c"
    assert "".join(_folded(["a", "b"], opened=True)) == "(thinking ... unfinished)"
    assert "".join(_folded(["a", "b"], opened=False)) == "ab"
    assert (
        "".join(_folded(["\n", "<think>", "a", "</think>", "b", "<think>"], opened=False)) == "\n(thinking ...)b<think>"
    )
    assert "".join(_folded(["a", "<think>", "b"], opened=False)) == "a<think>b"
