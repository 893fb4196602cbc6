"""A server from outside: requests timed side by side, questions that it cannot answer, the command that starts it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..engines import ascend, checks, speech
from ..engines.client import Answer, Client
from ..engines.options import Serve
from ..engines.table import find
from ..sizing.gpus import find_gpu


@dataclass(frozen=True)
class Request:
    """One of several requests; times in seconds since the first of them was sent."""

    sent: float
    first: float
    end: float
    answer: Answer


def measure(url: str, questions: list[str], at_once: int, **options: Any) -> list[Request]:
    """Send the questions to a server, ``at_once`` of them at a time, and time each."""
    model = Client(url).models()[0]
    begin = time.monotonic()

    def one(question: str) -> Request:
        client, sent = Client(url), time.monotonic() - begin
        for _ in client.stream(question, model, **options):
            pass
        answer = client.latest
        if answer is None:
            raise ValueError(f"{url}: no answer to {question!r:.40}")
        return Request(sent, sent + (answer.first_seconds or answer.seconds), sent + answer.seconds, answer)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, questions))


def summary(requests: list[Request]) -> dict[str, float]:
    """Seconds in all, tokens/s of all together, and the median wait for a first token."""
    seconds = max(r.end for r in requests)
    tokens = sum(r.answer.tokens or 0 for r in requests)
    return {"seconds": seconds, "tokens_per_s": tokens / seconds, "first": median(r.first - r.sent for r in requests)}


def refusal(ask: Callable[[], object]) -> str:
    """What a question that cannot be answered is answered with.

    Raises:
        AssertionError: it was answered.
    """
    try:
        ask()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was answered")


def command(engine: str, gpu: str, machines: int = 1, mtp: int = 0, model: str = "deepseek-ai/DeepSeek-R1") -> str:
    """What starts ``model`` with ``engine`` on machines of 8 ``gpu``, a comment for each flag; or why it cannot."""
    chosen = find(engine)
    try:
        serve = chosen.split(Serve(model=ascend.W8A8 if chosen == ascend.ENGINE else model, mtp=mtp), machines)
    except ValueError as error:
        return f"refused: {error}"
    wrong = checks.of_arguments(chosen, serve, find_gpu(gpu))
    told = speech.told(serve, speech.of(serve.model))
    return "\n".join(f"refused: {reason}" for reason in wrong) or chosen.build(told).text()
