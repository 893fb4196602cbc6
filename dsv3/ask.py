"""Ask a model that a server serves: SGLang, vLLM, LMDeploy, TensorRT-LLM, transformers serve, or any like OpenAI's."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict

from .engines.client import Answer, Client, Options, Piece
from .inference.chat import END_THINK
from .inference.texts import template_options
from .outside import secret

BASE_URL = "http://127.0.0.1:8000/v1"


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 ask", description=__doc__)
    add = parser.add_argument
    add("question")
    add("--base-url", default=BASE_URL, metavar="URL", help=f"of the server; default {BASE_URL}")
    add("--model", metavar="NAME", help="as the server calls it; default: the only one that it serves")
    add("--stream", action=argparse.BooleanOptionalAction, default=True, help="show the answer as it comes; default")
    add("--temperature", type=float, metavar="T", help="0 is greedy; default: the server's")
    add("--max-tokens", type=int, metavar="N", help="the longest completion; default: the server's")
    add("--chat-template-kwargs", metavar="JSON", help="for the chat template, as '{\"thinking\": true}' for V3.1")
    add("--hide-thinking", action="store_true", help="show the answer alone")
    add("--json", action="store_true", help="one JSON document: thinking, answer, counts and times")
    add("--api-key-env", metavar="NAME", help="the variable that holds the key, if the server wants one")
    args = parser.parse_args(argv)
    if not args.question.strip():
        parser.error("the question is empty")
    if args.temperature is not None and not 0 <= args.temperature < math.inf:
        parser.error("--temperature must be 0 or more")
    if args.max_tokens is not None and args.max_tokens < 1:
        parser.error("--max-tokens must be 1 or more")
    try:
        template = template_options(args.chat_template_kwargs)
    except ValueError as error:
        parser.error(str(error))
    client = Client(args.base_url, key(args.api_key_env))
    options: Options = {}
    if args.temperature is not None:
        options["temperature"] = args.temperature
    if args.max_tokens is not None:
        options["max_tokens"] = args.max_tokens
    if template:
        options["extra_body"] = {"chat_template_kwargs": template}
    if args.stream:
        for text in shown(client.stream(args.question, args.model, **options), args.hide_thinking):
            if not args.json:
                print(text, end="", flush=True)
        answer = client.latest
        assert answer is not None  # the stream is over
    else:
        answer = client.ask(args.question, args.model, **options)
        whole = [Piece("thinking", answer.thinking), Piece("answer", answer.answer)]
        if not args.json:
            print("".join(shown(iter(whole), args.hide_thinking)), end="")
    if args.json:
        print(json.dumps(asdict(answer) | {"tokens_per_second": answer.tokens_per_second}, ensure_ascii=False))
    else:
        print()
        print(stats(answer), file=sys.stderr)


def key(variable: str | None) -> str | None:
    """The key that an environment variable holds.

    Raises:
        ValueError: it is not set, or holds what can be no key.
    """
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise ValueError(f"--api-key-env {variable}: that variable is not set")
    return secret(f"--api-key-env {variable}", os.environ[variable])


def shown(pieces: Iterator[Piece], hide: bool) -> Iterator[str]:
    """The text as ``dsv3 generate`` shows it, ``</think>`` between thinking and answer; ``hide``: the answer alone."""
    held, before = "", ""
    for part, text in pieces:
        if hide and part == "unsure":
            held += text  # thought, unless no mark comes
        elif part == "answer":
            if before in ("thinking", "unsure") and not hide:
                yield END_THINK
            yield text.lstrip() if hide and before != "answer" else text
        elif not hide:
            yield text
        before = part if text else before
    if before == "unsure":
        yield held


def stats(answer: Answer) -> str:
    """What it took, in one line."""
    tokens = "tokens not counted by the server" if answer.tokens is None else f"{answer.tokens} tokens"
    parts = [f"{tokens} in {answer.seconds:.2f} s"]
    if answer.first_seconds is not None:
        parts.append(f"the first after {answer.first_seconds:.2f} s")
    if answer.tokens_per_second is not None:
        parts.append(f"then {answer.tokens_per_second:.1f} tokens/s")
    if answer.prompt_tokens is not None:
        parts.append(f"prompt {answer.prompt_tokens} tokens")
    if answer.finish == "length":
        parts.append("cut off: --max-tokens gives more")
    return "; ".join(parts)


if __name__ == "__main__":
    from .cli import run

    run(main)
