"""Downloads from a hub on 127.0.0.1 that misbehaves, through the two hubs' own clients."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import dsv3, fails

from dsv3 import download as tool
from dsv3.checkpoint import ours, read
from dsv3.download import download, extra_bytes, show_room
from dsv3.hubs.clients import HUBS, HubFile, hub_file, one_line
from dsv3.hubs.folder import STAGING, check_names
from dsv3.hubs.transfer import Patience
from dsv3.lab.hub import FakeHub, sha256
from dsv3.paths import TINY_R1

FIRST = "model-00001-of-000005.safetensors"
LAST = "model-00005-of-000005.safetensors"
SOON = Patience(tries=2, wait=0.05, longest=0.1)
QUICK = {  # the clients' own waits between tries
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2",
    "MODELSCOPE_API_MAX_RETRIES": "1",
}


@pytest.fixture(params=HUBS)
def name(request) -> str:
    return request.param


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serves tiny-r1 as ``owner/model``; after the test nothing may lie outside the target."""
    home = tmp_path / "home"
    home.mkdir()
    fake = FakeHub.of_folder(TINY_R1)
    for key, value in QUICK.items():
        monkeypatch.setenv(key, value)
    with fake.serving():
        for key, value in (("HOME", str(home)), ("MODELSCOPE_ENDPOINT", fake.url), ("HF_ENDPOINT", fake.url)):
            monkeypatch.setenv(key, value)
        for key in ("HF_HUB_OFFLINE", "HF_HOME", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(key, raising=False)
            monkeypatch.delenv(key.upper(), raising=False)
        yield fake
    assert list(home.iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} <= {"home", "target"}


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "target"


def whole(target: Path, hub: FakeHub) -> bool:
    """Exactly the hub's files, byte for byte, and our record."""
    there = {str(f.relative_to(target)): f.read_bytes() for f in target.rglob("*") if not f.is_dir()}
    there.pop(ours.RECORD, None)
    return there == hub.files


def test_a_good_hub(hub, name, target, capsys):
    download("owner/model", target, name, patience=SOON)
    assert whole(target, hub)
    assert "11 files, 12.90 MB, all as the hub lists them (11 fetched)" in capsys.readouterr().err
    before = len(hub.log)
    download("owner/model", target, name, patience=SOON)
    assert len(hub.log) == before, "what is there and right is not fetched again"


SHARDS = [f"model-0000{i}-of-000005.safetensors" for i in range(1, 6)]


PASSING, LYING = ["cut", "429", "503", "drip", "redirect"], ["short", "flip", "long", "html", "pointer"]


@pytest.mark.parametrize("faults", [PASSING, LYING], ids=["passing", "lying"])
def test_faults(hub, name, target, faults):
    """One on each shard, and one on a small file that is not in LFS."""
    hub.faults = {shard: [fault] for shard, fault in zip(SHARDS, faults, strict=True)} | {"config.json": [faults[1]]}
    download("owner/model", target, name, patience=Patience(tries=8, wait=0.05, longest=0.1))
    assert whole(target, hub)
    assert not any(hub.faults.values()), "each was met"


@pytest.mark.parametrize(("name", "fault"), [("modelscope", "html"), ("huggingface", "flip")])
def test_content_that_stays_wrong_is_not_kept(hub, name, target, fault, monkeypatch):
    monkeypatch.setattr(tool, "ROUNDS", 1)  # the clients have tries of their own
    hub.faults = {FIRST: [fault] * 99}
    with pytest.raises((ValueError, OSError), match=FIRST):
        download("owner/model", target, name, patience=SOON)
    assert not (target / FIRST).exists()
    kept = [folder / LAST for folder in (target, target / STAGING) if (folder / LAST).exists()]
    assert [f.read_bytes() for f in kept] == [hub.files[LAST]], "the others are there"
    with pytest.raises(ValueError, match="unfinished"):
        read.open_folder(target)
    with pytest.raises(FileExistsError, match=r"unfinished work of another run \(download of owner/model\)"):
        download("owner/other", target, name, patience=SOON)
    hub.faults = {}
    hub.log.clear()
    download("owner/model", target, name, patience=SOON)
    assert whole(target, hub)
    assert {n for n, _ in hub.log} == {FIRST}, "only what is missing"


def test_a_broken_connection_is_continued_where_it_broke(hub, target):
    hub.files["large.bin"] = bytes(6_000_000)
    hub.faults = {"large.bin": ["cut", "cut"]}
    download("owner/model", target, patience=SOON)
    first, second, third = hub.ranges("large.bin")
    assert first is None
    assert (
        0 < int(second.removeprefix("bytes=").removesuffix("-")) < int(third.removeprefix("bytes=").removesuffix("-"))
    )


def test_verify_only(hub, name, target):
    download("owner/model", target, name, patience=SOON)
    hub.log.clear()
    data = bytearray(hub.files[FIRST])
    data[-1] ^= 255
    (target / FIRST).write_bytes(data)
    (target / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (target / "config.json").unlink()
    download("owner/model", target, name, verify_only=True, patience=SOON)
    assert whole(target, hub)
    assert {n for n, _ in hub.log} == {FIRST, "tokenizer.json", "config.json"}
    with pytest.raises(FileNotFoundError, match="leave out --verify-only"):
        download("owner/model", target.with_name("none"), name, verify_only=True)


def test_a_name_that_leaves_the_folder(hub, name, target):
    hub.files["../evil.json"] = b"{}"
    with pytest.raises(ValueError, match=r"leads out of the folder: '\.\./evil\.json'; nothing was fetched"):
        download("owner/model", target, name, patience=SOON)
    assert not target.exists()
    assert hub.log == []


@pytest.mark.parametrize("bad", ["/etc/evil", "a/../../b", "a\\..\\b", "c:evil", "a//b", "", "a/.", "a\nb", "x" * 300])
def test_more_names_that_leave_the_folder(target, bad):
    fine = [HubFile(name, 1, None) for name in ("config.json", ".gitattributes", "a/b.c")]
    check_names(fine, target)
    with pytest.raises(ValueError, match="leads out"):
        check_names([*fine, HubFile(bad, 1, None)], target)


def test_a_link_in_the_folder_leads_nowhere(tmp_path, target):
    target.mkdir()
    (tmp_path / "blocked").mkdir()
    (target / "sub").symlink_to(tmp_path / "blocked")
    with pytest.raises(ValueError, match="leads out"):
        check_names([HubFile("sub/x.json", 1, None)], target)


def test_files_in_folders_of_the_repository(hub, name, target):
    hub.files["figures/one.txt"] = b"one"
    download("owner/model", target, name, patience=SOON)
    assert whole(target, hub)


def test_no_room(hub, name, target, monkeypatch):
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 10_000_000)
    figures = r"needs 12\.90 MB \(12\.90 MB to fetch\), 10\.00 MB are free"
    with pytest.raises(OSError, match=f"{figures}; nothing was fetched"):
        download("owner/model", target, name, patience=SOON)
    assert not target.exists()
    assert hub.log == []


def test_no_room_for_what_follows(target, monkeypatch):
    assert extra_bytes("V2-Lite", ["convert"]) == {"convert": 31_412_968_448}
    assert extra_bytes("DeepSeek-R1", ["convert", "cast"]) == {"cast": 1_368_979_721_216, "convert": 1_368_979_721_216}
    assert extra_bytes("DeepSeek-R1", ["convert"]) == {"convert": 688_574_839_360}
    assert extra_bytes("owner/model", []) == {}
    for model, step, says in (("V2-Lite", "cast", "BF16 already"), ("owner/model", "cast", "--then knows")):
        with pytest.raises(ValueError, match=says):
            extra_bytes(model, [step])
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 800 * 10**9)
    files = tool.Listing("r", (HubFile("model.safetensors", 688_586_727_753, None),))
    tool.check_room(files, target, {})
    with pytest.raises(OSError, match=r"needs 2057\.57 GB \(688\.59 GB to fetch \+ 1368\.98 GB to cast\), 800\.00 GB"):
        tool.check_room(files, target, extra_bytes("R1", ["cast"]))


