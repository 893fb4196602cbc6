"""Tells thought from answer in a text that comes in pieces."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..inference.chat import END_THINK, THINK


class Piece(NamedTuple):
    """Some text. ``part`` is ``"unsure"`` while no mark has told whether it is thought or answer."""

    part: Literal["thinking", "answer", "unsure"]
    text: str


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
