"""Verification finds what differs, and repair makes only that again."""

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from dsv3.bf16_cast_fp8 import cast as back
from dsv3.checkpoint import read, write
from dsv3.checkpoint.ours import RECORD
from dsv3.checkpoint.read import UNFINISHED
from dsv3.convert import convert
from dsv3.fp8_cast_bf16 import cast
from dsv3.slice import cut_out
from dsv3.verify import check_list, hashes, main, repair, verify, write_manifest


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


def test_a_list_with_sizes(made, tmp_path):
    file, *others = sorted(f for f in made.iterdir() if f.name != RECORD)
    for other in others:
        other.unlink()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "list").write_text(f"{digest} {file.stat().st_size} {file.name}\n")
    assert check_list(made, tmp_path / "list") == []
    (tmp_path / "list").write_text(f"{digest} 12345 {file.name}\n")
    assert check_list(made, tmp_path / "list") == [f"{file.name}: {file.stat().st_size} bytes, should be 12345"]


HASH = "0" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no file"),
        ("\n\n", "lists no file"),
        (f"{HASH}  a\n{HASH[1:]}  b\n", "line 2: not a hash and a file name"),
        (f"{HASH}  a\n{'g' * 64}  b\n", "line 2: not a hash"),
        (f"{'0' * 40}  a\n", "line 1: not a hash"),
        (f"{HASH}  ../a\n", "line 1: not a hash and a file name in the folder"),
        (f"{HASH}  sub/../../a\n", "line 1: not a hash"),
        (f"{HASH}  /etc/passwd\n", "line 1: not a hash"),
        (f"{HASH}  a\\b\n", "line 1: not a hash"),
        (f"{HASH}\n", "line 1: not a hash"),
        (f"{HASH}  \n", "line 1: not a hash"),
        (f"{HASH}  a\n{'1' * 64}  ./a\n", "line 2: names 'a' a second time, with another hash"),
        ("<html>\n", "line 1: not a hash"),
        ("x" * 10_000_000, "line 1: not a hash"),
        ("\0", "not a list of hashes and file names"),
    ],
    ids=range(15),
)
def test_what_is_no_list_is_refused(text, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        check_list(tmp_path / "folder", tmp_path / "list")
    assert len(str(error.value)) < 400
    if text.strip():
        with pytest.raises(FileExistsError, match="list: is there and no manifest; give another name"):
            write_manifest(tmp_path / "folder", tmp_path / "list")
        assert (tmp_path / "list").read_text() == text


ODD = {
    "a file": lambda path: path.write_text("x"),
    "a link out": lambda path: path.symlink_to(path.parents[2]),
    "a link to a file outside": lambda path: path.symlink_to(__file__),
    "a dangling link": lambda path: path.symlink_to("nothing"),
    "a fifo": os.mkfifo,
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("where", ["odd", "sub/odd", ".odd"])
def test_what_the_list_does_not_have_is_named(where, kind, made, tmp_path):
    write_manifest(made, tmp_path / "list")
    (made / "sub").mkdir()
    ODD[kind](made / where)
    assert check_list(made, tmp_path / "list") == [f"{where}: not in the list"]
    if kind != "a file":
        with pytest.raises(ValueError, match=f"{where}: not a regular file in the folder"):
            write_manifest(made, tmp_path / "list")
        with (tmp_path / "list").open("a") as f:
            f.write(f"{HASH}  {where}\n")
        missing = kind != "a dangling link"
        assert check_list(made, tmp_path / "list") == [f"{where}: not a regular file in the folder"] or not missing


def test_an_unfinished_folder_has_no_hashes(made, fp8_folder, tmp_path):
    write_manifest(made, tmp_path / "list")
    (made / UNFINISHED).write_text("")
    for how in (["--manifest", str(tmp_path / "list")], ["--write-manifest", str(tmp_path / "list")]):
        with pytest.raises(ValueError, match="out: unfinished; run the command that writes it again"):
            main([str(made), *how])


@pytest.mark.parametrize("change", ["another hash", "a file less", "a file more", "none"])
def test_a_list_with_other_hashes_stays(change, made, tmp_path):
    manifest = tmp_path / "list"
    n = write_manifest(made, manifest)
    first, *rest = manifest.read_text().splitlines(keepends=True)
    changed = {"another hash": [HASH + first[64:], *rest], "a file less": rest, "a file more": [f"{HASH}  x\n", first]}
    text = "".join(changed.get(change, [first, *rest]))
    manifest.write_text(text)
    if change == "none":
        assert write_manifest(made, manifest) == n
    else:
        with pytest.raises(FileExistsError, match="list: holds other files or hashes; give another name or remove it"):
            write_manifest(made, manifest)
    assert manifest.read_text() == text


def test_a_list_that_could_not_be_written_leaves_nothing(made, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write_manifest(made, tmp_path / "list")
    assert not os.path.lexists(tmp_path / "list.part")
    assert write_manifest(made, tmp_path / "list")


def test_a_list_is_not_written_over_anything_else(made, tmp_path):
    for name in ("list", "list.part"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=name):
            write_manifest(made, tmp_path / "list")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    (tmp_path / "other").write_text("")
    (tmp_path / "list").symlink_to("other")
    with pytest.raises(FileExistsError, match="is there and no manifest"):
        write_manifest(made, tmp_path / "list")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("where", ["x.safetensors", "notes.txt", ".hidden"])
def test_a_file_of_somebody_else_is_not_equal(where, kind, made, fp8_folder):
    ODD[kind](made / where)
    assert verify(made, fp8_folder).files == {where: "not of this checkpoint"}
    with pytest.raises(ValueError, match="not of this checkpoint$"):  # and no advice that would not help
        main([str(made), "--source", str(fp8_folder)])
    with pytest.raises(FileExistsError, match=f"holds .*{re.escape(where)}.*, which dsv3 did not make"):
        repair(made, fp8_folder)
    assert os.path.lexists(made / where)


@pytest.mark.parametrize("which", ["config.json", "weights"])
@pytest.mark.parametrize("to", ["outside", "inside"])
def test_a_link_out_of_the_folder_is_not_equal(which, to, made, fp8_folder, tmp_path):
    file = made / "config.json" if which == "config.json" else sorted(made.glob("*.safetensors"))[0]
    where = tmp_path / "moved" if to == "outside" else made / "lost+found" / "moved"
    where.parent.mkdir(exist_ok=True)
    file.rename(where)
    file.symlink_to(where)
    assert verify(made, fp8_folder).files == ({file.name: "a link out of the folder"} if to == "outside" else {})
    if to == "outside":
        with pytest.raises(ValueError, match=rf"{file.name}: a link out of the folder$"):
            main([str(made), "--source", str(fp8_folder)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("what", ["copy", "finetune", "notes", "nothing", "slice", "back", "official", "other source"])
def test_repair_touches_only_what_convert_or_a_cast_made(what, fp8_folder, bf16_folder, tmp_path):
    folder, message = tmp_path / "folder", "has no record .* changes nothing there"
    if what in ("copy", "finetune"):
        shutil.copytree(fp8_folder, folder, ignore=shutil.ignore_patterns(RECORD))
        if what == "finetune":
            flip(sorted(folder.glob("*.safetensors"))[1], -9)
    elif what in ("notes", "nothing"):
        folder.mkdir()
        if what == "notes":
            (folder / "README.md").write_text("mine")
    elif what == "official":
        convert(fp8_folder, folder, 2)
        (folder / RECORD).unlink()
        assert not verify(folder, fp8_folder)
        flip(sorted(folder.glob("*.safetensors"))[1], -9)
        assert verify(folder, fp8_folder)
    elif what == "other source":
        shutil.copytree(fp8_folder, tmp_path / "other")
        flip(sorted((tmp_path / "other").glob("*.safetensors"))[1], -9)
        cast(tmp_path / "other", folder)
        message = r"its record \(cast to BF16\) is of another source"
    else:
        cut_out(fp8_folder, folder, [0, 1], [0]) if what == "slice" else back(bf16_folder, folder, fp8_folder)
        message = "made by another verb"
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        repair(folder, bf16_folder if what == "back" else fp8_folder)
    assert contents(folder) == before


def test_a_repair_asks_for_the_room_of_what_it_makes(made, fp8_folder, monkeypatch):
    first, second, *_ = sorted(made.glob("*.safetensors"))
    whole = hashes(made)
    flip(first, -1)
    before = contents(made)
    monkeypatch.setattr(write, "free_bytes", lambda _: first.stat().st_size - 1)
    with pytest.raises(OSError, match=r"out: needs [\d.]+ MB, [\d.]+ MB are free; nothing was written"):
        repair(made, fp8_folder)
    assert contents(made) == before
    monkeypatch.setattr(write, "free_bytes", lambda _: first.stat().st_size)
    untouched = second.stat()
    repair(made, fp8_folder)
    assert hashes(made) == whole
    assert second.stat() == untouched


@pytest.mark.parametrize("kind", ["a link to a file outside", "a dangling link", "a fifo"])
def test_a_repair_does_not_follow_or_replace_what_is_no_file(kind, made, fp8_folder):
    for name in ("config.json", sorted(made.glob("*.safetensors"))[0].name):
        kept = (made / name).read_bytes()
        (made / name).unlink()
        ODD[kind](made / name)
        with pytest.raises(FileExistsError, match=f"holds .*{name}"):
            repair(made, fp8_folder)
        assert not (made / UNFINISHED).exists()
        (made / name).unlink()
        (made / name).write_bytes(kept)


def test_a_repair_that_was_stopped_goes_on_with_either_command(made, fp8_folder, monkeypatch):
    whole = contents(made)
    again = (lambda: convert(fp8_folder, made, 2)) if (made / "model0-mp2.safetensors").exists() else None
    for goes_on in (lambda: repair(made, fp8_folder), again or (lambda: cast(fp8_folder, made))):
        flip(sorted(made.glob("*.safetensors"))[0], -1)
        (made / "config.json").write_text("{}")
        damaged = contents(made)

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(write, "_name", stop)
            with pytest.raises(KeyboardInterrupt):
                repair(made, fp8_folder)
        assert contents(made).items() >= damaged.items(), "what was there is under its name"
        with pytest.raises(ValueError, match="unfinished"):
            verify(made, fp8_folder)
        goes_on()
        assert contents(made) == whole


def test_mistakes(made, fp8_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        main([str(tmp_path / "none"), "--source", str(fp8_folder)])
    shutil.copy(made / "config.json", tmp_path / "config.json")
    with pytest.raises(ValueError, match="output folder is the input folder"):
        verify(fp8_folder, fp8_folder)
