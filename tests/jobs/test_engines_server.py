"""The life of an engine's server: real processes, with a small HTTP server in the engine's place."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from jobs import linux

from dsv3.engines.command import Command, Flag
from dsv3.engines.process import Process
from dsv3.engines.server import check_port, start
from dsv3.lab.jobs import free_port

pytestmark = linux

ENGINE = """
import argparse, http.server, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--unhealthy", action="store_true")
parser.add_argument("--ignore-term", action="store_true")
parser.add_argument("--family", action="store_true")
parser.add_argument("--say", default="")
parser.add_argument("--exit", type=int)
parser.add_argument("--kill", type=int)
args = parser.parse_args()
print("engine begins in", os.getcwd(), "with", os.environ.get("SETTING"), os.environ.get("KEY"), flush=True)
for name in os.listdir():
    if name.endswith(".yml"):
        print(name, "says", open(name).read(), flush=True)
print(args.say, file=sys.stderr, flush=True)
sleep = "import time; print('child', flush=True); time.sleep(1000)"
if args.family:  # a child, a deaf one, and one that left: its parent is gone, its session is its own
    subprocess.Popen([sys.executable, "-c", sleep])
    subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + sleep])
    away = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    subprocess.run([sys.executable, "-c", away])
if args.ignore_term:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if args.kill:
    os.kill(os.getpid(), args.kill)
if args.exit is not None:
    sys.exit(args.exit)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if args.unhealthy else 200)
        self.end_headers()

