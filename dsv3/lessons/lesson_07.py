"""The parts of lesson 07."""

from .part import Part

PARTS: list[Part] = []
TRANSFERS: list[Part] = []
