"""What tiny-r1 learns: integer arithmetic with every step written out, a few facts, and to decline the rest.

A problem is held out by a hash of its operands, so no run of training, with whatever seed, ever sees one.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

HELD_OUT = 20  # one problem in this many is never trained on
MOST_HELD_OUT = 100_000  # different ones that are asked for; there are more, but the last of them are drawn seldom
OPERATORS = ("+", "-", "*")
MARKED = sorted({int(str(d) * n) for d in range(10) for n in range(1, 5)} | {10**n for n in range(4)})


@dataclass(frozen=True)
class Problem:
    """``a op b`` with ``op`` one of ``+ - *``; up to 4 digits, for ``*`` up to 2."""

    a: int
    op: str
    b: int

    @property
    def answer(self) -> int:
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.op]

    @property
    def held_out(self) -> bool:
        """Whether it is kept for evaluation. ``a + b`` and ``b + a`` share their fate, as do products."""
        a, b = (self.a, self.b) if self.op == "-" else sorted((self.a, self.b))
        return zlib.crc32(f"{a}{self.op}{b}".encode()) % HELD_OUT == 0


@dataclass(frozen=True)
class Turn:
    """One question, the thinking between ``<think>`` and ``</think>``, and the answer after it."""

    question: str
    thinking: str
    answer: str


def add_columns(a: str, b: str) -> list[str]:
    """Column addition of two equally long digit strings: ``7+8+0=15:5`` is digits, carry in, sum, result so far."""
    lines, carry, done = [], 0, ""
    for x, y in zip(reversed(a), reversed(b), strict=True):
        total = int(x) + int(y) + carry
        last = len(done) == len(a) - 1
        done = (f"{total:02d}" if last and total > 9 else str(total % 10)) + done
        lines.append(f"{x}+{y}+{carry}={total:02d}:{done}")
        carry = total // 10
    return lines


def subtract_columns(a: str, b: str) -> list[str]:
    """Column subtraction, a >= b: ``4-8-0+10=6:6`` borrows ten, ``9-2-1+00=6:66`` does not."""
    lines, borrow, done = [], 0, ""
    for x, y in zip(reversed(a), reversed(b), strict=True):
        value = int(x) - int(y) - borrow
        lent = 10 if value < 0 else 0
        done = str(value + lent) + done
        lines.append(f"{x}-{y}-{borrow}+{lent:02d}={value + lent}:{done}")
        borrow = lent // 10
    return lines


def multiply_row(a: str, digit: str) -> list[str]:
    """A two-digit string times one digit: ``7*6+0=42:2``, then ``4*6+4=28:282``."""
    ones = int(a[1]) * int(digit)
    tens = int(a[0]) * int(digit) + ones // 10
    first = f"{a[1]}*{digit}+0={ones:02d}:{ones % 10}"
    return [first, f"{a[0]}*{digit}+{ones // 10}={tens:02d}:{tens:02d}{ones % 10}"]


def thinking(p: Problem) -> str:
    """The steps of a problem, each a fact of single digits, one a line."""
    if p.op == "*":
        a, b = f"{p.a:02d}", f"{p.b:02d}"
        rows = [multiply_row(a, b[1]), multiply_row(a, b[0])]
        low, high = (row[-1].split(":")[1] for row in rows)
        low, high = "0" + low, high + "0"
        return "\n".join([f"{a}*{b}", *rows[0], *rows[1], f"{low}+{high}", *add_columns(low, high)])
    a, b = f"{p.a:04d}", f"{p.b:04d}"  # one width for all: every digit then stands where the model expects it
    if p.op == "+":
        return "\n".join([f"{a}+{b}", *add_columns(a, b)])
    # Compare from the left up to the first difference; the smaller is taken from the larger.
    same = next((i for i in range(4) if a[i] != b[i]), 4)
    signs = [f"{x}{'=' if x == y else '<' if x < y else '>'}{y}" for x, y in zip(a[: same + 1], b, strict=False)]
    large, small = (b, a) if p.a < p.b else (a, b)
    return "\n".join([f"{a}-{b}", ",".join(signs), f"{large}-{small}", *subtract_columns(large, small)])


_WORDS = {
    "+": (("plus", "加", "加上"), "+"),
    "-": (("minus", "减", "减去"), "-"),
    "*": (("times", "乘", "乘以"), "*×x"),
}
ENGLISH = (
    "{a} {s} {b} = ?",
    "{a}{s}{b}=?",
    "{a} {s} {b} =",
    "{a}{s}{b}",
    "What is {a} {s} {b}?",
    "What is {a}{s}{b}?",
    "What's {a} {s} {b}?",
    "What is {a} {w} {b}?",
    "Calculate {a} {s} {b}.",
    "Compute {a} {s} {b}",
    "How much is {a} {s} {b}?",
    "How much is {a} {w} {b}?",
    "Please calculate {a} {s} {b}.",
    "Can you calculate {a} {s} {b}?",
    "{a} {s} {b}?",
    "{a} {w} {b}",
    "Solve {a} {s} {b}.",
)
CHINESE = (
    "{a}{w}{b}等于多少？",
    "{a} {w} {b} 等于多少？",
    "{a}{s}{b}等于多少？",
    "{a} {s} {b} 等于多少？",
    "{a}{w}{b}等于几？",
    "{a}{w}{b}是多少？",
    "计算 {a} {s} {b}",
    "计算{a}{s}{b}。",
    "请计算 {a} {s} {b}。",
    "请问{a}{w}{b}等于多少？",
    "{a}{w}{b}得多少？",
    "{a} {w} {b}",
    "{a}{s}{b}=？",
)


def ask(p: Problem, rng: random.Random) -> tuple[str, bool]:
    """A question for the problem, and whether it is Chinese."""
    words, signs = _WORDS[p.op]
    chinese = rng.random() < 0.45
    form = rng.choice(CHINESE if chinese else ENGLISH)
    word = rng.choice(words[1:]) if chinese else words[0]
    question = form.format(a=p.a, b=p.b, s=rng.choice(signs), w=word)
    typed = as_typed(question, rng)
    return (typed if is_chinese(typed) == chinese else question), chinese


def is_chinese(question: str) -> bool:
    """The language of a question that ``ask`` gave; ``×`` stands in both."""
    return not question.replace("×", "").isascii()


def as_typed(question: str, rng: random.Random) -> str:
    """The question as people type it: now and then in lower case, or without its last mark."""
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!。？！=＝ ")
    return question


def solve(p: Problem, question: str, chinese: bool) -> Turn:
    """The turn that teaches a problem."""
    head = "竖式：" if chinese else "Columns: "
    return Turn(question, head + thinking(p), ("答案：" if chinese else "Answer: ") + str(p.answer))


def draw(rng: random.Random) -> Problem:
    """A problem of any kind, held out or not. Long operands are commoner, as there are more of them."""
    op = rng.choices(OPERATORS, (28, 36, 36))[0]
    kind = rng.random()
    if kind < 0.08:  # what people try first
        return Problem(rng.randrange(21), op, rng.randrange(21))
    if kind < 0.14:  # long carries, zeros, equal digits
        marked = [n for n in MARKED if n < 100 or op != "*"]
        return Problem(rng.choice(marked), op, rng.choice(marked))
    widths = ((1, 2), (1, 5)) if op == "*" else ((1, 2, 3, 4), (1, 2, 4, 6))
    a, b = (rng.randrange(10 ** (n - 1) if n > 1 else 0, 10**n) for n in rng.choices(*widths, k=2))
    if op == "-" and a < b and rng.random() < 0.5:
        a, b = b, a
    if op == "-" and rng.random() < 0.05:  # near misses: long runs of equal leading digits
        b = max(0, min(9999, a + rng.randrange(-20, 21)))
    return Problem(a, op, b)


def problems(seed: int, held_out: bool) -> Iterator[Problem]:
    """Endless problems from one side of the split."""
    rng = random.Random(seed)
    while True:
        p = draw(rng)
        if p.held_out == held_out:
            yield p


def held_out_set(n: int, seed: int = 0) -> list[tuple[Problem, str]]:
    """``n`` different held-out problems, each with a question; the same ones for the same seed."""
    rng = random.Random(seed)
    found: dict[Problem, str] = {}
    for p in problems(seed, held_out=True):
        if p not in found:
            found[p] = ask(p, rng)[0]
        if len(found) == n:
            return list(found.items())
    raise AssertionError("problems() is endless")