def test_the_data_disk_is_named_when_it_has_room(target, tmp_path, monkeypatch):
    monkeypatch.setattr(tool.paths, "AUTODL_DATA", tmp_path)
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 10**12 if folder == tmp_path else 10**9)
    files = tool.Listing("r", (HubFile("model.safetensors", 31 * 10**9, None),))
    with pytest.raises(OSError, match=rf"; {tmp_path} has 1000\.00 GB free"):
        tool.check_room(files, target, {})


def test_what_a_stopped_client_left_makes_room(target, monkeypatch):
    stale = target / STAGING / ".cache" / "huggingface" / "download" / "abc.0123.incomplete"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(bytes(5_000_000))
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 9_000_000)
    tool.check_room(tool.Listing("r", (HubFile("model.safetensors", 14_000_000, None),)), target, {})
    with pytest.raises(OSError, match="to fetch"):
        tool.check_room(tool.Listing("r", (HubFile("model.safetensors", 14_000_001, None),)), target, {})


def test_files_of_another_model_are_not_replaced(hub, name, target):
    """The shards of all DeepSeek-V3 models have the same names."""
    download("owner/model", target, name, patience=SOON)
    before = {f.name: f.read_bytes() for f in target.iterdir()}
    hub.files[FIRST] = hub.files[FIRST][:-1] + b"x"
    hub.files["config.json"] += b" "
    with pytest.raises(FileExistsError, match=f"config.json, {FIRST} not as the hub lists it; .* --verify-only"):
        download("owner/other", target, name, patience=SOON)
    assert {f.name: f.read_bytes() for f in target.iterdir()} == before
    download("owner/other", target, name, verify_only=True, patience=SOON)
    assert whole(target, hub)


