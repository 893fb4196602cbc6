"""On which device the ranks of a job compute: the same for all of them, and a GPU for each or the CPU for all."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def own_gpu(local_rank: int) -> str:
    """The name that this rank's GPU has in the world; empty without one."""
    import torch

    if not torch.cuda.is_available() or local_rank >= torch.cuda.device_count():
        return ""
    return str(torch.cuda.get_device_properties(local_rank).uuid)


def choose(wanted: str | None, gpus: list[str], one_node: bool, speaks: bool) -> str:
    """The device of all ranks: ``wanted``; by default ``"cuda"`` where each has a GPU of its own, else ``"cpu"``.

    Args:
        gpus: every rank's (``own_gpu``); ranks of two "nodes" on one machine may have the same.
        speaks: say on stderr if GPUs are left unused.

    Raises:
        ValueError: CUDA is wanted, without a GPU for each.
    """
    found = len(set(gpus) - {""})
    if wanted == "cpu" or found == len(gpus):
        return wanted or "cuda"
    s = "" if found == 1 else "s"
    there = f"{len(gpus)} process{'' if len(gpus) == 1 else 'es'}, {found} GPU{s}"
    if wanted:
        cure = "start a process for each GPU (--nproc-per-node), or give --device cpu"
        raise ValueError(f"--device {wanted}: {there}; {cure}")
    if found and speaks:
        hint = f"--nproc-per-node {found} uses the GPU{s}" if one_node else "each needs a GPU of its own"
        print(f"{there}: on the CPU; {hint}", file=sys.stderr)
    return "cpu"


def alone(wanted: str | None) -> "torch.device":
    """The device of a single process: ``wanted``, by default ``"cuda"`` where there is one.

    Raises:
        ValueError: no device's name, or it is not here.
    """
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted is None else wanted)
    except (RuntimeError, TypeError):
        raise ValueError(f"device = {wanted!r:.40}: must be cuda, cuda:0, ... or cpu") from None
    here = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
    if (device.index or 0) >= here:
        raise ValueError(f"device = {wanted!r:.40}: torch sees {here} of this kind here; dsv3 doctor says why")
    return device
