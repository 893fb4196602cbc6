"""The chat widget, used as a person uses it; a browser is not needed for that."""

import pytest

from dsv3.lab.generation import Choice
from dsv3.llm import load
from dsv3.show.chat import alternatives, chat

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (extra: notebooks)")


@pytest.fixture(scope="module")
def llm():
    return load("tiny-r1")


class User:
    def __init__(self, box):
        self.talk, controls, self.below = box.children
        self.field, self.send, self.clear, self.temperature = controls.children

    def ask(self, text):
        self.field.value = text
        self.send.click()
        return [turn.value for turn in self.talk.children[-3:]]


def test_a_message_is_answered_with_the_thinking_folded(llm):
    user = User(chat(llm))
    asked, thinking, answer = user.ask("37 + 48 = ?")
    assert "37 + 48" in asked
    assert "Answer: 85" in answer
    assert thinking.startswith("<details><summary>")
    assert "7+8+0=15" in thinking
    assert "7+8+0" not in answer
    assert user.field.value == ""
    assert not user.send.disabled


def test_the_classes_that_styles_and_tests_hold_on_to(llm):
    user = User(chat(llm))
    user.ask("1+1")
    assert user.send.description == "Send"
    found = [w._dom_classes for w in (user.field, user.send, *user.talk.children[1:])]
    names = ("dsv3-chat-input", "dsv3-chat-send", "dsv3-chat-thinking", "dsv3-chat-answer")
    assert found == [(name,) for name in names]


def test_the_field_sends_on_enter_and_not_when_it_is_empty(llm):
    user = User(chat(llm))
    user.field.value = "1+1"
    user.field._handle_custom_msg({"event": "submit"}, [])
    assert "2" in user.talk.children[2].value
    user.ask("   ")
    assert len(user.talk.children) == 3


def test_only_answers_go_into_the_conversation(llm, monkeypatch):
    seen = []
    prompt = llm.tokenizer.prompt
    monkeypatch.setattr(llm.tokenizer, "prompt", lambda m, options=None: seen.append(m) or prompt(m))
    user = User(chat(llm, max_new_tokens=20))
    _, thinking, answer = user.ask("37 + 48 = ?")
    assert "cut off after 20 tokens" in answer
    assert "7+8+0" in thinking
    assert user.ask("Who are you?")
    assert [m["role"] for m in seen[-1]] == ["user"]  # the thought without an answer is forgotten
    user.clear.click()
    assert user.talk.children == user.below.children == ()


def test_a_full_context_says_so():
    user = User(chat(load("tiny-r1", max_seq_len=16)))
    assert "no room for an answer; shorten it; Clear starts anew" in user.ask("4821 - 977 = ?")[2]


def test_text_is_text_and_not_markup(llm):
    assert "<i>" not in "".join(User(chat(llm)).ask("<i>1+1</i>"))


def test_a_hot_chat_shows_where_it_doubted(llm):
    user = User(chat(llm, temperature=2.0, seed=3))
    assert user.temperature.value == 2.0
    user.ask("37 + 48 = ?")
    text, place, table = user.below.children[0].children
    assert place.max + 1 == text.value.count("<span")
    assert "<td>" in table.value


def test_the_slider_begins_at_the_greatest_doubt_and_names_the_rivals():
    found = [Choice("a", 0.9, (("a", 0.9), ("b", 0.1))), Choice("c", 0.3, (("d", 0.7), ("c", 0.3)))]
    _, place, table = alternatives(found).children
    assert place.value == 1
    assert "70.00%" in table.value
    place.value = 0
    assert "10.00%" in table.value
    assert "70.00%" not in table.value
