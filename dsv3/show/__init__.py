"""Figures, tables and widgets of the lessons and of the command line."""
