"""The lessons as files: their parts, links and outputs. ``make test`` also runs them, and compares their outputs."""

import re
from pathlib import Path

import nbformat
import pytest

from dsv3.lessons.lesson import LESSONS, parts_of
from tools import lessons

ROOT = Path(__file__).parents[2]
PATHS = lessons.paths()
BOTH = [*PATHS, *lessons.paths(folder=lessons.zh.ZH)]
FACTS = {"minutes", "hardware", "ram_gb", "disk_gb", "network", "after", "verified"}
REQUIRED = ("title", "facts", "objectives", "preflight", "signature", "sizes-671b", "wrong", "quiz", "next")
LARGEST = 200_000


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def lesson(request):
    return opened(request.param)


@pytest.fixture(params=BOTH, ids=lambda path: f"{path.parent.name}-{path.stem}")
def either(request):
    """A lesson of the English or the Chinese edition."""
    return opened(request.param)


def opened(path):
    notebook = nbformat.read(path, 4)
    notebook.path = path
    return notebook


def by_id(notebook):
    return {cell["id"]: cell for cell in notebook.cells}


def output_text(cell):
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (str(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/"))


def test_the_course_has_its_thirteen_lessons():
    assert [path.stem[:2] for path in PATHS] == list(LESSONS)


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
            assert all(len(line) <= 100 for line in cell.source.splitlines()), cell["id"]
            assert not re.search(r"\bpip install|^[!%]", cell.source, re.M), cell["id"]
            assert not re.search(r"[\"'](/root|/home|/Users|/tmp|/work|C:)", cell.source), cell["id"]


def test_no_line_of_text_becomes_a_heading_by_accident(either):
    for cell in either.cells:
        assert cell.cell_type == "code" or not re.search(r"^#+[^#\s]", cell.source, re.M), cell["id"]


def test_a_lesson_has_the_cells_of_its_parts(lesson):
    assert lessons.filled(lesson.path).cells == lesson.cells, "python -m tools.lessons write"


def test_at_most_five_cells_of_code_between_two_stubs(lesson):
    parts, _ = parts_of(lesson.path.stem[:2])
    stubs = [f"{part.name}-stub" for part in parts]
    code = [cell["id"] for cell in lesson.cells if cell.cell_type == "code"]
    at = [code.index(stub) for stub in stubs]
    assert at == sorted(at)
    assert all(b - a - 1 <= 5 for a, b in zip(at, at[1:], strict=False)), list(zip(stubs, at, strict=True))


def test_outputs_are_committed_and_clean(either):
    assert "widgets" not in either.metadata
    code = [cell for cell in either.cells if cell.cell_type == "code"]
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


def test_pictures_have_words_and_links_lead_somewhere(either):
    for cell in either.cells:
        if cell.cell_type == "markdown":
            for bang, text, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", cell.source):
                assert text.strip() or not bang, (cell["id"], target)
                if not re.match(r"https?://|#|mailto:", target):
                    assert (either.path.parent / target.split("#")[0]).exists(), (cell["id"], target)
    images = [o for c in either.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert images, "a lesson without a figure"


# --------------------------------------------------------------------------------------------------------- the tool


def test_pages_and_decks_build(tmp_path):
    for kind in ("html", "slides"):
        written = lessons.export(kind, tmp_path / kind)
        assert [file.relative_to(tmp_path / kind).parent.name for file in written].count("zh") == len(PATHS)
        assert len(written) == len(BOTH)
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
    (tmp_path / "zh").mkdir()
    for path in BOTH:
        (tmp_path / path.relative_to(lessons.LESSONS)).write_bytes(path.read_bytes())
    assert lessons.compare(tmp_path) == []
    notebook = nbformat.read(PATHS[0], 4)
    next(cell for cell in notebook.cells if cell.get("outputs")).outputs = []
    nbformat.write(notebook, tmp_path / PATHS[0].name)
    assert [line.split(",")[0] for line in lessons.compare(tmp_path)] == [PATHS[0].stem]


def test_the_table_of_parts_is_that_of_the_modules():
    text = (lessons.LESSONS / "parts.md").read_text(encoding="utf-8")
    assert text == lessons.table(), "python -m tools.lessons write"
