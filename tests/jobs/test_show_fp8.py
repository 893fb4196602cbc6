"""A command in a lesson: its output and its exit code."""

from dsv3.lab.command import command


def test_a_command_says_what_it_does(tmp_path, capsys):
    assert command("dsv3 download --model tiny-r1 --local-dir R1", tmp_path) == 0
    assert (tmp_path / "R1" / "config.json").is_file()
    assert capsys.readouterr().out.startswith("$ dsv3 download --model tiny-r1 --local-dir R1\nR1: 5 files")
    assert command(
        "python -m dsv3.convert --hf-ckpt-path R1 --save-path OUT --n-experts 4 --model-parallel 2", tmp_path
    )
    said = capsys.readouterr().out
    assert "error: --n-experts 4: R1 has 16; say --n-experts 16\n(exit code 1)\n" in said
    broken = "from dsv3.checkpoint import plan\nplan.Plan.fill = lambda *_: exit(7)"
    line = "python -m dsv3.convert --hf-ckpt-path R1 --save-path OUT --n-experts 16 --model-parallel 2"
    assert command(line, tmp_path, broken) == 7
