"""Lesson 12: advantages of groups, the clipped objective, a reward that cannot be fooled."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..tiny import grpo
from . import Wrong, exercise


@exercise("12", 1)
def check_advantages(answer: Callable[[Tensor], Tensor]) -> None:
    for rewards in ([[1.0, 0.0, 0.0, 0.0]], [[1.1, 0.1], [0.1, 1.1]], [[1.0, 0.0, 1.0], [5.0, 3.0, 1.0]]):
        given = torch.tensor(rewards)
        found, right = answer(given.clone()), grpo.advantages(given)
        if not isinstance(found, Tensor) or found.shape != right.shape:
            raise Wrong(f"rewards of shape {list(right.shape)} need advantages of the same shape, a row for each group")
        if not torch.allclose(found, right, atol=1e-3):
            hint = "each row less its own mean, over its own standard deviation (of the group itself: correction=0)"
            raise Wrong(f"for {rewards} you give {_short(found)}, not {_short(right)}: {hint}")
    for value in (0.0, 1.0, 0.1):
        found = answer(torch.full((2, 8), value))
        if not torch.equal(found, torch.zeros(2, 8)):
            raise Wrong(
                f"eight equal rewards of {value} must give exact zeros, yours reach {found.abs().max():.2g}: the mean "
                "of eight times 0.1 is not 0.1 in float32, and 0 / 0 is nan; look at the deviation before you divide"
            )


@exercise("12", 2)
def check_clipped(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    ratio = torch.tensor([0.2, 0.7, 0.9, 1.0, 1.1, 1.5, 4.0])
    for gain in (1.0, -1.0, 2.5, -0.5):
        for clip in (0.2, 0.5):
            new, old = ratio.log() - 1.0, torch.full((7,), -1.0)
            advantage = torch.full((7,), gain)
            found = answer(new, old, advantage, clip)
            right = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
            if not isinstance(found, Tensor) or found.shape != right.shape:
                raise Wrong("one number for each token: the same shape as the log-probabilities")
            if not torch.allclose(found, right, atol=1e-5):
                at = int((found - right).abs().argmax())
                raise Wrong(
                    f"for the ratio {ratio[at]:.1f}, advantage {gain:g} and clip {clip:g} you give {found[at]:.3f}, "
                    f"not {right[at]:.3f}: the ratio is exp(new - old); ratio and clipped ratio are both "
                    "multiplied by the advantage, and the smaller product counts"
                )


REPLIES = (
    ("7+8+0=15:5\n3+4+1=08:85\n</think>\n\nAnswer: 85", 85, 1.0, "a right answer"),
    ("竖式：0037+0048\n</think>\n\n答案：85", 85, 1.0, "a right answer in Chinese"),
    ("0-9-0+10=1\n</think>\n\nAnswer: -12", -12, 1.0, "a right answer below zero"),
    ("Columns\n</think>\n\nAnswer: 12", -12, 0.0, "an answer that lost its sign"),
    ("85\n</think>\n\nAnswer: 84", 85, 0.0, "the right number in the thinking, another one as the answer"),
    ("7+8+0=15:5\n3+4+1=08:85", 85, 0.0, "a thought that never ended"),
    ("</think>\n\nAnswer: 185", 85, 0.0, "a number that only ends in the right digits"),
    ("</think>\n\nAnswer: 850", 85, 0.0, "a number that only begins with the right digits"),
    ("</think>\n\n85 or 86", 85, 0.0, "two guesses, the right one first"),
    ("I cannot do this.\n</think>\n\nI cannot do that.", 85, 0.0, "a refusal"),
    ("</think>\n\nAnswer: 0", 0, 1.0, "a right answer of zero"),
    ("", 85, 0.0, "nothing at all"),
)


@exercise("12", 3)
def check_reward(answer: Callable[[str, int], float]) -> None:
    for text, right, wanted, what in REPLIES:
        found = answer(text, right)
        if float(found) != wanted:
            raise Wrong(
                f"{what} must be worth {wanted:g}, yours gives {found!r} for {text!r} (right: {right}); "
                "read the last number behind </think>, sign included, and compare numbers, not text"
            )


def _short(found: Tensor) -> list:
    return [[round(value, 2) for value in row] for row in found.tolist()]
