"""The parts of lesson 11: a server's message in every engine's dialect, its stream, and a stream's times."""

import json

from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def split(message):
    """A chat message of any server, as a dictionary -> (thinking, answer), two texts.

    Fields may be missing or None. With no field for the thinking and no `</think>`, all is answer.
    A `<think>` in front belongs to neither; white space stays as it is.
    """
    content = message.get("content") or ""
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking:
        return thinking, content
    if "</think>" not in content:
        return "", content
    thinking, answer = content.split("</think>", 1)
    return thinking.removeprefix("<think>"), answer


def read_stream(lines):
    """Lines of an event stream -> one message {field: text}, the pieces of each field put together.

    Only lines that begin with `data: ` count; the last is `data: [DONE]`. The role is left out.
    """
    message: dict[str, str] = {}
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                for field, text in choice["delta"].items():
                    if text and field != "role":
                        message[field] = message.get(field, "") + text
    return message


def times(sent, arrivals):
    """Moments of sending and of the tokens, in s -> {"first", "per_token", "tokens_per_s"}.

    The last two are of the tokens after the first, and 0 if there is only one token.
    """
    gaps = len(arrivals) - 1
    per_token = (arrivals[-1] - arrivals[0]) / gaps if gaps else 0.0
    rate = 1 / per_token if per_token else 0.0
    return {"first": arrivals[0] - sent, "per_token": per_token, "tokens_per_s": rate}


# --------------------------------------------------------------------------------------------------- the checks

PARTS: list[Part] = []
THOUGHT, SAID = "7+8+0=15:5\n3+4+1=08:85\n", "\n\nAnswer: 85"


def message(**fields):
    return lambda: (fields,)


