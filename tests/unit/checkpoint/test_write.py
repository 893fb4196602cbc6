"""Writing: whole or recognisably not there, and an interrupted run goes on to the same bytes."""

import errno
import fcntl
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from safetensors import safe_open

from dsv3.checkpoint import read, write
from dsv3.checkpoint.compare import compare
from dsv3.checkpoint.ours import RECORD
from dsv3.checkpoint.plan import Make, Out, Plan
from dsv3.checkpoint.write import execute


def ones() -> bytes:
    return struct.pack("<2f", 1, 1)


def a_plan(data=ones, files=("m.safetensors", "n.safetensors")) -> Plan:  # noqa: ANN001
    """Two tensors in each file, a step each; ``data`` makes the last one."""
    plan = Plan("test")
    for name in files:
        at = plan.file(name, [Out("a", "F32", (2,)), Out(f"b.{name}", "F32", (2,))])
        plan.steps += [[Make(ones, 8, name, at["a"])], [Make(data, 8, name, at[f"b.{name}"])]]
    plan.json("config.json", {"x": "é"})
    return plan


WHOLE = [RECORD, "config.json", "m.safetensors", "n.safetensors"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_written_file_reads_back(tmp_path, capsys):
    execute(a_plan(), tmp_path / "out")
    with safe_open(tmp_path / "out" / "m.safetensors", framework="pt") as f:
        assert set(f.keys()) == {"a", "b.m.safetensors"}
        assert f.metadata() == {"format": "pt"}
        assert f.get_tensor("a").tolist() == [1, 1]
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8")) == {"x": "é"}
    assert names(tmp_path / "out") == WHOLE
    assert "out: 2 files, " in capsys.readouterr().err
    assert not compare(a_plan(), tmp_path / "out")


def fail() -> bytes:
    raise ValueError("the source broke")


@pytest.mark.parametrize("bad", [fail, lambda: b"short"])
def test_a_failure_gives_nothing_a_final_name_and_can_be_continued(tmp_path, bad):
    with pytest.raises(ValueError, match=r"the source broke|5 bytes for a place of 8"):
        execute(a_plan(bad), tmp_path, workers=1)
    assert names(tmp_path) == [read.UNFINISHED, "m.safetensors.part", "n.safetensors.part"]
    with pytest.raises(ValueError, match="unfinished; run the command that writes it again"):
        read.open_folder(tmp_path)
    made = []
    execute(a_plan(lambda: made.append(1) or ones()), tmp_path)
    assert made == [1, 1]
    assert names(tmp_path) == WHOLE
    assert not compare(a_plan(), tmp_path)


def test_steps_that_are_done_are_not_done_again(tmp_path):
    with pytest.raises(ValueError, match="the source broke"):
        execute(a_plan(fail), tmp_path, workers=1)
    again = []
    plan = a_plan()
    plan.steps[0] = [plan.steps[0][0]._replace(data=lambda: again.append(1) or ones())]
    execute(plan, tmp_path)
    assert again == []


def test_after_a_restart_of_the_machine_everything_is_done_again(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="the source broke"):
        execute(a_plan(fail), tmp_path / "out", workers=1)
    (tmp_path / "boot").write_text("another boot")
    monkeypatch.setattr(write, "BOOT", tmp_path / "boot")
    again = []
    plan = a_plan()
    plan.steps[0] = [plan.steps[0][0]._replace(data=lambda: again.append(1) or ones())]
    execute(plan, tmp_path / "out")
    assert again == [1]


@pytest.mark.parametrize("nth", [0, 1, 2, 3, 4])
def test_a_copy_of_an_unfinished_folder_begins_anew(nth, tmp_path, monkeypatch):
    """It may have been copied while a run was at it: the parts first, then a journal that says more is done."""
    if nth:
        killed_before("replace", nth, tmp_path / "out", monkeypatch, a_plan())
    else:
        with pytest.raises(ValueError, match="the source broke"):
            execute(a_plan(fail), tmp_path / "out", workers=1)
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*.safetensors*"):
        file.write_bytes(bytes(file.stat().st_size))
    execute(a_plan(), tmp_path / "copy")
    assert names(tmp_path / "copy") == WHOLE
    assert not compare(a_plan(), tmp_path / "copy")


def test_a_torn_last_line_of_the_journal_is_ignored(tmp_path):
    with pytest.raises(ValueError, match="the source broke"):
        execute(a_plan(fail), tmp_path, workers=1)
    with (tmp_path / read.UNFINISHED).open("a") as journal:
        journal.write("1")  # would say that a step is done
    execute(a_plan(), tmp_path)
    assert not compare(a_plan(), tmp_path)


def test_another_plan_does_not_go_on_from_it(tmp_path):
    with pytest.raises(ValueError, match="the source broke"):
        execute(a_plan(fail), tmp_path, workers=1)
    other = a_plan()
    other.json("config.json", {})
    with pytest.raises(FileExistsError, match=r"unfinished work of another run \(test\)"):
        execute(other, tmp_path)


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (tmp_path / read.UNFINISHED).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="another run is writing into it"):
            execute(a_plan(), tmp_path)


def test_another_checkpoint_is_not_mixed_with(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"holds another checkpoint .other.safetensors., which dsv3 did not make"):
        execute(a_plan(), tmp_path)
    with pytest.raises(FileExistsError, match="exists and is not a folder"):
        execute(a_plan(), tmp_path / "other.safetensors")


