"""The course's engine: the learner writes a lesson's parts; they are checked on the spot, kept, and put to use.

``lesson_05.py`` has the parts of lesson 05: for each one the solution, the inputs that tell right from wrong, and the
plausible errors. Stub and folded solution in the notebook are made from it: ``python -m tools.lessons write``.
"""

from .lesson import Lesson, Parts, preflight, progress

__all__ = ["Lesson", "Parts", "preflight", "progress"]
