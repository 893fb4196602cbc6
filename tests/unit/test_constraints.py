"""The pinned set agrees with itself and with pyproject.toml."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import resolve

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    """Package -> its version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("name", sorted(pins()))
def test_a_pinned_package_takes_the_other_pins(name):
    pinned = pins()
    try:
        metadata = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    if metadata.version.partition("+")[0] != pinned[name]:
        pytest.skip(f"{name} {metadata.version} is installed, not the tested {pinned[name]}")
    for wanted in map(Requirement, metadata.requires or ()):
        version = pinned.get(canonicalize_name(wanted.name))
        if version and (not wanted.marker or wanted.marker.evaluate({"extra": ""})):
            assert wanted.specifier.contains(version, prereleases=True), f"{name} asks for {wanted}"


def test_the_pinned_triton_is_that_of_the_pinned_torch():
    """The build for CUDA says which it asks for, the one for CPUs does not; ``tools/resolve.py`` asks pip."""
    said = re.search(r"torch (\S+) asks for triton (\S+),", (ROOT / "constraints.txt").read_text())
    assert said.groups() == (pins()["torch"], pins()["triton"])


def test_the_lowest_versions_are_those_of_pyproject():
    lowest = [Requirement(line) for line in resolve.lowest()]
    assert {"torch", "numpy", "modelscope"} <= {r.name for r in lowest}
    assert all([s.operator for s in r.specifier] == ["=="] for r in lowest)
