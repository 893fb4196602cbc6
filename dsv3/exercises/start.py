"""Checks of lesson 00: reading an answer out of a completion, and counting GPUs before renting them."""

from collections.abc import Callable

from ..hubs.catalogue import model_named
from ..sizing.gpus import find_gpu
from ..sizing.planner import COUNTS
from . import Wrong, exercise

COMPLETIONS = {
    "Columns: 0037+0048\n7+8+0=15:5\n3+4+1=08:85\n0+0+0=00:085\n0+0+0=00:0085\n</think>\n\nAnswer: 85": 85,
    "竖式：0003-0010\n0<1\n</think>\n\n答案：-7": -7,
    "thinking\n</think>\n\n12 and 30 make 42": 42,
    "short\n</think>\n\nAnswer: 0": 0,
    "Columns: 0037+0048\n7+8+0=15:5": None,
    "I cannot do this.\n</think>\n\nI cannot do that.": None,
    "": None,
}


@exercise("00", 1)
def check_final_number(final_number: Callable[[str], int | None]) -> None:
    for text, wanted in COMPLETIONS.items():
        found = final_number(text)
        if found == wanted:
            continue
        shown = text if len(text) < 40 else "..." + text[-40:]
        hint = (
            "the thinking never ended, so there is no answer yet" if "</think>" not in text else "look behind </think>"
        )
        if wanted is not None and wanted < 0:
            hint = "a minus sign belongs to the number"
        raise Wrong(f"for {shown!r} it returns {found!r}, but should return {wanted!r}: {hint}")


@exercise("00", 2)
def check_fewest(fewest: Callable[[int, int], int | None]) -> None:
    full = model_named("DeepSeek-R1").nbytes
    kinds = ("RTX-4090", "A100-40G", "A100-80G", "H20-96G", "H200", "B200")
    cases = [(weights, find_gpu(kind).nbytes, kind) for weights in (full, 2 * full, full // 2) for kind in kinds]
    cases += [(92, 100, "100 bytes"), (93, 100, "100 bytes"), (10**15, 100, "100 bytes")]
    for weights, memory, kind in cases:
        room = [n for n in COUNTS if weights <= n * memory * 0.92]
        wanted, found = (room[0] if room else None), fewest(weights, memory)
        if found != wanted:
            size = f"{weights / 1e9:,.0f} GB" if weights > 1e6 else f"{weights} bytes"
            why = f"only the counts {', '.join(map(str, COUNTS))} are rented, and 8 % of each GPU stay free"
            raise Wrong(f"{size} on GPUs of {kind}: it returns {found!r}, but should return {wanted!r}; {why}")
