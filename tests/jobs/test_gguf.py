"""``dsv3 gguf`` and the files that it makes, with a small program in the converter's place."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import alive, dsv3, fails, until

from dsv3 import gguf
from dsv3.engines import converter
from dsv3.paths import TINY_R1
from tests.unit.checkpoint.test_gguf import ARRAY, STRING, UINT32, made, text
from tests.unit.engines.test_converter import FOUND, order_in


def program(file: Path, lines: str) -> str:
    file.write_text(f"#!/bin/sh\n{lines}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    "said",
    [
        "5",
        '{"architecture": "deepseek2"}',
        '{"missing": "torch"}',
        '{"error": null}',
        json.dumps(FOUND | {"last_id": None}),
        "[" * 100_000,
        "Python 3.11",
        "",
    ],
)
def test_a_program_that_is_no_python_with_the_converter(tmp_path, said):
    (tmp_path / "said").write_text(said)
    order = replace(order_in(tmp_path), python=program(tmp_path / "other", f"cat '{tmp_path}/said'"))
    (line,) = converter.asked(order).wrong
    assert line == f"--python {order.python}: the converter does not start: exit code 0, and no answer"


@pytest.fixture
def run(tmp_path) -> list[object]:
    """The command, with a program that answers, and whose conversion is ``tmp_path / "convert"`` (its outfile: $7)."""
    values = [
        ("general.architecture", STRING, text("deepseek2")),
        ("deepseek2.block_count", UINT32, (3).to_bytes(4, "little")),
        (
            "tokenizer.ggml.tokens",
            ARRAY,
            b"".join((STRING.to_bytes(4, "little"), (1024).to_bytes(8, "little"))) + text("a") * 1024,
        ),
    ]
    (tmp_path / "whole").write_bytes(made(values, [("output.weight", (32, 1), 0, 0)], 128))
    (tmp_path / "said").write_text(json.dumps(FOUND))
    python = program(tmp_path / "python", f"cd '{tmp_path}'; [ $3 = ask ] && exec cat said; . ./convert")
    return [
        "gguf",
        TINY_R1,
        "--llama-cpp",
        order_in(tmp_path).llama_cpp,
        "--python",
        python,
        "--outfile",
        tmp_path / "x.gguf",
    ]


def left(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.name.startswith("x.gguf"))


def test_the_file_has_a_name_of_its_own_until_it_is_whole(run, tmp_path):
    (tmp_path / "convert").write_text('ls x.gguf* > names; cp whole "$7"')
    done = dsv3(*run)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "names").read_text().split() == ["x.gguf.log", "x.gguf.part"]
    assert f"converter runs and writes {tmp_path / 'x.gguf.part'}; log in {tmp_path / 'x.gguf.log'}\n" in done.stderr
    assert left(tmp_path) == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_a_killed_run_left_is_named_by_the_next(run, tmp_path):
    (tmp_path / "convert").write_text('head -c 9 whole > "$7"; sleep 60')
    mark = str(uuid.uuid4())
    words = [sys.executable, "-m", "dsv3", *map(str, run)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"MARK": mark})
    until(lambda: (tmp_path / "x.gguf.part").is_file() and (tmp_path / "x.gguf.part").stat().st_size)
    fails(dsv3(*run), "gguf", f"{tmp_path / 'x.gguf.part'}: is there: another run writes it still, or was killed")
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not alive(mark))
    assert left(tmp_path) == ["x.gguf.log", "x.gguf.part"]
    fails(dsv3(*run), "gguf", "if none does, remove it")
    (tmp_path / "x.gguf.part").unlink()
    (tmp_path / "convert").write_text('cp whole "$7"')
    assert dsv3(*run).returncode == 0


def test_of_two_runs_that_begin_together_one_writes(tmp_path):
    order = order_in(tmp_path)
    part = converter.part_of(order.outfile)
    part.write_text("another run's")
    with pytest.raises(FileExistsError, match="another run writes it still"):
        gguf.make(order, None)
    assert part.read_text() == "another run's"


def test_a_file_that_came_meanwhile_stays_and_so_does_what_was_made(run, tmp_path):
    (tmp_path / "convert").write_text('cp whole "$7"; echo mine > x.gguf')
    done = dsv3(*run)
    assert done.returncode == 1
    said = f"{tmp_path / 'x.gguf'}: came meanwhile; what was made is {tmp_path / 'x.gguf.part'}: give it another name"
    assert done.stderr.splitlines()[-1] == f"dsv3 gguf: error: {said}"
    assert (tmp_path / "x.gguf").read_text() == "mine\n"
    assert (tmp_path / "x.gguf.part").read_bytes() == (tmp_path / "whole").read_bytes()
    assert left(tmp_path) == ["x.gguf", "x.gguf.part"]


@pytest.mark.parametrize("there", [False, True])
def test_without_links_nothing_is_replaced_either(tmp_path, monkeypatch, there):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)  # as exFAT and some network disks answer
    part, file = tmp_path / "x.gguf.part", tmp_path / "x.gguf"
    part.write_text("made")
    if there:
        file.write_text("mine")
        with pytest.raises(FileExistsError, match="came meanwhile"):
            gguf._give_name(part, file)
        assert (file.read_text(), part.read_text()) == ("mine", "made")
    else:
        gguf._give_name(part, file)
        assert (file.read_text(), part.exists()) == ("made", False)


def test_the_error_has_the_last_line_of_the_log(run, tmp_path):
    (tmp_path / "convert").write_text("echo Traceback; echo yaml.Error: bad; echo '    ^'; echo; exit 1")
    log = tmp_path / "x.gguf.log"
    said = "dsv3 gguf: error: the converter ended with exit code 1"
    assert dsv3(*run).stderr.splitlines()[-1] == f"{said}: yaml.Error: bad; log: {log}"
    log.unlink()
    (tmp_path / "convert").write_text(f"echo {'x' * 1000}; exit 1")
    assert dsv3(*run).stderr.splitlines()[-1] == f"{said}: {'x' * 98}...{'x' * 98}; log: {log}"


def test_words_that_name_no_program_and_a_users_folder(run, tmp_path):
    at = run.index("--python") + 1
    fails(dsv3(*run[:at], "", *run[at + 1 :]), "gguf", "--python: is empty")
    (tmp_path / "convert").write_text('cp whole "$7"')
    done = dsv3(*run[:-1], "~/x.gguf", HOME=tmp_path)
    assert (done.returncode, left(tmp_path)) == (0, ["x.gguf"]), done.stderr
