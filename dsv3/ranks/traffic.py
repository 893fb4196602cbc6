"""What crosses the wire between ranks: counted as it happens, and the formula that the count must equal.

Payload: the bytes of the tensor that a rank hands to a collective operation. What an algorithm makes of it (a ring's
all-reduce of n bytes sends and receives ``2 n (ranks - 1) / ranks`` on each rank) is the backend's business.
"""

from collections import Counter
from dataclasses import dataclass, field

from ..config import ModelConfig


@dataclass(frozen=True)
class Traffic:
    """Collective operations and bytes of payload per rank, by kind: all_reduce, all_gather, broadcast."""

    collectives: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, nbytes: int, times: int = 1) -> None:
        """Count ``times`` operations of ``nbytes`` each."""
        self.collectives[kind] += times
        self.nbytes[kind] += times * nbytes

    def include(self, other: "Traffic", times: int = 1) -> None:
        """Count what ``other`` has, ``times`` over; -1 takes it back."""
        for mine, theirs in ((self.collectives, other.collectives), (self.nbytes, other.nbytes)):
            for kind, n in theirs.items():
                mine[kind] += times * n

    def copy(self) -> "Traffic":
        """The counts until now; ``later - earlier`` is what came between."""
        return Traffic(self.collectives.copy(), self.nbytes.copy())

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        return Traffic(self.collectives - earlier.collectives, self.nbytes - earlier.nbytes)


def step_traffic(
    cfg: ModelConfig, ranks: int, batch: int = 1, *, new: int = 1, itemsize: int = 2, sum_itemsize: int = 4
) -> Traffic:
    """What one step of generation sends: ``new`` tokens for each of ``batch`` sequences in, the next token of each out.

    The embedding is summed over the ranks; each layer sums its attention's and its feed-forward part, an MoE layer in
    one piece; the head's logits are gathered, at the longest part's length; rank 0's choice is told to the others.

    Args:
        new: 1 when decoding; the prompts' length when they are read in one piece.
        itemsize: bytes per number of the activations (``Runtime.dtype``).
        sum_itemsize: of the sums (``Numerics.sum``).
    """
    traffic = Traffic()
    if ranks == 1:
        return traffic
    hidden = batch * new * cfg.dim
    traffic.add("all_reduce", hidden * itemsize)
    traffic.add("all_reduce", hidden * sum_itemsize, times=2 * cfg.n_layers)
    traffic.add("all_gather", batch * -(-cfg.vocab_size // ranks) * 4)  # float32 logits
    traffic.add("broadcast", batch * 8)  # int64 token ids
    return traffic


def seconds(traffic: Traffic, ranks: int, bandwidth: float, latency: float) -> float:
    """What a step's collectives take at least, one after another.

    Args:
        bandwidth: bytes a second out of each rank.
        latency: seconds of each collective, however small it is.

    Source: a ring's all-reduce of n bytes sends 2 n (ranks - 1) / ranks from each rank, its all-gather n (ranks - 1).
    """
    sent = {"all_reduce": 2 * (ranks - 1) / ranks, "all_gather": ranks - 1, "broadcast": 1}
    nbytes = sum(n * sent[kind] for kind, n in traffic.nbytes.items())
    return latency * traffic.collectives.total() + nbytes / bandwidth
