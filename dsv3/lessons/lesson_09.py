"""The parts of lesson 09."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
