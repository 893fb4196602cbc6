"""The parts of lesson 10."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
