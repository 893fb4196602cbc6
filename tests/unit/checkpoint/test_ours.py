"""What dsv3 did not make stays: before, during and after every run that writes a checkpoint."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from dsv3 import bf16_cast_fp8, convert, download, fp8_cast_bf16, slice, verify
from dsv3.checkpoint import read, write
from dsv3.checkpoint.ours import RECORD, inside, read_record
from dsv3.checkpoint.read import UNFINISHED

SHARD = "model-00001-of-000005.safetensors"
FIRST = {"convert": "model0-mp2.safetensors", "slice": "model-00001-of-000001.safetensors"}  # of the others SHARD


class Verbs:
    """``run(verb, target)``, each from the same source every time."""

    def __init__(self, fp8: Path, bf16: Path):
        self.source = {"bf16_cast_fp8": bf16}
        self.run_of = {
            "convert": lambda to: convert.convert(fp8, to, 2),
            "fp8_cast_bf16": lambda to: fp8_cast_bf16.cast(fp8, to),
            "bf16_cast_fp8": lambda to: bf16_cast_fp8.cast(bf16, to, fp8),
            "slice": lambda to: slice.cut_out(fp8, to, [0, 1], [0, 1]),
            "download": download.copy_tiny_r1,
        }

    def __call__(self, verb: str, target: Path) -> None:
        self.run_of[verb](target)


VERBS = ("convert", "fp8_cast_bf16", "bf16_cast_fp8", "slice", "download")


@pytest.fixture
def run(fp8_folder, bf16_folder) -> Verbs:
    return Verbs(fp8_folder, bf16_folder)


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below: kind, link's target, content; nothing is opened that is not a regular file."""
    seen = {}
    for file in sorted(folder.rglob("*")):
        stat = file.lstat()
        content = file.read_bytes() if file.is_file() and not file.is_symlink() else None
        seen[str(file.relative_to(folder))] = (stat.st_mode, os.readlink(file) if file.is_symlink() else "", content)
    return seen


def a_socket(path: Path) -> None:
    here = os.getcwd()  # its path may be too long for a socket
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)
    finally:
        os.chdir(here)


PUT = {
    "text": lambda path: path.write_text("mine"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to(path.parent.parent / "secret"),
    "dangling": lambda path: path.symlink_to(path.parent.parent / "nothing"),
    "hard link": lambda path: path.hardlink_to(path.parent.parent / "secret"),
    "fifo": os.mkfifo,
    "socket": a_socket,
}


def put(path: Path, kind: str) -> None:
    (path.parent.parent / "secret").write_text("secret")
    path.parent.mkdir(exist_ok=True)
    PUT[kind](path)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["notes.txt", "config.json", "README.md", "tokenizer.json", ".hidden", "FIRST.part"])
def test_a_folder_with_files_of_somebody_else_is_refused_by_name(verb, name, run, tmp_path):
    name = name.replace("FIRST", FIRST.get(verb, SHARD))
    put(tmp_path / "out" / name, "text")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=f"holds .*{name}, which dsv3 did not make"):
        run(verb, tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", PUT)
@pytest.mark.parametrize(
    "name",
    ["config.json", "model0-mp2.safetensors", "model1-mp2.safetensors.part", UNFINISHED, RECORD, f"{RECORD}.part"],
)
def test_nothing_that_bears_one_of_our_names_is_taken_for_ours(name, kind, run, tmp_path):
    if (name, kind) == (UNFINISHED, "empty"):
        pytest.skip("what a run leaves that was killed at its first call: nothing is lost")
    put(tmp_path / "out" / name, kind)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=name):
        run("convert", tmp_path / "out")
    assert tree(tmp_path) == before


def test_more_than_three_are_counted(run, tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 0.txt, 1.txt, 2.txt and 6 more, which"):
        run("convert", tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_folder_a_new_one_and_what_is_as_planned_are_fine(verb, run, tmp_path):
    run(verb, tmp_path / "new" / "in" / "new")
    whole = tree(tmp_path / "new" / "in" / "new")
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    shutil.copy(tmp_path / "new" / "in" / "new" / "config.json", tmp_path / "out")
    run(verb, tmp_path / "out")
    (tmp_path / "out" / "lost+found").rmdir()
    assert tree(tmp_path / "out") == whole
    assert read_record(tmp_path / "out").files.keys() == whole.keys() - {RECORD}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("change", ["another size", "one byte", "removed"])
def test_a_rerun_makes_what_is_missing_and_replaces_nothing_that_was_changed(verb, change, run, tmp_path, capsys):
    run(verb, tmp_path / "out")
    whole = tree(tmp_path)
    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    run(verb, tmp_path / "out")
    said = "all there already" if verb == "download" else "made already by this command from this source; "
    assert said in capsys.readouterr().err
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "out").iterdir()} == times
    file = tmp_path / "out" / FIRST.get(verb, SHARD)
    data = bytearray(file.read_bytes())
    file.unlink()
    if change == "removed":
        run(verb, tmp_path / "out")
        assert tree(tmp_path) == whole
        return
    data[-1] ^= 1
    file.write_bytes(data if change == "one byte" else b"mine")
    edited = tree(tmp_path)
    with pytest.raises(FileExistsError, match=rf"holds another checkpoint \({file.name}\), which .*changed since"):
        run(verb, tmp_path / "out")
    assert tree(tmp_path) == edited


