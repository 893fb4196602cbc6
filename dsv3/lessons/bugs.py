"""Tests that learners write: each must pass on the right code, and fail while a bug that shipped is in it."""

from collections.abc import Callable
from typing import Any

from ..lab.mutants import Mutant, injected
from ..said import Said
from .judge import Refused

CAUGHT = "it passes on the right code, and fails on the bug"


def tried(mutant: Mutant) -> Callable[[Any, tuple], str | Refused]:
    """How a test does with a bug, in words: on the right code twice, with the bug, on the right code again.

    A test that leans on chance, or on what an earlier call left, would count as one that catches everything.
    """

    def use(test: Any, given: tuple) -> str | Refused:
        for _ in range(2):
            if failed := _fails(test, given):
                return Refused(Said("it fails on the right code: {failed}", failed=failed))
        with injected(mutant):
            caught = _fails(test, given)
        if failed := _fails(test, given):
            return Refused(Said("it fails on the right code, after the bug was taken out: {failed}", failed=failed))
        return CAUGHT if caught else Refused(Said("it passes with the bug in: {story}", story=mutant.story))

    return use


def _fails(test: Any, given: tuple) -> str:
    try:
        test(*given)
    except NotImplementedError:
        raise
    except Exception as error:  # a test may fail by any error
        text = str(error).strip()
        return f"{type(error).__name__}: {text.splitlines()[0][:120]}" if text else type(error).__name__
    return ""
