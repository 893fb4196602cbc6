"""What lesson 10's figures draw."""

from collections import Counter

import torch

from dsv3.show import ranks as show


def test_figures_show_what_they_are_given():
    (ax,) = show.held([Counter(a=3_000_000, b=1_000_000), Counter(a=2_000_000)], "two").axes
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
    assert tops == [3, 2, 4, 2]
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])]
    (ax,) = show.sums(parts, torch.tensor([4.0, 1.0]), 2).axes
    assert [bar.get_height() for bar in ax.patches] == [1, 2, 3, -1, 4, 1]
    (ax,) = show.waiting([1, 10], {"fast": [900, 800], "slow": [700, 500]}, 1000).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[900, 800], [700, 500], [1000, 1000]]
