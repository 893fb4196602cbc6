"""A completion token by token: what the model found likely, and how long it took."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..inference.chat import Tokenizer
from ..inference.decode import generate
from ..llm import LLM, Prompt

SHOWN = {"\n": "\\n", " ": "␣"}


@dataclass(frozen=True)
class Choice:
    """One token of a completion, and how likely the model found it.

    Attributes:
        text: as it is shown: a line break as ``\\n``, special tokens by name.
        probability: at temperature 1.
        others: the likeliest tokens, the chosen one perhaps among them, with their probabilities.
    """

    text: str
    probability: float
    others: tuple[tuple[str, float], ...]


def label(tokenizer: Tokenizer, token: int) -> str:
    """A token's text, made visible."""
    text = "<end>" if token in tokenizer.eos_ids else tokenizer.decode([token])
    return "".join(SHOWN.get(c, c) for c in text) or f"#{token}"


def tokens(llm: LLM, message: Prompt, **options: Any) -> tuple[list[int], Iterator[int]]:
    """The prompt's ids and, as they come, those of the completion: ``LLM.stream`` before it is text."""
    messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
    prompt = llm.tokenizer.prompt(messages)
    eos_ids, think_ids = llm.tokenizer.eos_ids, llm.tokenizer.think_ids
    done = generate(llm.model, [prompt], eos_id=eos_ids, think_ids=think_ids, **options)
    return prompt, (token for _, token in done)


def choices(llm: LLM, prompt: list[int], completion: list[int], top: int = 5) -> list[Choice]:
    """How likely each token of ``completion`` was: one pass over all of them, as in a prefill."""
    if not completion:
        return []
    with torch.inference_mode():
        ids = torch.tensor([prompt + completion[:-1]], device=llm.model.run.device)
        h = llm.model(ids)[0, len(prompt) - 1 :]
        shares = llm.model.logits(h).double().softmax(-1)
    best = shares.topk(top)
    found = []
    for row, token in enumerate(completion):
        others = zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
        named = tuple((label(llm.tokenizer, other), share) for other, share in others)
        found.append(Choice(label(llm.tokenizer, token), float(shares[row, token]), named))
    return found


def seconds_of(work: Callable[[], object], repeat: int = 20) -> float:
    """Seconds that ``work()`` takes: the least of ``repeat`` calls, since whatever else runs only adds to it."""
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)
