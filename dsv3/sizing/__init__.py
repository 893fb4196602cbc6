"""Machines, and what a model needs of them: GPUs, memory, splits, bounds of speed."""
