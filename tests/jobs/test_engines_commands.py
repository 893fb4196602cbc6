"""Commands of the engines as text are what bash would run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsv3.engines.options import Serve
from dsv3.engines.table import find
from tests.unit.engines.test_commands import CASES, command


@pytest.mark.parametrize("case", CASES)
def test_bash_runs_the_words_that_start_would(case, tmp_path):
    """The text in bash, with stand-ins for the programs, which say what they were given."""
    built, bin = command(case), tmp_path / "bin"
    bin.mkdir()
    program = bin / Path(built.program[0]).name
    said = tmp_path / "said"
    for name in {program.name, "ray"}:
        (bin / name).write_text('#!/bin/bash\nprintf "%s\\0" "$0" "$@" > "$SAID"\nenv > "$SAID.env"\n')
        (bin / name).chmod(0o755)
    text = built.text().replace(built.program[0], str(program)) if "/" in built.program[0] else built.text()
    env = {"PATH": f"{bin}:/usr/bin:/bin", "SAID": str(said), "DSV3_API_KEY": "secret"}
    subprocess.run(["bash"], input=text, text=True, check=True, env=env, cwd=tmp_path)
    ran = said.read_text().split("\0")[:-1]
    assert ran == [str(program), *built.argv[1:]]
    seen = dict(line.split("=", 1) for line in Path(f"{said}.env").read_text().splitlines())
    assert built.environment({"DSV3_API_KEY": "secret"}).items() <= seen.items()
    for name, content in built.files.items():
        assert (tmp_path / name).read_text() == content


def test_a_keyed_program_hands_the_key_over_inside(tmp_path):
    """What SGLang's parser would see, and what a process list sees."""
    package = tmp_path / "sglang" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(
        "import pathlib, sys\n"
        "def main():\n"
        "    listed = pathlib.Path('/proc/self/cmdline')\n"
        "    print(sys.argv[1:], 'secret' in listed.read_text() if listed.exists() else False)\n"
    )
    serve = Serve(model="R1", api_key_env="MY_KEY", python=sys.executable)
    built = find("sglang").build(serve)
    env = built.environment(os.environ | {"MY_KEY": "secret", "PYTHONPATH": str(tmp_path)})
    done = subprocess.run(built.argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([*built.argv[3:], "--api-key", "secret"]) + " False"
