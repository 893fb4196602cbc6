"""What the one line of an error may show, and how long it may be."""

import pytest

from dsv3.cli import describe
from dsv3.outside import printable


def test_the_middle_of_a_long_line_is_left_out():
    """What is wrong stands at the beginning, what to do at the end."""
    text = describe(ValueError(f"a.safetensors: {'x' * 10_000_000} is odd; fetch it again"))
    assert len(text) <= 500
    assert text.startswith("a.safetensors: x")
    assert text.endswith("x is odd; fetch it again")
    assert describe(FileNotFoundError(2, "No such file", "a\x1b[31m\nb")) == "a\ufffd[31m b: No such file"


@pytest.mark.parametrize(
    "code", [0, 7, 0x1B, 0x7F, 0x85, 0x9B, 0x200B, 0x200E, 0x2028, 0x202E, 0x2066, 0xDCFF, 0xE0001]
)
def test_what_moves_a_cursor_or_turns_a_line_is_not_shown(code):
    shown = printable(f"a{chr(code)}b")
    assert shown in ("a\ufffdb", "a b")
