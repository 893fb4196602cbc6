"""The flags that an engine's own ``--help`` names, asked of stand-ins."""

import stat
from pathlib import Path

import pytest

from dsv3.engines import check_flags
from dsv3.engines.table import ENGINES


def stand_in(folder: Path, name: str, flags: set[str]) -> Path:
    """A console script whose help names ``flags``, beside an interpreter's path."""
    script = folder / name
    script.write_text(f"#!/bin/sh\ncat << 'EOF'\nusage: x\n  {'  '.join(sorted(flags))}\nEOF\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder / "python"


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
def test_flags_that_are_gone_are_named(engine, tmp_path, capsys):
    flags = check_flags.written(engine)
    assert len(flags) > 5
    python = stand_in(tmp_path, engine.console, flags - {"--host", "--server-name"})
    with pytest.raises(SystemExit) as gone:
        check_flags.main(["--engine", engine.name, "--python", str(python)])
    name = "--server-name" if engine.name == "lmdeploy" else "--host"
    assert gone.value.code == 1
    assert f"{name}: {engine.title} does not have it" in capsys.readouterr().out
    stand_in(tmp_path, engine.console, flags)
    with pytest.raises(SystemExit) as fine:
        check_flags.main(["--engine", engine.name, "--python", str(python)])
    assert fine.value.code == 0
    assert f"{len(flags)} of {len(flags)} flags exist" in capsys.readouterr().out


def test_an_engine_without_help(tmp_path):
    with pytest.raises(FileNotFoundError, match="not found; install SGLang"):
        check_flags.main(["--engine", "sglang", "--python", str(tmp_path / "python")])
    (tmp_path / "sglang").write_text("#!/bin/sh\necho no torch >&2\nexit 3\n")
    (tmp_path / "sglang").chmod(0o755)
    with pytest.raises(ChildProcessError, match="exit code 3: no torch"):
        check_flags.main(["--engine", "sglang", "--python", str(tmp_path / "python")])
