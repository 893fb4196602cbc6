"""A hub's files by range requests: from a byte on, or some bytes out of the middle. Standard library only."""

import http.client
import io
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote
from urllib.request import Request, urlopen

T = TypeVar("T")
Get = Callable[[Mapping[str, str]], tuple[int, Iterator[bytes]]]
MODELSCOPE = "https://modelscope.cn"


def address(model: str, file: str, hub: str = MODELSCOPE) -> str:
    """Of a file's content, as ModelScope's client asks for it."""
    return f"{hub}/api/v1/models/{model}/repo?Revision=master&FilePath={quote(file)}"


def getter(url: str, timeout: float = 10) -> Get:
    """What asks for ``url`` with headers -> the status and the content in pieces; both raise OSError."""

    def get(headers: Mapping[str, str]) -> tuple[int, Iterator[bytes]]:
        response = urlopen(Request(url, headers=dict(headers)), timeout=timeout)
        return response.status, _pieces(response)

    return get


def _pieces(response: Any) -> Iterator[bytes]:
    try:
        with response:
            while piece := response.read(1 << 16):
                yield piece
    except http.client.HTTPException as error:
        raise OSError(f"the answer broke off: {error!r}") from None


class Remote(io.RawIOBase):
    """A file on a server, read as if it were open: each ``read(n)`` is one request for n bytes.

    Attributes:
        nbytes: that were fetched.
    """

    def __init__(self, url: str):
        self.get, self.at, self.nbytes = getter(url), 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the server was not asked how long the file is")
        self.at = offset + (self.at if whence == io.SEEK_CUR else 0)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any, /) -> int:
        if not len(buffer):
            return 0
        status, pieces = self.get({"Range": f"bytes={self.at}-{self.at + len(buffer) - 1}"})
        if status != 206:
            raise OSError(f"status {status}: the server knows no ranges")
        data = b"".join(pieces)
        memoryview(buffer)[: len(data)] = data
        self.at += len(data)
        self.nbytes += len(data)
        return len(data)


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` gives; where there is no network, a name may take minutes to be looked up.

    Raises:
        OSError: it raises one, or takes longer.
    """
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # it is raised again below
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return found  # type: ignore[return-value]  # without an error there is a result
