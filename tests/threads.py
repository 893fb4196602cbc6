"""Ranks as threads of one process, as lesson 10 uses them."""

from dsv3.show.ranks import ThreadParallel, on_ranks

__all__ = ["ThreadParallel", "on_ranks"]
