"""On which device the ranks of a job compute: the same for all of them, and a GPU for each or the CPU for all."""

import sys


def own_gpu(local_rank: int) -> str:
    """The name that this rank's GPU has in the world; empty without one."""
    import torch

    if not torch.cuda.is_available() or local_rank >= torch.cuda.device_count():
        return ""
    return str(torch.cuda.get_device_properties(local_rank).uuid)


def choose(wanted: str | None, gpus: list[str], one_node: bool, speaks: bool) -> str:
    """``wanted``; by default ``"cuda"`` where each rank has a GPU of its own, else ``"cpu"``.

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


def alone(wanted: str | None) -> str:
    """The device of a single process: ``wanted``, by default ``"cuda"`` where there is one.

    Raises:
        ValueError: neither ``"cuda"`` nor ``"cpu"``, or no GPU for it.
    """
    import torch

    seen = torch.cuda.is_available()
    if wanted not in ("cuda", "cpu", None):
        raise ValueError(f"device {wanted!r}: give cuda or cpu")
    if wanted == "cuda" and not seen:
        raise ValueError("device 'cuda': torch sees no GPU here (dsv3 doctor says why); give cpu")
    return wanted or ("cuda" if seen else "cpu")
