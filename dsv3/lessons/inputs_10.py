"""What lesson 10's parts are tried on: tensors for each rank, cut layers whose other parts are NaN, and rules."""

# As in the lessons' modules, no type hints.
# ruff: noqa: ANN001, ANN201

import dis
import math

import torch
from torch.overrides import TorchFunctionMode

from ..said import Said


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def ranks(size, *shape, dtype=torch.float32):
    """One tensor for each rank."""
    return tuple((random(*shape, seed=10 * rank, dtype=dtype),) for rank in range(size))


def turned(size, *shape):
    return tuple((x.T,) for (x,) in ranks(size, *shape))


def odd():
    """The sum of these numbers depends on the order in which they are added."""
    return tuple((random(40, seed=rank) * 10.0 ** (3 * rank),) for rank in range(3))


def same_bits(found, given):
    return found, "the same on all ranks" if all(torch.equal(each, found[0]) for each in found) else "ranks differ"


def as_is(found, given):
    return found


COLLECTIVES = ("all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "all_to_all", "gather")


def by_messages(answer):
    """The work is the learner's: messages from one rank to another, and no collective of torch's."""
    called = {each.argval for each in dis.get_instructions(answer) if each.opname in ("LOAD_METHOD", "LOAD_ATTR")}
    used = [name for name in COLLECTIVES if name in called]
    if not used:
        return ""
    says = "the sums are right, but dist.{name} does the work: use messages (isend, recv) alone"
    return Said(says, name=used[0])


def cut(n, D, W, rank, size, seed=0, poisoned=True, dtype=torch.float32):
    """A layer whose other rows are NaN: whoever reads them is found out."""
    weight = random(W, D, seed=seed, dtype=dtype)
    mine = torch.arange(W)[rank * W // size : (rank + 1) * W // size]
    if poisoned:
        weight = torch.full_like(weight, math.nan).index_copy(0, mine, weight[mine])
    return random(n, D, seed=1 + seed, dtype=dtype), weight, rank, size


class Others:
    """The other ranks, played: adds their parts of the sum; the number formats of what it was given are noted."""

    def __init__(self):
        self.dtypes = []

    def __call__(self, y):
        self.dtypes.append(y.dtype)
        return (y + random(*y.shape, seed=7)).to(y.dtype)


def row(n, D, W, rank, size, poisoned=True, dtype=torch.float32):
    """A layer whose other columns are NaN."""
    _, weight, *_ = cut(1, D, W, rank, size, poisoned=poisoned, dtype=dtype)
    mine = (rank + 1) * W // size - rank * W // size
    return random(n, mine, seed=3, dtype=dtype), weight.T, rank, size


def with_others(answer, given):
    return answer(*given, Others())


def summed_as(answer, given):
    others = Others()
    answer(*given, others)
    return [str(dtype) for dtype in others.dtypes]


class Widths(TorchFunctionMode):
    """Watches how wide results are."""

    def __init__(self):
        self.seen = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dim() == 2:
            self.seen.add(tuple(result.shape))
        return result


def only_mine(answer):
    """The whole layer on every rank, cut afterwards, would give the same numbers and save nothing."""
    with Widths() as widths, torch.no_grad():
        answer(*cut(3, 8, 24, 1, 4))
    whole = {(3, 24), (24, 3)} & widths.seen
    says = "the numbers are right, but the whole layer is computed and then cut: nothing is saved"
    return Said(says) if whole else ""


def shares(size, n, *lead):
    """Of one tensor [..., n], each rank's share."""
    whole = random(*lead, n)
    return tuple((whole[..., r * n // size : (r + 1) * n // size].contiguous(), n) for r in range(size))


def letters(counts, *shape, dtype=torch.float32):
    """counts[r][s] rows go from rank r to rank s."""
    return tuple(
        ([random(n, *shape, seed=100 * r + 10 * s, dtype=dtype) for s, n in enumerate(row)],)
        for r, row in enumerate(counts)
    )


def listed(answer, given):
    return [list(answer(rank, *given)) for rank in range(given[0])]
