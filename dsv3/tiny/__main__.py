"""``python -m dsv3.tiny --out DIR``: train tiny-r1, write the FP8 checkpoint to ``DIR/tiny-r1``, and score it."""

import argparse
from dataclasses import replace

from ..checkpoint import ours
from ..cli import run
from .evaluate import report
from .export import export
from .train import Recipe, tiny_config, train


def main(argv: list[str]) -> None:
    """The command line; the same again goes on with an interrupted run."""
    parser = argparse.ArgumentParser(prog="python -m dsv3.tiny", description=__doc__)
    parser.add_argument("--out", type=ours.path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    weights = train(args.out, Recipe())
    export(weights, replace(tiny_config(), dtype="fp8"), args.out, args.out / "tiny-r1")
    report(args.out / "tiny-r1", 2000, args.out / "scores.json")


if __name__ == "__main__":
    run(main)
