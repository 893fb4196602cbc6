"""A rank among the others that hold parts of the same model: what it has, and how numbers and text go between them.

Collective operations carry numbers between ranks that work in step. Whatever takes its own time (a prompt that somebody
types, a checkpoint that loads) goes as text through the job's key-value store, where no timeout ends the waiting.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

from ..layout import shared_out
from .store import broken_connections, wait_for
from .traffic import Traffic

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch import Tensor


@dataclass(frozen=True)
class Parallel:
    """A rank's place in a tensor-parallel group. ``Parallel()`` is one process and needs no ``torch.distributed``.

    Every rank must call the same methods in the same order.

    Attributes:
        store: the job's key-value store, for text.
        traffic: what this rank has sent.
        device: what ``launch`` chose for all ranks, ``"cuda"`` or ``"cpu"``; None where nobody chose.
        graphs: CUDA graphs that were captured with collective operations in them.
    """

    rank: int = 0
    size: int = 1
    store: "dist.Store | None" = field(default=None, compare=False)
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    serial: Iterator[int] = field(default_factory=itertools.count, compare=False)
    device: str | None = None
    graphs: "WeakSet[torch.cuda.CUDAGraph]" = field(default_factory=WeakSet, compare=False)

    def let_go(self) -> None:
        """Empty the ``graphs``: NCCL does not end while there is one that needs it (pytorch/pytorch#115388)."""
        for graph in list(self.graphs):
            graph.reset()

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
        # torch gathers pieces of one length: shorter ones are filled up here and cut again below.
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

    # Only the methods below talk to other processes; lab/threads.py replaces them.

    def _all_reduce(self, x: "Tensor") -> "Tensor":
        import torch.distributed as dist

        with broken_connections("all_reduce"):
            dist.all_reduce(x)
        return x

    def _all_gather(self, x: "Tensor") -> list["Tensor"]:
        import torch
        import torch.distributed as dist

        pieces = [torch.empty_like(x) for _ in range(self.size)]
        with broken_connections("all_gather"):
            dist.all_gather(pieces, x)
        return pieces

    def _broadcast(self, x: "Tensor") -> "Tensor":
        import torch.distributed as dist

        with broken_connections("broadcast"):
            dist.broadcast(x, 0)
        return x

    def _texts(self, text: str, ranks: list[int]) -> list[str]:
        """What each of ``ranks`` hands over."""
        if self.store is None:  # no job: somebody only looks at what this rank would hold
            return [text] * len(ranks)
        key = f"text/{next(self.serial)}"
        with broken_connections("store"):
            if self.rank in ranks:
                self.store.set(f"{key}/{self.rank}", text)
            keys = [f"{key}/{rank}" for rank in ranks]
            wait_for(self.store, keys)
            return [value.decode() for value in self.store.multi_get(keys)]


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
