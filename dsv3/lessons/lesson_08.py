"""The parts of lesson 08."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
