"""Text to tokens and back: the tokenizer, the checkpoint's chat template, and the answer apart from the thinking.

Uses ``tokenizers`` and ``jinja2`` directly: no release of transformers can then lose a prompt's spaces.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
    return (text, "") if opened else ("", text)


def opens_thinking(prompt: list[int], think_ids: tuple[int, int] | None) -> bool:
    """Whether a prompt ends inside a thought: ``<think>`` stands in it, and no ``</think>`` after that."""
    marks = [token for token in prompt if token in (think_ids or ())]
    return bool(marks) and marks[-1] == think_ids[0]


class Tokenizer:
    """The tokenizer in a checkpoint folder, with its chat template.

    Raises:
        FileNotFoundError: the folder has no tokenizer.json or tokenizer_config.json.
        ValueError: one of them is damaged, or has no chat template or end-of-sentence token.
    """

    def __init__(self, folder: Path):
        import tokenizers
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder}: no {name}; copy it from the original checkpoint")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises no narrower one
            raise ValueError(f"{folder}: tokenizer.json or tokenizer_config.json is damaged ({error})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        template = folder / "chat_template.jinja"
        source = template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template")
        if not source:
            raise ValueError(f"{folder / 'tokenizer_config.json'}: has no chat_template")
        # A sandbox: the template is a program that came with the checkpoint.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(source)
        self._special = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
        eos = self._special["eos_token"]
        if eos is None or self._tokenizer.token_to_id(eos) is None:
            raise ValueError(f"{folder / 'tokenizer_config.json'}: eos_token {eos!r} is not in tokenizer.json")
        self.eos_id: int = self._tokenizer.token_to_id(eos)
        begin, end = (self._tokenizer.token_to_id(mark) for mark in (THINK, END_THINK))
        self.think_ids: tuple[int, int] | None = None if begin is None or end is None else (begin, end)

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are recognised, none is added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text without special tokens; ``<think>`` and ``</think>`` stay."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation (``role`` and ``content`` each) -> ids, ready for the assistant's next turn."""
        text = self._template.render(messages=messages, add_generation_prompt=True, **self._special)
        return self.encode(text)

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


def _content(token: str | dict | None) -> str | None:
    """Older files describe a special token as an object."""
    return token["content"] if isinstance(token, dict) else token
