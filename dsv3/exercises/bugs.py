"""Bugs that shipped: the reader's own test must pass on the right model and fail on each public fault."""

from collections.abc import Callable

from ..lab.mutants import ATTENTION, KERNELS, ROUTER, Mutant, injected
from . import COUNTS, Wrong, exercise


def _catches(test: Callable[[], None], mutants: tuple[Mutant, ...]) -> None:
    """Run the reader's test on the right model, and on each faulty one.

    Raises:
        Wrong: the test fails on the right model, or passes on a faulty one.
    """
    try:
        test()
    except NotImplementedError:
        raise
    except Exception as error:
        raise Wrong(f"your test fails on the right model: {type(error).__name__}: {error}") from error
    for mutant in mutants:
        try:
            with injected(mutant):
                test()
        except Exception:
            print(f"caught     {mutant.name}")
        else:
            raise Wrong(f"not caught: {mutant.name}. {mutant.story} {mutant.hint}")


@exercise("05", COUNTS["05"])
def check_attention_test(test: Callable[[], None]) -> None:
    _catches(test, ATTENTION)


@exercise("06", COUNTS["06"])
def check_router_test(test: Callable[[], None]) -> None:
    _catches(test, ROUTER)


@exercise("08", COUNTS["08"])
def check_kernel_test(test: Callable[[], None]) -> None:
    _catches(test, KERNELS)