def test_another_checkpoint_there(hub, name, target):
    target.mkdir()
    (target / "other.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="holds another checkpoint"):
        download("owner/model", target, name, patience=SOON)
    assert [f.name for f in target.iterdir()] == ["other.safetensors"]


def test_a_hub_that_is_not_one(hub, name, target):
    hub.listing_faults = ["html"] * 99
    with pytest.raises(OSError, match="owner/model: "):
        download("owner/model", target, name, patience=SOON)
    hub.listing_faults = ["404"]
    began = time.monotonic()
    with pytest.raises(OSError, match="owner/model: "):
        download("owner/model", target, name, patience=Patience(tries=99, wait=60))
    assert time.monotonic() - began < 30, "a model that is not there is not asked for again"
    assert not target.exists()


def test_a_hub_that_is_not_there(target, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(OSError, match="gave up after 1 tries without a new byte; the same command goes on"):
        download("owner/model", target, "huggingface", patience=Patience(tries=1))


def test_a_silent_connection_is_given_up_and_taken_up_again(hub, target, capsys):
    hub.files["large.bin"] = bytes(4_000_000)
    hub.faults = {"large.bin": ["hang"]}
    download("owner/model", target, patience=Patience(tries=2, wait=0.05, stall=1.5))
    assert "owner/model: no new byte in 2 s; trying again" in capsys.readouterr().err
    assert whole(target, hub)
    assert len(hub.ranges("large.bin")) == 2


def test_a_listing_without_a_whole_checkpoint(hub, name, target):
    """Everything as the hub lists it, and yet no checkpoint: the hub itself lacks a file."""
    del hub.files[LAST]
    with pytest.raises(FileNotFoundError, match=f"{LAST} of 5 files named in"):
        download("owner/model", target, name, patience=SOON)


def test_a_hub_that_serves_pointers(hub, target):
    hub.files[FIRST] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    with pytest.raises(ValueError, match="git-LFS pointer"):
        download("owner/model", target, patience=SOON)


def tree(folder: Path) -> dict[str, object]:
    """Everything in ``folder``, links and special files as what they are."""

    def what(path: Path) -> object:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else stat.S_IFMT(path.lstat().st_mode)

    return {str(p.relative_to(folder)): what(p) for p in sorted(folder.rglob("*"))}


def plant(target: Path, name: str, kind: str) -> None:
    """Something of a person's in ``target``."""
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        outside = target.with_name("home") / "outside"
        path.symlink_to(outside)
    else:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(os.path.relpath(path))


MINE = [
    "notes.txt",
    ".bashrc",
    ".cache/dsv3/R1/model.safetensors",
    "photos/one.jpg",
    "other.safetensors",
    "config.json~",
]
MINE += [".cache/torch/x", "figures/mine.txt", "model-00001-of-000005.safetensors.part", ".dsv3-fetch/x", ".dsv3-made"]
IN_THE_WAY = [(name, "file") for name in MINE] + [(".dsv3-unfinished", "link"), (".dsv3-unfinished", "pipe")]
IN_THE_WAY += [(name, kind) for name in (FIRST, "config.json", "figures", ".dsv3-fetch") for kind in ("link", "pipe")]
IN_THE_WAY += [("config.json", "socket"), ("config.json", "folder"), ("figures", "file"), ("figures/one.txt", "link")]


@pytest.mark.parametrize("verify_only", [False, True], ids=["", "verify"])
@pytest.mark.parametrize(("planted", "kind"), IN_THE_WAY)
def test_what_is_in_the_way_is_named_and_stays(hub, target, planted, kind, verify_only):
    """Whatever a person has there; the rest of the checkpoint is there and right, but for one file."""
    hub.files["figures/one.txt"] = b"one"
    target.mkdir()
    for name in (LAST, "tokenizer.json"):
        (target / name).write_bytes(hub.files[name])
    plant(target, planted, kind)
    before = tree(target)
    with pytest.raises((FileExistsError, ValueError), match=re.escape(planted.split("/")[0])):
        download("owner/model", target, verify_only=verify_only, patience=SOON)
    assert tree(target) == before
    assert hub.log == []


def test_what_clients_leave_is_not_in_the_way(hub, name, target):
    """A folder that a person filled with a hub's client, partly: what is right is taken, and nothing removed."""
    leave = [
        ".cache/huggingface/download/config.json.metadata",
        ".cache/huggingface/.gitignore",
        "._____temp/x",
        ".msc",
    ]
    leave += [".mv", ".gitignore", ".git/HEAD", "lost+found/x"]
    for path in leave:
        plant(target, path, "file")
    for path in (FIRST, LAST):
        (target / path).write_bytes(hub.files[path])
    before = tree(target)
    download("owner/model", target, name, patience=SOON)
    assert before.items() <= tree(target).items()
    assert {n for n, _ in hub.log} == hub.files.keys() - {FIRST, LAST}
    assert {p.name for p in target.iterdir() if not p.name.startswith(".") and p.is_file()} == hub.files.keys()


def test_files_that_a_person_adds_stay(hub, target):
    """Into a finished folder, and into one whose download broke off."""
    hub.faults = {FIRST: ["404"] * 99}
    with pytest.raises(OSError, match=FIRST):
        download("owner/model", target, patience=SOON)
    for path in ("notes.txt", "runs/one/log", ".cache/mine"):
        plant(target, path, "file")
    hub.faults = {}
    for verify_only in (False, False, True):
        download("owner/model", target, verify_only=verify_only, patience=SOON)
        assert {"notes.txt", "runs/one/log", ".cache/mine"} <= tree(target).keys()
        assert not (target / STAGING).exists()


def test_a_fetch_that_fails_costs_nothing(hub, name, target, monkeypatch):
    """``--verify-only``, and the hub has no better file: what was there is there."""
    monkeypatch.setattr(tool, "ROUNDS", 1)
    target.mkdir()
    for path, data in hub.files.items():
        (target / path).write_bytes(b"mine" if path in (FIRST, "config.json") else data)
    before = tree(target)
    hub.faults = {FIRST: ["flip"] * 99, "config.json": ["404"] * 99}
    for _ in range(2):
        with pytest.raises((ValueError, OSError), match="owner/model|not as the hub lists it"):
            download("owner/model", target, name, verify_only=True, patience=SOON)
        assert before.items() <= tree(target).items()
    hub.faults = {}
    download("owner/model", target, name, patience=SOON)  # goes on with what was said before
    assert whole(target, hub)


HASH = "ab" * 32


@pytest.mark.parametrize(
    "size", [-1, "-1", "x", "", "1.5", 1.5, [], {}, "9" * 30, 1 << 80, float("nan"), True, "\u0663"]
)
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="'x.json': not a size") as raised:
        hub_file("x.json", size, HASH)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "value", ["x", HASH[:-1], HASH + "a", "g" * 64, " " + HASH[1:], 5, [HASH], "a" * 10**6, "\uff11" * 64]
)
def test_hashes_that_are_none(value):
    for hashes in ((value, None), (None, value)):
        with pytest.raises(ValueError, match="'x.json': not a hash") as raised:
            hub_file("x.json", 1, *hashes)
        assert len(str(raised.value)) < 300


