"""Checkpoints on disk: ``read`` (headers, no torch), ``write`` (whole files or none), ``load`` (into a model)."""
