"""Lesson 00's figures: what is drawn is what was counted."""

import pytest

from dsv3.hubs.catalogue import find_model
from dsv3.show.start import budgets, family

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: notebooks)")


def test_budgets_beside_the_thinking_that_ended():
    figure = budgets({0: 0, 70: 1, 100: 3}, lengths=[60, 80, 90], baseline=1)
    (ax,) = figure.axes
    ended, right, baseline = ax.lines
    stairs = dict(zip(*ended.get_data(), strict=True))
    assert [stairs[n] for n in (0, 59, 60, 80, 90, 100)] == [0, 0, 1, 2, 3, 3]
    assert [list(values) for values in right.get_data()] == [[0, 70, 100], [0, 1, 3]]
    assert set(baseline.get_ydata()) == {1}
    assert "tokens" in ax.get_xlabel()


def test_the_family_against_memory():
    shown, memory = [find_model("tiny-r1"), find_model("R1")], {"8 x H100": 640e9, "8 x H20": 768e9}
    (ax,) = family(shown, memory, "R1 is large").axes
    assert not ax.patches, "no bars on a logarithmic scale"
    assert list(ax.lines[0].get_xdata()) == pytest.approx([m.nbytes / 1e9 for m in shown])
    assert ax.get_title(loc="right") == "R1 is large"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["tiny-r1, FP8: 0.013 GB", "DeepSeek-R1, FP8: 689 GB"]
    assert ax.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [640, 768]
