"""The lessons with stubs, run from clean kernels: the first k solved for every k, a wrong answer, all cells twice."""

import importlib
import json
import os

import nbformat
import pytest
from nbclient import NotebookClient

from dsv3.lessons.lesson import parts_of
from tools import lessons

PATHS = [path for path in lessons.paths() if any(parts_of(path.stem[:2]))]
# A score costs seconds; test_parts.py tries it in full.
FEW = "import dsv3.lessons.transplant\ndsv3.lessons.transplant.SUMS = 2"


def run(path, home, solved=0, twice=False, wrong=None, few=True):
    """What a lesson says of each part at its end, and all that it printed; it must come to its end without an error.

    Args:
        solved: so many stubs have their solution, from the first on.
        wrong: a part, and the source that stands in its stub.
    """
    notebook = lessons.filled(path, solved)
    for cell in notebook.cells:
        if wrong and cell["id"] == f"{wrong[0]}-stub":
            cell.source = f"@lesson.check\n{wrong[1].strip()}"
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    few = few and any("torch" in source for source in code)  # a lesson without it asks no model
    sources = [*([FEW] if few else []), *code, *(code if twice else [])]
    sources.append("import json\nprint('STATE', json.dumps(lesson.state))")
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DSV3_", "XDG_"))}
    env |= {"HOME": str(home), "DSV3_MINE": str(home / "mine"), "OMP_NUM_THREADS": "1"}
    place = {"metadata": {"path": lessons.LESSONS}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute(env=env)
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    return json.loads(text.rpartition("STATE ")[2]), text


def names(path):
    parts, transfers = parts_of(path.stem[:2])
    return [part.name for part in parts], [part.name for part in transfers]


SOME = [(path, k) for path in PATHS for k in range(1, len(names(path)[0]))]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "k"), SOME, ids=lambda x: getattr(x, "stem", str(x)))
def test_the_first_k_solved(path, k, tmp_path):
    state, _ = run(path, tmp_path, k)
    every = sum(names(path), [])
    assert every
    assert state == {name: "yours" if i < k else "not yet" for i, name in enumerate(every)}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_all_solved_and_all_cells_twice(path, tmp_path):
    every = sum(names(path), [])
    state, text = run(path, tmp_path, len(every), twice=True)
    assert state == dict.fromkeys(every, "yours")
    assert text.count("Kept in ") == 2 * len(every), "a part cannot be kept for later lessons"
    assert len(list((tmp_path / "mine").rglob("*.py"))) == len(every)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PATHS if names(path)[0]][:1], ids=lambda path: path.stem)
def test_a_wrong_answer_does_not_stop_a_lesson(path, tmp_path):
    known = importlib.import_module(f"tests.lessons.wrong_answers.lesson_{path.stem[:2]}").WRONG
    name = names(path)[0][0]
    state, text = run(path, tmp_path, wrong=(name, known[name][0][2]))
    assert state[name] == "wrong"
    assert f"{name}: wrong. " in text
