"""The parts of lesson 00."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
