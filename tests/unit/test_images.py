"""The diagrams are what their scripts draw, and say what they show to who cannot see them."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from images.src.__main__ import FIGURES

FOLDER = Path(__file__).parents[2] / "images"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_what_its_script_draws(name):
    drawn = FIGURES[name]()
    assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == drawn, "python -m images.src"
    title = ElementTree.fromstring(drawn).find("{http://www.w3.org/2000/svg}title")
    assert len(title.text) > 20


def test_no_figure_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(FIGURES)
