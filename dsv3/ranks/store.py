"""The key-value store of a job: opened at one address, where all its nodes and ranks find each other by name."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from .address import check_port, resolve

if TYPE_CHECKING:
    import torch.distributed as dist

POLL = 0.1  # seconds between two looks at the store, at most


def wait_for(store: "dist.Store", keys: list[str], deadline: float | None = None) -> list[str]:
    """Until all ``keys`` are there, or ``time.monotonic()`` reaches ``deadline`` -> those that are missing."""
    pause = POLL / 64
    while missing := [key for key in keys if not store.check([key])]:
        if deadline is not None and time.monotonic() > deadline:
            return missing
        time.sleep(pause)
        pause = min(2 * pause, POLL)
    return []


def open_store(host: str, port: int, server: bool, seconds: float) -> "dist.TCPStore":
    """The job's store: as the one who holds it, or as one of its clients.

    Raises:
        OSError: the address does not resolve, the port is in use, or nobody answers within ``seconds``.
    """
    import torch.distributed as dist

    deadline = time.monotonic() + seconds
    resolve(host)
    if server:
        check_port(host, port)
    while not server:
        try:
            socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1)).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                why = f"nobody answers at {host}:{port} within {seconds:g} s ({error.strerror or error})"
                raise ConnectionError(f"{why}; has node 0 been started, with this --master-port?") from None
            time.sleep(POLL)
    try:
        patience = timedelta(seconds=seconds)
        return dist.TCPStore(host, port, None, server, patience, wait_for_workers=False, multi_tenant=server)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise ConnectionError(f"port {port} is in use on {host}; choose another --master-port") from None
        raise ConnectionError(f"{host}:{port}: {str(error).splitlines()[0]}") from None


def check_in(store: "dist.Store", kind: str, number: int, size: int, seconds: float) -> None:
    """Meet the others of ``size`` nodes or ranks.

    Raises:
        ValueError: another one has this number, or counts a different ``size``.
        ConnectionError: not all came within ``seconds``; names those that are missing.
    """
    if store.add(f"came/{kind}/{number}", 1) > 1:
        raise ValueError(f"there is another {kind} {number}: each needs a number of its own")
    store.set(f"{kind}s/{number}", str(size))
    keys = [f"{kind}s/{i}" for i in range(size)]
    missing = wait_for(store, keys, time.monotonic() + seconds)
    for key in keys:
        if key not in missing and (theirs := int(store.get(key))) != size:
            raise ValueError(f"{kind} {key.rpartition('/')[2]} counts {theirs} {kind}s, this one {size}")
    if missing:
        who = ", ".join(key.rpartition("/")[2] for key in missing)
        hint = "DSV3_TIMEOUTS=start=600 allows more"
        raise ConnectionError(f"{kind} {who} of {size} did not come within {seconds:g} s; {hint}")


def keys_of(attempt: int) -> str:
    """The prefix of a job's keys; torchrun's restarts use one store."""
    return f"dsv3/{attempt}"


@contextmanager
def broken_connections(what: str) -> Iterator[None]:
    """torch's RuntimeErrors as ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"{what}: {str(error).splitlines()[0]}") from None
