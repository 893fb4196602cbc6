"""What comes from outside: text, made fit for a script, a terminal's line or a report; small files, read in bounds."""

import ipaddress
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, cast

from .said import Said

# C0, DEL and C1; line and paragraph separators; overrides of direction; halves of characters; no characters at all.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
LONGEST = 500  # characters of others' words in a line
URL = re.compile(r"([a-z][a-z0-9+.-]{0,20}://)([^\s'\"<>]*[^\s'\"<>.,;:)])", re.IGNORECASE)
LOGIN = re.compile(r"(?<![^\s'\"/@])[^\s'\"/@:]*:[^\s'\"@]{0,300}@")  # in an address without its scheme
SERVER = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:\d*)?", re.IGNORECASE)
MAX_VALUES = 6_000_000  # in one JSON text: 12 for each of 500,000 tensors; as Python objects they take up to 1 GB
SMALL = 16_000_000  # bytes of a config or another text beside the tensors
TOKENIZER = 64_000_000  # bytes of a tokenizer.json, of which DeepSeek's has 8 million


def word(option: str, text: str) -> str:
    """``text``, if it can stand as a word in scripts, YAML and comments; quoting it is left to the place.

    Raises:
        ValueError: a character that ends a line, moves a cursor or hides text, or ``-`` in front, as of an option.
    """
    if found := CONTROL.search(text):
        code = ord(found[0])
        raise ValueError(f"{option}: has the character U+{code:04X}, which cannot stand in a script; leave it out")
    if text.startswith("-"):
        raise ValueError(f"{option} {text[:LONGEST]}: begins with '-', as an option does")
    return text


def secret(option: str, text: str) -> str:
    """``text``, if it can be sent as a key; nothing of it is ever in a message.

    Raises:
        ValueError: it is empty, or has a blank, the end of a line, or another character that no key has.
    """
    if not re.fullmatch("[!-~]+", text):
        raise ValueError(f"{option}: its value is no key: only ASCII without blanks and line ends; set it anew")
    return text


def host(option: str, text: str) -> str:
    """``text``, if it is the name or the address of a host.

    Raises:
        ValueError: it is neither.
    """
    number = re.fullmatch(r"([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(%[\w.-]+)?", text, re.ASCII)
    if not (number and is_address(number[1])) and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text, re.ASCII):
        raise ValueError(f"{option} {text[:LONGEST]!r}: is not a host name or an address")
    return text


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def shown(text: str) -> str:
    """``text`` without what a terminal would obey, escape codes among it; its line feeds and tabs stay."""
    return UNSHOWN.sub("", text)


def printable(text: object, most: int = LONGEST) -> str:
    """One line of at most ``most`` characters, whatever a file or a hub put into it: nothing that moves the cursor,
    changes colours or the direction of writing. A long one loses its middle: what is wrong and what to do stay."""
    text = str(text)
    if len(text) > 4 * most:  # cut it before the work below, which takes time for each character
        text = f"{text[: 2 * most]}...{text[-2 * most :]}"
    text = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def some(names: list[str]) -> str:
    """``a, b, c and 7 more``."""
    first, more = ", ".join(names[:3]), len(names) - 3
    return Said("{first} and {more} more", first=first, more=more) if more > 0 else first


def without_logins(text: str) -> str:
    """``text`` with its web addresses as ``bare_url`` shows them."""
    return LOGIN.sub("***@", URL.sub(lambda found: found[1] + _bare(found[2]), text))


def bare_url(url: str) -> str:
    """An address as ``scheme://host:port/path``, where a query as ``?...``: no login, no keys."""
    scheme, rest = cast("re.Match[str]", re.fullmatch(r"([A-Za-z][\w+.-]*://)?(.*)", url, re.DOTALL)).groups()
    return printable((scheme or "") + _bare(rest))


def _bare(rest: str) -> str:
    """What follows ``scheme://``. A password with ``/`` or ``?`` ends the server's name too early, but its ``@`` comes
    later: then nothing is shown."""
    parts = cast("re.Match[str]", re.fullmatch(r"([^/?#;\\]*)([^?#;]*)(.*)", rest, re.DOTALL))
    server, path, query = parts.groups()
    name = server.rpartition("@")[2]
    if "@" in path + query or not SERVER.fullmatch(name):
        return "***"
    return name + path + ("?..." if query else "")


# ------------------------------------------------------------------------------------------------------- files


def open_regular(file: Path) -> BinaryIO:
    """A file to be read. A pipe or a device in its place is refused: opening it could wait without end.

    Raises:
        OSError: it is not there, or links go round in a circle.
        ValueError: no regular file.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"{file}: a folder, a pipe or a device, not a file")
    return os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")


def small(file: Path, most: int = SMALL) -> bytes:
    """All of a file that has ``most`` bytes at most.

    Raises:
        OSError, ValueError: it cannot be opened (``open_regular``), or is longer.
    """
    with open_regular(file) as f:
        size = os.fstat(f.fileno()).st_size
        data = f.read(most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise ValueError(f"{file}: longer than {most / 1e6:g} MB, which no such file is; fetch it again")
    return data


def small_text(file: Path, most: int = SMALL) -> str:
    """The text of a file that has ``most`` bytes at most.

    Raises:
        OSError, ValueError: as ``small``, or not UTF-8.
    """
    try:
        return small(file, most).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text (byte {error.start})") from None


def small_json(file: Path) -> dict[str, Any]:
    """The JSON object in a small file.

    Raises:
        OSError, ValueError: as ``small``, or no JSON object.
    """
    data = small(file)
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"{file}: damaged ({error}); correct it or fetch it again") from None


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object without repeated names.

    Raises:
        ValueError: anything else, or so many values that they would fill the memory.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a name stands there twice")
        return value

    if sum(map(data.count, (b",", b":", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    try:
        value = json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
