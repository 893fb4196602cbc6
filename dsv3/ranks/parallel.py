"""A rank's place in a tensor-parallel group. Only this file and ``torchrun.py`` import ``torch.distributed``.

Collective operations carry numbers between ranks that work in step. Whatever takes its own time (a prompt that somebody
types, a checkpoint that loads) goes as text through the job's key-value store, where nobody's patience ends.
"""

import itertools
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from .address import check_port, resolve
from .device import choose, own_gpu
from .traffic import Traffic
from .watch import Timeouts, Watch, end_within

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch import Tensor

MOST = 10_000  # ranks of a job
POLL = 0.1  # seconds between two looks at the store, at most


def shared_out(n: int, rank: int, size: int, unit: int = 1) -> range:
    """The indices in ``range(n)`` that belong to ``rank`` of ``size``: whole units, as evenly as they divide."""
    units = -(-n // unit)
    return range(min(rank * units // size * unit, n), min((rank + 1) * units // size * unit, n))


@dataclass(frozen=True)
class Parallel:
    """A rank's place in a tensor-parallel group. ``Parallel()`` is one process and needs no ``torch.distributed``.

    Every rank must call the same methods in the same order.

    Attributes:
        store: the job's key-value store, for text.
        traffic: what this rank has sent.
        device: what ``launch`` chose for all ranks, ``"cuda"`` or ``"cpu"``; None where nobody chose.
    """

    rank: int = 0
    size: int = 1
    store: "dist.Store | None" = field(default=None, compare=False)
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    serial: Iterator[int] = field(default_factory=itertools.count, compare=False)
    device: str | None = None

    def share(self, n: int, what: str) -> int:
        """This rank's part of ``n``, an equal one.

        Raises:
            ValueError: ``n`` does not divide by the number of ranks.
        """
        if n % self.size:
            raise ValueError(f"{what} = {n} does not divide by {self.size} tensor-parallel ranks")
        return n // self.size

    def mine(self, n: int, unit: int = 1) -> range:
        """The indices in ``range(n)`` that belong to this rank, cut between units (see ``shared_out``)."""
        return shared_out(n, self.rank, self.size, unit)

    def all_reduce(self, x: "Tensor") -> "Tensor":
        """The sum of ``x`` over the ranks, in place; ``x`` itself on one rank."""
        if self.size == 1:
            return x
        self.traffic.add("all_reduce", x.nbytes)
        return self._all_reduce(x)

    def all_gather(self, x: "Tensor", n: int) -> "Tensor":
        """[..., mine] -> [..., n]: what ``mine(n)`` gave to each rank, joined along the last dimension."""
        if self.size == 1:
            return x
        import torch

        lengths = [len(shared_out(n, rank, self.size)) for rank in range(self.size)]
        # Pieces travel at one length.
        padded = torch.nn.functional.pad(x, (0, max(lengths) - x.shape[-1])).contiguous()
        self.traffic.add("all_gather", padded.nbytes)
        pieces = self._all_gather(padded)
        return torch.cat([p[..., :length] for p, length in zip(pieces, lengths, strict=True)], dim=-1)

    def broadcast(self, x: "Tensor") -> "Tensor":
        """Rank 0's ``x`` on every rank, in place; shape and dtype must agree."""
        if self.size == 1:
            return x
        self.traffic.add("broadcast", x.nbytes)
        return self._broadcast(x)

    def broadcast_text(self, text: str | None) -> str:
        """Rank 0's ``text`` on every rank, however long it takes to come; the others pass None."""
        if self.size == 1:
            return text or ""
        return self._texts(text or "", [0])[0]

    def gather_text(self, text: str) -> list[str]:
        """Every rank's ``text`` on every rank, by rank, however long they take."""
        return [text] if self.size == 1 else self._texts(text, list(range(self.size)))

    # What follows is all that talks to other processes.

    def _all_reduce(self, x: "Tensor") -> "Tensor":
        import torch.distributed as dist

        with _broken_connections("all_reduce"):
            dist.all_reduce(x)
        return x

    def _all_gather(self, x: "Tensor") -> list["Tensor"]:
        import torch
        import torch.distributed as dist

        pieces = [torch.empty_like(x) for _ in range(self.size)]
        with _broken_connections("all_gather"):
            dist.all_gather(pieces, x)
        return pieces

    def _broadcast(self, x: "Tensor") -> "Tensor":
        import torch.distributed as dist

        with _broken_connections("broadcast"):
            dist.broadcast(x, 0)
        return x

    def _texts(self, text: str, ranks: list[int]) -> list[str]:
        """What each of ``ranks`` hands over."""
        if self.store is None:  # a rank by itself, of which only the slices are looked at
            return [text] * len(ranks)
        key = f"text/{next(self.serial)}"
        with _broken_connections("store"):
            if self.rank in ranks:
                self.store.set(f"{key}/{self.rank}", text)
            keys = [f"{key}/{rank}" for rank in ranks]
            wait_for(self.store, keys)
            return [value.decode() for value in self.store.multi_get(keys)]


@contextmanager
def _broken_connections(what: str) -> Iterator[None]:
    """torch's RuntimeErrors as ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"{what}: {str(error).splitlines()[0]}") from None


def agree(tp: Parallel, what: Mapping[str, object], kind: str) -> None:
    """Whether the items of ``what``, as text, are the same on all ranks; ``kind`` says what they are.

    Raises:
        ValueError: on every rank; names the first item and rank that differ from rank 0, and both values.
    """
    ranks = [text.splitlines() for text in tp.gather_text("\n".join(f"{k} = {v}" for k, v in what.items()))]
    for rank, items in enumerate(ranks):
        for here, there in itertools.zip_longest(ranks[0], items, fillvalue="nothing"):
            if here != there:
                raise ValueError(f"ranks differ in their {kind}: {here} on rank 0, {there} on rank {rank}")


# ------------------------------------------------------------------------------------------- joining a group


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


@dataclass(frozen=True)
class Place:
    """What a launcher says in the environment about this process: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ..."""

    rank: int
    size: int
    local_rank: int
    host: str
    port: int
    one_node: bool
    launched: bool  # by torchrun, which holds the store, rather than rank 0
    attempt: int


def place() -> Place:
    """
    Raises:
        ValueError: a variable that is missing or impossible.
    """

    def number(name: str, least: int, most: int, default: str | None = None) -> int:
        text = os.environ.get(name, default)
        if text is None:
            raise ValueError(f"WORLD_SIZE is set, but {name} is not: start with torchrun, or unset WORLD_SIZE")
        if not re.fullmatch("[0-9]{1,6}", text) or not least <= int(text) <= most:
            raise ValueError(f"{name} = {text!r:.60} in the environment: must be a number from {least} to {most}")
        return int(text)

    size = number("WORLD_SIZE", 1, MOST, "1")
    if size < 2:
        return Place(0, 1, 0, "", 0, True, False, 0)
    rank = number("RANK", 0, MOST)
    if rank >= size:
        raise ValueError(f"RANK = {rank} in the environment, but WORLD_SIZE = {size}: ranks are 0 to {size - 1}")
    host = os.environ.get("MASTER_ADDR")
    if not host:
        raise ValueError("WORLD_SIZE is set, but MASTER_ADDR is not: start with torchrun, or unset WORLD_SIZE")
    return Place(
        rank=rank,
        size=size,
        local_rank=number("LOCAL_RANK", 0, size - 1, "0"),
        host=host,
        port=number("MASTER_PORT", 1, 65535),
        one_node=number("LOCAL_WORLD_SIZE", 0, size, "0") == size,
        launched=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=number("TORCHELASTIC_RESTART_COUNT", 0, 999_999, "0"),
    )


def keys_of(attempt: int) -> str:
    """The prefix of a job's keys; torchrun's restarts use one store."""
    return f"dsv3/{attempt}"


@contextmanager
def launch(device: str | None, name: str = "generate") -> Iterator[Parallel]:
    """This process's ``Parallel`` under torchrun (``RANK``, ``WORLD_SIZE``), or a single one; always cleaned up.

    All ranks leave together. When one fails or is lost, the others end at once or within ``Timeouts.silent``, each with
    one line on stderr.

    Args:
        device: ``"cuda"`` talks by NCCL, ``"cpu"`` by gloo; by default what ``device.choose`` finds.
        name: the verb, for that line.

    Raises:
        ValueError, OSError: the environment is wrong, or not all ranks came; says which.
    """
    here = place()
    if here.size == 1:
        yield Parallel(device=_choose(Parallel(), device, here))
        return
    import torch.distributed as dist

    timeouts = Timeouts.from_environment()
    server = here.rank == 0 and not here.launched
    stores = []
    for i in range(2):  # one for the ranks' work, one for the watch
        store = open_store(here.host, here.port, server and i == 0, timeouts.start)
        stores.append(dist.PrefixStore(keys_of(here.attempt), store))
    holder = f"{'torchrun on node 0' if here.launched else 'rank 0'} ({here.host}:{here.port})"
    watch = Watch(stores[1], here.rank, here.size, holder, f"dsv3 {name} (rank {here.rank})", timeouts)
    check_in(stores[0], "rank", here.rank, here.size, timeouts.start)
    watch.start()
    try:
        tp = Parallel(here.rank, here.size, store=stores[0])
        tp = replace(tp, device=_choose(tp, device, here))
        join(here, stores[0], _take_gpu(here.local_rank) if tp.device == "cuda" else None, timeouts.collective)
        yield tp
        watch.finish()
    except BaseException as error:
        watch.fail(error)
        raise
    end_within(timeouts.silent)
    dist.destroy_process_group()
    end_within(0)


def join(here: Place, store: "dist.Store", gpu: "torch.device | None", seconds: float) -> None:
    """Make torch's default group of all ranks."""
    import torch.distributed as dist

    interface = None if gpu else _interface(here)
    if interface and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    backend = "nccl" if gpu else "gloo"
    try:
        with _broken_connections(backend):
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", store),
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(seconds=seconds),
                device_id=gpu,
            )
    except ConnectionError as error:
        hint = f"{backend.upper()}_SOCKET_IFNAME names the network interface to use"
        raise ConnectionError(f"{error}; {hint}") from None


def _interface(here: Place) -> str | None:
    """The network interface that reaches node 0: gloo by itself takes the host name's address, often 127.0.0.1."""
    if sys.platform != "linux":
        return None
    import fcntl

    family, _, _, _, address = socket.getaddrinfo(here.host, here.port)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        ours = probe.getsockname()[0]
        for _, name in socket.if_nameindex() if family == socket.AF_INET else ():
            try:
                found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR, see netdevice(7)
            except OSError:  # has no address
                continue
            if socket.inet_ntoa(found[20:24]) == ours and (here.one_node or not ours.startswith("127.")):
                return name
    return None


def _choose(tp: Parallel, wanted: str | None, here: Place) -> str:
    """The device of all ranks (``device.choose``)."""
    agree(tp, {"--device": wanted or "not given"}, "options")
    gpus = tp.gather_text("" if wanted == "cpu" else own_gpu(here.local_rank))
    return choose(wanted, gpus, here.one_node, tp.rank == 0)


def _take_gpu(local_rank: int) -> "torch.device":
    """Before NCCL starts: otherwise every rank would open the first one."""
    import torch

    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
