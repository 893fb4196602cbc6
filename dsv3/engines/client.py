"""Questions to a server with OpenAI's interface: the thinking and the answer apart, counts of tokens, and times.

Servers differ in how they tell a thought: ``reasoning_content`` (SGLang, LMDeploy), ``reasoning`` (vLLM), or
``<think>`` and ``</think>`` in the text (no reasoning parser, transformers serve). Here they are all the same.
"""

import ipaddress
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import urlsplit

from ..inference.chat import THINK, split_thinking
from ..outside import CONTROL, bare_url, printable, secret, shown, without_logins
from .splitter import Piece, Splitter

if TYPE_CHECKING:
    from openai import OpenAI

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 600.0
NO_KEY = "none"  # the client insists on one
LONGEST, LONGEST_EVENT = 64 << 20, 1 << 20  # bytes: of whatever a server sends, and of one piece of a stream
COUNT = range(1 << 53)  # tokens that a server may count


class Options(TypedDict, total=False):
    """What a request may say; what it does not is the server's to choose. Beyond OpenAI's interface: extra_body."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    extra_body: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        finish: as the server tells it: ``"stop"``, ``"length"`` ...
        prompt_tokens, tokens: as the server counts them; None if it does not.
        seconds: from the request to the end.
        first_seconds: until the first token; None if the answer came in one piece.
    """

    thinking: str
    answer: str
    model: str
    finish: str | None
    prompt_tokens: int | None
    tokens: int | None
    seconds: float
    first_seconds: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None where that is not known."""
        if self.tokens is None or self.first_seconds is None or self.seconds <= self.first_seconds:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_seconds)

    def __str__(self) -> str:
        return self.answer.strip() or self.thinking.strip()


class Client:
    """A server at ``base_url``, such as ``http://127.0.0.1:8000/v1``; nothing is sent until it is asked.

    Attributes:
        latest: the answer that was given last.

    Raises:
        ImportError: the package openai is missing.
        ValueError: not a web address, or not a key.
    """

    def __init__(self, base_url: str, api_key: str | None = None):
        try:
            import openai
        except ImportError:
            raise ImportError("asking a server needs the package openai: pip install 'dsv3[serving]'") from None
        self.shown_url = bare_url(base_url.rstrip("/"))  # for messages: without its login
        self._key = api_key and secret("api_key", api_key)
        wrong = ValueError(f"--base-url {self.shown_url}: not a server's address; it is like http://127.0.0.1:8000/v1")
        try:
            parts = urlsplit(base_url)
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or parts.port == 0
                or CONTROL.search(base_url)
            ):
                raise wrong
            parts.hostname.encode("idna")  # as the system does when it looks for the host
        except ValueError:
            raise wrong from None
        http = _http()
        try:
            self._client: OpenAI = openai.OpenAI(
                base_url=base_url.rstrip("/"),
                api_key=api_key or NO_KEY,  # never OPENAI_API_KEY, which is nobody else's business
                max_retries=0,
                timeout=openai.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                default_headers={"Accept-Encoding": "identity"},
                http_client=openai.DefaultHttpxClient(
                    # A proxy, which rented machines often have, could not reach this one.
                    trust_env=not _loopback(parts.hostname),
                    event_hooks={"response": [self._bound]},
                ),
            )
        except http.InvalidURL:
            raise wrong from None
        self.latest: Answer | None = None

    def models(self) -> list[str]:
        """The names of the models that are served.

        Raises:
            OSError, ValueError: as ``stream``.
        """
        with self._told(""), self._client.models.with_streaming_response.list() as reply:
            listed = _field(self._json(b"".join(reply.iter_bytes())), "data", list)
            names = [_field(entry, "id", str) for entry in listed or []]
            if listed is None or None in names:
                raise self._nonsense("its list of models is none")
            return [printable(name) if CONTROL.search(name) else name for name in names]

    def ask(self, message: str | list[dict[str, str]], model: str | None = None, **options: Unpack[Options]) -> Answer:
        """The answer, sent in one piece. Arguments and errors as in ``stream``."""
        model = model or self._only_model()
        record = _Record()
        create = self._client.chat.completions.with_streaming_response.create
        with self._told(model):
            with create(model=model, messages=_messages(message), **options) as reply:
                value = self._json(b"".join(reply.iter_bytes()))
            choice = self._choice(value)
            list(record.add(_field(choice, "message", dict) or {}, Splitter()))
            finish = _field(choice, "finish_reason", str)
            self._check_answered(record, finish)
        self.latest = record.answer(_field(value, "model", str) or model, finish, value.get("usage"), whole=True)
        return self.latest

    def stream(
        self, message: str | list[dict[str, str]], model: str | None = None, **options: Unpack[Options]
    ) -> Iterator[Piece]:
        """The answer piece by piece; when it is over, ``latest`` has it whole, with counts and times.

        Args:
            message: a question, or a conversation of ``{"role": ..., "content": ...}`` messages.
            model: by default the only one that is served.

        Raises:
            ConnectionError: no server there, or it broke off.
            PermissionError: the key is missing or wrong.
            ValueError: no such model (says which there are), or the request is not to the server's liking.
            OSError: the server failed.
        """
        model = model or self._only_model()
        record, splitter, finish, usage, named = _Record(), Splitter(), None, None, model
        with self._told(model):
            for chunk in self._chunks(model, _messages(message), options):
                usage, named = chunk.get("usage") or usage, _field(chunk, "model", str) or named
                if chunk.get("choices"):
                    choice = self._choice(chunk)
                    finish = _field(choice, "finish_reason", str) or finish
                    yield from record.add(_field(choice, "delta", dict) or {}, splitter)
            yield from splitter.close()
            self._check_answered(record, finish)
        self.latest = record.answer(named, finish, usage)

    def _chunks(self, model: str, messages: list[Any], options: Options) -> Iterator[dict[str, Any]]:
        """The values of an event stream, to its end."""
        import openai

        create = self._client.chat.completions.with_streaming_response.create
        asked: dict[str, Any] = {"model": model, "messages": messages, "stream": True, **options}
        with ExitStack() as stack:
            try:
                reply = stack.enter_context(create(**asked, stream_options={"include_usage": True}))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if "stream_options" not in str(error):
                    raise
                reply = stack.enter_context(create(**asked))  # a server that cannot count
            finished = False
            for data in self._events(reply.iter_bytes()):
                if data.startswith(b"[DONE]"):
                    return
                value = self._json(data)
                if value.get("error") or value.get("object") == "error":
                    raise OSError(f"{self.shown_url}: the server failed: {self._words(_inner(value))}")
                finished = finished or bool(value.get("choices")) and bool(self._choice(value).get("finish_reason"))
                yield value
            if not finished:
                raise ConnectionError(f"{self.shown_url}: the answer broke off")

    def _events(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The data of a stream's events: what stands behind ``data:``, the lines of one event joined."""
        rest, data, first = b"", b"", True
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
            for line in lines:
                line = line.removesuffix(b"\r")
                if first:
                    line, first = line.removeprefix(b"\xef\xbb\xbf"), False
                if line.startswith(b"data:"):
                    data += line[5:].strip() + b"\n"
                elif not line and data:
                    yield data
                    data = b""
            if len(rest) + len(data) > LONGEST_EVENT:
                raise self._nonsense(f"a piece of the stream is longer than {LONGEST_EVENT >> 20} MB")
        if data or rest.startswith(b"data:"):
            yield data or rest[5:].strip()

    def _json(self, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._nonsense(f"it says {printable(data[:80].decode('utf-8', 'replace'))!r}")
        return value

    def _choice(self, value: dict[str, Any]) -> dict[str, Any]:
        found = _field(value, "choices", list)
        if not found or not isinstance(found[0], dict):
            raise self._nonsense("there is no answer in what it says")
        return found[0]

    def _check_answered(self, record: "_Record", finish: str | None) -> None:
        if not record.came:
            raise self._nonsense(f"no text, but {printable(finish)}" if finish else "no text in its answer")

    def _nonsense(self, what: str) -> ValueError:
        return ValueError(f"{self.shown_url}: not an answer of OpenAI's interface: {what}")

    def _bound(self, response: Any) -> None:
        """Before the body is read: it must be as it was asked for, and have an end."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._nonsense("it is compressed, which was not asked for")
        stream, client = response.stream, self
        base: Any = _http().SyncByteStream

        class Bounded(base):
            def __iter__(self) -> Iterator[bytes]:
                left = LONGEST
                for piece in stream:
                    left -= len(piece)
                    if left < 0:
                        raise client._nonsense(f"longer than {LONGEST >> 20} MB")
                    yield piece

            def close(self) -> None:
                stream.close()

        response.stream = Bounded()

    def _only_model(self) -> str:
        names = self.models()
        if len(names) != 1:
            served = f"serves {printable(', '.join(names))}" if names else "lists no model"
            raise ValueError(f"{self.shown_url}: the server {served}; say which with --model")
        return names[0]

    @contextmanager
    def _told(self, model: str) -> Iterator[None]:
        """Errors in one line, with what to do."""
        import openai

        http = _http()
        try:
            yield
        except openai.APITimeoutError:
            raise ConnectionError(f"{self.shown_url}: no answer in time; is the server overloaded?") from None
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            if isinstance(why, ValueError):
                raise why from None  # ours
            raise ConnectionError(
                f"{self.shown_url}: no server answers there ({self._words(why)}); is it started, and ready?"
            ) from None
        except http.TimeoutException:
            raise ConnectionError(f"{self.shown_url}: no answer in time; is the server overloaded?") from None
        except http.HTTPError as error:
            raise ConnectionError(f"{self.shown_url}: the answer broke off: {self._words(error)}") from None
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise PermissionError(
                f"{self.shown_url}: the server wants another key; name the variable that holds it with --api-key-env"
            ) from None
        except openai.NotFoundError as error:
            raise ValueError(self._not_found(model, self._words(_message(error)))) from None
        except openai.APIStatusError as error:
            what = f"{self.shown_url}: the server refused ({error.status_code}): {self._words(_message(error))}"
            raise (ValueError if error.status_code < 500 else OSError)(what) from None

    def _not_found(self, model: str, message: str) -> str:
        names: list[str] = []
        with suppress(OSError, ValueError):
            names = self.models() if model else []
        if not names:
            return f"{self.shown_url}: no OpenAI interface there ({message}); addresses mostly end in /v1"
        served = printable(", ".join(names))
        return f"{self.shown_url}: no model {printable(model)!r} there ({message}); it serves {served}"

    def _words(self, text: object) -> str:
        """Others' words in a line, which may tell what was sent: without logins and the key."""
        words = without_logins(str(text)[:LONGEST_EVENT])
        return printable(words.replace(self._key, "***") if self._key else words)


@dataclass
class _Record:
    """What has come of one answer."""

    start: float = field(default_factory=time.monotonic)
    first: float | None = None
    reasoning: str = ""
    content: str = ""
    came: bool = False  # whether there was text, be it empty

    def add(self, part: dict[str, Any], splitter: Splitter) -> Iterator[Piece]:
        """Take a message, or a piece of one, in any dialect; what a terminal would obey is left out."""
        texts = [_field(part, name, str) for name in ("reasoning_content", "reasoning", "content")]
        self.came = self.came or any(text is not None for text in texts)
        reasoning, content = shown(texts[0] or texts[1] or ""), shown(texts[2] or "")
        if (reasoning or content) and self.first is None:
            self.first = time.monotonic()
        self.reasoning += reasoning
        self.content += content
        if reasoning:
            yield Piece("thinking", reasoning)
        if content and self.reasoning:  # the server tells them apart
            yield Piece("answer", content)
        elif content:
            yield from splitter.feed(content)

    def answer(self, model: str, finish: str | None, usage: Any, whole: bool = False) -> Answer:
        thinking, answer = self.reasoning, self.content
        if not thinking:
            # Text without any mark is of a model that does not think, or of one that was cut off: nobody can tell.
            begun = answer.lstrip().startswith(THINK)
            thinking, answer = split_thinking(answer.lstrip() if begun else answer, opened=begun)
        return Answer(
            thinking=thinking.removeprefix(THINK),
            answer=answer,
            model=printable(model),
            finish=finish and printable(finish),
            prompt_tokens=_count(usage, "prompt_tokens"),
            tokens=_count(usage, "completion_tokens"),
            seconds=time.monotonic() - self.start,
            first_seconds=None if whole or self.first is None else self.first - self.start,
        )


def _messages(message: str | list[dict[str, str]]) -> list[Any]:
    return [{"role": "user", "content": message}] if isinstance(message, str) else message


def _field(value: Any, name: str, kind: type) -> Any:
    """A field of a server's value if it is of this kind, else None."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, kind) else None


def _count(usage: Any, name: str) -> int | None:
    found = _field(usage, name, int)
    return found if type(found) is int and found in COUNT else None


def _http() -> ModuleType:
    """The library that openai sends with: httpx, or httpx2 of late."""
    import openai

    return sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]


def _message(error: Any) -> str:
    """The server's own words in an error of the client."""
    return str(_inner(error.body) or error.message)


def _inner(body: Any) -> Any:
    """What an error's value says."""
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    return body


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
