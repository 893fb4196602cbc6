"""The lesson on kernels goes on without Triton."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat

from dsv3.lessons.lesson import parts_of

ROOT = Path(__file__).parents[2]


WITHOUT_TRITON = """
import sys
import nbformat
sys.modules["triton"] = None
space = {"__name__": "lesson", "display": lambda shown: None}
for i, cell in enumerate(nbformat.read(sys.argv[1], 4).cells):
    if cell.cell_type == "code":
        file = f"{sys.argv[2]}/cell{i}.py"
        source = cell.source
        if sys.argv[3] == "solved":
            source = source.replace("    raise NotImplementedError", "    pass")
        open(file, "w").write(source)
        exec(compile(source, file, "exec"), space)
print("STATE", set(space["lesson"].state.values()))
"""


def said_without_triton(tmp_path, how):
    lesson = ROOT / "notebooks" / "08_triton_kernels.ipynb"
    assert nbformat.read(lesson, 4).cells
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", WITHOUT_TRITON, str(lesson), str(tmp_path), how]
    env = clean | {"DSV3_HOME": str(tmp_path), "DSV3_MINE": str(tmp_path / "mine")}
    done = subprocess.run(command, cwd=lesson.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no kernel runs here: Triton is not installed" in done.stdout
    assert "the FP8 reference" in done.stdout
    return done.stdout


def test_the_lesson_goes_on_without_triton(tmp_path):
    text = said_without_triton(tmp_path, "blank")
    assert text.count(": not yet") == len(sum(parts_of("08"), []))


def test_an_answer_is_not_judged_without_triton_and_a_line_says_so(tmp_path):
    text = said_without_triton(tmp_path, "solved")
    assert text.count("no kernel runs here, so nothing is judged") == len(sum(parts_of("08"), [])) - 1
    assert "quant: wrong" not in text