def test_a_record_beside_files_of_somebody_else_does_not_make_them_ours(run, tmp_path):
    run("convert", tmp_path / "made")
    (tmp_path / "mine").mkdir()
    shutil.copy(tmp_path / "made" / RECORD, tmp_path / "mine")
    (tmp_path / "mine" / "model0-mp2.safetensors").write_bytes(b"mine")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds another checkpoint \(model0-mp2.safetensors\), which"):
        run("convert", tmp_path / "mine")
    assert tree(tmp_path) == before


def test_a_slice_of_other_experts_is_not_taken_for_this_one(fp8_folder, tmp_path, capsys):
    for experts, to in (([0, 1], "out"), ([2, 3], "out"), ([2, 3], "other")):
        slice.cut_out(fp8_folder, tmp_path / to, [0, 1], experts)
    assert "made already" not in capsys.readouterr().err
    assert tree(tmp_path / "out") == tree(tmp_path / "other")


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_edited_is_not_replaced(verb, run, tmp_path):
    run(verb, tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text() + "\n")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    edited = tree(tmp_path)
    with pytest.raises(FileExistsError, match="holds notes.txt, config.json, which .*somebody changed since"):
        run(verb, tmp_path / "out")
    assert tree(tmp_path) == edited


def test_one_verb_does_not_take_what_another_made(run, tmp_path, fp8_folder):
    run("fp8_cast_bf16", tmp_path / "out")
    before = tree(tmp_path)
    for verb in ("convert", "slice", "download", "bf16_cast_fp8"):
        with pytest.raises(FileExistsError, match=r"holds another checkpoint \(cast to BF16\)"):
            run(verb, tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    ["{}", "null", "[]", "not JSON", "", "[" * 100_000, '{"what": 1, "origin": "", "files": {}, "texts": {}}',
     '{"what": "convert to 2 ranks", "origin": "", "files": {"../x": 1}, "texts": {}}',
     '{"what": "convert to 2 ranks", "origin": "", "files": null, "texts": {}}', " " * (5 << 20)],
    ids=range(10),
)  # fmt: skip
def test_a_damaged_record_is_none(text, run, fp8_folder, tmp_path):
    run("convert", tmp_path / "out")
    (tmp_path / "out" / RECORD).write_text(text)
    before = tree(tmp_path)
    assert read_record(tmp_path / "out") is None
    with pytest.raises(
        FileExistsError,
        match=r"holds another checkpoint \(.dsv3-made \(damaged\), model0-mp2.safetensors, .* and 3 more\)",
    ):
        run("convert", tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no record \(.dsv3-made\)"):
        verify.repair(tmp_path / "out", fp8_folder)
    assert verify.verify(tmp_path / "out", fp8_folder).files == {RECORD: "not of this checkpoint"}
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    ["{}\n", "null\n", "[]\n", "garbage", "garbage\n", '{"plan": 1}\n', '{"what": "x", "plan": 1, "boot": ""}\n',
     '{"what": "x", "plan": "x", "boot": "", "done": []}\n', '{"what": "x", "plan": "x", "boot": "", "fd": 1}\n',
     '{"what": "x", "plan": "x", "boot": "", "files": ["../../x"]}\n', '{"what": "x", "plan": "x", "boot": ""}\nx\n',
     "[" * 100_000 + "\n", '{"what": "x", "plan": "x", "boot": ""}\n' + "9" * 5000 + "\n", "\n\n", " " * (5 << 20)],
    ids=range(15),
)  # fmt: skip
def test_a_damaged_journal_is_said_and_the_way_out(text, run, fp8_folder, tmp_path):
    run("convert", tmp_path / "out")
    (tmp_path / "out" / UNFINISHED).write_text(text)
    before = tree(tmp_path)
    for doing in (lambda: run("convert", tmp_path / "out"), lambda: verify.repair(tmp_path / "out", fp8_folder)):
        with pytest.raises(FileExistsError, match=f"{UNFINISHED}: damaged, .*; move it .* away, then run the same"):
            doing()
    assert tree(tmp_path) == before