def test_sizes_and_hashes_as_hubs_write_them():
    assert hub_file("x", "17", HASH.upper()) == hub_file("x", 17, HASH.title()) == HubFile("x", 17, HASH)
    assert hub_file("x", 0, "", "AB" * 20) == HubFile("x", 0, None, "ab" * 20)
    assert hub_file("x", None, None) == HubFile("x", None, None)


def test_a_list_in_capitals_with_sizes_as_strings(hub, name, target):
    """The same files: nothing is fetched that is there, and what is fetched is right."""
    lies = {n: {"sha256": sha256(d).upper(), "size": str(len(d))} for n, d in hub.files.items() if n in SHARDS}
    hub.lies = lies
    target.mkdir()
    (target / FIRST).write_bytes(hub.files[FIRST])
    download("owner/model", target, name, patience=SOON)
    assert whole(target, hub)
    assert FIRST not in {n for n, _ in hub.log}


LIES = [{"size": -1}, {"size": "x"}, {"size": []}, {"sha256": HASH[:-1]}, {"sha256": "g" * 64}, {"sha256": 5}]
LIES += [{"name": LAST}, {"name": FIRST.upper()}, {"name": "config.json/x"}, {"name": "x" * 10_000_000}, {"name": 5}]
LIES += [
    {"name": name} for name in (".dsv3-unfinished", ".dsv3-made/x", ".git/hooks/x", ".CACHE/x", "a\u202eb", "a\x9bb")
]
LIES += [{"name": ["x"]}, {"size": 1e300}]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: f"{lie!r:.40}")
def test_a_list_that_makes_no_sense(hub, name, target, lie):
    """One line, at once, and what is there stays."""
    target.mkdir()
    for path in (FIRST, LAST):
        (target / path).write_bytes(b"mine")
    before = tree(target)
    hub.lies = {SHARDS[1]: lie}
    with pytest.raises((ValueError, OSError), match="the hub") as raised:
        download("owner/model", target, name, verify_only=True, patience=SOON)
    assert len(str(raised.value)) < 600
    assert tree(target) == before
    assert hub.log == []


