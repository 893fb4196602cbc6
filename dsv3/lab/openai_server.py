"""A server on this machine with OpenAI's interface: what a serving engine is, without the engine."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from ..inference.chat import END_THINK

if TYPE_CHECKING:
    from ..generate import LLM

Dialect = Literal["reasoning_content", "reasoning", "none"]
NAME = "tiny-r1"


@contextmanager
def toy_server(llm: "LLM", dialect: Dialect = "reasoning_content") -> Iterator[str]:
    """An OpenAI interface to ``llm`` on this machine, for as long as the ``with`` lasts -> its base URL.

    It answers one request after the other: what a serving engine is, without the engine.

    Args:
        dialect: the field that holds the thinking; ``"none"`` leaves it in the answer, as R1 wrote it.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(llm, dialect, Lock()))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(llm: "LLM", dialect: Dialect, turn: Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """No line for each request."""

        def send(self, status: int, body: dict) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.send(200, {"object": "list", "data": [{"id": NAME, "object": "model", "owned_by": "dsv3"}]})
            else:
                self.send(404, {"error": {"message": f"{self.path}: not here"}})

        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                messages, options = asked["messages"], _options(asked)
            except (ValueError, KeyError, TypeError) as error:
                return self.send(400, {"error": {"message": f"not a request: {error!r}"}})
            if self.path != "/v1/chat/completions" or asked.get("model") != NAME:
                return self.send(404, {"error": {"message": f"no model {asked.get('model')!r} at {self.path}"}})
            with turn:
                parts = _parts(llm, dialect, messages, options)
                try:
                    parts = chain([next(parts)], parts)  # a prompt that is too long is told before anything is sent
                except (ValueError, TemplateError) as error:
                    return self.send(400, {"error": {"message": str(error)}})
                with suppress(ConnectionError):  # the client has gone
                    (self.stream if asked.get("stream") else self.whole)(parts, options["max_new_tokens"])

        def whole(self, parts: Iterator[tuple[str, str]], most: int) -> None:
            message: dict[str, str] = {"role": "assistant", "content": ""}
            for part, text in parts:
                message[part] = message.get(part, "") + text
            choice = {"index": 0, "message": message, "finish_reason": _finish(llm, most)}
            self.send(200, _chunk("chat.completion", [choice]) | {"usage": _usage(llm)})

        def stream(self, parts: Iterator[tuple[str, str]], most: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for part, text in parts:
                self.event(_chunk("chat.completion.chunk", [{"index": 0, "delta": {part: text}}]))
            last = {"index": 0, "delta": {}, "finish_reason": _finish(llm, most)}
            self.event(_chunk("chat.completion.chunk", [last]) | {"usage": _usage(llm)})
            self.wfile.write(b"data: [DONE]\n\n")

        def event(self, body: dict) -> None:
            self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
            self.wfile.flush()

    return Handler


def _options(asked: dict) -> dict:
    return {"temperature": float(asked.get("temperature") or 0), "max_new_tokens": int(asked.get("max_tokens") or 200)}


def _parts(llm: "LLM", dialect: Dialect, messages: list, options: dict) -> Iterator[tuple[str, str]]:
    """(field, text) of each piece; ``</think>`` is a token of its own, and stands in no field but the undivided one."""
    thinking = dialect != "none" and llm.opens_thinking(messages)
    for text in llm.stream(messages, **options):
        if thinking and text == END_THINK:
            thinking = False
        else:
            yield dialect if thinking else "content", text


def _chunk(kind: str, choices: list[dict]) -> dict:
    return {"id": "toy", "object": kind, "created": int(time.time()), "model": NAME, "choices": choices}


def _finish(llm: "LLM", most: int) -> str:
    return "length" if llm.stats.tokens >= most else "stop"


def _usage(llm: "LLM") -> dict[str, int]:
    prompt, new = llm.stats.prompt_tokens, llm.stats.tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
