"""Where things live: the environment variable, else the data disk, else the user's cache."""

import os
import re
import sys
from pathlib import Path

import pytest

from dsv3 import paths
from dsv3.paths import check_result, write_result

ROOT = Path(__file__).parents[2]


def test_the_variable_wins(tmp_path):
    assert paths.home({"DSV3_HOME": str(tmp_path / "x")}, data_disk=tmp_path) == tmp_path / "x"
    assert paths.home({"DSV3_HOME": "~/y"}) == Path.home() / "y"


def test_then_the_data_disk(tmp_path):
    assert paths.home({"DSV3_HOME": ""}, data_disk=tmp_path) == tmp_path / "dsv3"
    assert not (tmp_path / "dsv3").exists(), "asking makes nothing"


@pytest.mark.skipif(sys.platform == "win32", reason="the cache folder of Linux and macOS")
def test_else_the_cache(tmp_path):
    none = tmp_path / "none"
    assert paths.home({"XDG_CACHE_HOME": str(tmp_path)}, data_disk=none) == tmp_path / "dsv3"
    assert paths.home({}, data_disk=none) == Path.home() / ".cache" / "dsv3"


def test_the_cache_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert paths.home({"LOCALAPPDATA": str(tmp_path)}, data_disk=tmp_path / "none") == tmp_path / "dsv3"


def test_checkpoints_lie_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DSV3_HOME", str(tmp_path))
    assert paths.checkpoint("DeepSeek-R1") == tmp_path / "DeepSeek-R1"


def test_nothing_else_knows_a_path():
    """Disks, homes and settings stand in paths.py only; the kernel keeps nothing of ours in /proc, /sys and /dev."""
    for file in (ROOT / "dsv3").rglob("*.py"):
        found = re.findall(r"[\"'](/(?:root|home|data|mnt|etc|opt|Users)\b[^\"']*|~/[^\"']*)[\"']", file.read_text())
        assert not found or file.name == "paths.py", f"{file}: {found}"


def begins_ours(data: bytes) -> bool:
    return data.startswith(b"ours")


@pytest.mark.parametrize("there", ["text", "empty", "link", "dangling", "folder", "fifo"])
def test_what_is_no_earlier_result_stays(there, tmp_path):
    file, other = tmp_path / "result", tmp_path / "other"
    other.write_bytes(b"ours, too")
    make = {
        "text": lambda: file.write_bytes(b"somebody's"),
        "empty": file.touch,
        "link": lambda: file.symlink_to(other),
        "dangling": lambda: file.symlink_to(tmp_path / "nowhere"),
        "folder": file.mkdir,
        "fifo": lambda: os.mkfifo(file),
    }
    make[there]()
    before = file.lstat()
    for write in (check_result, lambda file, known: write_result(file, b"ours, new", known)):
        with pytest.raises(FileExistsError, match="result: is there"):
            write(file, begins_ours)
    assert (file.lstat().st_ino, file.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert other.read_bytes() == b"ours, too"
    assert {f.name for f in tmp_path.iterdir()} == {"result", "other"}


def test_a_result_is_written_and_an_earlier_one_replaced(tmp_path):
    file, part = tmp_path / "result", tmp_path / "result.part"
    part.symlink_to(tmp_path / "elsewhere")
    for data in (b"ours 1", b"ours 2"):
        write_result(file, data, begins_ours)
        assert file.read_bytes() == data
    assert {f.name for f in tmp_path.iterdir()} == {"result", "result.part"}
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check_result(tmp_path / "none" / "result", begins_ours)
