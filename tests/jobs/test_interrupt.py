"""``kill -9`` at any moment, and the same run again: the bytes of an undisturbed one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsv3.checkpoint import read

KILLS = 30
# A process of its own, which forks: the child dies at its n-th system call that writes, in half of it where it can.
SCRIPT = """
import json, os, random, shutil, signal, sys
from pathlib import Path
import torch
from dsv3 import convert, fp8_cast_bf16, verify
from dsv3.checkpoint import plan, read

plan.STEP = plan.CHUNK = 1 << 15
verb, source, target, kills = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
whole = target.with_name("whole")
make = {"convert": lambda to: convert.convert(source, to, 2), "cast": lambda to: fp8_cast_bf16.cast(source, to)}
tool = {"repair": lambda to: verify.repair(to, source), "again": make["cast"]}.get(verb) or make[verb]
calls = 0
other = shutil.copytree(source, target.with_name("other"))
with sorted(other.glob("*.safetensors"))[0].open("r+b") as f:
    f.seek(-1, 2)
    f.write(b"?")

def prepare(to):
    # Nothing is there; or, for a repair, a damaged folder; or, for a run over a finished one, that of another source.
    shutil.rmtree(to, ignore_errors=True)
    if verb in ("repair", "again"):
        if (pid := os.fork()) == 0:
            convert.convert(source, to, 2) if verb == "repair" else fp8_cast_bf16.cast(other, to)
            os._exit(0)
        os.waitpid(pid, 0)
    if verb == "repair":
        os.truncate(to / "model0-mp2.safetensors", 1000)
        os.unlink(to / "mtp1-mp2.safetensors")
        (to / "config.json").write_text("{}")
        with (to / "model1-mp2.safetensors").open("r+b") as f:
            f.seek(-1, 2)
            f.write(b"?")

def child(to, fatal):
    def dies(name):
        real = getattr(os, name)
        def call(*args):
            global calls
            calls += 1
            if calls == fatal:
                if name == "pwrite":
                    real(args[0], args[1][: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)
        setattr(os, name, call)
    for name in ("pwrite", "copy_file_range", "write", "replace", "unlink"):
        dies(name)
    tool(to)
    return calls

def fork(to, fatal):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        write = os.write  # the real one
        try:
            n = child(to, fatal)
            write(writer, str(n).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 100)
    os.close(reader)
    os.waitpid(pid, 0)
    return int(said) if said else None

rng = random.Random(verb)
prepare(whole)
total = fork(whole, 0)
prepare(target)
log = []
while len(log) < kills:
    fatal = rng.randrange(1, max(total // 3, 2))
    if fork(target, fatal) is None:
        log.append([fatal, (target / read.UNFINISHED).exists(), (target / "config.json").exists()])
    else:
        prepare(target)  # it was whole: from the beginning again
fork(target, 0)
print(json.dumps({"total": total, "log": log}))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


@pytest.mark.parametrize("verb", ["convert", "cast", "repair", "again"])
def test_a_killed_run_goes_on_to_the_same_bytes(verb, fp8_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, verb, str(fp8_folder), str(tmp_path / "out"), str(KILLS)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said["log"]) == KILLS
    assert len({fatal for fatal, _, _ in said["log"]}) > KILLS // 2
    for _, journal, config in said["log"]:
        assert journal or not config or verb in ("repair", "again"), "with a config and no journal it is whole"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# Ends before anything gets its name, as a kill would.
STOP = """
import os, sys
from dsv3 import convert, fp8_cast_bf16
from dsv3.checkpoint import write
write._name = lambda *_: os._exit(137)
from pathlib import Path
source, target = map(Path, sys.argv[2:])
convert.convert(source, target, 2) if sys.argv[1] == "convert" else fp8_cast_bf16.cast(source, target)
"""


@pytest.mark.parametrize("verb", ["convert", "cast"])
def test_a_source_that_changed_is_not_mixed_in(verb, fp8_folder, tmp_path):
    from dsv3.convert import convert
    from dsv3.fp8_cast_bf16 import cast

    source, target = Path(shutil.copytree(fp8_folder, tmp_path / "in")), tmp_path / "out"
    stopped = subprocess.run([sys.executable, "-c", STOP, verb, str(source), str(target)], capture_output=True)
    assert stopped.returncode == 137
    assert (target / read.UNFINISHED).exists()
    os.utime(sorted(source.glob("*.safetensors"))[0], ns=(1, 1))
    with pytest.raises(FileExistsError, match="unfinished work of another run"):
        convert(source, target, 2) if verb == "convert" else cast(source, target)
