"""The parts of lesson 01."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
