"""The parts of lesson 04."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
