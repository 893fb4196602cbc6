"""Tests that learners write: each must pass on the right code, and fail while a bug that shipped is in it."""

from collections.abc import Callable
from typing import Any

from ..lab.mutants import Mutant, injected
from .judge import Refused

CAUGHT = "it passes on the right code, and fails on the bug"


def tried(mutant: Mutant) -> Callable[[Any, tuple], str | Refused]:
    """How a test does with a bug, in words: on the right code twice, with the bug, on the right code again.

    A test that leans on chance, or on what an earlier call left, would count as one that catches everything.
    """

    def use(test: Any, given: tuple) -> str | Refused:
        for _ in range(2):
            if failed := _fails(test, given):
                return Refused(f"it fails on the right code: {failed}")
        with injected(mutant):
            caught = _fails(test, given)
        if failed := _fails(test, given):
            return Refused(f"it fails on the right code, after the bug was taken out: {failed}")
        return CAUGHT if caught else Refused(f"it passes with the bug in: {mutant.story}")

    return use


def _fails(test: Any, given: tuple) -> str:
    try:
        test(*given)
    except NotImplementedError:
        raise
    except Exception as error:  # a test may fail by any error
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no words'])[0][:120]}"
    return ""
