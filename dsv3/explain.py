"""Explains an error line or a traceback: cause, the command that cures it, and the public thread; or 'not known'."""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple, get_args

from .paths import ASSETS
from .said import LANGUAGES, Language

LONGEST = 1 << 20  # characters of a log that are looked at, from its end
Sort = Literal["harmless", "shell", "guess", "cause"]
SORTS: tuple[Sort, ...] = get_args(Sort)  # one to the right is the answer, wherever in the text it stands
COLOUR = re.compile(r"\x1b\[[0-9;]{0,20}m")
QUOTES = str.maketrans(dict.fromkeys('"`´‘’“”', "'"))  # as programs, mails and web pages write them
PERHAPS = {"en": "perhaps: ", "zh": "可能是："}
UNKNOWN = {
    "en": "not known. 'dsv3 doctor --report' prints what a bug report needs.",
    "zh": "没有收录 (not known)。提问时附上 dsv3 doctor --report 的输出。",
}


class Failure(NamedTuple):
    """A failure that people meet.

    Attributes:
        name: of the case, for tests and the appendix.
        pattern: a regular expression that finds it in an error line or a traceback; neither case nor the kind of quotes
            matters.
        cause, cure: one to three sentences; one that says what the command does.
        command: what to run; capitals stand for your own folders.
        thread: where it was reported in public.
        zh: cause and cure in Chinese.
        sort: ``cause``; ``guess``, where the line allows other causes; ``shell``, an error that reports another, which
            stands elsewhere; ``harmless``, a warning.
    """

    name: str
    pattern: str
    cause: str
    cure: str
    command: str
    thread: str
    zh: dict[Literal["cause", "cure"], str]
    sort: Sort = "cause"

    def text(self, language: Language = "en") -> str:
        """Name (in English), cause and cure in one line; a guess says so."""
        perhaps = PERHAPS[language] if self.sort == "guess" else ""
        if language == "zh":
            return f"{perhaps}{self.zh['cause']}{self.zh['cure']}"
        return f"{perhaps}{self.name}: {self.cause} {self.cure}"


@cache
def failures() -> tuple[Failure, ...]:
    """The known failures of ``assets/failures/``, a file for each kind."""
    files = sorted((ASSETS / "failures").glob("*.json"))
    return tuple(Failure(**row) for file in files for row in json.loads(file.read_text(encoding="utf-8")))


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """``pattern`` for text from ``plain``: a search without regard to case takes four times as long."""
    small = re.sub(r"\\.|[A-Z]", lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), pattern)
    return re.compile(small.translate(QUOTES), re.MULTILINE)


def plain(text: str) -> str:
    """The end of ``text`` in small letters, with one kind of quotes, without a terminal's colours."""
    return COLOUR.sub("", text[-LONGEST:]).lower().translate(QUOTES)


def explain(text: str) -> Failure | None:
    """The known failure that ``text`` shows.

    Of several a cause before a guess, a guess before an outer shell, and a harmless line last; of one sort the one that
    ends last, where a traceback says what happened; of those that end together the longest.
    """
    text = plain(text)
    best: tuple[tuple[int, int, int], Failure] | None = None
    for failure in failures():
        for match in compiled(failure.pattern).finditer(text):
            rank = SORTS.index(failure.sort), match.end(), match.end() - match.start()
            if best is None or rank > best[0]:
                best = rank, failure
    return best[1] if best else None


def language_of(env: Mapping[str, str]) -> Language:
    """Chinese, where the first of gettext's variables that is set asks for it."""
    wanted = next(filter(None, map(env.get, ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh" if wanted.lower().startswith("zh") else "en"


def can_print(text: str) -> bool:
    """Whether standard output has the characters of ``text``."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def appendix(language: Language = "en") -> str:
    """All known failures as a Markdown table."""
    head = {"en": "| what it says | cause | cure | thread |", "zh": "| 报错 | 原因 | 解决办法 | 讨论 |"}
    rows = [head[language], "|---|---|---|---|"]
    for f in failures():
        what = f"{f.name}: `{_cell(f.pattern)}`" if language == "en" else f"`{_cell(f.pattern)}`"
        cause, cure = (f.cause, f.cure) if language == "en" else (f.zh["cause"], f.zh["cure"])
        perhaps = PERHAPS[language] if f.sort == "guess" else ""
        rows.append(f"| {what} | {perhaps}{_cell(cause)} | {_cell(cure)} `{_cell(f.command)}` | [thread]({f.thread}) |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(argv: list[str]) -> None:
    """The command line: exit code 1 and 'not known' if it is not."""
    parser = argparse.ArgumentParser(prog="dsv3 explain", description=__doc__)
    parser.add_argument("text", nargs="*", help="the error; without it, standard input is read")
    parser.add_argument("--list", action="store_true", help="print all known failures, as a Markdown table")
    parser.add_argument("--lang", choices=LANGUAGES, help="the answer's language; else as LC_ALL or LANG say")
    args = parser.parse_args(argv)
    language = args.lang or language_of(os.environ)
    if not can_print(UNKNOWN[language]):
        language = "en"
    if args.list:
        print(appendix(language))
        return
    text = " ".join(args.text) if args.text else sys.stdin.buffer.read().decode("utf-8", "replace")
    if not text.strip():
        parser.error("give an error line, or a traceback on standard input")
    found = explain(text)
    if found is None:
        print(UNKNOWN[language])
        sys.exit(1)
    print(f"{found.text(language)}\n\n    {found.command}\n\n{found.thread}")


if __name__ == "__main__":
    from .cli import run

    run(main)
