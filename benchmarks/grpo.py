"""Reinforcement learning on tiny-r1 for longer than a lesson: the rule, and two controls, with two seeds each.

python benchmarks/grpo.py [--steps 12] [--seeds 2] [--json FILE]

Rewards: the rule (right number and form), the form alone, and a coin that is thrown for each answer. Scores are greedy,
on sums held out from all training: asked with brackets, which is what is trained, and asked as tiny-r1 was taught.
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch

from dsv3.cli import run
from dsv3.inference.chat import Tokenizer
from dsv3.paths import TINY_R1
from dsv3.tiny import grpo

ASKED, EVERY = 96, 4
TAUGHT = "{a} {s} {b} = ?"


def rewards(seed: int) -> dict[str, grpo.Reward]:
    coin = random.Random(seed)
    return {"rule": grpo.rule, "form": grpo.form, "coin": lambda p, reply: float(coin.random() < 0.5)}


def play(recipe: grpo.Recipe, reward: grpo.Reward) -> Iterator[dict]:
    """A row a step; every ``EVERY`` steps, and before the first, with scores in percent."""
    model, tok = grpo.trainable(TINY_R1), Tokenizer(TINY_R1)
    asked = grpo.held_out_set(recipe, ASKED)
    taught = grpo.held_out_set(replace(recipe, form=TAUGHT), ASKED)

    def scores() -> dict:
        found = {"brackets": grpo.accuracy(model, tok, asked), "taught": grpo.accuracy(model, tok, taught)}
        return {name: round(100 * share, 1) for name, share in found.items()}

    yield {"step": 0} | scores()
    for number, step in enumerate(grpo.reinforce(model, tok, recipe, reward), start=1):
        row = {"step": number} | {name: round(value, 4) for name, value in asdict(step).items()}
        yield row | (scores() if number % EVERY == 0 else {})


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/grpo.py", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    args = parser.parse_args(argv)
    recipe, runs = grpo.Recipe(steps=args.steps), []
    begin = time.process_time()
    for seed in range(args.seeds):
        for name, reward in rewards(seed).items():
            rows = []
            for row in play(replace(recipe, seed=seed), reward):
                rows.append(row)
                print(name, seed, json.dumps(row), flush=True)
            runs.append({"reward": name, "seed": seed, "rows": rows})
    result = {
        "date": date.today().isoformat(), "device": f"{platform.machine()} CPU", "threads": torch.get_num_threads(),
        "torch": torch.__version__, "cpu_seconds": round(time.process_time() - begin), "questions": ASKED,
        "recipe": asdict(recipe), "runs": runs,
    }  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
