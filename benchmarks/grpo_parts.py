"""What one wrong part costs: lesson 12's parts train tiny-r1, all right, or one with a known error.

python benchmarks/grpo_parts.py [--json FILE]

Each training is that of ``dsv3.lessons.transplant_12``: four steps on sums in brackets, 64 answers each. The score is
the share of 48 held-out sums that are right after it, greedily. All parts right, and a coin's rewards,
are there, too.
"""

import argparse
import json
import platform
import random
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import torch

from dsv3.cli import run
from dsv3.inference.chat import Tokenizer
from dsv3.lessons import Parts
from dsv3.lessons.transplant_12 import ASKED, BRACKETS, trained
from dsv3.paths import TINY_R1
from dsv3.tiny import grpo

ERRORS = (  # part, words of the error's hint, what the figure says
    ("advantages", "baseline is missing", "no baseline"),
    ("advantages", "not divided by the group", "not divided by the deviation"),
    ("advantages", "G - 1", "deviation with G - 1"),
    ("advantages", "sign is turned", "sign turned"),
    ("log_probabilities", "tokens begin at 1", "tokens not shifted"),
    ("log_probabilities", "log_softmax is missing", "no log_softmax"),
    ("loss", "sign is turned", "sign turned"),
    ("loss", "ratio is detached", "ratio detached"),
    ("loss", "nothing is clipped", "no clip"),
    ("loss", "KL term is missing", "no KL term"),
    ("loss", "multiply by learned", "question and padding learned"),
    ("loss", "mean is over all tokens", "mean over all tokens"),
    ("step", "mixes questions", "groups mix questions"),
    ("step", "only the good answers", "only good answers learned"),
    ("reward", "full stop after the number is allowed", "`85.` is not paid"),
    ("reward", "last number is not enough", "last number is read"),
)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/grpo_parts.py", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    parts, tok, asked = Parts("12"), Tokenizer(TINY_R1), grpo.held_out_set(BRACKETS, ASKED)
    solutions = {name: part.solution for name, part in parts.known.items()}
    coin = random.Random(0)
    runs = [("", "all parts right", {}), ("reward", "a coin's rewards", {"reward": lambda *_: coin.randrange(2)})]
    runs += [(name, what, {name: parts.faulty(name, words)}) for name, words, what in ERRORS]

    def score(model: torch.nn.Module) -> float:
        return round(100 * grpo.accuracy(model, tok, asked), 1)

    result = {
        "date": date.today().isoformat(), "device": f"{platform.machine()} CPU", "torch": torch.__version__,
        "questions": ASKED, "before": score(grpo.trainable(TINY_R1)), "runs": [],
    }  # fmt: skip
    for name, what, instead in runs:
        after = score(trained(SimpleNamespace(**solutions | instead)).model)
        result["runs"].append({"part": name, "what": what, "right": after})
        print(json.dumps(result["runs"][-1]), flush=True)
        if args.json:  # after each, so that whoever stops it has those before
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
