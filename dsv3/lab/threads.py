"""Ranks as threads of one process: the real model code, without ports and without torch.distributed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ..ranks.parallel import Parallel

T = TypeVar("T")


@dataclass(frozen=True)
class ThreadParallel(Parallel):
    """A rank that is a thread.

    Attributes:
        log: what went through this rank's collectives, in order: (kind, the tensor that it put in).
    """

    barrier: threading.Barrier = field(kw_only=True, compare=False)
    board: list = field(kw_only=True, compare=False)
    log: list[tuple[str, Tensor]] = field(default_factory=list, compare=False)

    def exchange(self, x: T) -> list[T]:
        """Every rank's ``x`` on every rank."""
        self.board[self.rank] = x
        self.barrier.wait(60)
        pieces = list(self.board)
        self.barrier.wait(60)
        return pieces

    def tensors(self, kind: str, x: Tensor) -> list[Tensor]:
        mine = x.clone()
        self.log.append((kind, mine))
        return self.exchange(mine)

    def _all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self.tensors("all_reduce", x)).sum(0)

    def _all_gather(self, x: Tensor) -> list[Tensor]:
        return self.tensors("all_gather", x)

    def _broadcast(self, x: Tensor) -> Tensor:
        return self.tensors("broadcast", x)[0].clone()

    def _texts(self, text: str, ranks: list[int]) -> list[str]:
        texts = self.exchange(text)
        return [texts[rank] for rank in ranks]


def on_ranks(size: int, work: Callable[[Parallel], T], kind: type[ThreadParallel] = ThreadParallel) -> list[T]:
    """``work`` on every rank at once -> the results by rank."""
    barrier, board = threading.Barrier(size), [None] * size

    def one(rank: int) -> T:
        try:
            with torch.inference_mode():  # a thread has its own
                return work(kind(rank, size, barrier=barrier, board=board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
