"""The parts of lesson 00: to read an answer out of a completion, and to count GPUs before renting them."""

import re

from ..hubs.catalogue import model_named
from ..sizing.gpus import find_gpu
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def final_number(text):
    """A completion -> the last whole number after `</think>`, an int; None if there is none."""
    answer = text.partition("</think>")[2]
    found = re.findall(r"-?\d+", answer)
    return int(found[-1]) if found else None


def fewest(weights, memory):
    """Bytes of all weights, bytes of one GPU -> the fewest GPUs that hold them, or None.

    GPUs are rented as 1, 2, 4, 8, 16, 32 or 64. All weights are shared out evenly.
    8 % of each GPU stay free.
    """
    for n in (1, 2, 4, 8, 16, 32, 64):
        if weights <= n * memory * 0.92:
            return n
    return None


# --------------------------------------------------------------------------------------------------- the checks

PARTS: list[Part] = []


def said(text):
    return lambda: (text,)


def on(times, kind):
    """R1's published weights, taken so many times, on GPUs of a kind."""
    return lambda: (int(times * model_named("DeepSeek-R1").nbytes), find_gpu(kind).nbytes)


TRANSFERS = [
    Part(
        final_number, "the number that was answered", 1, 8,
        '`text.partition("</think>")[2]` is what stands after the mark. `re.findall` with an optional minus finds all '
        "whole numbers in it.",
        (
            Witness("the number after </think> counts", said("7+8+0=15:5\n</think>\n\nAnswer: 85")),
            Witness("the answer may go on after its number: a full stop, a word", said("7+8+0=15:5\n</think>\n\nThe answer is 42.")),
            Witness("the LAST number of the answer counts", said("thinking\n</think>\n\n12 and 30 make 42 in all")),
            Witness("a minus sign belongs to the number", said("竖式：0003-0010\n0<1\n</think>\n\n答案：-7")),
            Witness("0 is a number, too", said("0+0+0=00:0\n</think>\n\nAnswer: 0")),
            Witness("numbers of the thinking do not count: without </think> there is no answer yet", said("7+8+0=15:5\n3+4+1=08:85")),
            Witness("an answer without a number gives None", said("12+34\n</think>\n\nI cannot do that.")),
            Witness("the first </think> ends the thinking; an answer may name the mark again", said("7\n</think>\n\n85, and </think> is only a mark")),
            Witness("an empty text gives None", said("")),
        ),
        (
            Fault('text.partition("</think>")[2]', "text", "numbers of the thinking are counted, too: look only after </think>"),
            Fault('r"-?\\d+"', 'r"\\d+"', "a minus sign in front of a number belongs to it"),
            Fault("found[-1]", "found[0]", "the last number of the answer counts, not the first"),
            Fault('r"-?\\d+"', 'r"-?\\d+$"', "the number need not stand at the very end of the text: a full stop may come after it"),
            Fault("if found else None", "if found else 0", "no number is None; 0 would be an answer"),
            Fault("int(found[-1]) if found else None", "(int(found[-1]) if found else None) or None", "0 is taken for nothing, but it is an answer"),
            Fault("int(found[-1])", "found[-1]", "return an int, not a text: otherwise it never equals the result"),
            Fault("text.partition", "text.rpartition", "the FIRST </think> ends the thinking; an answer may name the mark again"),
        ),
    ),
    Part(
        fewest, "GPUs before they are rented", 2, 8,
        "Try the counts in order. How much do `n` GPUs hold together, if 92 % of each may be used?",
        (
            Witness("one GPU may be enough", on(0.02, "RTX-4090")),
            Witness("R1 in FP8 on H20 of 96 GB needs 8", on(1, "H20-96G")),
            Witness("only 1, 2, 4, 8, 16, 32 and 64 are rented: never 9 or 10", on(1, "H100-80G")),
            Witness("8 % of each GPU stay free", lambda: (9230, 10_000)),
            Witness("exactly 92 % may be used", lambda: (9200, 10_000)),
            Witness("64 GPUs are allowed", lambda: (400_000, 10_000)),
            Witness("if 64 are too few, the answer is None", lambda: (10**9, 10_000)),
        ),
        (
            Fault(" * 0.92", "", "nothing is kept free: 8 % of each GPU stay free, so 92 % may be used"),
            Fault(" * 0.92", " * 1.08", "8 % free means 92 % of the memory, not 108 %"),
            Fault("weights <=", "weights <", "exactly 92 % is still enough: use <="),
            Fault("(1, 2, 4, 8, 16, 32, 64)", "range(1, 65)", "only the counts 1, 2, 4, 8, 16, 32 and 64 are rented"),
            Fault("(1, 2, 4, 8, 16, 32, 64)", "(1, 2, 4, 8, 16, 32)", "64 GPUs are a choice, too"),
            Fault("    return None", "    return 64", "if even 64 GPUs are too few, return None"),
            Fault("(1, 2, 4, 8, 16, 32, 64)", "(64, 32, 16, 8, 4, 2, 1)", "the SMALLEST count that fits: try the small ones first"),
        ),
    ),
]  # fmt: skip
