"""The Chinese edition beside the English one: nothing missing, nothing stale, the same code, the house's Chinese.

Its code is the English edition's, byte for byte, but for one argument that says the language. ``make test`` runs a few
Chinese lessons whole. For the others this is proof enough: the language is only handed on, until ``said`` looks a
sentence up; and each sentence has its Chinese, with the same things to fill in.
"""

import ast
import json
import re
import string

import nbformat
import pytest

from dsv3.lessons import preflight
from dsv3.lessons.lesson import Parts
from dsv3.said import Said, capital, chinese, told
from tools import lessons, zh

PATHS = lessons.paths()


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def pair(request):
    """A lesson in English and in Chinese."""
    return nbformat.read(request.param, 4), nbformat.read(zh.ZH / request.param.name, 4)


def test_both_editions_have_the_same_lessons():
    assert [path.name for path in lessons.paths(folder=zh.ZH)] == [path.name for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_cell_is_missing_or_stale(path):
    assert zh.untranslated(path) == [], "python -m tools.lessons zh new"
    assert zh.stale(path) == [], "python -m tools.lessons zh stale"
    assert nbformat.read(zh.ZH / path.name, 4).cells == lessons.in_chinese(path).cells, "... zh write"


def test_ids_order_and_code_are_those_of_the_english_edition(pair):
    english, chinese = pair
    assert [c["id"] for c in chinese.cells] == [c["id"] for c in english.cells]
    for here, there in zip(english.cells, chinese.cells, strict=True):
        assert here.cell_type == there.cell_type
        if here["id"] == "preflight":
            assert here.source == there.source.replace(f" {zh.ARGUMENT},", "") != there.source
        elif here.cell_type == "code":
            assert here.source == there.source, here["id"]


def test_what_is_not_prose_is_kept(pair):
    for here, there in zip(*(notebook.cells for notebook in pair), strict=True):
        for pattern in (r"```", r"\]\(", r"\$\$", r"^#+ ", r"^\|", r"<details>", r"!\["):
            counts = [len(re.findall(pattern, cell.source, re.M)) for cell in (here, there)]
            assert counts[0] == counts[1], (here["id"], pattern)
        if zh.by_hand(here):
            assert re.search(f"[{zh.HAN}]", there.source), here["id"]


def test_its_outputs_are_those_of_a_run_and_of_the_same_kinds(pair):
    english, chinese = pair
    code = [cell for cell in chinese.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "python -m tools.lessons zh run"
    kinds = [[kinds for _, _, kinds in lessons.shape(notebook)] for notebook in (english, chinese)]
    names = [cell["id"] for cell in english.cells]
    assert [name for name, *both in zip(names, *kinds, strict=True) if both[0] != both[1]] == []


def test_its_first_cell_speaks_chinese(pair):
    (cell,) = (cell for cell in pair[1].cells if cell["id"] == "preflight")
    text = "".join(output.get("text", "") for output in cell.outputs)
    assert "任务    " in text
    assert "个 CPU 核" in text


def test_each_lesson_is_in_the_house_s_chinese(pair):
    found = [(cell["id"], fault) for cell in pair[1].cells if zh.by_hand(cell) for fault in zh.faults(cell.source)]
    assert found == []


@pytest.mark.parametrize("document", zh.DOCUMENTS)
def test_no_section_of_a_document_is_stale(document):
    assert zh.stale_sections(document) == [], "python -m tools.lessons zh stale"
    assert zh.faults((zh.ROOT / zh.DOCUMENTS[document]).read_text(encoding="utf-8")) == []


# -------------------------------------------------------------------------------------------------------- messages


def test_every_message_has_its_chinese_and_every_chinese_its_message():
    assert list(zh.unsaid()) == []


def test_a_message_means_the_same_everywhere():
    for table in zh.tables().values():
        for english, words in table.items():
            assert chinese()[english] == words, english


@pytest.mark.parametrize("module", zh.tables())
def test_messages_are_in_the_house_s_chinese(module):
    assert [(text, fault) for text, words in zh.tables()[module].items() for fault in zh.faults(words)] == []


def test_messages_keep_what_is_filled_in():
    for text, module in ((text, module) for module, table in zh.tables().items() for text in table):
        if "lesson_" not in module:  # there braces are Python's
            fields = [
                sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(words) if name)
                for words in (text, chinese()[text])
            ]
            assert fields[0] == fields[1], text


def uses(file):
    """How ``language`` is used in a module: the kinds of what it stands in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for outer in ast.walk(tree):
        for inner in ast.iter_child_nodes(outer):
            name = getattr(inner, "id", "") or getattr(inner, "attr", "")
            if name == "language" and isinstance(inner.ctx, ast.Load):
                yield type(outer).__name__


def test_the_language_is_handed_on_and_decides_nothing_else():
    """So a lesson computes the same in both languages."""
    found = {file.name: set(uses(file)) for file in (zh.ROOT / "dsv3").rglob("*.py")}
    assert {"Call", "keyword"} >= set().union(*(found[name] for name in ("chat.py", "planner.py")))
    handed_on = {"Call", "keyword", "Tuple"}  # a tuple: self.number, self.language = number, language
    assert {n: kinds - handed_on for n, kinds in found.items() if kinds - handed_on} == {
        "said.py": {"Compare"},
        "explain.py": {"Compare", "Subscript"},
    }
    cells = (cell for path in PATHS for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    lines = [line for cell in cells for line in cell.source.splitlines() if "language" in line]
    assert lines
    assert [line for line in lines if not re.search(r"\((.*, |language=)?lesson\.language\)", line)] == []


def test_a_sentence_in_a_sentence_is_told_too():
    inner = Said("the shape is {found}, not {wanted}", found=[3], wanted=[4])
    outer = Said("{name}: {problem}", name=Said("value {i}", i=2), problem=inner)
    assert outer == "value 2: the shape is [3], not [4]"
    assert told(outer, "en") == outer
    assert told(outer, "zh") == "第 2 个值：形状是 [3]，应该是 [4]"
    assert told(Said("one in {braces}"), "zh") == "one in {braces}"
    assert told("times", "zh") == "times", "a name of the learner's, not a sentence"


def test_a_hint_begins_with_a_capital_in_english_alone():
    hint = Said("silu belongs over w1's product; yours is over w3's")
    says = Said("{red}{name}: wrong. {hint}.{plain}", red="", name="mlp", hint=capital(hint), plain="")
    assert told(says, "en") == "mlp: wrong. Silu belongs over w1's product; yours is over w3's."
    assert told(says, "zh") == "mlp：不对。silu 应该套在 w1 的乘积上，你套在了 w3 的乘积上。"
    assert (capital("times"), capital("")) == ("Times", "")


def test_a_lesson_tells_a_hint_so(capsys):
    for language, words in (("en", "swiglu: wrong. Silu belongs"), ("zh", "不对。silu 应该套在")):
        lesson = Parts("06", language)
        lesson.check(lesson.faulty("swiglu", "silu belongs over"))
        assert words in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- the tool


def test_a_change_of_the_english_makes_a_cell_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(zh, "ZH", tmp_path / "zh")
    (tmp_path / "zh").mkdir()
    path = tmp_path / PATHS[0].name
    path.write_bytes(PATHS[0].read_bytes())
    nbformat.write(lessons.in_chinese(path), tmp_path / "zh" / path.name)
    assert "title" in zh.untranslated(path)
    with pytest.raises(ValueError, match="cell title: it is still in English"):
        zh.done(path, ["title"])
    notebook = nbformat.read(tmp_path / "zh" / path.name, 4)
    notebook.cells[0].source = "# 00 从这里开始"
    nbformat.write(notebook, tmp_path / "zh" / path.name)
    zh.done(path, [])
    assert "title" not in zh.untranslated(path)
    assert zh.stale(path) == []
    document = json.loads(path.read_text(encoding="utf-8"))
    document["cells"][0]["source"] = ["# 00 Start there"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert zh.stale(path) == ["title"]
    assert lessons.in_chinese(path).cells[0].source == "# 00 从这里开始"


@pytest.mark.parametrize(
    "text",
    ["每个令牌", "第 3 个秩", "您好", "先算,再除", "用GPU 算", "算完(再除)", "管道并行"],
)
def test_what_is_not_the_house_s_chinese_is_found(text):
    assert zh.faults(text)


@pytest.mark.parametrize("text", ["低秩分解，`a,b` 用 GPU 算（先算，再除）。", "满秩矩阵", "[链接](a,b)，$x(y)$ 成立"])
def test_what_is_good_chinese_passes(text):
    assert zh.faults(text) == []


def test_an_unknown_language_or_lesson_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DSV3_HOME", str(tmp_path))
    for language in ("fr", "ZH", "", None, 1):
        with pytest.raises(ValueError, match="there are en and zh"):
            preflight("05_attention_mla", language=language)
    with pytest.raises(ValueError, match="no lesson '99'; there are 00, 01"):
        preflight("99_unknown")


def test_done_without_a_name_says_what_it_marked_and_a_damaged_notebook_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zh, "ZH", tmp_path)
    (path,) = lessons.paths(["01_environment"])
    nbformat.write(lessons.in_chinese(path), tmp_path / path.name)
    lessons.main(["zh", "done", path.stem])
    assert "none was new; name a cell that is stale" in capsys.readouterr().out
    (tmp_path / path.name).write_text("{\n")
    with pytest.raises(ValueError, match=f"{path.name}: not a notebook"):
        lessons.main(["zh", "stale", path.stem])
    with pytest.raises(ValueError, match="which lesson, or which of README.md"):
        lessons.main(["zh", "done"])
