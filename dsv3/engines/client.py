"""Questions to a server with OpenAI's interface: the thinking and the answer apart, counts of tokens, and times.

Servers differ in how they tell a thought: ``reasoning_content`` (SGLang, LMDeploy), ``reasoning`` (vLLM), or
``<think>`` and ``</think>`` in the text (no reasoning parser, transformers serve). Here they are all the same.
"""

import ipaddress
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack
from urllib.parse import urlsplit

from ..inference.chat import END_THINK, THINK, split_thinking

if TYPE_CHECKING:
    from openai import OpenAI

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 600.0
NO_KEY = "none"  # the client insists on one


class Piece(NamedTuple):
    """Some text. ``part`` is ``"unsure"`` while no mark has told whether it is thought or answer."""

    part: Literal["thinking", "answer", "unsure"]
    text: str


class Options(TypedDict, total=False):
    """What a request may say; what it does not is the server's to choose."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


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


class Splitter:
    """Tells thought from answer in text that comes in pieces, also where a mark is cut by their borders.

    Text before a ``</think>`` is thought. R1's prompt ends in ``<think>``, so its text may begin inside a thought
    without saying so: then the pieces are ``"unsure"`` until the mark comes.
    """

    def __init__(self):
        self.part: Literal["thinking", "answer", "unsure"] = "unsure"
        self.begun = False  # whether the beginning can no longer be <think>
        self.held = ""

    def feed(self, text: str) -> Iterator[Piece]:
        self.held += text
        if not self.begun:
            start = self.held.lstrip()
            if THINK.startswith(start):
                return
            self.begun = True
            if start.startswith(THINK):
                self.part, self.held = "thinking", start.removeprefix(THINK)
        if self.part != "answer" and END_THINK in self.held:
            thought, self.held = self.held.split(END_THINK, 1)
            yield from self._piece("thinking" if self.part == "thinking" else "unsure", thought)
            self.part = "answer"
        keep = 0 if self.part == "answer" else _overlap(self.held, END_THINK)
        cut = len(self.held) - keep
        ready, self.held = self.held[:cut], self.held[cut:]
        yield from self._piece(self.part, ready)

    def close(self) -> Iterator[Piece]:
        """What was held back, as no more comes."""
        yield from self._piece(self.part, self.held)
        self.held = ""

    def _piece(self, part: Literal["thinking", "answer", "unsure"], text: str) -> Iterator[Piece]:
        if text:
            yield Piece(part, text)


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``mark``."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)


class Client:
    """A server at ``base_url``, such as ``http://127.0.0.1:8000/v1``; nothing is sent until it is asked.

    Attributes:
        latest: the answer that was given last.

    Raises:
        ImportError: the package openai is missing.
        ValueError: not a web address.
    """

    def __init__(self, base_url: str, api_key: str | None = None):
        try:
            import openai
        except ImportError:
            raise ImportError("asking a server needs the package openai: pip install 'dsv3[serving]'") from None
        self.base_url = base_url.rstrip("/")
        try:
            host = urlsplit(base_url).hostname if base_url.startswith(("http://", "https://")) else None
        except ValueError:
            host = None
        if host is None:
            raise ValueError(f"{base_url}: not a server's address; it is like http://127.0.0.1:8000/v1")
        self._client: OpenAI = openai.OpenAI(
            base_url=self.base_url,
            api_key=api_key or NO_KEY,  # never OPENAI_API_KEY, which is nobody else's business
            max_retries=0,
            timeout=openai.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # A proxy, which rented machines often have, could not reach this one.
            http_client=openai.DefaultHttpxClient(trust_env=not _loopback(host)),
        )
        self.latest: Answer | None = None

    def models(self) -> list[str]:
        """The names of the models that are served.

        Raises:
            OSError, ValueError: as ``stream``.
        """
        with self._told(""):
            return [model.id for model in self._client.models.list().data]

    def ask(self, message: str | list[dict[str, str]], model: str | None = None, **options: Unpack[Options]) -> Answer:
        """The answer, sent in one piece. Arguments and errors as in ``stream``."""
        model = model or self._only_model()
        record = _Record()
        with self._told(model):
            reply = self._client.chat.completions.create(model=model, messages=_messages(message), **options)
            if not reply.choices:
                raise ValueError(f"{self.base_url}: the server gave no answer")
            list(record.add(reply.choices[0].message, Splitter()))
        self.latest = record.answer(reply.model or model, reply.choices[0].finish_reason, reply.usage, whole=True)
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
            for chunk in self._open(model, _messages(message), options):
                usage, named = chunk.usage or usage, chunk.model or named
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    yield from record.add(choice.delta, splitter)
            yield from splitter.close()
        self.latest = record.answer(named, finish, usage)

    def _open(self, model: str, messages: list[dict[str, str]], options: Options) -> Iterable[Any]:
        import openai

        def create(**more: Any) -> Iterable[Any]:
            return self._client.chat.completions.create(model=model, messages=messages, stream=True, **options, **more)

        try:
            return create(stream_options={"include_usage": True})
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "stream_options" not in str(error):
                raise
            return create()  # a server that cannot count

    def _only_model(self) -> str:
        names = self.models()
        if len(names) != 1:
            served = f"serves {', '.join(names)}" if names else "lists no model"
            raise ValueError(f"{self.base_url}: the server {served}; say which with --model")
        return names[0]

    @contextmanager
    def _told(self, model: str) -> Iterator[None]:
        """Errors in one line, with what to do."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise ConnectionError(f"{self.base_url}: no answer in time; is the server overloaded?") from None
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            raise ConnectionError(
                f"{self.base_url}: no server answers there ({why}); is it started, and ready?"
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise PermissionError(
                f"{self.base_url}: the server wants another key; name the variable that holds it with --api-key-env"
            ) from None
        except openai.NotFoundError as error:
            raise ValueError(self._not_found(model, _message(error))) from None
        except openai.APIStatusError as error:
            what = f"{self.base_url}: the server refused ({error.status_code}): {_message(error)}"
            raise (ValueError if error.status_code < 500 else OSError)(what) from None
        except openai.APIError as error:  # told in the middle of a stream
            raise OSError(f"{self.base_url}: the server failed: {_message(error)}") from None

    def _not_found(self, model: str, message: str) -> str:
        try:
            names = self.models() if model else []
        except (OSError, ValueError):
            names = []
        if not names:
            return f"{self.base_url}: no OpenAI interface there ({message}); addresses mostly end in /v1"
        return f"{self.base_url}: no model {model!r} there ({message}); it serves {', '.join(names)}"


@dataclass
class _Record:
    """What has come of one answer."""

    start: float = field(default_factory=time.monotonic)
    first: float | None = None
    reasoning: str = ""
    content: str = ""

    def add(self, part: Any, splitter: Splitter) -> Iterator[Piece]:
        """Take a message, or a piece of one, in any dialect."""
        reasoning = getattr(part, "reasoning_content", None) or getattr(part, "reasoning", None) or ""
        content = part.content or ""
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
            model=model,
            finish=finish,
            prompt_tokens=usage and usage.prompt_tokens,
            tokens=usage and usage.completion_tokens,
            seconds=time.monotonic() - self.start,
            first_seconds=None if whole or self.first is None else self.first - self.start,
        )


def _messages(message: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "user", "content": message}] if isinstance(message, str) else message


def _message(error: Any) -> str:
    """The server's own words in an error of the client."""
    body = error.body
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    return str(body or error.message)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
