"""Engines that serve a checkpoint as it is: their commands, what they refuse, how they start, and how to ask them."""
