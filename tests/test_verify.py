"""Verification finds what differs, and repair makes only that again."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from dsv3.checkpoint import read
from dsv3.convert import convert
from dsv3.fp8_cast_bf16 import cast
from dsv3.verify import check_list, hashes, main, repair, verify


@pytest.fixture(params=["cast", "convert"])
def made(request, fp8_folder, tmp_path) -> Path:
    target = tmp_path / "out"
    cast(fp8_folder, target) if request.param == "cast" else convert(fp8_folder, target, 2)
    return target


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_what_was_made_is_equal(made, fp8_folder, capsys):
    assert not verify(made, fp8_folder)
    main([str(made), "--source", str(fp8_folder)])
    assert capsys.readouterr().out == "equal\n"


def test_a_flipped_bit_is_found_named_and_repaired(made, fp8_folder):
    whole = hashes(made)
    file = sorted(made.glob("*.safetensors"))[-1]
    entry = max(read.header(file), key=lambda e: e.stop - e.start)
    flip(file, entry.start + 5)
    found = verify(made, fp8_folder)
    assert found.tensors == {entry.name: file.name}
    assert not found.files
    with pytest.raises(ValueError, match=f"{file.name}: {entry.name} differs; --repair makes again"):
        main([str(made), "--source", str(fp8_folder)])
    assert repair(made, fp8_folder).tensors
    assert hashes(made) == whole


@pytest.mark.parametrize("damage", ["missing", "truncated", "header", "config"])
def test_damaged_files_are_repaired_and_the_others_left(made, fp8_folder, damage):
    whole = hashes(made)
    first, *others = sorted(made.glob("*.safetensors"))
    untouched = {f: f.stat().st_mtime_ns for f in others}
    if damage == "missing":
        first.unlink()
    elif damage == "truncated":
        first.write_bytes(first.read_bytes()[:-1])
    elif damage == "header":
        flip(first, 20)
    else:
        (made / "config.json").write_text("{}")
    found = repair(made, fp8_folder)
    assert list(found.files) == ["config.json" if damage == "config" else first.name]
    assert hashes(made) == whole
    if damage == "config":
        assert {f: f.stat().st_mtime_ns for f in others} == untouched


def test_a_list_of_hashes_is_checked(made, tmp_path):
    manifest = tmp_path / "SHA256SUMS"
    main([str(made), "--write-manifest", str(manifest)])
    # The system's own tool reads it.
    assert subprocess.run(["sha256sum", "--quiet", "-c", str(manifest)], cwd=made).returncode == 0
    assert check_list(made, manifest) == []
    first, second, *_ = sorted(made.glob("*.safetensors"))
    flip(first, 100)
    second.unlink()
    assert check_list(made, manifest) == [f"{first.name}: other content (sha256)", f"{second.name}: missing"]
    with pytest.raises(ValueError, match=r"out: .*other content .sha256., .*: missing"):
        main([str(made), "--manifest", str(manifest)])


def test_a_list_with_sizes(made, tmp_path):
    file = sorted(made.glob("*.safetensors"))[0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "list").write_text(f"{digest} 12345 {file.name}\n")
    assert check_list(made, tmp_path / "list") == [f"{file.name}: {file.stat().st_size} bytes, should be 12345"]
    (tmp_path / "list").write_text(f"{digest}  ../{file.name}\n")
    with pytest.raises(ValueError, match="not a hash and a file name"):
        check_list(made, tmp_path / "list")


def test_mistakes(made, fp8_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        main([str(tmp_path / "none"), "--source", str(fp8_folder)])
    shutil.copy(made / "config.json", tmp_path / "config.json")
    with pytest.raises(ValueError, match="output folder is the input folder"):
        verify(fp8_folder, fp8_folder)
