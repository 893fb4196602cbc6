"""The lessons as files: their parts, links and exercises. ``make test`` also runs them, and compares their outputs."""

import importlib
import re
from pathlib import Path

import nbformat
import pytest

from dsv3.exercises import COUNTS, Wrong, exercise
from tools import lessons

ROOT = Path(__file__).parents[2]
PATHS = lessons.paths()
FACTS = {"minutes", "hardware", "ram_gb", "disk_gb", "network", "after", "verified"}
REQUIRED = ("title", "facts", "objectives", "preflight", "signature", "sizes-671b", "wrong", "quiz", "next")
LARGEST = 200_000


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def lesson(request):
    notebook = nbformat.read(request.param, 4)
    notebook.path = request.param
    return notebook


def by_id(notebook):
    return {cell["id"]: cell for cell in notebook.cells}


def output_text(cell):
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (str(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/"))


def test_the_course_has_its_thirteen_lessons():
    assert [path.stem[:2] for path in PATHS] == list(COUNTS) == [f"{n:02}" for n in range(13)]


def test_a_lesson_has_its_parts(lesson):
    cells = by_id(lesson)
    assert len(cells) == len(lesson.cells)
    assert [name for name in REQUIRED if name not in cells] == []
    assert set(lesson.metadata.dsv3) == FACTS
    assert cells["facts"].source == lessons.facts(lesson.metadata.dsv3)
    assert lesson.cells[0]["id"] == "title"
    assert re.match(r"# .+\n+.*you will have shown", cells["title"].source)
    assert cells["preflight"].source.count("preflight(") == 1
    assert f'"{lesson.path.stem}"' in cells["preflight"].source
    assert lesson.metadata.kernelspec.name == "python3"
    assert all("slide_type" in cell.metadata.slideshow for cell in lesson.cells)


def test_a_lesson_is_runnable_anywhere(lesson):
    for cell in lesson.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 32, cell["id"]
            assert not re.search(r"\bpip install|^[!%]", cell.source, re.M), cell["id"]
            assert not re.search(r"[\"'](/root|/home|/Users|/tmp|/work|C:)", cell.source), cell["id"]


def test_outputs_are_committed_and_clean(lesson):
    assert "widgets" not in lesson.metadata
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run it from a clean kernel"
    for cell in code:
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error", cell["id"]
            assert output.get("name") != "stderr", (cell["id"], output.text)
            assert lessons.VIEW not in output.get("data", {})
            assert len(str(output)) < LARGEST, cell["id"]
        for text in output_text(cell):
            assert str(ROOT) not in text, cell["id"]
            assert not re.search(r"/root/(?!autodl)|/home/|/tmp/|/pip/", text), (cell["id"], text[:300])


def test_pictures_have_words_and_links_lead_somewhere(lesson):
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            for bang, text, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", cell.source):
                assert text.strip() or not bang, (cell["id"], target)
                if not re.match(r"https?://|#|mailto:", target):
                    assert (lesson.path.parent / target.split("#")[0]).exists(), (cell["id"], target)
    images = [o for c in lesson.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert images, "a lesson without a figure"


# ------------------------------------------------------------------------------------------------------- exercises


def exercises():
    """(lesson's file, number) of every exercise that ``COUNTS`` promises."""
    return [(path, n) for path in PATHS for n in range(1, COUNTS[path.stem[:2]] + 1)]


@pytest.fixture(params=exercises(), ids=lambda of: f"{of[0].stem}-{of[1]}")
def found(request, monkeypatch, tmp_path):
    monkeypatch.setenv("DSV3_HOME", str(tmp_path))
    path, number = request.param
    cells = by_id(nbformat.read(path, 4))
    assert f"ex{COUNTS[path.stem[:2]] + 1}" not in cells, "one exercise more than COUNTS says"
    names = (f"ex{number}", f"ex{number}-stub", f"ex{number}-check", f"ex{number}-solution")
    task, stub, check, solution = (cells[name] for name in names)
    assert re.match(
        rf"### Exercise {number}: .+\n+Difficulty: [★☆]{{3}} · Importance: [★☆]{{3}} · \d+ minutes", task.source
    )
    assert stub.metadata.tags == ["exercise"]
    assert "<summary>Hint" in solution.source
    code = re.search(r"<summary>Solution</summary>\n\n```python\n(.+?)```", solution.source, re.S)
    assert code, "the solution is not a folded block of Python"
    wrong = importlib.import_module(f"tests.lessons.wrong_answers.lesson_{path.stem[:2]}").WRONG
    return number, stub.source, check.source, code[1], wrong[f"ex{number}"]


def answer(source, check, tmp_path):
    """Run an answer and its check as a notebook would; a file, since Triton reads a kernel's source."""
    file = tmp_path / f"answer{len(list(tmp_path.glob('answer*')))}.py"  # linecache keeps what it has read
    file.write_text(source)
    space = {"__name__": "answer"}
    exec(compile(source, str(file), "exec"), space)  # the lessons' own code
    exec(check, space)


def test_a_stub_is_not_yet_a_wrong_answer_fails_and_the_solution_passes(found, tmp_path, capsys):
    number, stub, check, solution, wrong = found
    answer(stub, check, tmp_path)
    assert "not yet" in capsys.readouterr().out
    assert len(wrong) >= 2
    for source in wrong:
        with pytest.raises(Wrong, match=rf"Exercise \d+\.{number}: "):
            answer(source, check, tmp_path)
    answer(solution, check, tmp_path)
    assert "right" in capsys.readouterr().out


def test_progress_is_kept_and_a_folder_without_room_for_it_is_no_failure(monkeypatch, tmp_path, capsys):
    from dsv3.exercises import done, progress

    @exercise("03", 2)
    def check(value):
        if value != 4:
            raise Wrong("2 + 2 is not that")

    monkeypatch.setenv("DSV3_HOME", str(tmp_path / "home"))
    check(...)
    with pytest.raises(Wrong, match=r"^Exercise 3\.2: 2 \+ 2 is not that$"):
        check(5)
    assert done() == set()
    check(4)
    assert done() == {"03.2"}
    assert "1 of" in progress()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSV3_HOME", str(tmp_path / "file"))
    check(4)
    assert "not noted" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{}", '["01.1", "theirs"]', '["01.99"]', "[1]", "[[]]", "[]", "", '"03.2"', "\xff"])
def test_a_file_of_others_is_no_progress(text, monkeypatch, tmp_path, capsys):
    from dsv3.exercises import done

    file = tmp_path / "progress.json"
    file.write_text(text, encoding="latin-1")
    monkeypatch.setenv("DSV3_HOME", str(tmp_path))
    assert done() == set()
    exercise("03", 2)(lambda value: None)(4)
    assert "not noted in the progress table" in capsys.readouterr().out
    assert file.read_text(encoding="latin-1") == text
    file.rename(tmp_path / "other.json")
    (tmp_path / "other.json").write_text('["03.1"]')
    file.symlink_to(tmp_path / "other.json")
    exercise("03", 2)(lambda value: None)(4)
    assert done() == set()
    assert (tmp_path / "other.json").read_text() == '["03.1"]'


def test_a_wrong_answer_is_one_line_in_a_notebook():
    assert Wrong("the sum is 15")._render_traceback_() == ["Wrong: the sum is 15"]


# --------------------------------------------------------------------------------------------------------- the tool


def test_pages_and_decks_build(tmp_path):
    for kind in ("html", "slides"):
        written = lessons.export(kind, tmp_path / kind)
        assert len(written) == len(PATHS)
        assert all(file.stat().st_size > 100_000 for file in written)
        written[0].unlink()
        written[0].symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError, match=written[0].name):
            lessons.export(kind, tmp_path / kind)
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").touch()
    with pytest.raises(FileExistsError, match="holds what no export made"):
        lessons.export("html", tmp_path / "site")
    with pytest.raises(FileNotFoundError, match="a path is empty"):
        lessons.main(["export", "html", "--output-dir", ""])


def test_a_stale_output_is_told(tmp_path):
    for path in PATHS:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert lessons.compare(tmp_path) == []
    notebook = nbformat.read(PATHS[0], 4)
    next(cell for cell in notebook.cells if cell.get("outputs")).outputs = []
    nbformat.write(notebook, tmp_path / PATHS[0].name)
    assert [line.split(",")[0] for line in lessons.compare(tmp_path)] == [PATHS[0].stem]
