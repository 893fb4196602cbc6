"""An engine's server: started, waited for until it is healthy, and stopped with all its processes."""

import errno
import http.client
import os
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .command import Command
from .process import Process

LOOPBACK = "127.0.0.1"
READY = 3600.0  # seconds; the real weights come from a disk
LOOK = 0.2  # seconds between two looks


class Server:
    """A running server; ``with`` stops it. It also stops when this Python process ends, killed included.

    Attributes:
        url: what a client of the OpenAI interface wants as its base.
        log: the file with the engine's output.
        seconds: from the start until it was healthy.
    """

    def __init__(self, process: Process, url: str, seconds: float):
        self.process, self.url, self.log, self.seconds = process, url, process.log, seconds

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "runs" if self.process.poll() is None else "has ended"
        return f"<Server {self.url} {state}, log {self.log}>"

    def stop(self) -> None:
        """End it and all its processes; once is enough."""
        self.process.stop()

    def wait(self) -> None:
        """Return when the server has ended by itself.

        Raises:
            ChildProcessError: it failed; says why.
        """
        if self.process.wait():
            raise self.process.failed()


def start(
    command: Command,
    *,
    port: int,
    folder: Path,
    health: str | None = "/health",
    host: str = LOOPBACK,
    seconds: float = READY,
    began: Callable[[Path], None] = lambda log: None,
) -> Server:
    """Start an engine and return once it answers.

    Args:
        command: its paths must be absolute: it runs in ``folder``, where its files and ``server-PORT.log`` are written;
            nothing that is there is written over.
        port, host: where it will listen, as ``command`` says, too.
        health: the path that answers 200 when it is ready; None for a node that answers nobody: nothing is waited for.
        seconds: how long it may take.
        began: is told the log as soon as there is one.

    Raises:
        ChildProcessError: it ended; says why, with the end of the log on standard error.
        TimeoutError: it is not healthy in time; it is stopped.
        OSError: no such program, the port is in use, or a file of the command's is there and says something else.
    """
    if health is not None:
        check_port(port, host)
    env = command.environment(os.environ)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in command.files.items():
        _write(folder / name, text)
    process = Process(command.argv, folder, f"server-{port}.log", env)
    began(process.log)
    begin = time.monotonic()
    root = f"http://{_reachable(host)}:{port}"
    try:
        if health is not None:
            _wait_until_healthy(process, root + health, begin + seconds, seconds)
    except BaseException:  # Ctrl-C, too
        process.stop()
        raise
    return Server(process, root + "/v1", time.monotonic() - begin)


def _write(file: Path, text: str) -> None:
    """A file with this text, unless it is there already."""
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        same = file.is_file() and not file.is_symlink() and file.stat().st_size == len(text.encode())
        if not same or file.read_bytes() != text.encode():
            raise FileExistsError(f"{file}: is there and is not dsv3's; take it away, or say --folder") from None


def check_port(port: int, host: str = LOOPBACK) -> None:
    """Whether a server can listen at ``port`` of ``host``.

    Raises:
        OSError: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engines do: only a listener is in the way
        try:
            server.bind((host, port))
            server.listen(1)  # else Linux lets a second one bind
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(f"port {port} is in use on {host}; stop what listens there, or say --port") from None
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _reachable(host: str) -> str:
    """An address to ask at: the one to listen at may be a wildcard."""
    if host in ("0.0.0.0", "::", ""):
        return LOOPBACK if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _wait_until_healthy(process: Process, url: str, deadline: float, seconds: float) -> None:
    # A proxy, which rented machines often have, could not reach this one.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None:
        try:
            with direct.open(url, timeout=5):
                return
        except (OSError, http.client.HTTPException):  # not yet
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not healthy after {seconds:.0f} s: {process.failed()}")
        time.sleep(LOOK)
    raise process.failed()
