"""Checks of lesson 04's exercises: whose expert, which bytes, and how many ranks."""

from collections.abc import Callable
from dataclasses import replace

from ..config import ModelConfig
from ..layout import check_ranks, shared_out
from ..paths import TINY_R1
from . import Wrong, exercise

Runs = list[tuple[int, int]]


@exercise("04", 1)
def check_owner(owner: Callable[[int, int, int], int]) -> None:
    for experts, ranks in ((16, 2), (256, 16), (8, 8), (8, 1), (10, 4), (64, 6), (3, 8)):
        for rank in range(ranks):
            mine = shared_out(experts, rank, ranks)
            for expert in mine:
                if (got := owner(expert, experts, ranks)) != rank:
                    run = f"rank {rank} has the experts {mine.start} to {mine.stop - 1}"
                    raise Wrong(f"expert {expert} of {experts} on {ranks} ranks: you say rank {got}, but {run}")


@exercise("04", 2)
def check_runs(runs_of: Callable[[tuple[int, int], int, int | None, int, int], Runs]) -> None:
    for shape, itemsize, cut, ranks in (
        ((8, 6), 1, 0, 2), ((8, 6), 1, 1, 2), ((4, 12), 2, 1, 3), ((6, 4), 4, 0, 3), ((5, 3), 2, None, 4),
        ((4, 4), 1, 1, 1), ((1, 8), 2, 1, 4),
    ):  # fmt: skip
        numbers = [[(i, j, b) for j in range(shape[1]) for b in range(itemsize)] for i in range(shape[0])]
        flat = [number for line in numbers for number in line]
        for rank in range(ranks):
            rows, columns = (shared_out(n, rank, ranks) if cut == d else range(n) for d, n in enumerate(shape))
            wanted = [number for number in flat if number[0] in rows and number[1] in columns]
            runs = [tuple(run) for run in runs_of(shape, itemsize, cut, rank, ranks)]
            got = [number for offset, length in runs for number in flat[offset : offset + length]]
            where = f"a {list(shape)} matrix of {itemsize}-byte numbers, cut {cut}, rank {rank} of {ranks}"
            if got != wanted or sum(length for _, length in runs) != len(wanted):
                hint = "offsets and lengths are in bytes" if itemsize > 1 else "draw the matrix row by row"
                raise Wrong(f"{where}: {runs} are not the rank's {len(wanted)} bytes; {hint}")
            if any(a + n == b for (a, n), (b, _) in zip(runs, runs[1:], strict=False)):
                raise Wrong(f"{where}: {runs} are the right bytes, but some runs touch; make them one")


@exercise("04", 3)
def check_possible(possible: Callable[[ModelConfig, int], bool]) -> None:
    shipped = [ModelConfig.load(name) for name in ("config_671B.json", "config_236B.json", TINY_R1)]
    drawn = [replace(shipped[0], n_heads=heads) for heads in (6, 12, 45, 96)]
    for cfg in (replace(c, dtype=dtype) for c in shipped + drawn for dtype in ("fp8", "bf16")):
        for ranks in range(1, cfg.n_heads + 2):
            try:
                check_ranks(cfg, ranks)
                why = None
            except ValueError as error:
                why = str(error).split(";")[0]
            if bool(possible(cfg, ranks)) != (why is None):
                what = f"{cfg.n_heads} heads in {cfg.dtype.upper()} over {ranks} ranks"
                raise Wrong(f"{what}: you say {bool(possible(cfg, ranks))}; {why or 'but nothing is cut through'}")