def test_the_journal_names_every_file_before_it_is_made(run, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(write, "_prepare", stop)
    with pytest.raises(Stop):
        run("convert", tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").iterdir()] == [UNFINISHED]
    monkeypatch.undo()
    named = json.loads((tmp_path / "out" / UNFINISHED).read_text().splitlines()[0])["files"]
    run("convert", tmp_path / "out")
    assert sorted(named) == sorted(f.name for f in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo", "folder", "socket"])
@pytest.mark.parametrize("name", ["model0-mp2.safetensors.part", "config.json.part", "config.json", "notes.txt"])
def test_what_was_put_into_an_unfinished_folder_is_not_written_through(name, kind, run, tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_name", stop)
    with pytest.raises(KeyboardInterrupt):
        run("convert", tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out" / name).unlink(missing_ok=True)
    put(tmp_path / "out" / name, kind)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=name):
        run("convert", tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("convert", "--hf-ckpt-path {} --save-path {} --n-experts 8 --model-parallel 2"),
        ("convert", "--hf-ckpt-path {} --save-path {} --n-experts 8 --model-parallel 2 --dry-run"),
        ("fp8_cast_bf16", "--input-fp8-hf-path {} --output-bf16-hf-path {}"),
        ("bf16_cast_fp8", "--input-bf16-hf-path {} --output-fp8-hf-path {} --scales-from {}"),
        ("slice", "--hf-ckpt-path {} --save-path {} --layers 0 --experts 0"),
        ("verify", "{} --source {}"),
        ("verify", "{} --manifest {}"),
        ("verify", "{} --write-manifest {}"),
    ],
)
def test_an_empty_path_is_no_path(verb, flags, fp8_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = flags.split()
    places = [i for i, word in enumerate(words) if word == "{}"]
    main = {"convert": convert, "slice": slice, "verify": verify, "fp8_cast_bf16": fp8_cast_bf16}.get(
        verb, bf16_cast_fp8
    ).main
    for place in places:
        argv = [str(fp8_folder) if word == "{}" else word for word in words]
        argv[place] = ""
        with pytest.raises(FileNotFoundError, match="a path is empty"):
            main(argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", [convert, fp8_cast_bf16])
def test_a_dry_run_refuses_the_same_and_leaves_nothing(tool, fp8_folder, tmp_path, capsys, monkeypatch):
    def dry(target: Path) -> None:
        flags = ["--hf-ckpt-path", str(fp8_folder), "--save-path", str(target), "--n-experts=8", "--model-parallel=2"]
        if tool is fp8_cast_bf16:
            flags = ["--input-fp8-hf-path", str(fp8_folder), "--output-bf16-hf-path", str(target)]
        tool.main([*flags, "--dry-run"])

    dry(tmp_path / "x1" / "x2" / "x3")
    assert list(tmp_path.iterdir()) == []
    put(tmp_path / "full" / "README.md", "text")
    put(tmp_path / "journal" / UNFINISHED, "text")
    before = tree(tmp_path)
    for target, message in (
        (tmp_path / "full", "holds README.md"),
        (tmp_path / "journal", "damaged"),
        (tmp_path / "secret", "is not a folder"),
        (fp8_folder, "the output folder is the input folder"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            dry(target)
    monkeypatch.setattr(write, "free_bytes", lambda _: 100)
    with pytest.raises(OSError, match=r"needs [\d.]+ MB, 0\.10 kB are free"):
        dry(tmp_path / "x1")
    assert tree(tmp_path) == before


def test_a_changed_source_of_the_same_size_and_time_is_not_gone_on_with(fp8_folder, tmp_path, monkeypatch):
    source = Path(shutil.copytree(fp8_folder, tmp_path / "in"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_name", stop)
    with pytest.raises(KeyboardInterrupt):
        convert.convert(source, tmp_path / "out", 2)
    monkeypatch.undo()
    file = sorted(source.glob("*.safetensors"))[2]
    times, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="its input changed since, .*; finish that with .*, or remove"):
        convert.convert(source, tmp_path / "out", 2)
    assert tree(tmp_path) == before


def test_names_that_stay_inside():
    assert all(map(inside, ["a", "sub/a", "./a", ".hidden", "a..b"]))
    assert not any(map(inside, ["", ".", "..", "../a", "a/../../b", "/a", "a\0", "//a", None, 1, [], "a/.."]))


def test_the_record_does_not_disturb_a_reader(run, tmp_path, fp8_folder):
    run("convert", tmp_path / "out")
    assert read.converted_for(tmp_path / "out") == {2}
    run("fp8_cast_bf16", tmp_path / "cast")
    assert len(read.open_folder(tmp_path / "cast")) > 0