NONSENSE = [
    b"null",
    b"[]",
    b"{}",
    b"5",
    b'"x"',
    b'{"Data": null}',
    b'{"Data": {"Files": 5}}',
    b'{"Data": {"Files": ["x"]}}',
]
NONSENSE += [
    b'{"siblings": 5, "id": "x"}',
    b'{"siblings": ["x"], "id": "x"}',
    b'{"siblings": [], "id": "x"}',
    b"[" * 10**6,
]
NONSENSE += [
    b'{"id": "x", "sha": null, "siblings": [{"rfilename": "x"}]}',
    b'{"Code": 200, "Data": [[]]}',
    b'{"Data": []}',
]


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: f"{answer!r:.40}")
def test_an_answer_that_is_no_list(hub, name, target, answer):
    hub.answer = answer
    with pytest.raises(OSError, match="owner/model: ") as raised:
        download("owner/model", target, name, patience=SOON)
    assert len(str(raised.value)) < 600
    assert not target.exists()


def test_a_list_without_end(hub, name, target):
    """More files than any checkpoint has."""
    hub.files = {f"{i:07}": b"" for i in range(100_001)}
    with pytest.raises(OSError, match="100001 files, should be 1 to 100000"):
        download("owner/model", target, name, patience=SOON)


def test_a_record_on_the_hub_is_not_taken(hub, target):
    """Somebody uploaded a folder that dsv3 had made."""
    hub.files[ours.RECORD] = b"theirs"
    download("owner/model", target, patience=SOON)
    assert ours.read_record(target).files.keys() == hub.files.keys() - {ours.RECORD}


def test_a_journal_that_was_never_begun(hub, target):
    """Killed between two system calls: an empty one."""
    target.mkdir()
    (target / read.UNFINISHED).touch()
    for _ in range(2):
        download("owner/model", target, patience=SOON)
        assert whole(target, hub)
        (target / read.UNFINISHED).touch()


def test_content_that_looks_like_a_page(hub, name, target):
    """A hash decides; a header of 60 bytes begins with the same byte as a page does."""
    hub.files |= {"card.json": b"<!doctype html>", "card.html": b"<html>", "x.txt": b"version https://git-lfs"}
    download("owner/model", target, name, patience=SOON)
    assert whole(target, hub)


