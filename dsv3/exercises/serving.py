"""Lesson 11: the thinking in every server's dialect, and a stream's times."""

from collections.abc import Callable

from . import Wrong, exercise

THOUGHT, SAID = "7+8+0=15:5\n3+4+1=08:85\n", "\n\nAnswer: 85"
MESSAGES = (
    ({"content": SAID, "reasoning_content": THOUGHT}, (THOUGHT, SAID), "SGLang's and LMDeploy's reasoning_content"),
    ({"content": SAID, "reasoning": THOUGHT}, (THOUGHT, SAID), "vLLM's reasoning"),
    ({"content": SAID, "reasoning": None, "reasoning_content": THOUGHT}, (THOUGHT, SAID), "a field that is null"),
    ({"content": THOUGHT + "</think>" + SAID}, (THOUGHT, SAID), "no parser: R1's text begins inside a thought"),
    ({"content": "<think>" + THOUGHT + "</think>" + SAID}, (THOUGHT, SAID), "no parser, and <think> in the text"),
    ({"content": "Hello!"}, ("", "Hello!"), "a model that does not think"),
    (
        {"content": None, "reasoning": THOUGHT},
        (THOUGHT, ""),
        "an answer that was cut off in its thought (content null)",
    ),
)


@exercise("11", 1)
def check_split(answer: Callable[[dict], tuple[str, str]]) -> None:
    for message, wanted, what in MESSAGES:
        found = answer(dict(message))
        if not isinstance(found, tuple) or len(found) != 2:
            raise Wrong(f"return (thinking, answer), two texts; you return {found!r}")
        if tuple(found) != wanted:
            raise Wrong(
                f"{what}: you give {found!r}, not {wanted!r}; look for reasoning_content, then reasoning, then "
                "</think> in the content, and take a missing field and null for no text"
            )


@exercise("11", 2)
def check_times(answer: Callable[[float, list[float]], dict[str, float]]) -> None:
    for sent, arrivals in (
        (10.0, [10.5, 10.6, 10.7, 10.8, 10.9]),
        (0.0, [2.0, 2.02]),
        (100.0, [100.25, 101.25, 103.25]),
    ):
        gaps = len(arrivals) - 1
        wanted = {"first": arrivals[0] - sent, "per_token": (arrivals[-1] - arrivals[0]) / gaps}
        wanted["tokens_per_s"] = 1 / wanted["per_token"]
        found = answer(sent, list(arrivals))
        for name, value in wanted.items():
            if not isinstance(found, dict) or name not in found:
                raise Wrong("return a dictionary with first, per_token and tokens_per_s")
            if abs(found[name] - value) > 1e-6 * max(1.0, value):
                raise Wrong(
                    f"sent at {sent}, tokens at {arrivals}: {name} is {value:.4g}, yours {found[name]:.4g}; the "
                    "wait for the first token is prefill and queue, and n tokens have n - 1 gaps between them"
                )
    alone = answer(5.0, [5.5])
    if abs(alone["first"] - 0.5) > 1e-6 or alone["per_token"] != 0 or alone["tokens_per_s"] != 0:
        raise Wrong("a single token has no gap: per_token and tokens_per_s are 0 then")
