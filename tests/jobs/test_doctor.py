"""``dsv3 doctor`` in a process of its own, with torch and without."""

import json
import subprocess
import sys

from jobs import dsv3


def test_the_command():
    done = dsv3("doctor", "--json")
    assert done.returncode == 0, done.stdout
    findings = json.loads(done.stdout)
    assert {"level", "what", "text", "cure"} == set(findings[0])
    names = {f["what"] for f in findings}
    assert names >= {"python", "torch", "memory", "cores", "disk", "checkpoints", "proxy", "jupyter"}
    assert not names & {"write test", "modelscope"}, "only on request"
    assert dsv3("doctor", "--report").stdout.startswith("```\ndsv3 ")
    assert dsv3("doctor", "--json", "--report").returncode == 2


def test_without_torch_there_is_no_traceback():
    script = "import sys; sys.modules['torch'] = None; from dsv3.cli import main; "
    script += "sys.argv = ['dsv3', 'doctor', '--json']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    (torch,) = [f for f in json.loads(done.stdout) if f["what"] == "torch"]
    assert torch["level"] == "failure"
    assert torch["cure"].startswith("pip install torch")
