"""Lists of module names as quantisers write them: whole names, parts of names, wildcards, and ``re:`` expressions."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..outside import some

MOST_PATTERNS = 250  # with a wildcard; NVIDIA's lists have one for each layer
LONGEST = 300  # characters of a pattern
# What a "re:" expression may be made of, ".*" apart: so it is matched in time that grows with the name's length alone.
PART = re.compile(r"(?:\\[.\-_d]|\[[\w\-]+\]|[\w\-/.]|\(\?:|[()|^$]|(?<=[\]d])\+)*")


class Unread(ValueError):
    """Names that are not matched here: too many patterns, or expressions that could take time without end."""


@dataclass(frozen=True)
class Names:
    """Modules. ``name in names``: it is one of ``exact``, lies inside one, or contains it as whole parts of its dotted
    name (``self_attn`` holds ``model.layers.3.self_attn.o_proj``); or ``pattern`` matches from its beginning.

    Attributes:
        written: the list as it stood in the file, for messages.
        everything: whether every name is in it.
    """

    exact: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None
    written: tuple[str, ...] = ()
    everything: bool = False

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Reads a list: ``re:`` expressions, names with ``*`` or ``?``, and plain ones.

        Raises:
            Unread: more patterns than can be matched in bounded time, or one of a kind that is not read here.
        """
        written = tuple(dict.fromkeys(names))
        plain = frozenset(n for n in written if not n.startswith("re:") and not {"*", "?"} & set(n))
        patterns = [_pattern(name) for name in written if name not in plain]
        if len(patterns) > MOST_PATTERNS:
            raise Unread(f"{len(patterns)} names with wildcards: {MOST_PATTERNS} at most")
        return cls(plain, re.compile("|".join(patterns)) if patterns else None, written)

    def __contains__(self, module: str) -> bool:
        if self.everything or module in self.exact:
            return True
        if self.pattern and self.pattern.match(module):
            return True
        parts = module.split(".") if self.exact else []
        return any(".".join(parts[i:j]) in self.exact for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))

    def __bool__(self) -> bool:
        return self.everything or bool(self.written)

    def __or__(self, other: "Names") -> "Names":
        return Names.of(self.written + other.written)

    @property
    def said(self) -> str:
        """The list as it was written, or its beginning; empty for an empty one."""
        return some([f"{name:.60}" for name in self.written])


def _pattern(name: str) -> str:
    """A regular expression for ``name`` without backtracking over the gaps that ``.*`` leaves."""
    if len(name) > LONGEST:
        raise Unread(f"a name of {len(name)} characters: {name:.60}")
    if not name.startswith("re:"):
        return f"(?:{fnmatch.translate(name)})"
    parts = re.split(r"(?<!\\)\.[*+]\??", name.removeprefix("re:"))
    try:
        if not all(PART.fullmatch(part) and re.compile(part) for part in parts):
            raise ValueError
    except (re.error, ValueError):
        raise Unread(f"the expression {name!r:.60}") from None
    first, *rest = [f"(?:{part.replace('+', '++')})" for part in parts]
    return first + "".join(f"(?>.*?{part})" for part in rest)
