"""What lesson 06's parts are tried on."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..lab.mutants import ROUTER, Mutant, injected
from ..model import Gate
from ..paths import TINY_R1
from ..runtime import Runtime
from ..said import Said
from .judge import Refused

BF16 = torch.bfloat16
GateCall = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def random(*shapes: tuple[int, ...], size: float = 1.0) -> tuple[Tensor, ...]:
    """Tensors of normal numbers, the same each time."""
    draw = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return tuple(torch.randn(shape, generator=draw) * size for shape in shapes)


def tokens_of(n: int, D: int = 6, width: int = 10, size: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple:
    """x, w1, w2, w3 of an expert."""
    x, w1, w2, w3 = random((n, D), (width, D), (D, width), (width, D))
    return tuple(each.to(dtype) for each in (x * size, w1, w2, w3))


def picks(n: int, E: int, groups: int, limited: int, k: int, shift: float = 0.0) -> tuple:
    """Biased scores, all different, and the sizes."""
    draw = torch.Generator().manual_seed(n + E)
    return torch.rand(n, E, generator=draw) + shift, groups, limited, k


def stars() -> tuple:
    """Two tokens: one group of each has a single star, another has two good experts."""
    scores = torch.tensor(
        [[0.9, 0.1, 0.05, 0.6, 0.58, 0.02, 0.3, 0.32, 0.31], [0.2, 0.21, 0.22, 0.95, 0.03, 0.04, 0.5, 0.49, 0.1]]
    )
    return scores, 3, 1, 2


def ids(answer: Any, given: tuple) -> Any:
    """The chosen ids in their order; what is no tensor as it is."""
    found = answer(*given)
    return found.sort(-1)[0] if isinstance(found, Tensor) and found.dim() else found


def routed(n: int, E: int, K: int) -> tuple[Tensor, Tensor]:
    """Scores between 0 and 1, and K different experts of each token, not the best ones, in no order."""
    draw = torch.Generator().manual_seed(n + 3 * E + K)
    likes = torch.rand(n, E, generator=draw) + torch.linspace(0, 0.8, E)
    return torch.rand(n, E, generator=draw) * 0.9 + 0.05, likes.topk(K, dim=-1)[1].flip(-1)


class Expert:
    """One that is not linear, and counts its calls and tokens."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.calls, self.tokens = matrix, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls, self.tokens = self.calls + 1, self.tokens + (len(x) if x.dim() > 1 else 1)
        return (x @ self.matrix.to(x.dtype)).sin() + 0.5 * x


def dispatched(n: int, E: int, K: int, D: int = 6, size: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple:
    """x, weights, chosen, and the experts."""
    scores, chosen = routed(n, E, K)
    x, *matrices = random((n, D), *[(D, D)] * E)
    return (x * size).to(dtype), scores.gather(-1, chosen), chosen, tuple(map(Expert, matrices))


def at_once(answer: Any) -> str:
    """Whether each expert got all of its tokens at once, and no others."""
    given = dispatched(8, 5, 2)
    with torch.no_grad():
        answer(*given)
    chosen, experts = given[2], given[3]
    for e, expert in enumerate(experts):
        count = int((chosen == e).sum())
        if expert.tokens > count:
            return Said(
                "the numbers are right, but expert {e} multiplied {tokens} tokens, and only {count} chose it",
                e=e, tokens=expert.tokens, count=count,
            )  # fmt: skip
        if expert.calls > 1:
            return Said(
                "the numbers are right, but expert {e} was called {calls} times: give it its tokens at once",
                e=e, calls=expert.calls,
            )  # fmt: skip
    return ""


def gradient(answer: Any, given: tuple) -> Any:
    """The scores' gradient of a loss."""
    scores, *rest = given
    with torch.enable_grad():
        scores = scores.clone().requires_grad_()
        loss = answer(scores, *rest)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            return Refused(Said("no gradient flows back to the scores"))
        loss.backward()
    return scores.grad


def _gate(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The package's gate, of tiny-r1's sizes."""
    gate = Gate(ModelConfig.load(TINY_R1), Runtime())
    gate.weight.copy_(weight)
    assert gate.bias is not None  # tiny-r1's has one
    gate.bias.copy_(bias)
    return gate(x)


def _turned(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(each.flip(-1) for each in _gate(x, weight, bias))  # type: ignore[return-value]


def _loud(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The bias in the weights."""
    _, chosen = _gate(x, weight, bias)
    picked = ((x @ weight.T).sigmoid() + bias).gather(-1, chosen)
    return picked / (picked.sum(-1, keepdim=True) + 1e-20) * 2.5, chosen


def _with(mutant: Mutant) -> tuple[GateCall]:
    def faulty(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        with injected(mutant):
            return _gate(x, weight, bias)

    return (faulty,)


def gates() -> Iterator[tuple[str, Callable[[], tuple]]]:
    """What must hold, and a gate: right ones, and bugs that shipped."""
    yield "the right gate must pass, each time", lambda: (_gate,)
    yield "the order of a token's experts is free", lambda: (_turned,)
    stories = {
        "v2-group-score": "a gate that scores a group by its best one (V2's rule) must not pass",
        "masked-with-zero": "a gate that masks groups with 0 must not pass",
        "nan-from-underflow": "a gate that makes NaN of 0 / 0 must not pass",
        "bf16-router": "a gate that computes in bfloat16 must not pass",
    }
    for mutant in ROUTER:
        yield stories[mutant.name], partial(_with, mutant)
    yield "a gate with the bias in its weights must not pass", lambda: (_loud,)


def tested(answer: Any, given: tuple) -> Any:
    """The verdict, twice: a test that is left to chance may differ."""
    return bool(answer(*given)), bool(answer(*given))