def events(*deltas, between=("",), end=("data: [DONE]",), **more):
    """The lines of a stream; ``None`` is an event without a choice, as the one that counts the tokens."""
    lines = []
    for delta in deltas:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
        lines += [f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': choices} | more)}", *between]
    return lambda: ([*lines, *end],)


def clock(sent, *arrivals):
    return lambda: (sent, list(arrivals))


TRANSFERS = [
    Part(
        split, "the thinking, in every dialect", 2, 10,
        '`message.get("reasoning_content") or message.get("reasoning")`. Only if both are empty, look for `</think>` in '
        "the content, and cut at the first one. If it is not there either, there is no thinking. Some engines leave a "
        '`<think>` at the beginning: `thinking.removeprefix("<think>")`.',
        (
            Witness("SGLang and LMDeploy: the thinking is in reasoning_content", message(content=SAID, reasoning_content=THOUGHT)),
            Witness("vLLM: the thinking is in reasoning", message(content=SAID, reasoning=THOUGHT)),
            Witness("a field may be None", message(content=SAID, reasoning=None, reasoning_content=THOUGHT)),
            Witness("a field that is None hides nothing", message(content=SAID, reasoning_content=None, reasoning=THOUGHT)),
            Witness("no parser: the content begins inside the thought and </think> ends it", message(content=THOUGHT + "</think>" + SAID)),
            Witness("no parser, and <think> in front: it belongs to neither", message(content="<think>" + THOUGHT + "</think>" + SAID)),
            Witness("a model that does not think: all is answer", message(content="Hello!")),
            Witness("cut off inside the thought: content is None", message(content=None, reasoning=THOUGHT)),
            Witness("the FIRST </think> ends the thought; an answer may name the mark again", message(content=THOUGHT + "</think>The mark is `</think>`, said once.")),
            Witness("with a field for the thinking, the content is all answer, whatever stands in it", message(content="Write </think> after it.", reasoning_content=THOUGHT)),
        ),
        (
            Fault(' or message.get("reasoning")', "", "vLLM calls the field `reasoning`: look there, too"),
            Fault('message.get("reasoning_content") or ', "", "SGLang and LMDeploy call the field `reasoning_content`: look there, too"),
            Fault('content.split("</think>", 1)', 'content.rsplit("</think>", 1)', "cut at the FIRST </think>: the answer may name the mark again"),
            Fault(".removeprefix(\"<think>\")", "", "a <think> in front of the thought is a mark, not a part of it"),
            Fault('message.get("content") or ""', 'message["content"]', "content may be None, or missing: then it is no text"),
            Fault('    if "</think>" not in content:\n        return "", content\n    thinking, answer = content.split("</think>", 1)\n', '    thinking, _, answer = content.partition("</think>")\n', "a text without </think> is all answer: such a model did not think"),
            Fault("    if thinking:", '    if thinking and "</think>" not in content:', "with a field for the thinking, the content is all answer: do not cut it at </think>"),
            Fault("        return thinking, content\n", '        return thinking, content.split("</think>")[-1]\n', "with a field for the thinking, the content is all answer: do not cut it"),
            Fault('content.split("</think>", 1)\n    return thinking.removeprefix("<think>"), answer', 'content.split("</think>")[:2]\n    return thinking.removeprefix("<think>"), answer', "what stands after a second </think> is lost: cut once, at the first"),
            Fault('thinking = message.get("reasoning_content") or message.get("reasoning")', 'thinking = message.get("reasoning_content", message.get("reasoning"))', "a field that is there and None hides the other one: use `or`"),
        ),
    ),
    Part(
        read_stream, "a stream put together", 2, 12,
        'After `line.removeprefix("data: ")` a line is JSON: a dictionary with a list `choices`, each with a dictionary '
        "`delta`. Its values are pieces of text, or None. The list may be empty.",
        (
            Witness("the pieces of a field, one after the other", events({"content": "Ans"}, {"content": "wer"}, {"content": ": 85"}, between=())),
            Witness("empty lines stand between the events", events({"content": "Answer"}, {"content": ": 85"})),
            Witness("thinking and answer are two fields", events({"reasoning_content": "7+8"}, {"reasoning_content": "=15"}, {"content": "85"})),
            Witness("any name of a field, also vLLM's `reasoning`", events({"reasoning": "7+8"}, {"content": "85"})),
            Witness("the role is no text", events({"role": "assistant", "content": ""}, {"content": "85"})),
            Witness("a piece may be None", events({"role": "assistant", "content": None}, {"content": None, "reasoning": "7"}, {"content": "8"}, {"content": "5"})),
            Witness("the event that counts the tokens has no choice", events({"content": "85"}, {}, None)),
            Witness("lines that begin with a colon are comments, which keep the line open", events({"content": "8"}, {"content": "5"}, between=("", ": ping", ""))),
            Witness("a line end may stand inside a piece", events({"content": "\n\nAnswer:"}, {"content": " [DONE]\n"})),
        ),
        (
            Fault('message.get(field, "") + text', "text", "the pieces are put one after the other; each one replaced the one before"),
            Fault('message.get(field, "") + text', 'text + message.get(field, "")', "the pieces come in order: add the new one at the END"),
            Fault('if text and field != "role":', "if text:", "the role is no part of the text"),
            Fault('if text and field != "role":', 'if field != "role":', "a piece may be None or empty: it adds nothing"),
            Fault('if text and field != "role":', 'if text and field == "content":', "the thinking is lost: its field counts, too"),
            Fault('if text and field != "role":', 'if text and field in ("content", "reasoning_content"):', "vLLM's field is `reasoning`: take the name as it comes"),
            Fault('line.startswith("data: ") and line != "data: [DONE]"', 'line and line != "data: [DONE]"', "only lines that begin with `data: ` count; a comment begins with a colon"),
            Fault('line != "data: [DONE]"', '"[DONE]" not in line', "the end is the line `data: [DONE]`; the same letters may stand in a text"),
            Fault(' and line != "data: [DONE]"', "", "`data: [DONE]` is no JSON: it is the end"),
            Fault('json.loads(line.removeprefix("data: "))["choices"]', 'json.loads(line.removeprefix("data: "))["choices"][:1] or [{"delta": {"content": " "}}]', "an event without a choice adds nothing"),
        ),
    ),
    Part(
        times, "a stream's two times", 1, 8,
        "Five tokens have four gaps. The whole time divided by n mixes both waits: it is neither of them.",
        (
            Witness("the wait for the first token is apart, and five tokens have four gaps", clock(10.0, 10.5, 10.6, 10.7, 10.8, 10.9)),
            Witness("two tokens have one gap", clock(0.0, 2.0, 2.02)),
            Witness("the gaps differ: their mean counts", clock(100.0, 100.25, 101.25, 103.25, 103.5)),
            Witness("a single token has no gap: 0 for both", clock(5.0, 5.5)),
            Witness("the clock may start anywhere", clock(1e6, 1e6 + 4, 1e6 + 6)),
        ),
        (
            Fault("arrivals[-1] - arrivals[0]", "arrivals[-1] - sent", "the wait for the first token is no part of the time per token"),
            Fault("len(arrivals) - 1", "len(arrivals)", "n tokens have n - 1 gaps between them"),
            Fault(' if gaps else 0.0\n', "\n", "a single token has no gap: per_token is 0 then, not an error"),
            Fault("arrivals[0] - sent", "arrivals[0]", "the first token's wait begins when the request was sent"),
            Fault("rate = 1 / per_token if per_token else 0.0", "rate = len(arrivals) / (arrivals[-1] - sent)", "tokens per second are those AFTER the first: the reciprocal of the time per token"),
            Fault("(arrivals[-1] - arrivals[0]) / gaps", "(arrivals[1] - arrivals[0])", "the mean over all gaps counts, not the first gap, nor the middle one"),
        ),
    ),
]  # fmt: skip
