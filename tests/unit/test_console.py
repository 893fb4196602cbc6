"""What a chat makes of an unfinished thought."""

from dsv3.console import _folded

import dsv3


def test_an_unfinished_thought_does_not_come_back():
    """The demo sends it back with the next question (B16)."""
    from dsv3.console import _answer

    llm = dsv3.load("tiny-r1")
    messages = [{"role": "user", "content": "37 + 48 = ?"}]
    assert _answer(llm, False, messages, {"max_new_tokens": 5}, show=True) is None
    assert _answer(llm, False, messages, {"max_new_tokens": 100}, show=True) == "Answer: 85"
    assert _answer(llm, False, messages, {"max_new_tokens": 100}, show=False) == "Answer: 85"


def test_folding_hides_only_the_thought():
    assert "".join(_folded(["a", "b</think>", "c"], opened=True)) == "(thinking ...)c"
    assert "".join(_folded(["a", "b"], opened=True)) == "(thinking ... unfinished)"
    assert "".join(_folded(["a", "b"], opened=False)) == "ab"
