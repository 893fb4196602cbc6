"""A part: one thing that the learner writes. Its stub and its plausible errors are made from its solution."""

import ast
import inspect
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

YOURS = "# yours from here"  # in a solution: what stands above this line is given in the stub, too


class Witness(NamedTuple):
    """An input on which a plausible error shows.

    Attributes:
        hint: what must hold there.
        given: the arguments, made anew each time.
        use: what is done with the answer; calls it with the arguments if nothing else is said.
    """

    hint: str
    given: Callable[[], tuple]
    use: Callable[[Any, tuple], Any] = lambda answer, given: answer(*given)


class Fault(NamedTuple):
    """A plausible error, as an edit of the solution: ``old`` becomes ``new``. Answers that do the same get ``hint``."""

    old: str
    new: str
    hint: str


@dataclass(frozen=True)
class Part:
    """One stub.

    Attributes:
        solution: function or class, as it stands in the lesson's module; it calls no other part.
        what: it does, in a few words.
        stars: difficulty, 1 to 3.
        hint: folded below the stub.
        rule: looks at the way, not at the result, of an answer that gives the right results; says what is wrong.
        together: what an answer gives for all witnesses, where that is cheaper than one at a time (another process).
    """

    solution: Any
    what: str
    stars: int
    minutes: int
    hint: str
    witnesses: tuple[Witness, ...]
    faults: tuple[Fault, ...]
    rule: Callable[[Any], str] = lambda answer: ""
    together: Callable[[Any, tuple[Witness, ...]], list[Any]] | None = None

    @property
    def name(self) -> str:
        return plain(self.solution).__name__

    @property
    def source(self) -> str:
        """The solution, as it is shown."""
        return "".join(line for line in _text(self).splitlines(keepends=True) if line.strip() != YOURS)

    @property
    def lines(self) -> int:
        """Of the solution, that the learner writes."""
        return _blank(_text(self))[1]

    def stub(self) -> str:
        """The cell: the check, the solution's signature and docstrings, and NotImplementedError below each."""
        lines, written = _blank(_text(self))
        stars = "★" * self.stars + "☆" * (3 - self.stars)
        head = f"# Yours: {stars}, {self.minutes} minutes, about {written} line{'s' if written > 1 else ''}."
        return "\n".join([head, "@lesson.check", *lines])

    def faulty(self, fault: Fault) -> Any:
        """The solution with an error."""
        return _faulty(self, fault)


@cache  # the same error, the same function: what judges it may remember what it gives
def _faulty(part: Part, fault: Fault) -> Any:
    if part.source.count(fault.old) != 1:
        times = part.source.count(fault.old)
        raise ValueError(f"{part.name}: {fault.old!r} stands {times} times in the solution")
    space = dict(vars(sys.modules[plain(part.solution).__module__]))
    return load(part.source.replace(fault.old, fault.new), part.name, space)


class Transplant(NamedTuple):
    """Parts at work in tiny-r1, as CI tries it: with the solutions all comes out, with a named error less.

    Attributes:
        score: from parts to how much came out.
        full: what comes out with right ones.
        control: a part, and words of the hint of the error that it gets.
    """

    what: str
    score: Callable[[SimpleNamespace], int]
    full: int
    control: tuple[str, str]


def _text(part: Part) -> str:
    return inspect.getsource(plain(part.solution))


def _blank(text: str) -> tuple[list[str], int]:
    """The lines of a function or class without what the learner writes, and how many those are."""
    outer = ast.parse(text).body[0]
    inner = outer.body if isinstance(outer, ast.ClassDef) else [outer]
    lines, written = text.splitlines(), 0
    for node in reversed([node for node in inner if isinstance(node, ast.FunctionDef)]):
        begin, end = node.body[0].end_lineno or 0, node.end_lineno or 0  # after the docstring
        if YOURS in (body := [line.strip() for line in lines[begin:end]]):
            del lines[begin + body.index(YOURS)]
            begin, end = begin + body.index(YOURS), end - 1
        written += end - begin
        lines[begin:end] = [" " * node.body[0].col_offset + "raise NotImplementedError"]
    return lines, written


def plain(answer: Any) -> Any:
    """The Python function of a Triton kernel; anything else as it is."""
    return answer if inspect.isclass(answer) else getattr(answer, "fn", answer)


def load(source: str, name: str, space: dict[str, Any], file: str = "") -> Any:
    """Run ``source`` and take ``name`` out; a traceback through it shows its lines, and Triton finds them."""
    file = file or f"<{name} {hash(source):x}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    exec(compile(source, file, "exec"), space)  # the course's own text, or what the learner wrote and kept
    return space[name]
