"""Lesson 12's figures show the data that they are given, and the widget follows its sliders."""

import json
import math
from pathlib import Path

import pytest

from dsv3.show import training
from dsv3.tiny import train

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_the_training_run_is_drawn_as_logged():
    rows = training.log(RESULTS / "tiny-r1-training.jsonl")
    recipe = train.Recipe()
    assert rows[-1]["step"] == recipe.steps
    losses, loads = training.history(rows, 1400, 2380, 1 / 16).axes
    assert list(losses.lines[0].get_ydata()) == [row["loss"] for row in rows]
    assert min(losses.lines[1].get_xdata()) == recipe.mtp_from * recipe.steps
    assert list(loads.lines[1].get_ydata()) == pytest.approx([100 * row["busiest"][1] for row in rows])


def test_grpo_is_drawn_by_the_package_itself():
    bars, curve = training.grpo(right=2, group=8, clip=0.2).axes
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx([math.sqrt(3)] * 2 + [-1 / math.sqrt(3)] * 6)
    right, wrong = (line.get_ydata() for line in curve.lines)
    assert right[-1] == pytest.approx(1.2 * math.sqrt(3))
    assert wrong[0] == pytest.approx(-0.8 / math.sqrt(3))
    assert not any(bar.get_height() for bar in training.grpo(right=8, group=8, clip=0.2).axes[0].patches)


def test_the_sliders_redraw():
    explorer = training.explorer()
    (size, good, clip), picture = explorer.children[0].children, explorer.children[1]
    seen = {picture.value}
    for slider, value in ((good, 5), (clip, 0.4), (size, 3)):
        slider.value = value
        seen.add(picture.value)
    assert len(seen) == 4
    assert good.value == 3  # no more right ones than there are


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
