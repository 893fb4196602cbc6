"""Checks of lesson 10's exercises: experts by rank, a part of the feed-forward layer, bytes for each token."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..layout import shared_out
from ..paths import TINY_R1
from ..ranks.traffic import step_traffic
from . import Wrong, exercise


@exercise("10", 1)
def check_experts_of(experts_of: Callable[[int, int, int], Iterable[int]]) -> None:
    for experts, size in ((256, 16), (16, 2), (16, 3), (256, 6), (256, 12), (5, 8), (7, 1)):
        ranks = [list(experts_of(rank, size, experts)) for rank in range(size)]
        where = f"{experts} experts on {size} ranks"
        held = [expert for rank in ranks for expert in rank]
        if sorted(held) != list(range(experts)):
            odd = sorted(set(range(experts)) ^ set(held)) or [e for e in held if held.count(e) > 1]
            raise Wrong(f"{where}: expert {odd[0]} is on {held.count(odd[0])} ranks; each must be on exactly one")
        if held != sorted(held):
            raise Wrong(f"{where}: a rank's experts must be one run, and the runs in the ranks' order, as in the files")
        sizes = [len(rank) for rank in ranks]
        if max(sizes) - min(sizes) > 1:
            raise Wrong(f"{where}: ranks hold {sizes}; no rank may hold two more than another: the fullest one decides")
        expected = [list(shared_out(experts, rank, size)) for rank in range(size)]
        if ranks != expected:
            rank = next(r for r in range(size) if ranks[r] != expected[r])
            raise Wrong(
                f"{where}: rank {rank} holds {ranks[rank]}, in converted files {expected[rank]}: "
                "rank r begins at the whole part of r * experts / size"
            )


@exercise("10", 2)
def check_part_of_mlp(part_of_mlp: Callable[[Tensor, Tensor, Tensor, Tensor, int, int], Tensor]) -> None:
    torch.manual_seed(10)
    for size in (1, 2, 4):
        x, w1, w3 = torch.randn(3, 8), torch.randn(16, 8), torch.randn(16, 8)
        w2 = torch.randn(8, 16)
        parts = [part_of_mlp(x.clone(), w1.clone(), w2.clone(), w3.clone(), rank, size) for rank in range(size)]
        whole = (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T
        for rank, part in enumerate(parts):
            if not isinstance(part, Tensor) or part.shape != whole.shape:
                got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise Wrong(f"rank {rank} of {size} gives {got}, expected [3, 8]: a part of the sum has the full shape")
        together = torch.stack(parts).sum(0)
        if not torch.allclose(together, whole, atol=1e-4):
            raise Wrong(
                f"{size} ranks: the parts sum to something else (largest difference "
                f"{float((together - whole).abs().max()):.3g}); w1 and w3 lose rows, w2 the same columns"
            )
        width = 16 // size
        for rank, part in enumerate(parts):
            mine = slice(rank * width, (rank + 1) * width)
            expected = (F.silu(x @ w1[mine].T) * (x @ w3[mine].T)) @ w2[:, mine].T
            if not torch.allclose(part, expected, atol=1e-4):
                raise Wrong(f"the sum is right, but rank {rank} of {size} does not use its own rows {mine} alone")


@exercise("10", 3)
def check_bytes_per_token(bytes_per_token: Callable[[int, int, int, int], int]) -> None:
    tiny, big = ModelConfig.load(TINY_R1), ModelConfig.load("config_671B.json")
    for name, cfg, ranks in (("tiny-r1", tiny, 2), ("tiny-r1", tiny, 3), ("DeepSeek-R1", big, 16), ("any", big, 1)):
        got = bytes_per_token(cfg.dim, cfg.n_layers, cfg.vocab_size, ranks)
        sent = step_traffic(cfg, ranks)
        if int(got) != sent.nbytes.total():
            parts = ", ".join(f"{kind} {n:,}" for kind, n in sent.nbytes.items()) or "nothing: nobody to talk to"
            where = f"dim {cfg.dim}, {cfg.n_layers} layers, vocabulary {cfg.vocab_size:,}, {ranks} ranks ({name})"
            raise Wrong(f"{where}: you count {int(got):,} bytes, dsv3 counts {sent.nbytes.total():,} ({parts})")
