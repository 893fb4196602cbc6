"""Explains an error line or a traceback: cause, the command that cures it, and the public thread; or 'not known'."""

import argparse
import json
import re
import sys
from typing import NamedTuple

from .paths import ASSETS

LONGEST = 1 << 20  # characters of a log that are looked at, from its end


class Failure(NamedTuple):
    """A failure that people meet.

    Attributes:
        name: of the case, for tests and the appendix.
        pattern: a regular expression that finds it in an error line or a traceback; case does not matter.
        cause: one or two sentences.
        command: what to run; capitals stand for your own folders.
        thread: where it was reported in public.
    """

    name: str
    pattern: str
    cause: str
    command: str
    thread: str


def failures() -> list[Failure]:
    """The known failures of ``assets/failures.json``, from the special to the general."""
    return [Failure(**row) for row in json.loads((ASSETS / "failures.json").read_text(encoding="utf-8"))]


def explain(text: str) -> Failure | None:
    """The known failure that ``text`` shows; of several the last in the text, where a traceback says what happened.

    At one place the first of the list is the answer.
    """
    found = None
    for failure in failures():
        for match in re.finditer(failure.pattern, text[-LONGEST:], re.IGNORECASE | re.MULTILINE):
            if found is None or match.end() > found[0]:
                found = match.end(), failure
    return found[1] if found else None


def appendix() -> str:
    """All known failures as a Markdown table."""
    rows = ["| what it says | cause | cure | thread |", "|---|---|---|---|"]
    for f in failures():
        pattern = f.pattern.replace("|", "\\|")
        rows.append(f"| {f.name}: `{pattern}` | {f.cause} | `{f.command}` | [thread]({f.thread}) |")
    return "\n".join(rows)


def main(argv: list[str]) -> None:
    """The command line: exit code 1 and 'not known' if it is not."""
    parser = argparse.ArgumentParser(prog="dsv3 explain", description=__doc__)
    parser.add_argument("text", nargs="*", help="the error; without it, standard input is read")
    parser.add_argument("--list", action="store_true", help="print all known failures, as a Markdown table")
    args = parser.parse_args(argv)
    if args.list:
        print(appendix())
        return
    text = " ".join(args.text) if args.text else sys.stdin.buffer.read().decode("utf-8", "replace")
    if not text.strip():
        parser.error("give an error line, or a traceback on standard input")
    found = explain(text)
    if found is None:
        print("not known. 'dsv3 doctor --report' prints what a bug report needs.")
        sys.exit(1)
    print(f"{found.name}: {found.cause}\n\n    {found.command}\n\n{found.thread}")


if __name__ == "__main__":
    from .cli import run

    run(main)
