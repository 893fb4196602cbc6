"""A server on this machine with OpenAI's interface: what a serving engine is, without the engine.

What answers is an LLM, or a script with faults on order.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from jinja2 import TemplateError

from ..inference.chat import END_THINK
from .local import Quiet, listening

if TYPE_CHECKING:
    from ..llm import LLM

Dialect = Literal["reasoning_content", "reasoning", "none"]  # the field of the thinking; none: it stays in the answer
NAME = "tiny-r1"
THINKING, ANSWER = "Columns: 37+48\n7+8=15\n", "\n\nAnswer: 85"


class Speaker(Protocol):
    """What answers a request, the JSON that was sent to ``chat/completions``."""

    def say(self, asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """(field, text) of each piece. A ValueError before the first one refuses the request."""

    def end(self, asked: dict[str, Any]) -> tuple[str, dict[str, int]]:
        """Why the answer that was said last ended, and its usage."""


class Model:
    """An LLM speaks."""

    def __init__(self, llm: "LLM", dialect: Dialect):
        self.llm, self.dialect = llm, dialect

    def say(self, asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """``</think>`` is a token of its own, and stands in no field but the undivided one."""
        thinking = self.dialect != "none" and self.llm.opens_thinking(asked["messages"])
        temperature = float(asked.get("temperature") or 0)
        for text in self.llm.stream(asked["messages"], temperature=temperature, max_new_tokens=self.most(asked)):
            if thinking and text == END_THINK:
                thinking = False
            else:
                yield self.dialect if thinking else "content", text

    def end(self, asked: dict[str, Any]) -> tuple[str, dict[str, int]]:
        prompt, new = self.llm.stats.prompt_tokens, self.llm.stats.tokens
        usage = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
        return "length" if new >= self.most(asked) else "stop", usage

    def most(self, asked: dict[str, Any]) -> int:
        from ..inference.sampling import Sampling

        return int(asked.get("max_tokens") or Sampling.max_new_tokens)


class Script:
    """Says the same to everyone.

    Attributes:
        field: where the thinking goes: ``reasoning_content``, ``reasoning``, or None: into the text.
        text: of a server that splits nothing.
        step: characters in each piece.
    """

    def __init__(self) -> None:
        self.field: str | None = None
        self.text = THINKING + "</think>" + ANSWER
        self.step, self.finish = 3, "stop"

    def say(self, asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if asked.get("max_tokens", 1) > 4096:
            raise ValueError("max_tokens is too large")
        parts = [(self.field, THINKING), ("content", ANSWER)] if self.field else [("content", self.text)]
        for field, text in parts:
            yield from ((field, text[i : i + self.step]) for i in range(0, len(text), self.step))

    def end(self, asked: dict[str, Any]) -> tuple[str, dict[str, int]]:
        return self.finish, {"prompt_tokens": 16, "completion_tokens": 72, "total_tokens": 88}


class OpenAIServer:
    """What it serves, and what it was asked. It answers one request after the other.

    Attributes:
        fault: ``"cut"`` breaks the stream off, ``"error"`` tells an error in it, ``"no-usage"`` refuses to count,
            ``"500"`` fails.
        key: that every request must bring, if it is not empty.
        raw: what it sends to a question instead, the head as (status, headers).
        models: what it says of its models instead.
    """

    def __init__(self, speaker: Speaker):
        self.speaker, self.fault, self.key, self.served = speaker, "", "", [NAME]
        self.requests: list[dict[str, Any]] = []
        self.raw: tuple[int, dict[str, str], bytes] | None = None
        self.models: bytes | None = None
        self.turn = threading.Lock()
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["OpenAIServer"]:
        """It runs for as long as the ``with`` lasts."""
        with listening(type("Bound", (Handler,), {"owner": self})) as port:
            self.url = f"http://127.0.0.1:{port}/v1"
            yield self


@contextmanager
def toy_server(llm: "LLM", dialect: Dialect = "reasoning_content") -> Iterator[str]:
    """A server with ``llm`` behind it, for as long as the ``with`` lasts -> its base URL."""
    with OpenAIServer(Model(llm, dialect)).serving() as server:
        yield server.url


class Handler(Quiet):
    """One request."""

    owner: OpenAIServer

    def do_GET(self) -> None:
        if self.refused():
            return
        if self.path != "/v1/models":
            self.error(404, "Not Found")
            return
        if self.owner.models is not None:
            self.send(200, {"Content-Type": "application/json"}, self.owner.models)
            return
        served = [{"id": name, "object": "model", "owned_by": "dsv3"} for name in self.owner.served]
        self.json({"object": "list", "data": served})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append(asked | {"authorization": self.headers["Authorization"]})
        if self.refused():
            return
        if self.owner.raw:
            self.send(*self.owner.raw)
        elif self.path != "/v1/chat/completions":
            self.error(404, "Not Found")
        elif asked["model"] not in self.owner.served:
            self.error(404, f"The model `{asked['model']}` does not exist.")
        elif self.owner.fault == "500":
            self.error(500, "EngineCore encountered an issue")
        elif self.owner.fault == "no-usage" and "stream_options" in asked:
            self.error(400, "Unexpected field: stream_options")
        else:
            with self.owner.turn, suppress(ConnectionError):  # the client may have gone
                self.speak(asked)

    def speak(self, asked: dict[str, Any]) -> None:
        pieces = self.owner.speaker.say(asked)
        try:
            pieces = chain(list(islice(pieces, 1)), pieces)  # what cannot be answered is told before anything is sent
        except (ValueError, KeyError, TypeError, TemplateError) as error:
            self.error(400, str(error))
            return
        if asked.get("stream"):
            self.stream(asked, pieces)
            return
        message = {"role": "assistant", "content": ""}
        for field, text in pieces:
            message[field] = message.get(field, "") + text
        finish, usage = self.owner.speaker.end(asked)
        choice = {"index": 0, "message": message, "finish_reason": finish}
        self.json(self.chunk(asked, "chat.completion", [choice]) | {"usage": usage})

    def stream(self, asked: dict[str, Any], pieces: Iterator[tuple[str, str]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        if self.owner.fault == "cut":
            self.send_header("Content-Length", "100000")
        self.end_headers()
        for delta in chain([{"role": "assistant", "content": ""}], ({field: text} for field, text in pieces)):
            self.event(asked, [{"index": 0, "delta": delta, "finish_reason": None}])
        if self.owner.fault == "cut":
            return
        if self.owner.fault == "error":
            self.data({"error": {"message": "EngineDeadError", "code": 500}})
            return
        finish, usage = self.owner.speaker.end(asked)
        self.event(asked, [{"index": 0, "delta": {}, "finish_reason": finish}])
        if (asked.get("stream_options") or {}).get("include_usage"):
            self.event(asked, [], usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, asked: dict[str, Any], choices: list[dict], **more: object) -> None:
        self.data(self.chunk(asked, "chat.completion.chunk", choices) | more)

    def chunk(self, asked: dict[str, Any], kind: str, choices: list[dict]) -> dict[str, Any]:
        return {"id": "x", "object": kind, "created": int(time.time()), "model": asked["model"], "choices": choices}

    def data(self, value: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def refused(self) -> bool:
        wrong = bool(self.owner.key) and self.headers["Authorization"] != f"Bearer {self.owner.key}"
        if wrong:
            self.error(401, "Unauthorized")
        return wrong

    def error(self, status: int, message: str) -> None:
        self.json({"error": {"message": message, "code": status}}, status)

    def json(self, value: dict[str, Any], status: int = 200) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, text)
        self.end_headers()
        with suppress(ConnectionError):  # the client has had enough
            self.wfile.write(data)
