"""The parts of lesson 03."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
