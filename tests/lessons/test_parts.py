"""Each part of each lesson: its stub, its solution, its known errors, and answers that learners write."""

import importlib
import re

import pytest

from dsv3.lessons.judge import judge
from dsv3.lessons.lesson import LESSONS, parts_of
from dsv3.lessons.part import load, plain

BUILT = [lesson for lesson in LESSONS if parts_of(lesson)[0]]  # the lessons with a spine
PARTS = [(lesson, part) for lesson in LESSONS for part in sum(parts_of(lesson), [])]


def written(lesson):
    """Answers as learners write them: ``WRONG``, (what is wrong, words of the hint, source), and ``RIGHT``, sources."""
    return importlib.import_module(f"tests.lessons.wrong_answers.lesson_{lesson}")


def named(value):
    return getattr(value, "name", None) or getattr(value, "hint", None) or (value if len(value) < 40 else "answer")


def answer(source, part):
    """An answer as a notebook has it, which imports what its lesson's module does."""
    module = importlib.import_module(plain(part.solution).__module__)
    return load(source, part.name, dict(vars(module)) | {"__name__": "answer"})


@pytest.mark.parametrize(("lesson", "part"), PARTS, ids=named)
def test_a_stub_is_not_yet_and_the_solution_is_right(lesson, part):
    stub = part.stub().replace("@lesson.check\n", "")
    assert "raise NotImplementedError" in stub
    assert judge(part, answer(stub, part)) == ("not yet", "")
    assert judge(part, part.solution) == ("right", "")
    assert 2 <= part.lines <= 25
    assert len(part.witnesses) >= 2
    assert len(part.faults) >= 2
    assert part.hint.strip()


FAULTS = [(lesson, part, fault) for lesson, part in PARTS for fault in part.faults]


@pytest.mark.parametrize(("lesson", "part", "fault"), FAULTS, ids=named)
def test_a_known_error_is_caught_and_named(lesson, part, fault):
    assert judge(part, part.faulty(fault)) == ("wrong", fault.hint)


WRONG = [
    (lesson, part, *each) for lesson, part in PARTS for each in getattr(written(lesson), "WRONG", {}).get(part.name, ())
]


@pytest.mark.parametrize(("lesson", "part", "what", "words", "source"), WRONG, ids=named)
def test_a_wrong_answer_is_caught_with_a_hint_that_fits(lesson, part, what, words, source):
    verdict, hint = judge(part, answer(source, part))
    assert verdict == "wrong"
    assert re.search(words, hint), hint


RIGHT = [(part, text) for n, part in PARTS for text in getattr(written(n), "RIGHT", {}).get(part.name, ())]


@pytest.mark.parametrize(("part", "source"), RIGHT, ids=named)
def test_another_right_answer_passes(part, source):
    assert judge(part, answer(source, part)) == ("right", "")


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_part_was_tried_with_independent_wrong_answers(lesson):
    tried = getattr(written(lesson), "WRONG", {})
    assert set(tried) == {part.name for part in sum(parts_of(lesson), [])}
    assert sum(map(len, tried.values())) >= (10 if lesson in BUILT else 4)


def transplants():
    for lesson in BUILT:
        yield from ((lesson, each) for each in importlib.import_module(f"dsv3.lessons.transplant_{lesson}").TRANSPLANTS)


@pytest.mark.slow
@pytest.mark.parametrize(("lesson", "transplant"), list(transplants()), ids=lambda x: getattr(x, "what", x))
def test_a_transplant_works_with_the_solutions_and_less_with_a_named_error(lesson, transplant, monkeypatch, tmp_path):
    from dsv3.lessons import Parts

    monkeypatch.setenv("DSV3_MINE", str(tmp_path))
    parts = Parts(lesson)
    assert transplant.score(parts.parts()) == transplant.full
    name, words = transplant.control
    assert transplant.score(parts.parts(**{name: parts.faulty(name, words)})) < transplant.full
