"""How often tiny-r1 is right on sums that it was never trained on: ``python -m dsv3.tiny.evaluate``."""

import argparse
import json
import re
from datetime import date
from pathlib import Path

from ..checkpoint import ours
from ..inference.sampling import whole
from ..llm import LLM, load
from ..paths import check_result, write_result
from . import data

LIMIT = 200  # tokens of an answer


def answer(text: str) -> int | None:
    """The number in the last line of an answer."""
    found = re.search(r"(-?\d+)\s*$", text)
    return int(found[1]) if found else None


def evaluate(llm: LLM, problems: list[tuple[data.Problem, str]]) -> dict[str, float]:
    """Greedy exact match, in percent, over all problems and per operator; and how many never ended."""
    replies = llm.generate([q for _, q in problems], temperature=0, max_new_tokens=LIMIT)
    right = {p: answer(r.answer) == p.answer for (p, _), r in zip(problems, replies, strict=True)}
    scores = {"all": _percent(list(right.values()))}
    for op in data.OPERATORS:
        scores[op] = _percent([ok for p, ok in right.items() if p.op == op])
    return scores | {"n": len(problems), "unfinished": sum(r.finish == "length" for r in replies)}


def _percent(right: list[bool]) -> float:
    return round(100 * sum(right) / max(len(right), 1), 2)


def report(folder: str | Path, n: int, file: Path | None = None) -> list[dict]:
    """Scores with BF16 products (weights dequantised once) and with FP8 ones (activations quantised, too).

    Printed a line each, and written to ``file`` as JSON with device, versions and date; an earlier report is replaced.

    Raises:
        ValueError: there are not ``n`` problems.
        OSError: as ``write_result``.
    """
    import torch

    whole("n", n, 1, data.MOST_HELD_OUT)
    if file:
        check_result(file, _is_report)
    rows = []
    for gemm in ("bf16", "fp8"):
        llm = load(folder, gemm=gemm, max_batch_size=64)
        row = {"gemm": gemm} | evaluate(llm, data.held_out_set(n))
        row |= {"device": str(llm.model.run.device), "torch": torch.__version__, "date": date.today().isoformat()}
        print(json.dumps(row), flush=True)
        rows.append(row)
    if file:
        write_result(file, (json.dumps(rows, indent=2) + "\n").encode(), _is_report)
    return rows


def _is_report(text: bytes) -> bool:
    """Whether a file is what ``report`` writes."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(rows, list) and bool(rows) and all(isinstance(r, dict) and {"gemm", "n"} <= set(r) for r in rows)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dsv3.tiny.evaluate", description=__doc__)
    parser.add_argument("--ckpt-path", type=ours.path, default="tiny-r1", metavar="DIR")
    parser.add_argument("--n", type=int, default=2000, help=f"held-out problems, {data.MOST_HELD_OUT:,} at most")
    parser.add_argument("--json", type=ours.path, metavar="FILE", help="write the scores there")
    args = parser.parse_args(argv)
    report(args.ckpt_path, args.n, args.json)


if __name__ == "__main__":
    from ..cli import run

    run(main)
