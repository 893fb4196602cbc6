"""The learner's folder ``mine/``: the source of every part that passed, a file each, for later lessons to run.

A file's first line has the sum of what follows, and of the inputs it was judged by. One that was edited by hand is
judged again, and never overwritten; one that is as it was is not judged again.
"""

import ast
import contextlib
import hashlib
import inspect
import io
import linecache
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

from ..checkpoint import ours
from ..paths import beginning, expand, short, write_result
from ..said import Said
from .judge import judge
from .part import Part, load, plain

MARK = ".dsv3-mine"  # lies in the folder, so that another's folder of that name is left alone
FIRST = re.compile(r"# Kept from lesson (\d\d): (\w+), right on \d+ inputs \(([0-9a-f]{12}), ([0-9a-f]{12})\)\n")


def course() -> Path:
    """The folder of the lessons, where a notebook runs; those of a translation run in ``zh`` below it."""
    here = Path.cwd()
    return here.parent if here.name == "zh" else here


def folder() -> Path:
    """``DSV3_MINE``, or ``mine`` beside the lessons."""
    if named := os.environ.get("DSV3_MINE"):
        return expand(named, "DSV3_MINE")
    return course() / "mine"


def file_of(lesson: str, part: Part) -> Path:
    """Where a part of lesson ``"05"`` is kept."""
    return folder() / f"lesson_{lesson}" / f"{part.name}.py"


