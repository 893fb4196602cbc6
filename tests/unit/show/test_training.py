"""Lesson 12's figures show the data that they are given."""

import json
from pathlib import Path

import pytest

from dsv3.show import training
from dsv3.tiny import train

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def test_the_training_run_is_drawn_as_logged():
    rows = [json.loads(line) for line in (RESULTS / "tiny-r1-training.jsonl").read_text().splitlines()]
    recipe = train.Recipe()
    assert rows[-1]["step"] == recipe.steps
    losses, loads = training.history(rows, 1400, 2380, 1 / 16).axes
    assert list(losses.lines[0].get_ydata()) == [row["loss"] for row in rows]
    assert min(losses.lines[1].get_xdata()) == recipe.mtp_from * recipe.steps
    assert list(loads.lines[1].get_ydata()) == pytest.approx([100 * row["busiest"][1] for row in rows])


def test_a_group_and_its_objective_are_drawn():
    (ax,) = training.group([2.0, 1.0], [-0.5, -1.0]).axes
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[2, 1], [-0.5, -1]]
    assert ax.get_xlabel() == "right answers in a group of 3"
    (curve,) = training.clipped([0.5, 1.5], {"right": [1, 2], "wrong": [-1, -2]}, clip=0.2).axes
    assert [list(line.get_ydata()) for line in curve.lines] == [[1, 2], [-1, -2]]


def test_an_exploit_and_the_costs_of_wrong_parts_are_drawn():
    (ax,) = training.fooled([30, 90], [0, 1], [60, 5]).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[30, 90], [0, 1], [60, 5]]
    result = json.loads((RESULTS / "grpo-parts.json").read_text())
    (ax,) = training.costs(result).axes
    assert [line.get_xdata()[0] for line in ax.lines[:-1]] == sorted(run["right"] for run in result["runs"])
    assert ax.lines[-1].get_xdata()[0] == result["before"]


def test_scores_and_distillations_are_bars():
    found = {"rule": {"before": 20.0, "after": 70.0}, "coin": {"before": 20.0, "after": 15.0}}
    assert [bar.get_height() for bar in training.scores(found).axes[0].patches] == [20, 70, 20, 15]
    rows = [("a", 10.0, "base"), ("b", 30.0, "distilled")]
    assert [bar.get_width() for bar in training.distilled(rows).axes[0].patches[:2]] == [30, 10]


def test_recorded_runs_are_drawn_with_their_mean():
    result = json.loads((RESULTS / "grpo-cpu.json").read_text())
    brackets = training.recorded(result).axes[0]
    seeds = len(result["runs"]) // len(training.REWARDS)
    assert len(brackets.lines) == len(training.REWARDS) * (seeds + 1)
    own, mean = brackets.lines[:seeds], brackets.lines[seeds]
    wanted = [sum(each) / seeds for each in zip(*(line.get_ydata() for line in own), strict=True)]
    assert list(mean.get_ydata()) == pytest.approx(wanted)