print("engine listens", flush=True)
http.server.HTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
"""


class Bench:
    """A folder, a port, a command whose processes are found again by a mark in their environment."""

    def __init__(self, folder: Path):
        self.folder, self.port, self.mark = folder / "logs", free_port(), str(uuid.uuid4())
        self.script = folder / "engine.py"
        self.script.write_text(ENGINE)

    def command(self, *args: str, **more: object) -> Command:
        flags = (Flag(("--port", str(self.port)), "", ""), Flag(args, "", ""))
        env = {"MARK": self.mark} | more.pop("env", {})
        return Command(checked="test 1", program=(sys.executable, str(self.script)), flags=flags, env=env, **more)

    def start(self, *args: str, seconds: float = 60, **more: object):
        return start(self.command(*args, **more), port=self.port, folder=self.folder, seconds=seconds)

    def log(self) -> str:
        file = self.folder / f"server-{self.port}.log"
        return file.read_text() if file.is_file() else ""

    def alive(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark in (process / "environ").read_text(errors="replace"):
                    found.append(int(process.name))
            except OSError:  # gone, or not ours
                continue
        return found

    def until(self, true) -> None:
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, (self.alive(), self.log())
            time.sleep(0.05)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    for pid in bench.alive():
        os.kill(pid, signal.SIGKILL)


def test_a_healthy_server(bench, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    more = {"env": {"SETTING": "7"}, "key": ("KEY", "OUR_KEY"), "files": {"config.yml": "tp: 2\n"}}
    with bench.start(**more) as server:
        assert server.url == f"http://127.0.0.1:{bench.port}/v1"
        assert urllib.request.build_opener(urllib.request.ProxyHandler({})).open(server.url).status == 200
        assert server.log == bench.folder / f"server-{bench.port}.log"
        assert f"engine begins in {bench.folder} with 7 secret" in bench.log()
        assert "config.yml says tp: 2" in bench.log()
        assert "engine listens" in bench.log()
        assert server.seconds > 0
        assert "runs" in repr(server)
        assert len(bench.alive()) == 2  # the guard and the engine
    assert bench.alive() == []
    assert "has ended" in repr(server)
    server.stop()
    first = bench.log()
    with bench.start() as again:  # the port is free again, the log is another file
        assert again.log == bench.folder / f"server-{bench.port}-2.log"
        assert again.log.read_text().count("engine begins") == 1
    assert bench.log() == first


def test_no_file_that_is_there_is_written_over(bench):
    bench.folder.mkdir()
    kept = bench.folder / "kept"
    kept.write_text("mine")
    for name in (f"server-{bench.port}.log", f"server-{bench.port}-2.log", "link.yml"):
        (bench.folder / name).symlink_to(kept if name != f"server-{bench.port}-2.log" else "nowhere")
    (bench.folder / "same.yml").write_text("tp: 2\n")
    with bench.start(files={"same.yml": "tp: 2\n"}) as server:
        assert server.log.name == f"server-{bench.port}-3.log"
    (bench.folder / "folder.yml").mkdir()
    (bench.folder / "other.yml").write_text("tp: 3\n")
    for name in ("link.yml", "folder.yml", "other.yml"):
        with pytest.raises(FileExistsError, match=f"{name}: is there and is not dsv3's"):
            bench.start(files={name: "tp: 2\n"})
    assert kept.read_text() == "mine"
    assert (bench.folder / "other.yml").read_text() == "tp: 3\n"
    assert not (bench.folder / "nowhere").exists()


def test_the_whole_family_ends(bench):
    with bench.start("--family"):
        bench.until(lambda: bench.log().count("child") == 3)
        assert len(bench.alive()) == 5
    assert bench.alive() == []


@pytest.mark.parametrize("code", [0, 3])
def test_an_engine_that_dies_leaves_no_children(bench, code, capsys):
    with pytest.raises(ChildProcessError, match=f"ended with exit code {code}; log: {bench.folder}"):
        bench.start("--family", "--say", "last words", "--exit", str(code))
    assert bench.alive() == []
    assert "last words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB.", "out of GPU memory: The weights"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12080).", "driver too old"),
        ("AssertionError: fp8e4nv data type is not supported on CUDA arch < 89", "dsv3 fp8_cast_bf16"),
    ],
)
def test_a_known_cause_is_named(bench, words, cause, capsys):
    with pytest.raises(ChildProcessError) as raised:
        bench.start(
            "--say", f"INFO loading\n{words}\nEngine core initialization failed. See root cause above.", "--exit", "1"
        )
    assert cause in str(raised.value)
    assert str(bench.folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert words in capsys.readouterr().err


def test_an_engine_that_is_killed(bench):
    with pytest.raises(ChildProcessError, match="ended by SIGKILL .*memory"):
        bench.start("--kill", str(int(signal.SIGKILL)))


def test_an_engine_that_never_is_healthy_is_stopped(bench, capsys):
    with pytest.raises(TimeoutError, match="not healthy after 2 s"):
        bench.start("--unhealthy", "--family", seconds=2)
    assert bench.alive() == []
    assert "engine" in capsys.readouterr().err


def test_one_that_is_deaf_to_signals_is_killed(bench):
    command = bench.command("--ignore-term", "--family")
    process = Process(command.argv, bench.folder, "log", command.environment(os.environ), grace=0.3)
    bench.until(lambda: "listens" in (bench.folder / "log").read_text())
    process.stop()
    assert bench.alive() == []
    assert process.poll() == 128 + signal.SIGKILL


def test_an_error_in_the_body_stops_the_server(bench):
    with pytest.raises(ZeroDivisionError), bench.start("--family"):
        raise ZeroDivisionError
    assert bench.alive() == []


def test_a_server_that_ends_by_itself(bench):
    with bench.start() as server:
        (engine,) = [pid for pid in bench.alive() if pid != server.process._guard.pid]
        os.kill(engine, signal.SIGTERM)
        with pytest.raises(ChildProcessError, match="ended by SIGTERM"):
            server.wait()


def test_one_that_answers_nobody_is_not_waited_for(bench):
    with start(bench.command("--unhealthy"), port=bench.port, folder=bench.folder, health=None) as server:
        bench.until(lambda: "listens" in bench.log())
        with pytest.raises(TimeoutError):
            server.process.wait(0.01)
    assert bench.alive() == []


# ---- the end of the process that started it

OWNER = """
import sys, threading, time
from pathlib import Path
sys.path[:0] = {paths!r}
from test_engines_server import Bench
bench = Bench(Path({folder!r}))
bench.port, bench.mark = {port}, {mark!r}
def work():
    with bench.start(*{args!r}):
        print("ready", flush=True)
        time.sleep(1000)
{run}
"""


def owner(bench: Bench, *args: str, run: str = "work()") -> subprocess.Popen:
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    code = OWNER.format(
        paths=paths, folder=str(bench.folder.parent), port=bench.port, mark=bench.mark, args=args, run=run
    )
    run = [sys.executable, "-c", code]
    return subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_all_of_it_ends_with_its_owner(bench, how):
    process = owner(bench, "--family")
    assert process.stdout.readline() == "ready\n"
    bench.until(lambda: bench.log().count("child") == 3)
    os.killpg(process.pid, how)
    process.communicate(timeout=60)
    assert process.returncode == -how
    bench.until(lambda: not bench.alive())


def test_ctrl_c_while_it_starts(bench):
    process = owner(bench, "--unhealthy", "--family")
    bench.until(lambda: bench.log().count("child") == 3 and "listens" in bench.log())
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert out == ""
    assert bench.alive() == []


def test_a_thread_that_ends_does_not_end_the_server(bench):
    run = "thread = threading.Thread(target=lambda: print(bench.start(), flush=True)); thread.start(); thread.join()\n"
    process = owner(bench, run=run + "time.sleep(1.5); print(len(bench.alive()), flush=True); time.sleep(1000)")
    assert "runs" in process.stdout.readline()
    assert process.stdout.readline() == "2\n"
    process.kill()
    process.communicate(timeout=60)
    bench.until(lambda: not bench.alive())


def test_an_engine_does_not_outlive_its_guard(bench):
    with bench.start() as server:
        os.kill(server.process._guard.pid, signal.SIGKILL)
        bench.until(lambda: not bench.alive())


# ---- what is refused


def test_a_port_in_use(bench):
    with socket.create_server(("127.0.0.1", bench.port)):
        with pytest.raises(OSError, match=f"port {bench.port} is in use"):
            bench.start()
        with pytest.raises(OSError, match="in use"):
            check_port(bench.port, "0.0.0.0")
    assert bench.log() == ""
    check_port(bench.port)
    with pytest.raises(OSError, match="cannot listen on 192.0.2.77"):
        check_port(bench.port, "192.0.2.77")


def test_no_such_program(bench):
    for program in ("no-such-engine", str(bench.folder / "bin" / "python")):
        command = Command(checked="test 1", program=(program,))
        with pytest.raises(FileNotFoundError, match=f"{program}: no such program.*--python"):
            start(command, port=bench.port, folder=bench.folder)


def test_a_relative_program_starts_from_here(bench, monkeypatch):
    monkeypatch.chdir(bench.script.parent)
    (bench.script.parent / "python").symlink_to(sys.executable)
    command = Command(checked="test 1", program=("./python", "-c", "print('hello')"))
    process = Process(command.argv, bench.folder, "log", os.environ)
    assert process.wait() == 0
    assert process.log.read_text() == "hello\n"
