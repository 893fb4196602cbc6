"""The parts of lesson 02."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
