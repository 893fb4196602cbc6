"""Lesson 02's figures, and its hub, asked by ModelScope's own client."""

import pytest

from dsv3.checkpoint import read
from dsv3.config import ModelConfig
from dsv3.hubs.catalogue import find_model
from dsv3.layout import layout
from dsv3.paths import TINY_R1
from dsv3.show.download import anatomy, by_layer, layer_table, notices, shares

FIRST = TINY_R1 / "model-00001-of-000005.safetensors"


@pytest.fixture(scope="module")
def full():
    return list(layout(find_model("R1").load_config()))


def heights(ax):
    return sum(bar.get_height() for bar in ax.patches)


def test_anatomy_covers_the_file_and_enlarges_scales():
    whole, first, middle = anatomy(list(read.header(FIRST))).axes
    paths = [path for pieces in whole.collections for path in pieces.get_paths()]
    covered = sum(path.get_extents().width for path in paths)
    assert covered == pytest.approx(FIRST.stat().st_size)
    assert len(paths) == 1 + len(list(read.header(FIRST)))
    assert first.get_xlim() == (0, 5000)
    scales = next(e for e in read.header(FIRST) if e.name.endswith("_scale_inv"))
    assert middle.get_xlim()[0] < scales.start < scales.stop < middle.get_xlim()[1]


def test_layers_add_up_to_the_model(full):
    (ax,) = by_layer(full).axes
    assert heights(ax) == pytest.approx(find_model("R1").nbytes / 1e9)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "10", "20", "30", "40", "50", "61"]


def test_shares_of_bytes_and_of_number(full):
    (ax,) = shares(full).axes
    widths = [bar.get_width() for bar in ax.patches]
    assert sum(widths) == pytest.approx(200)
    assert widths[2:4] == pytest.approx([100 * 166_161_984 / 688_574_839_360, 100 * 45_808 / 91_991])


def test_what_is_noticed_is_written():
    (ax,) = notices({"cut": {"size": True, "hash": True}, "bit": {"size": False, "hash": True}}).axes
    assert [text.get_text() for text in ax.texts] == ["notices", "notices", "passes", "notices"]


def test_a_layer_as_a_table(full):
    lines = layer_table(full, "3").splitlines()
    assert any(line.split()[:2] == ["256", "model.layers.3.mlp.experts.*.gate_proj.weight"] for line in lines)
    assert lines[-1].split() == ["1,558", "together", "11,511.947"]
    assert "lm_head.weight" in layer_table(full, "head")
    tiny = list(layout(ModelConfig.load(TINY_R1)))
    numbers = [int(layer_table(tiny, where).splitlines()[-1].split()[0]) for where in ("embedding", *"0123", "head")]
    assert sum(numbers) == len(tiny)
