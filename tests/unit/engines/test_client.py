"""Questions to servers of every dialect: real requests to a small server with OpenAI's interface."""

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import fails

from dsv3.ask import main
from dsv3.cli import run
from dsv3.engines import client
from dsv3.engines.client import Client, Piece, Splitter
from dsv3.inference.chat import split_thinking
from dsv3.lab.jobs import free_port
from dsv3.lab.openai_server import ANSWER, THINKING, OpenAIServer, Script

DIALECTS = ("reasoning_content", "reasoning", None)


@pytest.fixture
def server():
    with OpenAIServer(Script()).serving() as running:
        yield running


def joined(pieces, *parts: str) -> str:
    return "".join(piece.text for piece in pieces if piece.part in parts)


@pytest.mark.parametrize("field", DIALECTS)
@pytest.mark.parametrize("step", [1, 3, 5, 1000])
def test_thinking_and_answer_apart_in_every_dialect(server, field, step):
    server.speaker.field, server.speaker.step = field, step
    client = Client(server.url)
    pieces = list(client.stream("37 + 48 = ?", temperature=0, max_tokens=200))
    assert joined(pieces, "answer") == ANSWER
    assert joined(pieces, "thinking" if field else "unsure") == THINKING
    (asked,) = server.requests
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("tiny-r1", 0, 200)
    assert asked["messages"] == [{"role": "user", "content": "37 + 48 = ?"}]
    streamed, whole = client.latest, client.ask("37 + 48 = ?")
    for answer in (streamed, whole):
        assert (answer.thinking, answer.answer, answer.finish) == (THINKING, ANSWER, "stop")
        assert (answer.prompt_tokens, answer.tokens, answer.model) == (16, 72, "tiny-r1")
        assert str(answer) == "Answer: 85"
    assert 0 < streamed.first_seconds <= streamed.seconds
    assert streamed.tokens_per_second == pytest.approx(71 / (streamed.seconds - streamed.first_seconds))
    assert whole.first_seconds is None
    assert whole.tokens_per_second is None


def test_a_conversation_is_sent_as_it_is(server):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "37 + 48 = ?"}]
    list(Client(server.url).stream(messages))
    assert server.requests[0]["messages"] == messages


@given(text=st.text("<>/think a\n", max_size=40), cuts=st.lists(st.integers(0, 40)), opened=st.booleans())
def test_pieces_in_any_cut_are_the_text_that_split_thinking_splits(text, cuts, opened):
    text = "<think>" + text if opened else "x" + text
    borders = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    splitter, pieces = Splitter(), []
    for start, stop in zip(borders, borders[1:], strict=False):
        pieces += splitter.feed(text[start:stop])
    pieces += splitter.close()
    thinking, answer = split_thinking(text, opened)
    if not opened and "</think>" not in text:
        assert joined(pieces, "unsure") == text
        return
    assert joined(pieces, "answer") == answer
    assert joined(pieces, "thinking" if opened else "unsure") == thinking.removeprefix("<think>")


def test_pieces_come_as_soon_as_they_can():
    splitter = Splitter()
    assert list(splitter.feed("abc <")) == [Piece("unsure", "abc ")]
    assert list(splitter.feed("/think")) == []
    assert list(splitter.feed("> x")) == [Piece("answer", " x")]
    assert list(splitter.feed("</think>")) == [Piece("answer", "</think>")]
    splitter = Splitter()
    assert list(splitter.feed("\n<thi")) == []
    assert list(splitter.feed("nk>a")) == [Piece("thinking", "a")]


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("Just an answer.", "", "Just an answer."),
        ("<think>cut off", "cut off", ""),
        ("\n<think>a</think>b", "a", "b"),
        ("<thinner", "", "<thinner"),
        ("", "", ""),
    ],
)
def test_texts_without_both_marks(server, text, thinking, answer):
    server.speaker.text = text
    client = Client(server.url)
    pieces = list(client.stream("?"))
    assert joined(pieces, "thinking", "answer", "unsure") == thinking + answer
    assert (client.latest.thinking, client.latest.answer) == (thinking, answer)
    whole = client.ask("?")
    assert (whole.thinking, whole.answer) == (thinking, answer)


