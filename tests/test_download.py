"""Downloads from a hub on 127.0.0.1 that misbehaves, through the two hubs' own clients."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import dsv3, fails

from dsv3 import download as tool
from dsv3.checkpoint import read
from dsv3.download import check_names, download, extra_bytes, show_room
from dsv3.hubs.clients import HUBS, HubFile
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
    """Exactly the hub's files, byte for byte, and nothing else."""
    there = {str(f.relative_to(target)): f.read_bytes() for f in target.rglob("*") if f.is_file()}
    return there == hub.files


def test_a_good_hub(hub, name, target, capsys):
    download("owner/model", target, name, patience=SOON)
    assert whole(target, hub)
    assert "11 files, 0.01 GB, all as the hub lists them (11 fetched)" in capsys.readouterr().err
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
    assert (target / LAST).read_bytes() == hub.files[LAST], "the others are there"
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
    with pytest.raises(OSError, match=r"needs 0\.01 GB \(0\.01 GB to fetch\), 0\.01 GB are free; nothing was fetched"):
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
    listing = tool.Listing("r", (HubFile("model.safetensors", 688_586_727_753, None),))
    tool.check_room(listing, target, {})
    with pytest.raises(OSError, match=r"needs 2057\.57 GB \(688\.59 GB to fetch \+ 1368\.98 GB to cast\), 800\.00 GB"):
        tool.check_room(listing, target, extra_bytes("R1", ["cast"]))


def test_the_data_disk_is_named_when_it_has_room(target, tmp_path, monkeypatch):
    monkeypatch.setattr(tool.paths, "AUTODL_DATA", tmp_path)
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 10**12 if folder == tmp_path else 10**9)
    listing = tool.Listing("r", (HubFile("model.safetensors", 31 * 10**9, None),))
    with pytest.raises(OSError, match=rf"; {tmp_path} has 1000\.00 GB free"):
        tool.check_room(listing, target, {})


def test_what_a_stopped_client_left_makes_room(hub, target, monkeypatch):
    stale = target / ".cache" / "huggingface" / "download" / "abc.0123.incomplete"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(bytes(5_000_000))
    monkeypatch.setattr(tool, "free_bytes", lambda folder: 9_000_000)
    download("owner/model", target, "huggingface", patience=SOON)
    assert whole(target, hub)


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
    while not (target / FIRST).exists() and time.monotonic() < until:
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
    while not (target / FIRST).exists() and time.monotonic() < until:
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
    assert "GB to fetch" in out
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
    assert dsv3("download", "--model", "x", "--list", "--dry-run").returncode == 2
    fails(dsv3("download", "--model", "R9", "--local-dir", target), "download", "no model 'R9'", "DeepSeek-R1-Zero")
    done = dsv3("download", "--model", "tiny-r1", DSV3_HOME=str(target))
    assert done.returncode == 0, done.stderr
    assert (target / "tiny-r1" / "config.json").is_file()


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
