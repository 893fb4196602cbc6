"""Text to tokens and back: the tokenizer, the checkpoint's chat template, and the answer apart from the thinking.

Uses ``tokenizers`` and ``jinja2`` directly: no release of transformers can then lose a prompt's spaces.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..outside import TOKENIZER, small, small_json, small_text
from .template import Template

THINK, END_THINK = "<think>", "</think>"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        thinking: between ``<think>`` and ``</think>``; all of the text if the thinking never ended.
        answer: after ``</think>``; empty if the thinking never ended.
        tokens: how many tokens were generated, the final one included.
        finish: ``"stop"`` at the end-of-sentence token, ``"length"`` at the limit, ``"context"`` at the context's end.
    """

    thinking: str
    answer: str
    tokens: int
    finish: str

    @property
    def text(self) -> str:
        """Everything, as it was generated."""
        return END_THINK.join(part for part in (self.thinking, self.answer) if part)

    def __str__(self) -> str:
        return self.answer.strip() or self.thinking.strip()


def split_thinking(text: str, opened: bool = True) -> tuple[str, str]:
    """A completion -> (thinking, answer). ``opened`` says that the prompt ended in ``<think>``, as R1's does."""
    if END_THINK in text:
        thinking, answer = text.split(END_THINK, 1)
        return thinking.removeprefix(THINK), answer
    return (text, "") if opened else ("", text)


def opens_thinking(prompt: list[int], think_ids: tuple[int, int] | None) -> bool:
    """Whether a prompt ends inside a thought: ``<think>`` stands in it, and no ``</think>`` after that."""
    if think_ids is None:
        return False
    marks = [token for token in prompt if token in think_ids]
    return bool(marks) and marks[-1] == think_ids[0]


class Tokenizer:
    """The tokenizer in a checkpoint folder, with its chat template.

    Raises:
        FileNotFoundError: the folder has no tokenizer.json or tokenizer_config.json.
        ValueError: one of them is damaged, or has no chat template or end-of-sentence token.
    """

    def __init__(self, folder: Path):
        import tokenizers

        self.file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
        for file in (self.file, settings):
            if not os.path.lexists(file):
                raise FileNotFoundError(f"{folder}: no {file.name}; copy it from the original checkpoint")
        data, config = small(self.file, TOKENIZER), small_json(settings)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of the library's, some are no Exception
            raise ValueError(f"{self.file}: damaged, or no tokenizer ({str(error)[:200]}); fetch it again") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        template = folder / "chat_template.jinja"
        if os.path.lexists(template):
            self._template = Template(template, small_text(template))
        else:
            self._template = Template(settings, _default_template(settings, config.get("chat_template")))
        self._special = {name: _content(settings, name, config.get(name)) for name in SPECIAL if config.get(name)}
        eos = self._special.get("eos_token")
        eos_id = None if eos is None else self._tokenizer.token_to_id(eos)
        if eos_id is None:
            raise ValueError(f"{settings}: eos_token {eos!r:.60} is not in tokenizer.json")
        self.eos_id: int = eos_id
        begin, end = (self._tokenizer.token_to_id(mark) for mark in (THINK, END_THINK))
        self.think_ids: tuple[int, int] | None = None if begin is None or end is None else (begin, end)

    def check(self, rows: int) -> None:
        """Whether a model with ``rows`` tokens in its embedding knows all of these; it may well have more.

        Raises:
            ValueError: a token behind its last row.
        """
        last = max(self._tokenizer.get_vocab().values(), default=0)
        if last >= rows:
            raise ValueError(f"{self.file}: has a token {last}, but the model {rows} rows; take the checkpoint's own")

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are recognised, none is added."""
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{self.file}: cannot encode the text ({str(error)[:200]})") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text without special tokens; ``<think>`` and ``</think>`` stay."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation (``role`` and ``content`` each) -> ids, ready for the assistant's next turn."""
        return self.encode(self._template.render(self._special | {"messages": messages, "add_generation_prompt": True}))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text piece by piece as ids arrive, and never half a character."""
        pending: list[int] = []
        for token in ids:
            pending.append(token)
            text = self.decode(pending)
            if not text.endswith("\ufffd"):
                yield text
                pending.clear()
        if pending:
            yield self.decode(pending)


def _content(file: Path, name: str, token: Any) -> str:
    """Older files describe a special token as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ValueError(f"{file}: {name} is {token!r:.60}, must be text")
    return text


def _default_template(file: Path, template: Any) -> str:
    """The template for a plain conversation; some files have several, with names."""
    if isinstance(template, list):
        template = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    if not template or not isinstance(template, str):
        raise ValueError(f"{file}: has no chat_template, or none that is named default")
    return template
