"""Inputs for the parts of lesson 02: files that are watched while they are read, and servers that follow a script."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

PIECE = 4 << 20  # bytes; more of a large file at once is too much where memory is small


class Watched(io.RawIOBase):
    """A file that knows how much of it was read: ``furthest`` byte, ``most`` bytes at once."""

    def __init__(self, data: bytes):
        self.data, self.at, self.furthest, self.most = data, 0, 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self.at = max(0, (0, self.at, len(self.data))[whence] + offset)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any, /) -> int:
        piece = self.data[self.at : self.at + len(buffer)]
        memoryview(buffer)[: len(piece)] = piece
        self.at += len(piece)
        self.most = max(self.most, len(piece))
        self.furthest = max(self.furthest, self.at if piece else 0)
        return len(piece)

    def readall(self) -> bytes:
        piece = bytearray(len(self.data) - self.at)
        self.readinto(piece)
        return bytes(piece)


# ----------------------------------------------------------------------------------------- safetensors files


def numbers(begin: int, stop: int, dtype: str = "BF16", shape: tuple[int, ...] = ()) -> dict[str, object]:
    """An entry of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, stop]}


def crafted(described: dict[str, Any], after: int, padding: int = 0) -> tuple[Watched]:
    """A safetensors file of these entries, with ``after`` bytes of numbers."""
    text = json.dumps(described).encode() + b" " * padding
    return (Watched(len(text).to_bytes(8, "little") + text + bytes(range(200)) * (after // 200 + 1)),)


def read_header(answer: Callable, given: tuple) -> tuple[Any, str]:
    """What it returns, and whether it read more than the header."""
    (file,) = given
    found = answer(file)
    end = 8 + int.from_bytes(file.data[:8], "little")
    return found, "the header" if file.furthest <= end else "numbers behind the header, too"


# ------------------------------------------------------------------------------------------------ a listed file


def listed(data: bytes, there: bytes | None = None) -> tuple[Watched, int, str]:
    """A file as a hub lists it, and what lies on the disk in its place."""
    return Watched(data if there is None else there), len(data), hashlib.sha256(data).hexdigest()


def watched_check(answer: Callable, given: tuple) -> tuple[Any, str]:
    """What it returns, and how it read the file."""
    verdict = answer(*given)
    file = given[0]
    how = "all at once" if file.most > PIECE else "in pieces" if file.furthest else "nothing"
    return verdict, f"read: {how}"


# --------------------------------------------------------------------------------------------------- a server

DATA = bytes((i * 7 + i // 9) % 256 for i in range(60))


def follows(*script: tuple[int, int | None], there: int = 0) -> tuple[tuple, int]:
    """A server's script, a line for each request, and how many of the file's 60 bytes are there already.

    A line is (status, how many bytes it sends before the connection breaks, None for all). Status 0: no connection.
    """
    return script, there


def fetched(answer: Callable, given: tuple) -> tuple[Any, list[int]]:
    """What is in the file at the end, and from which bytes on it was asked for."""
    script, there = given
    lines = list(script)
    asked: list[int] = []
    file = io.BytesIO()
    file.write(DATA[:there])

    def pieces(data: bytes, sent: int | None, quietly: bool) -> Any:
        for at in range(0, len(data[:sent]), 7):
            yield data[:sent][at : at + 7]
        if sent is not None and not quietly:
            raise ConnectionResetError("the connection broke")

    def get(headers: dict[str, str]) -> tuple[int, Any]:
        if not lines:
            raise LookupError(f"it asks for more after {len(asked)} requests, though it should have come to an end")
        status, sent = lines.pop(0)
        first = int(headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        asked.append(first)
        if status == 0:
            raise ConnectionRefusedError("no connection")
        if first >= len(DATA) and status != 200:
            return 416, iter(())
        begin = first if status != 200 else 0
        return min(status, 206), pieces(DATA[begin:], sent, quietly=status == 207)

    try:
        answer(get, file, len(DATA))
    except OSError:
        return "it gives up with an OSError", asked
    return file.getvalue(), asked