def keep(lesson: str, part: Part, answer: Any) -> tuple[bool, Said]:
    """Write an answer's source if it is right by itself, without the notebook -> whether it was, and what to say."""
    try:
        source = source_of(answer)
        with contextlib.redirect_stdout(io.StringIO()):  # what it prints was seen when the answer itself was judged
            verdict, hint = judge(part, load(source, part.name, {"__name__": f"mine.{part.name}"}))
    except Exception as error:  # it has no source, or needs what only the notebook has
        verdict, hint = "wrong", Said("it raises {kind}: {says}", kind=type(error).__name__, says=str(error))
    if verdict != "right":
        return False, Said("Not kept for later lessons: outside this notebook {hint}.", hint=hint)
    file, here = file_of(lesson, part), folder()
    inputs = f"{len(part.witnesses)} inputs ({_sum(source)}, {_sum(_inputs(part))})"
    first = f"# Kept from lesson {lesson}: {part.name}, right on {inputs}\n"
    if here.is_dir() and not os.environ.get("DSV3_MINE") and not ours.is_plain(here / MARK) and any(here.iterdir()):
        return False, Said(
            "Not kept for later lessons: {folder} is not the course's; move it, or set DSV3_MINE.", folder=short(here)
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(here / MARK):
            os.close(ours.create(here / MARK, False))
        write_result(file, (first + source).encode(), _is_ours)
    except FileExistsError:
        says = "{file} was changed by hand and stays as it is; move it away to keep this one."
        return False, Said(says, file=short(file))
    except OSError as error:
        says = error.strerror or str(error)
        return False, Said("Not kept for later lessons: {file}: {says}.", file=short(file), says=says)
    return True, Said("Kept in {file}.", file=shown(file))


def kept(lesson: str, part: Part) -> Any | None:
    """What was kept; None if there is nothing, or it is not right any more."""
    file = file_of(lesson, part)
    try:
        text = beginning(file).decode()
        first = FIRST.match(text)
        answer = load(text, part.name, {"__name__": f"mine.{part.name}"}, str(file))
        unchanged = first and first[3] == _sum(text[first.end() :]) and first[4] == _sum(_inputs(part))
        return answer if unchanged or judge(part, answer)[0] == "right" else None
    except (Exception, SystemExit):  # not there, not text, edited into something that does not run
        return None


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _inputs(part: Part) -> str:
    """What an answer was judged by, in words."""
    return "\n".join(witness.hint for witness in part.witnesses)


def _is_ours(data: bytes) -> bool:
    """Whether a file is as ``keep`` wrote it."""
    text = data.decode(errors="replace")
    first = FIRST.match(text)
    return first is not None and first[3] == _sum(text[first.end() :])


def shown(file: Path) -> str:
    """As a reader finds it: from the folder of the notebook, if it lies there."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else short(file)


# ------------------------------------------------------------------------------------------------- source


def source_of(answer: Any) -> str:
    """Source of a function, kernel or class of a notebook, with the imports, constants and helpers it uses.

    Raises:
        OSError: it has no source (a lambda, a function that a call made).
    """
    parts: dict[str, str] = {}
    _collect(answer, parts)
    *above, last = parts.values()
    imports = sorted(text for text in above if text.startswith(("import ", "from ")))
    others = [text for text in above if text not in imports]
    return "\n".join([*imports, *([""] if imports else []), *others, *(["", ""] if others or imports else []), last])


def _collect(answer: Any, parts: dict[str, str]) -> None:
    """Put the source of ``answer`` into ``parts``, after that of everything it uses."""
    plain_answer = inspect.unwrap(plain(answer))  # without decorators
    methods = [x for x in vars(answer).values() if inspect.isfunction(x)] if inspect.isclass(answer) else [plain_answer]
    if not methods:
        raise OSError(f"no source of {plain_answer.__name__}")
    code, space, name = methods[0].__code__, methods[0].__globals__, plain_answer.__name__
    cell = "".join(linecache.getlines(code.co_filename))
    kinds = ast.FunctionDef | ast.ClassDef
    nodes = [node for node in ast.parse(cell).body if isinstance(node, kinds) and node.name == name]
    if not nodes:
        raise OSError(f"no source of {name}")
    node = nodes[-1]
    node.decorator_list = [each for each in node.decorator_list if not _is_check(each)]
    begin = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    text = "\n".join(cell.splitlines()[begin - 1 : node.end_lineno]) + "\n"
    parts.setdefault(name, "")  # it may call itself
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    # An argument or a local variable may have the name of something in the notebook.
    own = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
    own |= {each.id for each in names if isinstance(each.ctx, ast.Store)}
    for used in dict.fromkeys(each.id for each in names):
        if used not in parts and used in space and used not in own:
            _one(used, space, cell, getattr(plain_answer, "__module__", ""), parts)
    del parts[name]
    parts[name] = text


def _is_check(decorator: ast.expr) -> bool:
    """``@lesson.check``."""
    return isinstance(decorator, ast.Attribute) and decorator.attr == "check"


def _one(name: str, space: dict[str, Any], cell: str, home: str, parts: dict[str, str]) -> None:
    """Put the line that gives ``name`` its value into ``parts``; nothing if no line can."""
    value, line = space[name], _assignment(name, cell)
    inner = plain(value)
    module = sys.modules.get(getattr(inner, "__module__", None) or "")
    own = getattr(inner, "__name__", "")
    if isinstance(value, types.ModuleType):
        parts[name] = f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}")
    elif line and (own or not _literal(value)):  # a compiled pattern, a lambda, a named tuple
        parts[name] = ""
        for used in dict.fromkeys(each.id for each in ast.walk(line) if isinstance(each, ast.Name)):
            if used not in parts and used in space:
                _one(used, space, cell, home, parts)
        del parts[name]
        parts[name] = ast.unparse(line)
    elif own and getattr(inner, "__module__", "") == home and (inspect.isfunction(inner) or inspect.isclass(inner)):
        _collect(value, parts)
    elif own and module and getattr(module, own, None) is value:
        parts[name] = f"from {module.__name__} import {own}" + ("" if own == name else f" as {name}")
    elif type(value).__name__ == "dtype" and str(value).startswith("torch."):
        parts.setdefault("torch", "import torch")
        parts[name] = f"{name} = {value}"
    elif isinstance(value, float):  # infinity, too
        parts[name] = f"{name} = {value!r}" if abs(value) < float("inf") else f'{name} = float("{value}")'
    elif _literal(value):
        parts[name] = f"{name} = {value!r}"


def _literal(value: Any) -> bool:
    """Whether a value's text gives it again."""
    try:
        return isinstance(value, float) or bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def _assignment(name: str, cell: str) -> ast.Assign | ast.AnnAssign | None:
    """The last line of a cell that gives a name its value."""
    found = None
    for node in ast.parse(cell).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in [getattr(each, "id", "") for each in targets]:
            found = node
    return found