def test_a_server_that_does_not_count(server):
    server.fault = "no-usage"
    client = Client(server.url)
    assert joined(client.stream("?"), "answer") == ANSWER
    assert client.latest.tokens is None
    assert client.latest.tokens_per_second is None


def test_a_stream_that_breaks_off_is_an_error(server):
    server.fault = "cut"
    client = Client(server.url)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1"):
        list(client.stream("?"))
    assert client.latest is None
    server.fault = "error"
    with pytest.raises(OSError, match="EngineDeadError"):
        list(client.stream("?"))
    server.fault = "500"
    with pytest.raises(OSError, match="EngineCore encountered"):
        list(client.stream("?"))


def test_only_this_machine_is_asked_directly(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    assert Client(server.url).ask("?").answer == ANSWER
    assert "secret" not in server.requests[0]["authorization"]


# ---- the command, in this process: importing openai takes its time


@pytest.fixture
def ask(server, capsys):
    def run_it(*args: object, base: str = "") -> subprocess.CompletedProcess:
        argv = ["--base-url", base or server.url, *map(str, args)]
        with pytest.raises(SystemExit) as ended:
            run(main, argv)
        return subprocess.CompletedProcess(argv, ended.value.code, *capsys.readouterr())

    return run_it


def test_the_command_shows_what_generate_shows(server, ask):
    for field in DIALECTS:
        server.speaker.field = field
        done = ask("37 + 48 = ?", "--temperature", 0)
        assert done.stdout == THINKING + "</think>" + ANSWER + "\n"
        assert done.stderr.startswith("72 tokens in ")
        assert "the first after" in done.stderr
        whole = ask("37 + 48 = ?", "--no-stream")
        assert whole.stdout == done.stdout
        for how in ("--stream", "--no-stream"):
            hidden = ask("37 + 48 = ?", "--hide-thinking", how)
            assert hidden.stdout == "Answer: 85\n"


def test_the_command_in_json(server, ask):
    done = ask("37 + 48 = ?", "--json")
    found = json.loads(done.stdout)
    assert (found["thinking"], found["answer"], found["tokens"]) == (THINKING, ANSWER, 72)
    assert done.stderr == ""
    assert json.loads(ask("?", "--json", "--no-stream").stdout)["answer"] == ANSWER


def test_an_answer_that_is_cut_off_or_has_no_thought(server, ask):
    server.speaker.text, server.speaker.finish = "37 + 48 is", "length"
    done = ask("?", "--hide-thinking")
    assert done.stdout == "37 + 48 is\n"
    assert "--max-tokens gives more" in done.stderr


def test_keys(server, ask, monkeypatch):
    server.key = "secret-1"
    fails(ask("?"), "ask", server.url, "another key", "--api-key-env")
    monkeypatch.setenv("MY_KEY", "secret-2")
    wrong = ask("?", "--api-key-env", "MY_KEY")
    fails(wrong, "ask", "another key")
    assert "secret-2" not in wrong.stderr
    monkeypatch.setenv("MY_KEY", "secret-1")
    right = ask("?", "--api-key-env", "MY_KEY")
    assert right.stdout.endswith("Answer: 85\n")
    fails(ask("?", "--api-key-env", "NO_SUCH"), "ask", "NO_SUCH", "not set")
    for key in ("secret-1\r", "secret-1\n", "secret 1", " secret-1", "secret-\u00e9", "secret-\x01"):
        monkeypatch.setenv("MY_KEY", key)
        wrong = ask("?", "--api-key-env", "MY_KEY")
        fails(wrong, "ask", "--api-key-env MY_KEY: its value is no key")
        assert "secret" not in wrong.stderr


def test_models(server, ask):
    server.served = ["tiny-r1", "r1"]
    fails(ask("?"), "ask", "serves tiny-r1, r1", "--model")
    fails(ask("?", "--model", "R2"), "ask", "'R2'", "serves tiny-r1, r1")
    assert ask("?", "--model", "r1").returncode == 0
    server.served = []
    fails(ask("?"), "ask", "lists no model", "--model")


def test_wrong_addresses(server, ask):
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    fails(ask("?", base=nobody), "ask", nobody, "no server answers", "started")
    fails(ask("?", base="127.0.0.1:8000"), "ask", "127.0.0.1:8000", "http://")
    for wrong in ("http://[::1", "http://a..b/v1", f"http://{'a' * 64}.de/v1", "http://.a/v1"):
        fails(ask("?", base=wrong), "ask", "--base-url", "not a server's address")
    root = server.url.removesuffix("/v1")
    fails(ask("?", base=root), "ask", root, "/v1")
    fails(ask("?", "--model", "tiny-r1", base=root), "ask", root, "/v1")


def test_a_request_that_the_server_refuses(server, ask):
    fails(ask("?", "--max-tokens", 5000), "ask", "max_tokens is too large", "400")


def message(**fields: object) -> bytes:
    return json.dumps({"choices": [{"message": fields, "finish_reason": "stop"}]}).encode()


JSON, EVENTS = {"Content-Type": "application/json"}, {"Content-Type": "text/event-stream"}
DELTA = b'data: {"choices": [{"delta": {"content": "hello"}}]}\n\n'
BODIES = [
    *(
        b"<html>hello</html>",
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b"[" * 100000,
        b"9" * 5000,
        b"\xff\xfe",
        b"{",
    ),
    *(b'{"choices": null}', b'{"choices": []}', b'{"choices": [null]}', b'{"choices": [{}]}', b'{"choices": {"0": 1}}'),
    *(b'{"choices": [{"message": null}]}', b'{"choices": [{"message": "x"}]}', message(), message(content=None)),
    *(message(content=[{"type": "text", "text": "x"}]), message(content=7), message(content={}), message(content=True)),
    message(content=None, tool_calls=[{"function": {"name": "f"}}]),
]
STREAMS = [
    *(b"", b"data: null\n\n", b"data: [DONE]\n\n", b": ping\n\n" * 9, b"data: {\n\n", b"data: []\n\n", b"<html>"),
    *(DELTA, DELTA + b'data: {"choi', DELTA + b"data: null\n\n", DELTA + b'data: {"choices": [null]}\n\n'),
    *(DELTA + b'data: {"choices": 7}\n\n', DELTA + b"data: \xff\n\n", b'data: {"x": "' + b"x" * 2_000_000 + b'"}\n\n'),
    *(DELTA + b'event: error\ndata: {"error": "boom"}\n\n', b'data: {"object": "error", "message": "boom"}\n\n'),
    *(b'data: {"error": {"message": null}}\n\n', b"data: " + b"[" * 100000 + b"\n\n", b"data:\n\n", b"x" * 2_000_000),
    b'data: {"choices": [{"delta": {"tool_calls": [{}]}, "finish_reason": "tool_calls"}]}\n\ndata: [DONE]\n\n',
]
HEADS = [
    *(
        (204, {}, b""),
        (200, JSON | {"Content-Encoding": "gzip"}, b"garbage"),
        (302, {"Location": "file:///etc/passwd"}, b""),
    ),
    *(
        (307, {"Location": "/v1/chat/completions"}, b""),
        (500, JSON, b"\xff"),
        (400, JSON, b"[7]"),
        (404, JSON, b"null"),
    ),
    *((200, JSON | {"Content-Length": "999"}, message(content="x")), (200, EVENTS | {"Content-Length": "999"}, DELTA)),
    *(
        (200, JSON | {"Transfer-Encoding": "chunked"}, b"zz\r\nx"),
        (400, JSON, b'{"error": "\\u001b[31m' + b"x" * 9999 + b'"}'),
    ),
    *((200, EVENTS, DELTA * 60_000), (500, {}, b"x" * 3_000_000), (200, JSON, b"[" + b" " * 3_000_000)),
]
NONSENSE = [(200, JSON, body) for body in BODIES] + [(200, EVENTS, body) for body in STREAMS] + HEADS


@pytest.mark.parametrize("how", [("--stream",), ("--no-stream",), ("--json",), ("--json", "--no-stream")], ids=" ".join)
@pytest.mark.parametrize("raw", NONSENSE, ids=lambda raw: f"{raw[0]} {ascii(raw[2][:30])}")
def test_nonsense_of_a_server_is_told_in_one_line(server, ask, raw, how, monkeypatch):
    monkeypatch.setattr(client, "LONGEST", 2 << 20)
    server.raw = raw
    done = ask("?", *how)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dsv3 ask: error: {server.url}: ")
    assert done.stdout.replace("hello", "") == ""  # what came before the nonsense has been shown
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
@pytest.mark.parametrize(
    "models", [b'{"data": null}', b"[]", b"{}", b"null", b"<html>", b"", b'{"data": [null]}', b'{"data": [{"id": 7}]}']
)
def test_nonsense_about_models(server, ask, models, how):
    server.models = models
    done = ask("?", how)
    fails(done, "ask", server.url)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf: hi\r\nevent: x\r\n" + DELTA.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n",
        DELTA.replace(b"}]", b', "finish_reason": "stop"}]'),
        b"id: 1\nretry: 5\n" + DELTA + b"data: [DONE]",
        b'data: {"choices": [], "usage": null}\n\n' + DELTA + b"data: [DONE]\n\n",
        b'data: {"usage": {"completion_tokens": "7"}}\n\n' + DELTA + b"data: [DONE]\n\n",
        b'data: {"model": null, "usage": [1]}\n\n' + DELTA + b"data: [DONE]\n\n",
        DELTA.replace(b'{"choices', b'{"choices":\ndata: [], "choices') + b"data: [DONE]\n\n",
    ],
)
def test_streams_that_are_odd_but_whole(server, ask, body):
    server.raw = (200, EVENTS, body)
    done = ask("?")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr.startswith("tokens not counted by the server in ")


