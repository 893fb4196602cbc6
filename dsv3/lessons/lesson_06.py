"""The parts of lesson 06."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
