"""Whether an answer is right: on each of its part's inputs it must give what the solution gives.

Values may be numbers, text, containers, arrays, tensors or errors. Nothing here imports torch.
"""

import contextlib
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from ..said import Said
from .part import Part, Witness, plain

# Of the largest number expected.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-3}


@dataclass(frozen=True)
class Raised:
    """An error, as what an answer gives."""

    kind: str
    says: str

    @property
    def why(self) -> Said:
        return Said("it raises {kind}: {says}", kind=self.kind, says=self.says)


@dataclass(frozen=True)
class Refused:
    """Why what an answer gives does not count."""

    why: str


def outcome(answer: Any, witness: Witness) -> Any:
    """What an answer gives for a witness; an error, or a change of its arguments, is an outcome, too."""
    torch = sys.modules.get("torch")
    given = witness.given()
    before = [_copied(x) for x in given]
    try:
        with torch.no_grad() if torch else contextlib.nullcontext():
            found = witness.use(answer, given)
    except NotImplementedError:
        raise
    except (Exception, SystemExit) as error:  # the learner's code may raise anything
        return Raised(type(error).__name__, _where(error, answer))
    if any(differs(x, old, exact=True) for x, old in zip(given, before, strict=True)):
        return Refused(Said("it changes its arguments"))
    return found


def _copied(x: Any) -> Any:
    """A copy of what an answer may change in place; other things as they are."""
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        return type(x)(_copied(each) for each in x)
    if type(x) is dict:
        return {key: _copied(value) for key, value in x.items()}
    return x.clone() if hasattr(x, "clone") and hasattr(x, "dtype") else x


