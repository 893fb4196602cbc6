"""Sentences that a program says in the reader's language: English in the code, its Chinese in ``assets/zh/``."""

import json
import unicodedata
from functools import cache
from typing import Any, Literal, get_args

from .paths import ASSETS

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Said(str):
    """A sentence in English that knows what it was made of, so that ``told`` can say it in another language.

    Args:
        template: as for ``str.format``; a sentence as it is, where nothing stands in it.
        values: what stands in it; sentences, too.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, /, **values: Any) -> "Said":
        sentence = super().__new__(cls, template.format(**values) if values else template)
        sentence.template, sentence.values = template, values
        return sentence


def told(text: str, language: Language) -> str:
    """A sentence in a language; any other text, such as the words of an error of Python's, stays as it is.

    Raises:
        ValueError: no language of ``LANGUAGES``.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {str(language)[:40]!r}: there are {' and '.join(LANGUAGES)}")
    if language == "en" or not isinstance(text, Said):
        return str(text)
    template = chinese().get(text.template, text.template)
    values = {name: told(x, language) if isinstance(x, Said) else x for name, x in text.values.items()}
    return template.format(**values) if values else template


def capital(text: str) -> str:
    """A sentence that begins with a capital in English; in Chinese, where it may begin with code, it stays as it is."""
    large = text[:1].upper() + text[1:]
    if not isinstance(text, Said):
        return large
    sentence = str.__new__(Said, large)
    sentence.template, sentence.values = text.template, text.values
    return sentence


def say(language: Language, template: str, /, **values: Any) -> str:
    """A sentence, at once in a language."""
    return told(Said(template, **values), language)


@cache
def chinese() -> dict[str, str]:
    """English sentence or template -> Chinese, of all modules."""
    tables = (json.loads(file.read_text(encoding="utf-8")) for file in sorted((ASSETS / "zh").glob("*.json")))
    return {english: words for table in tables for english, words in table.items()}


def pad(text: str, width: int) -> str:
    """``text`` and blanks, so many columns in all; Chinese characters take two. A negative ``width``: blanks first."""
    blanks = " " * (abs(width) - sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text))
    return text + blanks if width > 0 else blanks + text
