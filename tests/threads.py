"""Ranks as threads of one process: the real model code, without ports and without torch.distributed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from dsv3.parallel import Parallel

T = TypeVar("T")


@dataclass(frozen=True)
class ThreadParallel(Parallel):
    barrier: threading.Barrier = field(default=None)
    board: list = field(default=None)

    def exchange(self, x: T) -> list[T]:
        self.board[self.rank] = x
        self.barrier.wait(60)
        pieces = list(self.board)
        self.barrier.wait(60)
        return pieces

    def tensors(self, x: Tensor) -> list[Tensor]:
        return self.exchange(x.clone())

    def _all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self.tensors(x)).sum(0)

    def _all_gather(self, x: Tensor) -> list[Tensor]:
        return self.tensors(x)

    def _broadcast(self, x: Tensor) -> Tensor:
        return self.tensors(x)[0].clone()

    def _texts(self, text: str, ranks: list[int]) -> list[str]:
        texts = self.exchange(text)
        return [texts[rank] for rank in ranks]


def on_ranks(size: int, work: Callable[[Parallel], T]) -> list[T]:
    """``work`` on every rank at once -> the results by rank."""
    barrier, board = threading.Barrier(size), [None] * size

    def one(rank: int) -> T:
        try:
            with torch.inference_mode():  # a thread has its own
                return work(ThreadParallel(rank, size, barrier=barrier, board=board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