def _where(error: BaseException, answer: Any) -> str:
    """The error's text, bounded, with the learner's line."""
    code = getattr(plain(answer), "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    lines = str(error).strip().splitlines()
    text = lines[0][:200] if lines else Said("no words")
    if not frames:
        return text
    return Said("{text} (line {number}: {line})", text=text, number=frames[-1].lineno, line=frames[-1].line)


def differs(found: Any, wanted: Any, exact: bool = False) -> str:
    """How a value differs from the one that is wanted; empty if it does not."""
    if isinstance(found, Refused):
        return "" if isinstance(wanted, Refused) and found.why == wanted.why else found.why
    if isinstance(wanted, Refused):
        return Said("it should not have come to an end")
    if isinstance(found, Raised) or isinstance(wanted, Raised):
        if isinstance(found, Raised) and isinstance(wanted, Raised) and found.kind == wanted.kind:
            return ""
        if isinstance(found, Raised):
            return found.why
        return Said("it should raise {kind}, and returns {found}", kind=wanted.kind, found=_short(found))
    if hasattr(wanted, "dtype") and hasattr(wanted, "shape"):
        return _array_differs(found, wanted, exact)
    if isinstance(wanted, (tuple, list, dict, set, str, bytes, bool)) and type(found) is not type(wanted):
        return _instead(_kind(found), _kind(wanted))
    if isinstance(wanted, (tuple, list)):
        if len(found) != len(wanted):
            return Said(
                "it returns {n} values, not {right}: {found}, not {wanted}",
                n=len(found), right=len(wanted), found=_short(found), wanted=_short(wanted),
            )  # fmt: skip
        pairs: list[tuple[str, Any, Any]]
        pairs = [(Said("value {i}", i=i), *pair) for i, pair in enumerate(zip(found, wanted, strict=True), 1)]
    elif isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return Said("the keys are {found}, not {wanted}", found=_short(list(found)), wanted=_short(list(wanted)))
        pairs = [(repr(key), found[key], wanted[key]) for key in wanted]
    elif isinstance(wanted, float) and isinstance(found, (int, float)) and not isinstance(found, bool):
        close = found == wanted or abs(found - wanted) <= 1e-6 * abs(wanted) or found != found and wanted != wanted
        return "" if close else _instead(f"{found:.6g}", f"{wanted:.6g}")
    elif isinstance(wanted, int) and isinstance(found, bool) is not isinstance(wanted, bool):
        return _instead(_kind(found), _kind(wanted))
    else:
        try:
            same = bool(found == wanted)
        except Exception:  # two kinds that cannot be compared
            same = False
        return "" if same else _instead(_short(found), _short(wanted))
    problems = ((name, differs(a, b, exact)) for name, a, b in pairs)
    return next((Said("{name}: {problem}", name=name, problem=problem) for name, problem in problems if problem), "")


def _instead(found: str, wanted: str) -> Said:
    return Said("it returns {found}, not {wanted}", found=found, wanted=wanted)


def _array_differs(found: Any, wanted: Any, exact: bool) -> str:
    """Of a tensor, or an array of NumPy's."""
    if {type(found).__name__, type(wanted).__name__} - {"Parameter"} - {type(wanted).__name__}:
        return _instead(_kind(found), _kind(wanted))
    if tuple(found.shape) != tuple(wanted.shape):
        return Said("the shape is {found}, not {wanted}", found=list(found.shape), wanted=list(wanted.shape))
    if found.dtype != wanted.dtype:
        return Said("the result is {found}, not {wanted}: cast back", found=found.dtype, wanted=wanted.dtype)
    off = 0.0 if exact else TOLERANCE.get(str(wanted.dtype).removeprefix("torch."), 0.0)
    tensor = hasattr(wanted, "double")
    a, b = (x.detach().double() if tensor else x.astype("float64") for x in (found, wanted))
    odd = (a != a) != (b != b)  # NaN in one alone
    same = (a == b) | (a != a) & (b != b)
    size = b.numel() if tensor else b.size
    if not size or bool(same.all()):
        return ""
    if bool(odd.any()):
        here = Said("there is NaN in the result")
        return here if bool((a != a).any()) else Said("the result should have NaN, and has none")
    apart = abs(a - b)[~same]
    finite = abs(b)[abs(b) < float("inf")]
    limit = off * float(finite.max()) if len(finite) else 0.0
    return Said("off by {most:.2g}", most=float(apart.max())) if float(apart.max()) > limit else ""


def _kind(x: Any) -> str:
    return Said("nothing") if x is None else Said("a {kind}", kind=type(x).__name__)


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 80 else text[:77] + "..."


def outcomes(part: Part, answer: Any) -> list[Any]:
    """What an answer gives for each witness."""
    if part.together:
        return part.together(answer, part.witnesses)
    return [outcome(answer, witness) for witness in part.witnesses]


def judge(part: Part, answer: Any) -> tuple[str, str]:
    """``("right" | "wrong" | "not yet", hint)``: the first witness that fails says what must hold, a fault names it.

    The hint is to be ``told`` in a language.
    """
    try:
        found = outcomes(part, answer)
    except NotImplementedError as error:  # the stub, which has no words; or nothing can be judged here, and why
        return "not yet", error.args[0] if error.args else ""
    wanted = outcomes(part, part.solution)
    problems = [differs(*pair) for pair in zip(found, wanted, strict=True)]
    first = next((i for i, problem in enumerate(problems) if problem), None)
    if first is None:
        broken = part.rule(answer)
        return ("wrong", broken) if broken else ("right", "")
    says = Said(part.witnesses[first].hint)
    general = "{problem} (where {says})" if isinstance(found[first], Raised) else "{says}; {problem}"
    return "wrong", _named(part, found, first) or Said(general, problem=problems[first], says=says)


def _named(part: Part, found: list[Any], first: int) -> str:
    """The hint of the fault with the same results: on the first witness that fails, and on most others.

    An answer with two errors matches one of them there. Where it raises, only a fault that agrees everywhere counts.
    """
    best, hint = 0, ""
    for fault in part.faults:
        wrong = outcomes(part, part.faulty(fault))
        same = [not differs(*pair) for pair in zip(found, wrong, strict=True)]
        if same[first] and sum(same) > best and (all(same) or not isinstance(found[first], (Raised, Refused))):
            best, hint = sum(same), Said(fault.hint)
    return hint