def test_a_page_in_place_of_a_file_without_a_hash(tmp_path):
    for name, data, good in (
        ("a.json", b" <!DOCTYPE html><html>", False),
        ("a.safetensors", b"<HTML lang=en>", False),
        ("a.html", b"<html>", True),
        ("a.json", b"[1]", True),
        ("a.safetensors", b"<\x00\x00\x00\x00\x00\x00\x00{}", True),
    ):
        (tmp_path / name).write_bytes(data)
        assert (not tool.wrong([HubFile(name, len(data), None)], tmp_path)) == good, data


SECRETS = ["http://ann:geheim123@hub/x", "https://geheim123@hub", "/api?token=geheim123&x=1", "Bearer geheim123456"]
SECRETS += [
    "token hf_geheim12345678901234567890",
    "ms-geheim1-4567-8901-2345-6789",
    "m_session_id=geheim123",
    "http://a:p/geheim123@hub/",
]


@pytest.mark.parametrize("text", SECRETS)
def test_no_secret_in_a_message(text, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "geheim123")
    line = one_line(OSError(f"\x1b[31mno answer from {text}:\n404"))
    assert "geheim" not in line
    assert line.isprintable()


def test_no_login_in_the_line_of_a_hub_that_is_not_there(name, target, monkeypatch):
    for key in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(key, "http://ann:geheim123@127.0.0.1:1")
    with pytest.raises(OSError, match="owner/model: ") as raised:
        download("owner/model", target, name, patience=Patience(tries=1))
    assert "geheim" not in str(raised.value)


def test_interrupted_and_continued(hub, name, target):
    """Ctrl-C: one line, 130, no client left behind; then the same command ends it, from what was there."""
    hub.files["large.bin"] = bytes(4_000_000)
    hub.faults = {"large.bin": ["cut"] * 99}
    run = [
        sys.executable,
        "-m",
        "dsv3",
        "download",
        "--model",
        "owner/model",
        "--local-dir",
        str(target),
        "--hub",
        name,
    ]
    first = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (target / STAGING / FIRST).exists() and time.monotonic() < until:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=30)
    assert first.returncode == 130, errors
    assert f"{target}: stopped; the same command goes on from here" in errors
    assert "Traceback" not in errors
    asked = len(hub.log)
    time.sleep(0.5)
    assert len(hub.log) == asked, "the client has ended"
    hub.faults, hub.log[:] = {}, []
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert whole(target, hub)
    assert FIRST not in {n for n, _ in hub.log}, "what had come was kept"


