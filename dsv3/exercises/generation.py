"""Checks of lesson 09's exercises: top-p, what a conversation keeps, and checking guesses."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..inference.decode import generate
from ..inference.sampling import Chooser, Sampling, distribution
from ..llm import LLM, load
from . import Wrong, exercise

Messages = list[dict[str, str]]


@exercise("09", 1)
def check_top_p(top_p: Callable[[Tensor, float], Tensor]) -> None:
    torch.manual_seed(9)
    by_hand = (
        (torch.tensor([0.5, 0.3, 0.2]), 0.7, [0.625, 0.375, 0.0], "the token that crosses p belongs to the set"),
        (torch.tensor([0.2, 0.5, 0.3]), 0.5, [0.0, 1.0, 0.0], "0.5 reaches 0.5 alone: stop as soon as it is enough"),
        (torch.tensor([0.1, 0.9]), 0.3, [0.0, 1.0], "the likeliest token always stays"),
        (torch.tensor([0.25, 0.75]), 1.0, [0.25, 0.75], "p = 1 changes nothing"),
    )
    for shares, p, expected, why in by_hand:
        got = _probabilities(top_p(shares.clone(), p), shares, p)
        if not torch.allclose(got, torch.tensor(expected), atol=1e-6):
            raise Wrong(f"{shares.tolist()} with p = {p} gives {_short(got)}, not {expected}: {why}")
    for p in (0.1, 0.9, 0.99):
        logits = torch.randn(1024) * 3
        got = _probabilities(top_p(logits.softmax(-1), p), logits, p)
        if not torch.allclose(got, distribution(logits, 1.0, top_p=p), atol=1e-6):
            kept = int((got > 0).sum()), int((distribution(logits, 1.0, top_p=p) > 0).sum())
            raise Wrong(f"of 1,024 tokens with p = {p} you keep {kept[0]}, dsv3.inference.sampling keeps {kept[1]}")


def _probabilities(got: Tensor, given: Tensor, p: float) -> Tensor:
    if not isinstance(got, Tensor) or got.shape != given.shape:
        what = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise Wrong(f"expected a tensor of shape {tuple(given.shape)}, got {what}; what is left out gets 0")
    if abs(float(got.sum()) - 1) > 1e-5:
        raise Wrong(f"with p = {p} the result sums to {float(got.sum()):.4f}; divide what is kept by its sum")
    return got


def _short(x: Tensor) -> list[float]:
    return [round(float(v), 4) for v in x]


@exercise("09", 2)
def check_remember(remember: Callable[[Messages, str], Messages]) -> None:
    before = [{"role": "user", "content": "1+1"}]
    cases = (
        ("Columns: 1+1\n</think>\n\nAnswer: 2", "Answer: 2", "the thinking ended"),
        ("I know this.</think>A </think> ends a thought.", "A </think> ends a thought.", "only the first mark counts"),
        ("Columns: 1+1\n1+1+0=", None, "the thinking was cut off: there is no answer, so the turn leaves no trace"),
        ("Columns: 1+1\n</think>\n\n", None, "cut off right after the thinking: no answer either"),
    )
    for text, answer, why in cases:
        given = [dict(m) for m in before]
        got = remember(given, text)
        expected = [] if answer is None else [*before, {"role": "assistant", "content": answer}]
        if given != before:
            raise Wrong("your function changes the list that it is given; return a new one")
        if got != expected:
            raise Wrong(f"after {text!r} you return {got!r}, expected {expected!r}: {why}")


@exercise("09", 3)
def check_accept(accept: Callable[[Tensor, list[int]], list[int]]) -> None:
    def scores(likeliest: list[int]) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(likeliest), 8).float()

    by_hand: tuple[tuple[list[int], list[int], list[int], str], ...] = (
        ([3], [], [3], "without a guess there is the model's own token"),
        ([3, 5], [3], [3, 5], "a right guess is followed by one token more, from the scores behind it"),
        ([3, 5], [4], [3], "a wrong guess is replaced by the model's own token, and what stands behind it is void"),
        ([3, 5, 6], [4, 5], [3], "a guess behind a wrong one does not count, although it looks right"),
        ([3, 5, 6], [3, 5], [3, 5, 6], "two right guesses give three tokens"),
        ([3, 5, 6], [3, 1], [3, 5], "the first is right, the second not"),
    )
    for likeliest, guesses, expected, why in by_hand:
        got = accept(scores(likeliest), list(guesses))
        if list(map(int, got)) != expected:
            raise Wrong(f"likeliest {likeliest}, guesses {guesses}: you return {got}, expected {expected}: {why}")
    _check_against_generate(accept, load("tiny-r1", mtp=1))


def _check_against_generate(accept: Callable[[Tensor, list[int]], list[int]], llm: LLM) -> None:
    """The answer's tokens, now and then spoilt as guesses, must come out as ``Chooser`` lets them."""
    prompt = llm.tokenizer.prompt([{"role": "user", "content": "37 + 48 = ?"}])
    tokens = [t for _, t in generate(llm.model, [prompt], eos_id=llm.tokenizer.eos_id, max_new_tokens=24)]
    with torch.inference_mode():
        logits = llm.model.logits(llm.model(torch.tensor([prompt + tokens])))[0, len(prompt) - 1 :]
    for start in range(0, 20, 5):
        for spoilt in range(4):
            guesses = [t + (i == spoilt) for i, t in enumerate(tokens[start : start + 3])]
            some = logits[start : start + 4]
            chooser = Chooser(llm.model.run.tp, llm.model.run.device, [prompt], [0], Sampling())
            (expected,) = chooser(some[None], [guesses])
            if (got := list(map(int, accept(some, guesses)))) != expected:
                raise Wrong(
                    f"on tiny-r1's scores, guesses {guesses}: you return {got}, dsv3.inference.sampling {expected}"
                )