def test_too_small_a_disk_is_refused_with_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "free_bytes", lambda _: 100)
    with pytest.raises(OSError, match=r"out: needs [\d.]+ kB, 0\.10 kB are free; nothing was written"):
        execute(a_plan(), tmp_path / "out")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_is_said_and_the_run_goes_on_afterwards(tmp_path, monkeypatch):
    real, calls = os.pwrite, []

    def full(fd: int, data: memoryview, at: int) -> int:
        calls.append(at)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="the disk is full; make room and run the same command again"):
        execute(a_plan(), tmp_path, workers=1)
    execute(a_plan(), tmp_path)
    assert not compare(a_plan(), tmp_path)


def test_differences_are_named(tmp_path):
    execute(a_plan(), tmp_path)
    file = tmp_path / "m.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (tmp_path / "n.safetensors").unlink()
    (tmp_path / "config.json").write_text("{}")
    found = compare(a_plan(), tmp_path)
    assert found.files == {"n.safetensors": "missing", "config.json": "other content"}
    assert found.tensors == {"b.m.safetensors": "m.safetensors"}


def test_only_the_files_asked_for_are_made_again(tmp_path):
    execute(a_plan(), tmp_path)
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    untouched = (tmp_path / "n.safetensors").stat()
    execute(a_plan(), tmp_path, only={"m.safetensors"})
    assert not compare(a_plan(), tmp_path)
    assert (tmp_path / "n.safetensors").stat() == untouched
    assert names(tmp_path) == WHOLE


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path, capsys):
    def pressed() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(a_plan(pressed), tmp_path, workers=1)
    assert capsys.readouterr().err == f"{tmp_path}: stopped; the same command goes on from here\n"
    execute(a_plan(), tmp_path)
    assert not compare(a_plan(), tmp_path)


def killed_before(what: str, nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    """Run ``plan`` until the ``nth`` call of ``os.WHAT``, which does not happen any more."""
    real, calls = getattr(os, what), []

    def dies(*args: object) -> object:
        calls.append(args)
        if len(calls) >= nth:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, what, dies)
        with pytest.raises(KeyboardInterrupt):
            execute(plan, tmp_path, workers=1)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_what_has_its_name_already_needs_no_room(nth, tmp_path, monkeypatch):
    killed_before("replace", nth, tmp_path, monkeypatch, a_plan())
    assert write.missing_bytes(a_plan(), tmp_path) == 0
    monkeypatch.setattr(write, "free_bytes", lambda _: 0)
    execute(a_plan(), tmp_path)
    assert names(tmp_path) == WHOLE
    assert not compare(a_plan(), tmp_path)


@pytest.mark.parametrize("lost", ["m.safetensors.part", "m.safetensors"])
def test_a_lost_file_is_filled_again_even_if_that_is_interrupted(lost, tmp_path, monkeypatch):
    """Its steps are done, says the journal; they are not, for the new file."""
    killed_before("replace", 1 if lost.endswith(".part") else 3, tmp_path, monkeypatch, a_plan())
    (tmp_path / lost).unlink()
    killed_before("pwrite", 1, tmp_path, monkeypatch, a_plan())
    execute(a_plan(), tmp_path)
    assert names(tmp_path) == WHOLE
    assert not compare(a_plan(), tmp_path)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("hollow", ["config.json", "m.safetensors"])
def test_a_restart_of_the_machine_while_files_get_their_names(nth, hollow, tmp_path, monkeypatch):
    killed_before("replace", nth, tmp_path / "out", monkeypatch, a_plan())
    if (tmp_path / "out" / hollow).exists():  # named, and its bytes never reached the disk
        os.truncate(tmp_path / "out" / hollow, 0)
    (tmp_path / "boot").write_text("another boot")
    monkeypatch.setattr(write, "BOOT", tmp_path / "boot")
    execute(a_plan(), tmp_path / "out")
    assert names(tmp_path / "out") == WHOLE
    assert not compare(a_plan(), tmp_path / "out")


@pytest.mark.parametrize("nth", range(2, 6))
def test_a_run_that_was_killed_before_its_first_step_goes_on(nth, tmp_path, monkeypatch):
    killed_before("write", nth, tmp_path, monkeypatch, a_plan())
    execute(a_plan(), tmp_path)
    assert names(tmp_path) == WHOLE
    assert not compare(a_plan(), tmp_path)


def test_a_line_that_a_full_disk_cut_off_is_taken_back(tmp_path, monkeypatch):
    real = os.write

    def full(fd: int, data: memoryview) -> int:
        if bytes(data) == b"0\n":
            return real(fd, data[:1])
        if bytes(data) == b"\n":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="the disk is full"):
        execute(a_plan(), tmp_path, workers=1)
    assert set((tmp_path / read.UNFINISHED).read_bytes().split(b"\n")[1:]) <= {b"1", b"2", b"3", b""}


def test_what_was_whole_stays_under_its_names_until_all_of_the_new_is_there(tmp_path):
    execute(a_plan(), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in WHOLE}
    other = a_plan(fail)
    other.choice = "another source"
    with pytest.raises(ValueError, match="the source broke"):
        execute(other, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in WHOLE} == before
    assert (tmp_path / read.UNFINISHED).exists()


def test_a_config_that_somebody_wrote_while_files_got_their_names_stays(tmp_path, monkeypatch):
    killed_before("replace", 2, tmp_path, monkeypatch, a_plan())
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="holds config.json, which dsv3 did not make"):
        execute(a_plan(), tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"
    (tmp_path / "config.json").unlink()
    execute(a_plan(), tmp_path)
    assert not compare(a_plan(), tmp_path)
