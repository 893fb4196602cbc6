"""Lesson 11: an OpenAI interface in little, requests measured side by side, and a chooser of engines' commands."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from statistics import median
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from ..engines import checks
from ..engines.client import Answer, Client
from ..engines.options import Serve
from ..engines.table import ENGINES, find
from ..inference.chat import END_THINK
from ..sizing.gpus import find_gpu, gpus
from .style import BLUE, GREY, ORANGE, axes, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

    from ..generate import LLM

Dialect = Literal["reasoning_content", "reasoning", "none"]
NAME, PER_MACHINE = "tiny-r1", 8

# ---------------------------------------------------------------------------------------------------- a toy server


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


# ------------------------------------------------------------------------------------------------------ measuring


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
        return Request(sent, sent + (answer.first_seconds or answer.seconds), sent + answer.seconds, answer)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, questions))


def summary(requests: list[Request]) -> dict[str, float]:
    """Seconds in all, tokens/s of all together, and the median wait for a first token."""
    seconds = max(r.end for r in requests)
    tokens = sum(r.answer.tokens or 0 for r in requests)
    return {"seconds": seconds, "tokens_per_s": tokens / seconds, "first": median(r.first - r.sent for r in requests)}


def timeline(runs: dict[str, list[Request]]) -> "Figure":
    """When each request waited for its first token, and when its tokens came; a panel for each run."""
    figure, panels = axes(1, len(runs), size=(5.5 * len(runs), 3.6))
    longest = max(r.end for requests in runs.values() for r in requests)
    for ax, (title, requests) in zip(panels, runs.items(), strict=True):
        for row, r in enumerate(requests, start=1):
            ax.barh(row, r.first - r.sent, left=r.sent, color=GREY, label=None if row > 1 else "waits")
            ax.barh(row, r.end - r.first, left=r.first, color=BLUE, label=None if row > 1 else "tokens come")
        ax.invert_yaxis()
        ax.set(xlabel="seconds", ylabel="request", title=title, xlim=(0, 1.05 * longest))
    panels[0].legend(fontsize=11, loc="upper right")
    return figure


def rates(rows: dict[str, float], ylabel: str = "tokens/s") -> "Figure":
    """Bars with their values."""
    figure, (ax,) = axes(size=(8, 3.6))
    bars = ax.bar(list(rows), list(rows.values()), color=[GREY] * (len(rows) - 1) + [BLUE])
    ax.bar_label(bars, fmt="%.0f", fontsize=11)
    ax.set_ylabel(ylabel)
    return figure


def recorded(result: dict, works: tuple[str, str], tools: tuple[str, ...]) -> "Figure":
    """benchmarks/results/decode-cpu.json: tokens/s of each tool, a bar for each of two kinds of work."""
    figure, (ax,) = axes(size=(8, 3.8))
    found = {(row["work"], row["tool"]): row["tokens_per_s"] for row in result["rows"] if "tool" in row}
    for shift, (work, colour) in enumerate(zip(works, (ORANGE, BLUE), strict=True)):
        at = [place + 0.4 * shift for place in range(len(tools))]
        bars = ax.bar(at, [found[work, tool] for tool in tools], 0.38, color=colour, label=work)
        ax.bar_label(bars, fmt="%.0f", fontsize=11)
    ax.set(xticks=[place + 0.2 for place in range(len(tools))], xticklabels=tools, ylabel="tokens/s, all sequences")
    ax.legend(fontsize=11)
    return figure


# ------------------------------------------------------------------------------------------------------- commands


def split(engine: str, machines: int) -> dict[str, Any]:
    """How ``engine`` is usually spread over machines of 8 GPUs, as fields of ``Serve`` (ENGINES.md)."""
    if engine == "ascend":
        return {"tp": 4, "dp": 2 * machines, "quantization": "ascend"} | _nodes(machines)
    if engine == "vllm" and machines > 1:
        return {"tp": PER_MACHINE, "pp": machines} | _nodes(machines)
    return {"tp": PER_MACHINE * machines} | _nodes(machines)


def _nodes(machines: int) -> dict[str, Any]:
    return {"nnodes": machines, "master_addr": "node0"} if machines > 1 else {}


def command(engine: str, gpu: str, machines: int = 1, mtp: int = 0, model: str = "deepseek-ai/DeepSeek-R1") -> str:
    """What starts ``model`` with ``engine`` on machines of 8 ``gpu``, a comment for each flag; or why it cannot."""
    of = find(engine)
    if engine == "ascend":
        model = "vllm-ascend/DeepSeek-R1-W8A8"
    try:
        serve = Serve(model=model, mtp=mtp, **split(engine, machines))
    except ValueError as error:
        return f"refused: {error}"
    wrong = checks.of_arguments(of, serve, None if engine == "ascend" else find_gpu(gpu))
    return "\n".join(f"refused: {reason}" for reason in wrong) or of.build(serve).text()


def chooser(engine: str = "sglang", gpu: str = "H200-141G") -> "VBox":
    """``command`` with menus. Its ``children`` are the menus and the text.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    from html import escape

    menus = {
        "engine": widgets.Dropdown(options=[(e.title, e.name) for e in ENGINES], value=engine, description="engine"),
        "gpu": widgets.Dropdown(options=[g.name for g in gpus()], value=gpu, description="GPU"),
        "machines": widgets.IntSlider(value=1, min=1, max=2, description="machines"),
        "mtp": widgets.IntSlider(value=0, min=0, max=3, description="MTP drafts"),
    }
    text = widgets.HTML()

    def show(_: object = None) -> None:
        text.value = f"<pre>{escape(command(**{name: menu.value for name, menu in menus.items()}))}</pre>"

    for menu in menus.values():
        menu.observe(show, names="value")
    show()
    return widgets.VBox([widgets.VBox(list(menus.values())), text])


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
