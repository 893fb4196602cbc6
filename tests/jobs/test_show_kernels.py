"""The lesson on kernels goes on without Triton."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat

from dsv3.exercises import COUNTS

ROOT = Path(__file__).parents[2]


WITHOUT_TRITON = """
import sys
import nbformat
sys.modules["triton"] = None
space = {"__name__": "lesson", "display": lambda shown: None}
for i, cell in enumerate(nbformat.read(sys.argv[1], 4).cells):
    if cell.cell_type == "code":
        file = f"{sys.argv[2]}/cell{i}.py"
        open(file, "w").write(cell.source)
        exec(compile(cell.source, file, "exec"), space)
"""


def test_the_lesson_goes_on_without_triton(tmp_path):
    lesson = ROOT / "notebooks" / "08_triton_kernels.ipynb"
    assert nbformat.read(lesson, 4).cells
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", WITHOUT_TRITON, str(lesson), str(tmp_path)]
    env = clean | {"DSV3_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=lesson.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no kernel runs here: Triton is not installed" in done.stdout
    assert done.stdout.count("The torch reference goes on instead") >= 3
    assert done.stdout.count("not yet") == COUNTS["08"]
    assert "FP8, rescaled for each block" in done.stdout
