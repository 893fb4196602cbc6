"""The exercises' checks. A stub is told "not yet", a wrong answer what is wrong with it, a right one is noted.

A check is a function ``check_NAME(answer)`` in the module of its lesson, decorated with ``exercise``. It raises
``Wrong`` with a sentence that helps. The tests run every check on its stub, wrong answers and the lesson's solution.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..paths import beginning, home, write_result

# Lesson -> how many exercises it has.
COUNTS = {
    "00": 2,
    "01": 2,
    "02": 3,
    "03": 3,
    "04": 3,
    "05": 4,
    "06": 4,
    "07": 3,
    "08": 4,
    "09": 3,
    "10": 3,
    "11": 2,
    "12": 3,
}
EXERCISES = [f"{lesson}.{n}" for lesson, count in COUNTS.items() for n in range(1, count + 1)]


class Wrong(Exception):
    """A wrong answer. A notebook shows its sentence alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"Wrong: {self}"]


def exercise(lesson: str, number: int) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Decorate a check: says "not yet" for a stub, "right" for an answer that passes, and notes the latter.

    A stub is ``...``, or a function that raises ``NotImplementedError``. Whatever else an answer raises is wrong, too.
    """

    def decorate(check: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(check)
        def checked(answer: Any) -> None:
            where = f"Exercise {int(lesson)}.{number}"
            try:
                if answer is ...:
                    raise NotImplementedError
                check(answer)
            except NotImplementedError:
                print(f"{where}: not yet. Replace the stub above, run it and this cell again.")
                return
            except Wrong as error:
                raise Wrong(f"{where}: {error}") from None
            except Exception as error:
                raise Wrong(f"{where}: it raises {type(error).__name__}: {error}") from error
            _note(f"{lesson}.{number}")
            print(f"{where}: right.")

        return checked

    return decorate


def _file() -> Path:
    return home() / "progress.json"


def done() -> set[str]:
    """The exercises solved on this machine: ``{"03.1", ...}``; none where the file is not there, or not ours."""
    try:
        text = beginning(_file())
    except (OSError, ValueError):
        return set()
    return set(json.loads(text)) if _is_note(text) else set()


def _is_note(text: bytes) -> bool:
    """Whether a file is what ``_note`` writes: a list of exercises."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(names, list) and bool(names) and all(name in EXERCISES for name in names)


def _note(name: str) -> None:
    """Keep that an exercise is solved; a folder that cannot be written, or a file of others, loses only the note."""
    solved = sorted(done() | {name})
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_result(_file(), json.dumps(solved).encode(), _is_note)
    except OSError as error:
        print(f"(not noted in the progress table: {error})")


def progress() -> str:
    """The table of lesson 00: a row a lesson, a mark for each exercise."""
    solved = done()
    rows = [
        f"{lesson}  {' '.join('x' if f'{lesson}.{n}' in solved else '.' for n in range(1, count + 1))}"
        for lesson, count in COUNTS.items()
    ]
    return "\n".join([*rows, f"{len(solved)} of {len(EXERCISES)} exercises solved on this machine"])
