"""The parts of lesson 11."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