def test_killed_and_continued(hub, target):
    """The client does not outlive the one that started it, and the next run goes on."""
    hub.files["large.bin"] = bytes(4_000_000)
    hub.faults = {"large.bin": ["cut"] * 99}
    run = [sys.executable, "-m", "dsv3", "download", "--model", "owner/model", "--local-dir", str(target)]
    first = subprocess.Popen(run, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (target / STAGING / FIRST).exists() and time.monotonic() < until:
        time.sleep(0.05)
    first.kill()
    first.wait()
    time.sleep(0.5)
    asked = len(hub.log)
    time.sleep(1.5)
    assert len(hub.log) == asked
    hub.faults = {}
    download("owner/model", target, patience=SOON)
    assert whole(target, hub)


def test_two_at_once(hub, target):
    hub.faults = {FIRST: ["drip"] * 3}
    run = [sys.executable, "-m", "dsv3", "download", "--model", "owner/model", "--local-dir", str(target)]
    first = subprocess.Popen(run, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (target / read.UNFINISHED).exists() and time.monotonic() < until:
        time.sleep(0.02)
    with pytest.raises(FileExistsError, match="another run is writing into it"):
        download("owner/model", target, patience=SOON)
    assert first.wait(60) == 0
    assert whole(target, hub)


def test_dry_run(hub, name, target, capsys):
    show_room("owner/model", target, name, [])
    out = capsys.readouterr().out
    assert f"owner/model ({'ModelScope' if name == 'modelscope' else 'Hugging Face'}): 11 files -> {target}" in out
    assert FIRST in out
    assert "12.90 MB to fetch" in out
    assert not target.exists()
    assert hub.log == []


@pytest.mark.parametrize(("name", "module"), [("modelscope", "modelscope_hub"), ("huggingface", "huggingface_hub")])
def test_a_missing_client(name, module, target, tmp_path, monkeypatch):
    (tmp_path / f"{module}.py").write_text("raise ModuleNotFoundError('no such module')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    package = {"modelscope": "modelscope", "huggingface": "huggingface_hub"}[name]
    with pytest.raises(ImportError, match=f"^{package} is not installed: pip install {package}$"):
        download("owner/model", target, name, patience=Patience(tries=99))


def test_the_command_line(hub, target):
    done = dsv3("download", "--list")
    assert done.returncode == 0
    for words in ("DeepSeek-V3.1", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "688.57", "dsv3 generate"):
        assert words in done.stdout
    assert dsv3("download").returncode == 2
    assert "a path is empty" in dsv3("download", "--model", "x", "--local-dir", "").stderr
    assert dsv3("download", "--model", "x", "--list", "--dry-run").returncode == 2
    fails(
        dsv3("download", "--model", "R9", "--local-dir", target),
        "download",
        "no model 'R9'",
        "did you mean DeepSeek-R1",
    )
    done = dsv3("download", "--model", "tiny-r1", DSV3_HOME=str(target))
    assert done.returncode == 0, done.stderr
    assert (target / "tiny-r1" / "config.json").is_file()


@pytest.mark.parametrize("damage", ["content", "size", "missing", "config.json"])
def test_tiny_r1_is_verified_and_mended_as_others_are(damage, target, capsys):
    with pytest.raises(FileNotFoundError, match="no such folder; leave out --verify-only"):
        download("tiny-r1", target, verify_only=True)
    download("tiny-r1", target)
    files = {f.name: f.read_bytes() for f in target.iterdir()}
    file = target / (damage if damage == "config.json" else FIRST)
    times = {f: f.stat().st_mtime_ns for f in target.glob("*.safetensors") if f != file}
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(data[:-1] + (b"" if damage == "size" else b"?"))
        for doing in (lambda: download("tiny-r1", target), lambda: show_room("tiny-r1", target, "modelscope", [])):
            with pytest.raises(FileExistsError, match=f"{file.name}.*, which dsv3 did not make or somebody changed"):
                doing()
    for _ in range(2):
        download("tiny-r1", target, verify_only=True)
        assert {f.name: f.read_bytes() for f in target.iterdir()} == files
        assert {f: f.stat().st_mtime_ns for f in times} == times
    assert capsys.readouterr().err.endswith("target: 5 files, all there already\n")


def test_a_dry_run_of_tiny_r1_and_the_room_of_what_follows(target, monkeypatch, capsys):
    show_room("tiny-r1", target, "modelscope", ["cast", "convert"])
    assert not target.exists()
    said = capsys.readouterr().out
    assert all(words in said for words in (FIRST, "config.json", "room needed 12.90 MB", " to cast\n", " to convert\n"))
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 20 * 10**6)
    for doing in (download, lambda *how, then: show_room(*how, "modelscope", then)):
        with pytest.raises(OSError, match=r"needs .* \(12.90 MB to fetch \+ .* MB to cast\), 20.00 MB are free"):
            doing("tiny-r1", target, then=["cast"])
    assert not target.exists()
    download("tiny-r1", target)
    show_room("tiny-r1", target, "modelscope", [])
    assert capsys.readouterr().out.endswith("target: 5 files, all there already\n")


def test_planning_a_download_imports_no_torch_and_no_client():
    check = "import sys; from dsv3 import download; from dsv3.hubs import clients, transfer; "
    check += "print([m for m in ('torch', 'modelscope', 'huggingface_hub', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_windows_has_no_fcntl(tmp_path):
    check = "import sys; sys.modules['fcntl'] = None; from dsv3 import download, doctor, plan; "
    check += f"download.copy_tiny_r1(download.Path({str(tmp_path / 'tiny')!r}))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_server_tells_the_truth(hub):
    """The fault 'flip' changes a byte and nothing else; otherwise the tests above would prove nothing."""
    import urllib.request

    hub.faults = {FIRST: ["flip"]}
    url = f"{hub.url}/owner/model/resolve/main/{FIRST}"
    flipped, good = (urllib.request.urlopen(url).read() for _ in range(2))
    assert sha256(good) == sha256(hub.files[FIRST]) != sha256(flipped)
    assert len(good) == len(flipped)
    assert os.path.commonprefix([good, flipped]) == good[:-9]