@pytest.mark.parametrize("tokens", ["7", -1, 1.5, True, None, [], 10**400])
def test_counts_that_are_none(server, ask, tokens):
    value = json.loads(message(content="hello")) | {"usage": {"completion_tokens": tokens}, "model": 7}
    server.raw = (200, JSON, json.dumps(value).encode())
    found = json.loads(ask("?", "--no-stream", "--json").stdout)
    assert (found["tokens"], found["model"], found["answer"]) == (None, "tiny-r1", "hello")


def test_a_terminal_gets_no_commands_from_a_server(server, ask):
    server.speaker.text = "a\x1b[31m\x07\x9b\x00\ud800b\tc\n"
    for how in ("--stream", "--no-stream"):
        assert ask("?", how).stdout == "a[31mb\tc\n\n"
    server.served = ["tiny\x1b]0;x\x07"]
    assert "\x1b" not in ask("?", "--json").stdout + ask("?", "--model", "x").stderr


@pytest.mark.parametrize("login", ["user:urlpass@", "urlpass@", "user:ur%40lpass@"])
def test_a_login_in_the_address_is_sent_and_not_shown(server, ask, login):
    base = server.url.replace("://", f"://{login}")
    done = ask("?", base=base)
    assert done.returncode == 0
    assert server.requests[-1]["authorization"].startswith("Basic ")
    server.fault = "500"
    for done in (
        ask("?", base=base),
        ask("?", "--model", "x", base=base),
        ask("?", base=f"http://{login}127.0.0.1:9/v1"),
    ):
        fails(done, "ask", "127.0.0.1")
        assert "pass" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "base",
    ["ftp://u:pw@h", "u:pw@h", "http://u:pw@h:x/", "http://u:p/w@h", "http://", "http://h:99999/v1", "http://\nh"]
    + ["http://a b", "http://[::1"],
)
def test_addresses_that_are_none(ask, base):
    done = ask("?", base=base)
    fails(done, "ask")
    assert len(done.stderr.splitlines()) == 1
    assert "pw" not in done.stderr


@pytest.mark.parametrize("flags", [("--max-tokens", "0"), ("--temperature", "-1"), ("--temperature", "nan"), ("--x",)])
def test_wrong_usage(ask, flags):
    done = ask("?", *flags)
    assert done.returncode == 2
    assert flags[0] in done.stderr
    assert ask(" ").returncode == 2
