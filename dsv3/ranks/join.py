"""How a process joins a job: what its launcher says in the environment, the store, the watch, torch's group."""

import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from .device import choose, own_gpu
from .parallel import Parallel, agree
from .store import broken_connections, check_in, keys_of, open_store
from .watch import Timeouts, Watch, end_within

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

MOST = 10_000  # ranks of a job


@dataclass(frozen=True)
class Launcher:
    """What a launcher says in the environment about this process: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ..."""

    rank: int
    size: int
    local_rank: int  # among the ranks of its machine
    host: str
    port: int
    one_node: bool  # whether all ranks are on one machine
    launched: bool  # by torchrun, which then holds the job's store; otherwise rank 0 does
    attempt: int  # torchrun's restarts of the job so far


def from_environment() -> Launcher:
    """Read the variables that torchrun sets; without ``WORLD_SIZE`` this is a process by itself.

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
        return Launcher(0, 1, 0, "", 0, True, False, 0)
    rank = number("RANK", 0, MOST)
    if rank >= size:
        raise ValueError(f"RANK = {rank} in the environment, but WORLD_SIZE = {size}: ranks are 0 to {size - 1}")
    host = os.environ.get("MASTER_ADDR")
    if not host:
        raise ValueError("WORLD_SIZE is set, but MASTER_ADDR is not: start with torchrun, or unset WORLD_SIZE")
    return Launcher(
        rank=rank,
        size=size,
        local_rank=number("LOCAL_RANK", 0, size - 1, "0"),
        host=host,
        port=number("MASTER_PORT", 1, 65535),
        one_node=number("LOCAL_WORLD_SIZE", 0, size, "0") == size,
        launched=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=number("TORCHELASTIC_RESTART_COUNT", 0, 999_999, "0"),
    )


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
    launcher = from_environment()
    if launcher.size == 1:
        yield Parallel(device=_choose(Parallel(), device, launcher))
        return
    import torch.distributed as dist

    timeouts = Timeouts.from_environment()
    server = launcher.rank == 0 and not launcher.launched
    stores = []
    for i in range(2):  # one for the ranks' work, one for the watch
        store = open_store(launcher.host, launcher.port, server and i == 0, timeouts.start)
        stores.append(dist.PrefixStore(keys_of(launcher.attempt), store))
    holder = f"{'torchrun on node 0' if launcher.launched else 'rank 0'} ({launcher.host}:{launcher.port})"
    watch = Watch(stores[1], launcher.rank, launcher.size, holder, f"dsv3 {name} (rank {launcher.rank})", timeouts)
    check_in(stores[0], "rank", launcher.rank, launcher.size, timeouts.start)
    watch.start()
    try:
        tp = Parallel(launcher.rank, launcher.size, store=stores[0])
        tp = replace(tp, device=_choose(tp, device, launcher))
        join(launcher, stores[0], _take_gpu(launcher.local_rank) if tp.device == "cuda" else None, timeouts.collective)
        yield tp
        watch.finish()
    except BaseException as error:
        watch.fail(error)
        raise
    end_within(timeouts.ending)
    tp.let_go()
    dist.destroy_process_group()
    end_within(0)


def join(launcher: Launcher, store: "dist.Store", gpu: "torch.device | None", seconds: float) -> None:
    """Make torch's default group of all ranks."""
    import torch.distributed as dist

    interface = None if gpu else _interface(launcher)
    if interface and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    backend = "nccl" if gpu else "gloo"
    try:
        with broken_connections(backend):
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", store),
                rank=launcher.rank,
                world_size=launcher.size,
                timeout=timedelta(seconds=seconds),
                device_id=gpu,
            )
    except ConnectionError as error:
        hint = f"{backend.upper()}_SOCKET_IFNAME names the network interface to use"
        raise ConnectionError(f"{error}; {hint}") from None


def _interface(launcher: Launcher) -> str | None:
    """The network interface that leads to node 0, for gloo: by itself it takes the host name's, often 127.0.0.1."""
    if sys.platform != "linux":
        return None
    import fcntl

    family, _, _, _, address = socket.getaddrinfo(launcher.host, launcher.port)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        ours = probe.getsockname()[0]
        for _, name in socket.if_nameindex() if family == socket.AF_INET else ():
            try:
                found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR, see netdevice(7)
            except OSError:  # this interface has no address
                continue
            if socket.inet_ntoa(found[20:24]) == ours and (launcher.one_node or not ours.startswith("127.")):
                return name
    return None


def _choose(tp: Parallel, wanted: str | None, launcher: Launcher) -> str:
    """The device of all ranks (``device.choose``)."""
    agree(tp, {"--device": wanted or "not given"}, "options")
    gpus = tp.gather_text("" if wanted == "cpu" else own_gpu(launcher.local_rank))
    return choose(wanted, gpus, launcher.one_node, tp.rank == 0)


def _take_gpu(local_rank: int) -> "torch.device":
    """Choose this rank's GPU, before NCCL starts: otherwise every rank would open the first one."""
    import torch

    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
