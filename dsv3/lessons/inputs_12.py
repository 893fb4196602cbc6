"""What the checks of lesson 12 give to answers, and how they watch them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .part import Witness


def scored(N: int, S: int, V: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits and tokens."""
    source = torch.Generator().manual_seed(N + S + V)
    return (size * torch.randn(N, S, V, generator=source)).to(dtype), torch.randint(V, (N, S), generator=source)


def played(
    N: int = 3,
    *,
    advantage: list[float],
    kl: float,
    clip: float = 0.2,
    moved: bool = True,
    lengths: tuple[int, ...] = (),
) -> tuple:
    """What ``loss`` is given: ``N`` answers of 6 tokens; ``moved`` from the old ratio of 1.

    With ``lengths`` a question's token stands before each answer, and padding after it. Those have numbers, too, so
    that they show where they count.
    """
    source = torch.Generator().manual_seed(N)
    old = -3 * torch.rand(N, 6, generator=source) - 0.05
    new = old + moved * (torch.rand(N, 6, generator=source) - 0.5) * 1.4
    reference = old + 0.6 * (torch.rand(N, 6, generator=source) - 0.5)
    learned = torch.full((N, 6), not lengths)
    for row, length in zip(learned, lengths, strict=False):
        row[1 : 1 + length] = True
    return new, old, reference, torch.tensor(advantage), learned, clip, kl


def with_gradient(answer: Any, given: tuple) -> tuple[Tensor, Tensor]:
    """The result, and the gradient of its sum with respect to the first argument: a detached result raises here."""
    with torch.enable_grad():
        first = given[0].clone().requires_grad_()
        found = answer(first, *given[1:])
        found.sum().backward()
    return found.detach(), first.grad


def stepped(says: str, asking: bool = False) -> Callable[[Any, tuple], tuple]:
    """``step`` beside a sampler that says these digits, and what it taught; with ``asking`` what it asked, too."""

    def use(answer: Any, given: tuple) -> tuple:
        calls: list[tuple] = []
        digits = iter(says)

        def sample(asked: list[str]) -> list[str]:
            if asking:
                calls.append(("sample", list(asked)))
            return [next(digits) for _ in asked]

        def reward(question: str, said: str) -> float:
            return 1.0 * (int(said) == int(question[0]) + int(question[2]))

        def advantages(rewards: Tensor) -> Tensor:
            return 2 * (rewards - rewards.mean(1, keepdim=True))

        def learn(questions: list[str], answers: list[str], gains: Tensor) -> None:
            calls.append(("learn", list(questions), list(answers), gains.clone()))

        return answer(*given, sample, reward, advantages, learn), calls

    return use


def refused(*answers: str) -> list[Witness]:
    """For each a witness: in the right form, and not worth more than the form, where 85 is right."""
    hint = "{!r} is not the answer 85: it is worth 0.1. Match the whole answer, and nothing else passes"

    def given(told: str) -> Callable[[], tuple]:
        return lambda: (f"7+8+0=15:5\n</think>\n\n{told}", True, 85)

    return [Witness(hint.format(told), given(told)) for told in answers]
