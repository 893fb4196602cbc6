"""Tests of dsv3/hubs/catalogue.py: the table of models, and the names that people type."""

import pytest

from dsv3.hubs.catalogue import FAMILIES, find_model, models


def test_every_model_has_a_known_family():
    assert {m.family for m in models()} <= set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "family"),
    [("R1", "r1"), ("V3", "v3"), ("V3-Base", "base"), ("V3.1", "v3.1"), ("R1-Distill-Qwen-7B", "distill")],
)
def test_the_family_of_a_model(name, family):
    assert find_model(name).family == family
