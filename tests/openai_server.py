"""A server on 127.0.0.1 with OpenAI's interface, which tells thoughts in the dialect that it is asked to speak."""

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

THINKING, ANSWER = "Columns: 37+48\n7+8=15\n", "\n\nAnswer: 85"


class OpenAIServer:
    """What it answers, and what it was asked.

    Attributes:
        field: where the thinking goes: ``reasoning_content``, ``reasoning``, or None: into the text.
        text: of a server that splits nothing.
        step: characters in each piece.
        fault: ``"cut"`` breaks the stream off, ``"error"`` tells an error in it, ``"no-usage"`` refuses to count,
            ``"500"`` fails.
        raw: what it sends to a question instead, the head as (status, headers).
        models: what it says of its models instead.
    """

    def __init__(self):
        self.field: str | None = None
        self.text = THINKING + "</think>" + ANSWER
        self.step, self.finish, self.fault, self.key = 3, "stop", "", ""
        self.raw: tuple[int, dict[str, str], bytes] | None = None
        self.models: bytes | None = None
        self.served = ["tiny-r1"]
        self.requests: list[dict] = []
        self.url = ""

    def parts(self) -> list[tuple[str, str]]:
        """(field, text) as this dialect tells them."""
        return [(self.field, THINKING), ("content", ANSWER)] if self.field else [("content", self.text)]

    @contextmanager
    def serving(self):
        handler = type("Bound", (Handler,), {"owner": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    owner: OpenAIServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.refused():
            return
        if self.path != "/v1/models":
            self.error(404, "Not Found")
            return
        if self.owner.models is not None:
            self.send(200, {"Content-Type": "application/json"}, self.owner.models)
            return
        self.json({"object": "list", "data": [{"id": n, "object": "model"} for n in self.owner.served]})

    def do_POST(self):
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
        elif asked.get("max_tokens", 1) > 4096:
            self.error(400, "max_tokens is too large")
        elif self.owner.fault == "500":
            self.error(500, "EngineCore encountered an issue")
        elif self.owner.fault == "no-usage" and "stream_options" in asked:
            self.error(400, "Unexpected field: stream_options")
        elif asked.get("stream"):
            self.stream(asked)
        else:
            message = {"role": "assistant", "content": None} | dict(self.owner.parts())
            choice = {"index": 0, "message": message, "finish_reason": self.owner.finish}
            self.json({"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"]}
                      | {"choices": [choice], "usage": self.usage()})  # fmt: skip

    def stream(self, asked: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        if self.owner.fault == "cut":
            self.send_header("Content-Length", "100000")
        self.end_headers()
        deltas = [{"role": "assistant", "content": ""}]
        for field, text in self.owner.parts():
            deltas += [{field: text[i : i + self.owner.step]} for i in range(0, len(text), self.owner.step)]
        for delta in deltas:
            self.event(asked, [{"index": 0, "delta": delta, "finish_reason": None}])
        if self.owner.fault == "cut":
            return
        if self.owner.fault == "error":
            self.data({"error": {"message": "EngineDeadError", "code": 500}})
            return
        self.event(asked, [{"index": 0, "delta": {}, "finish_reason": self.owner.finish}])
        if asked.get("stream_options", {}).get("include_usage"):
            self.event(asked, [], usage=self.usage())
        self.wfile.write(b"data: [DONE]\n\n")

    def usage(self) -> dict:
        return {"prompt_tokens": 16, "completion_tokens": 72, "total_tokens": 88}

    def event(self, asked: dict, choices: list[dict], **more: object) -> None:
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": asked["model"]}
        self.data(chunk | {"choices": choices} | more)

    def data(self, value: dict) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def refused(self) -> bool:
        wrong = bool(self.owner.key) and self.headers["Authorization"] != f"Bearer {self.owner.key}"
        if wrong:
            self.error(401, "Unauthorized")
        return wrong

    def error(self, status: int, message: str) -> None:
        self.json({"error": {"message": message, "code": status}}, status)

    def json(self, value: dict, status: int = 200) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, text)
        self.end_headers()
        with suppress(ConnectionError):  # the client has had enough
            self.wfile.write(data)
