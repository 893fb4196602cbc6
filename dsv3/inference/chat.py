"""Text to tokens and back: the tokenizer, the checkpoint's chat template, and the answer apart from the thinking.

Uses ``tokenizers`` and ``jinja2`` directly: no release of transformers can then lose a prompt's spaces.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..outside import some
from .template import Template
from .texts import (
    SETTINGS,
    added_tokens,
    chat_template,
    end_ids,
    settings_of,
    special_tokens,
    template_options,
    tokenizer_json,
)

THINK, END_THINK = "<think>", "</think>"


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
    if opened:
        return text, ""
    begun = text.lstrip().startswith(THINK)  # by the model itself
    return (text.lstrip().removeprefix(THINK), "") if begun else ("", text)


def opens_thinking(prompt: list[int], think_ids: tuple[int, int] | None) -> bool:
    """Whether a prompt ends inside a thought: ``<think>`` stands in it, and no ``</think>`` after that."""
    if think_ids is None:
        return False
    marks = [token for token in prompt if token in think_ids]
    return bool(marks) and marks[-1] == think_ids[0]


class Tokenizer:
    """The tokenizer in a checkpoint folder, with its chat template.

    Attributes:
        eos_ids: all tokens that end an answer: the tokenizer's, generation_config.json's and config.json's.
        eos_id: the tokenizer's own, else the least of them.
        think_ids: the tokens ``<think>`` and ``</think>``, if both are tokens.

    Raises:
        FileNotFoundError: the folder has no tokenizer.json; says how to make one.
        ValueError: a file is damaged; or there is no chat template, or no token that ends an answer.
    """

    def __init__(self, folder: Path):
        import tokenizers

        self.file = folder / "tokenizer.json"
        config = settings_of(folder)
        data = tokenizer_json(folder, config)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of the library's, some are no Exception
            raise ValueError(f"{self.file}: damaged, or no tokenizer ({str(error)[:200]}); fetch it again") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        named, more = special_tokens(folder / SETTINGS, config)
        special = [*named.values(), *more]
        self._tokenizer.add_tokens(added_tokens(folder, config, {token.content for token in special}))
        eos = self._tokenizer.token_to_id(named["eos_token"].content) if "eos_token" in named else None
        known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        self._tokenizer.add_tokens([token for token in special if token.content not in known])
        self._special = {name: token.content for name, token in named.items()}
        self._template = Template(*chat_template(folder, config))
        ends = end_ids(folder)
        if eos is None and not ends:
            raise ValueError(
                f"{folder}: no token ends an answer: eos_token {self._special.get('eos_token')!r:.60} is not in "
                "tokenizer.json, and no eos_token_id in generation_config.json or config.json"
            )
        self.eos_id: int = min(ends) if eos is None else eos
        self.eos_ids = frozenset({self.eos_id, *ends})
        begin, end = (self._tokenizer.token_to_id(mark) for mark in (THINK, END_THINK))
        self.think_ids: tuple[int, int] | None = None if begin is None or end is None else (begin, end)
        added = self._tokenizer.get_added_tokens_decoder()
        self._marks = {mark for mark in self.think_ids or () if mark in added and added[mark].special}

    def check(self, rows: int) -> None:
        """Whether a model with ``rows`` tokens in its embedding knows all of these; it may well have more.

        Tokens that were added behind the last row, such as some that are only reserved, are none of the model's.

        Raises:
            ValueError: a token of the vocabulary behind its last row, or none before that ends an answer.
        """
        last = max(self._tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
        if last >= rows:
            raise ValueError(f"{self.file}: has a token {last}, but the model {rows} rows; take the checkpoint's own")
        if min(self.eos_ids) >= rows:
            raise ValueError(f"{self.file}: token {min(self.eos_ids)} ends an answer, but the model has {rows} rows")

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are recognised, none is added."""
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{self.file}: cannot encode the text ({str(error)[:200]})") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text without special tokens; ``<think>`` and ``</think>`` stay, also where a file calls them special."""
        pieces = itertools.groupby(ids, self._marks.__contains__)
        return "".join(self._tokenizer.decode(list(piece), skip_special_tokens=not mark) for mark, piece in pieces)

    def prompt(self, messages: list[dict[str, Any]], options: Mapping[str, Any] | None = None) -> list[int]:
        """A conversation (``role`` and ``content`` each) -> ids, ready for the assistant's next turn.

        Args:
            options: what the template is told beside, such as V3.1's ``thinking``.

        Raises:
            ValueError: the template does not take it, or an option's name is taken.
        """
        turns = [_turn(message) for message in messages]
        fixed = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": True}
        return self.encode(self._template.render(self._special | template_options(options) | fixed))

    def unused(self, options: Mapping[str, Any]) -> str | None:
        """A line about the options that the chat template does not read; None if it reads all."""
        names = sorted(options.keys() - self._template.variables)
        if not names:
            return None
        return f"{self._template.file}: the chat template does not use {some(names)}; it stays without effect"

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


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers gives it to a template: without what is None, and its thought by each of its names."""
    turn = {name: value for name, value in message.items() if value is not None}
    thoughts = [turn[name] for name in ("reasoning_content", "thinking", "reasoning") if name in turn]
    return {"thinking": thoughts[0]} | turn | {"reasoning_content": thoughts[0]} if thoughts else turn
