"""Processes that work together: a rank's place, the watch over the others, what crosses between them."""
