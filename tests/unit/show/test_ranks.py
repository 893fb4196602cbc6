"""What lesson 10's figures draw."""

from collections import Counter

import torch

from dsv3.show import ranks as show


def test_figures_show_what_they_are_given():
    many, few = Counter(routed=3 * 10**9, shared=10**9, dense=10**9), Counter(attention=2 * 10**9)
    (ax,) = show.held({"8": many, "16": few}, {"80 GB": 80}, "two").axes
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
    assert tops == [3, 0, 3, 2, 5, 2, 5, 2]
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])]
    (ax,) = show.sums(parts, torch.tensor([4.0, 1.0]), 2).axes
    assert [bar.get_height() for bar in ax.patches] == [1, 2, 3, -1]
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[4, 1], [4, 1]]
    (ax,) = show.times([4, 400], {"yours": [20, 30], "torch's": [10, 15]}).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[20, 30], [10, 15]]
    (ax,) = show.waiting([1, 10], {"ring": [900, 800], "tree": [950, 850]}, 1000, 5).axes
    assert [list(line.get_ydata()) for line in ax.lines[:3]] == [[900, 800], [950, 850], [1000, 1000]]
    assert list(ax.lines[3].get_xdata()) == [5, 5]
