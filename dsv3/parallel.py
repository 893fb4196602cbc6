"""A rank's place in a tensor-parallel group: the only file that imports ``torch.distributed``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch import Tensor


def shared_out(n: int, rank: int, size: int, unit: int = 1) -> range:
    """The indices in ``range(n)`` that belong to ``rank`` of ``size``: whole units, as evenly as they divide."""
    units = -(-n // unit)
    return range(min(rank * units // size * unit, n), min((rank + 1) * units // size * unit, n))


@dataclass(frozen=True)
class Parallel:
    """A rank's place in a tensor-parallel group. ``Parallel()`` is one process and needs no ``torch.distributed``."""

    rank: int = 0
    size: int = 1
    group: "dist.ProcessGroup | None" = None

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
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(x, group=self.group)
        return x

    def all_gather(self, x: "Tensor", n: int) -> "Tensor":
        """[..., mine] -> [..., n]: what ``mine(n)`` gave to each rank, joined along the last dimension."""
        if self.size == 1:
            return x
        import torch
        import torch.distributed as dist

        lengths = [len(shared_out(n, rank, self.size)) for rank in range(self.size)]
        # Pieces travel at one length.
        padded = torch.nn.functional.pad(x, (0, max(lengths) - x.shape[-1]))
        pieces = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(pieces, padded.contiguous(), group=self.group)
        return torch.cat([p[..., :length] for p, length in zip(pieces, lengths, strict=True)], dim=-1)

    def broadcast(self, x: "Tensor") -> "Tensor":
        """Rank 0's ``x`` on every rank, in place; shape and dtype must agree."""
        if self.size > 1:
            import torch.distributed as dist

            dist.broadcast(x, 0, group=self.group)
        return x

    def broadcast_text(self, text: str | None, device: "torch.device") -> str:
        """Rank 0's ``text`` on every rank; the others pass None. Plain bytes: torch's object broadcast unpickles."""
        if self.size == 1:
            return text or ""
        import torch

        data = torch.tensor(list((text or "").encode()), dtype=torch.uint8, device=device)
        length = self.broadcast(torch.tensor([len(data)], device=device))
        data = data if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8, device=device)
        return bytes(self.broadcast(data).tolist()).decode()


@contextmanager
def launch(device: str) -> Iterator[Parallel]:
    """This process's ``Parallel`` under torchrun (``RANK``, ``WORLD_SIZE``), or a single one; always cleaned up.

    Args:
        device: ``"cuda"`` talks by NCCL, ``"cpu"`` by gloo.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield Parallel()
        return
    import torch.distributed as dist

    # Long enough for a chat that waits for its user; a rank that dies is noticed by its closed connection.
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield Parallel(rank, size)
    finally:
        dist.destroy_process_group()
