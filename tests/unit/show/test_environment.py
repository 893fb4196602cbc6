"""Lesson 01's machines, figures."""

import pytest

from dsv3.doctor import Finding, table
from dsv3.lab.machines import pretend, seen
from dsv3.show.environment import levels, peaks, worst


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    return pretend(tmp_path_factory.mktemp("machines"))


def of_level(machine, level):
    return {f.what for f in seen(machine) if f.level == level}


def test_the_healthy_machine_is_healthy(machines):
    assert {f.level for f in seen(machines["AutoDL, 8 x H20"])} == {"ok"}
    assert "NVLink between all GPUs (NV18)" in table(seen(machines["AutoDL, 8 x H20"]))


def test_the_others_have_what_their_names_say(machines):
    assert of_level(machines["laptop, 16 GB"], "warning") == {"gpu"}
    assert of_level(machines["AutoDL, no-GPU mode"], "warning") == {"gpu", "memory", "autodl mode"}
    assert of_level(machines["2 x RTX 4090, proxy on"], "warning") == {"peer-to-peer", "autodl proxy"}
    assert of_level(machines["A800, in use"], "warning") == {"gpu 0"}
    assert "no FP8 units" in table(seen(machines["A800, in use"]))


def test_the_driver_of_a_pretended_machine_is_read(machines):
    assert machines["AutoDL, 8 x H20"].driver_cuda == (12, 4)
    assert machines["laptop, 16 GB"].driver_cuda is None


def test_the_worst_level_of_a_kind_counts():
    found = [Finding("warning", "gpu 0", ""), Finding("ok", "gpu 1", ""), Finding("failure", "torch", "")]
    assert worst(found) == {"gpu": "warning", "torch": "failure"}
    assert worst(found[::-1]) == {"torch": "failure", "gpu": "warning"}


def test_the_grid_has_a_word_for_every_finding(machines):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: notebooks)")
    found = {name: seen(m) for name, m in machines.items()}
    (ax,) = levels(found).axes
    words = [text.get_text() for text in ax.texts]
    for level in ("ok", "warning"):
        assert words.count(level) == sum(list(worst(f).values()).count(level) for f in found.values()) > 0
    assert len(words) == len(found) * len(ax.get_yticklabels())


def test_peaks_are_drawn_in_megabytes():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: notebooks)")
    (ax,) = peaks({"small": 20_000_000, "large": 3_000_000_000}).axes
    assert not ax.patches, "no bars on a logarithmic scale"
    assert list(ax.lines[0].get_xdata()) == [20, 3000]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["small: 20 MB", "large: 3,000 MB"]
