"""The parts of lesson 12."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
