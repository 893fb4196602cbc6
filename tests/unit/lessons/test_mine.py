"""What a learner wrote: kept, found again, judged again when edited, never overwritten when it is not ours."""

import pytest

from dsv3.lessons import Parts, mine
from dsv3.lessons.part import load

CELL = """import torch as t
from math import inf as much
EPS = 1e-6
FORMAT = t.float32


def helper(x, eps):
    return x * t.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


@lesson.check
def compress(h, down, weight, eps=EPS):
    y = h @ down.T
    c, k_pe = y[:, : len(weight)], y[:, len(weight) :]
    return (helper(c.to(FORMAT), eps) * weight.float()).to(h.dtype).clamp(max=much), k_pe
"""


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DSV3_MINE", str(tmp_path / "mine"))
    return tmp_path / "mine"


def answered(source, name="compress"):
    """A lesson in which a cell with an answer ran."""
    lesson = Parts("05")
    lesson.given = load(source, name, {"__name__": "__main__", "lesson": lesson})
    return lesson


def test_what_passed_is_kept_with_what_it_uses_and_found_by_another_start(folder, capsys):
    lesson = answered(CELL)
    assert lesson.state["compress"] == "yours"
    assert "compress: right\x1b[0m on 6 inputs. Kept in " in capsys.readouterr().out
    text = (folder / "lesson_05" / "compress.py").read_text()
    assert "lesson.check" not in text
    again = Parts("05")
    assert again.count() == "1 of 6 yours."
    assert again.parts().compress.__module__ == "mine.compress"
    assert f"yours: compress (in {folder}/lesson_05); the course's: attend, rope" in again.whose()
    stub = again.known["compress"].stub()
    answered("import torch\n" + stub)
    assert "the stub is blank, so the one that you kept in" in capsys.readouterr().out


def test_a_wrong_answer_is_told_and_the_solution_takes_its_place(folder, capsys):
    lesson = answered(CELL.replace(" * weight.float()", ""))
    assert lesson.state["compress"] == "wrong"
    assert lesson.given is lesson.known["compress"].solution
    assert lesson.tried["compress"].__name__ == "compress"
    assert "compress: wrong. The norm's weight is missing." in capsys.readouterr().out
    assert not folder.exists()


def test_a_part_keeps_its_helper_when_a_later_cell_has_another_of_that_name(folder):
    space = {"__name__": "__main__", "lesson": (lesson := Parts("05"))}
    load(CELL, "compress", space)
    load("def helper():\n    pass\n", "helper", space)
    assert (
        lesson.known["compress"]
        .witnesses[1]
        .use(lesson.parts().compress, lesson.known["compress"].witnesses[1].given())
    )


def test_an_edited_file_is_judged_again_and_never_overwritten(folder, capsys):
    answered(CELL)
    file = folder / "lesson_05" / "compress.py"
    edited = file.read_text().replace("EPS = 1e-06", "EPS = 0.000001")
    file.write_text(edited)
    assert Parts("05").count() == "1 of 6 yours."
    capsys.readouterr()
    answered(CELL)
    assert "was changed by hand and stays as it is" in capsys.readouterr().out
    assert file.read_text() == edited
    file.write_text("def compress(h, down, weight):\n    return h\n")
    assert Parts("05").count() == "0 of 6 yours."
    file.write_text("def compress(")
    assert Parts("05").count() == "0 of 6 yours."


def test_a_link_is_not_followed(folder, tmp_path, capsys):
    (folder / "lesson_05").mkdir(parents=True)
    (tmp_path / "theirs.py").write_text("theirs")
    (folder / "lesson_05" / "compress.py").symlink_to(tmp_path / "theirs.py")
    answered(CELL)
    assert (tmp_path / "theirs.py").read_text() == "theirs"
    assert "stays as it is" in capsys.readouterr().out


def test_what_leans_on_the_notebook_is_right_there_and_not_kept(folder, capsys):
    cell = "import torch\nones = torch.ones(len(lesson.number) - 1)\n\n\n" + CELL.replace(
        "y = h @ down.T", "y = h @ (ones.to(h.dtype) * down).T"
    )
    lesson = answered(cell)
    assert lesson.state["compress"] == "yours"
    assert "Not kept for later lessons: outside this notebook" in capsys.readouterr().out
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_loses_only_what_would_be_kept(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSV3_MINE", str(tmp_path / "file"))
    assert answered(CELL).state["compress"] == "yours"
    assert "Not kept for later lessons: " in capsys.readouterr().out


def test_a_folder_of_the_same_name_that_is_not_ours_is_left_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("DSV3_MINE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert answered(CELL).state["compress"] == "yours"
    assert "is not the course's; move it, or set DSV3_MINE" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "mine" / "notes.txt").unlink()
    answered(CELL)
    assert "Kept in mine/lesson_05/compress.py." in capsys.readouterr().out
    answered(CELL.replace("EPS = 1e-6", "EPS = 0.000001 * 1"))
    assert "Kept in mine" in capsys.readouterr().out


def test_an_unknown_name_is_told():
    lesson = Parts("05")
    with pytest.raises(ValueError, match="lesson 05 has no part 'attention'; it has attend, rope"):
        lesson.check(load("def attention(): ...", "attention", {}))


def test_source_keeps_decorators_and_constants():
    space = {"__name__": "__main__", "lesson": Parts("05")}
    load("import functools\nPAIR = (1, 2.5)\n\n\n@functools.cache\ndef f(x):\n    return PAIR, f\n", "f", space)
    source = mine.source_of(space["f"].__wrapped__)
    assert source == "import functools\n\nPAIR = (1, 2.5)\n\n\n@functools.cache\ndef f(x):\n    return PAIR, f\n"


def test_what_has_no_text_is_kept_as_it_was_assigned():
    cell = """import functools
import re
from collections import namedtuple

PATTERN = re.compile("a+")
found = functools.partial(re.findall, PATTERN)
Pair = namedtuple("Pair", "one two")
last = lambda x: x[-1]


@functools.cache
def part(x):
    return last(Pair(0, found(x)))
"""
    source = mine.source_of(load(cell, "part", {"__name__": "__main__"}))
    assert load(source, "part", {"__name__": "elsewhere"})("baab") == ["aa"]


def test_an_argument_is_not_what_a_notebook_has_under_its_name():
    space = {"__name__": "__main__", "pay": 3, "size": 2}
    load("size = 2\n\n\ndef f(pay):\n    return pay(size)\n", "f", space)
    assert mine.source_of(space["f"]) == "size = 2\n\n\ndef f(pay):\n    return pay(size)\n"
