"""vLLM's CPU build serves the cast tiny-r1: its greedy tokens are dsv3's. ``make test-vllm`` makes its environment.

The engine runs in float32 where tokens are compared: there the two programs' roundings are far smaller than the gap
between the best token and the next on any CPU. ``dsv3 serve`` runs it in BF16, as it is.
"""

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import alive, dsv3, fails, until

from dsv3.engines import vllm
from dsv3.engines.client import Client
from dsv3.engines.command import Command, Flag
from dsv3.engines.offline import generate
from dsv3.engines.options import Serve
from dsv3.engines.server import Server, start
from dsv3.inference.sampling import Sampling
from dsv3.lab.jobs import free_port
from dsv3.llm import load
from dsv3.paths import TINY_R1
from dsv3.tiny.data import held_out_set
from dsv3.tiny.evaluate import answer

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("DSV3_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python")).absolute()
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason=f"no vLLM at {PYTHON}: make test-vllm installs it")

PROBLEMS = held_out_set(50)
QUESTIONS = [question for _, question in PROBLEMS]
FLOAT32 = Flag(("--dtype", "float32"), "", "")
CONTEXT, LIMIT = 512, 300


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """No engine tells anybody that it runs, or looks for a network."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE"):
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """tiny-r1 in BF16."""
    target = tmp_path_factory.mktemp("vllm") / "tiny-r1-bf16"
    run = [sys.executable, "-m", "dsv3.fp8_cast_bf16", "--input-fp8-hf-path", TINY_R1, "--output-bf16-hf-path", target]
    subprocess.run(run, check=True)
    return target


@pytest.fixture(scope="module")
def reference(folder):
    """What dsv3 generates in float32: prompt and completion as token ids, and the replies."""
    llm = load(folder, dtype=torch.float32, max_batch_size=10)
    prompts = [llm.tokenizer.prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    completions = [[] for _ in prompts]
    for i, token in llm._tokens(prompts, Sampling(max_new_tokens=LIMIT)):
        completions[i].append(token)
    replies = [llm._reply(*both) for both in zip(prompts, completions, strict=True)]
    right = sum(answer(r.answer) == p.answer for r, (p, _) in zip(replies, PROBLEMS, strict=True))
    assert right >= 45  # it is the trained model
    return prompts, completions, replies


def options(folder: Path, **more: object) -> Serve:
    told = {"family": "r1", "tool_call_parser": False}  # as dsv3 serve tells it: tiny-r1 has no tokens for tools
    return Serve(model=str(folder), python=str(PYTHON), cpu=True, context=CONTEXT, port=free_port(), **told, **more)


def command(serve: Serve, *flags: Flag, **env: str) -> Command:
    built = vllm.build(serve)
    return replace(built, flags=built.flags + flags, env=dict(built.env) | env)


def serving(serve: Serve, folder: Path, **env: str) -> Server:
    return start(command(serve, FLOAT32, **env), port=serve.port, folder=folder)


@pytest.fixture(scope="module")
def server(folder, reference):  # computed first, while nothing else runs
    with serving(options(folder), folder.parent) as running:
        yield running


def tokens(server: Server, question: str) -> tuple[list[int], list[int]]:
    """Prompt and completion, which vLLM's chat interface tells on request."""
    client = Client(server.url)._client
    reply = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=LIMIT,
        extra_body={"return_token_ids": True},
    )
    return reply.prompt_token_ids, reply.choices[0].token_ids


# ---- a server in float32


def test_prompts_and_fifty_greedy_answers_are_those_of_generate(server, reference):
    prompts, completions, _ = reference
    for question, prompt, completion in zip(QUESTIONS, prompts, completions, strict=True):
        assert tokens(server, question) == (prompt, completion), question


@pytest.mark.parametrize("streaming", [True, False])
def test_the_client_gets_thinking_answer_and_counts(server, reference, streaming):
    client = Client(server.url)
    for question, reply in list(zip(QUESTIONS, reference[2], strict=True))[:5]:
        if streaming:
            pieces = list(client.stream(question, temperature=0, max_tokens=LIMIT))
            assert len(pieces) > 10
            assert "".join(p.text for p in pieces if p.part == "thinking") == reply.thinking
            assert "".join(p.text for p in pieces if p.part == "answer") == reply.answer
        else:
            client.ask(question, temperature=0, max_tokens=LIMIT)
        got = client.latest
        assert (got.thinking, got.answer, got.tokens, got.finish) == (
            reply.thinking,
            reply.answer,
            reply.tokens,
            reply.finish,
        )


def test_a_wrong_model_name_and_too_many_tokens(server, folder):
    ask = ("ask", "--base-url", server.url, "37 + 48 = ?")
    fails(dsv3(*ask, "--model", "deepseek-r1"), "ask", "'deepseek-r1'", f"it serves {folder}")
    fails(dsv3(*ask, "--max-tokens", 9999), "ask", "9999", str(CONTEXT))


def test_its_port_is_refused_to_another(server, folder):
    port = int(server.url.split(":")[2].removesuffix("/v1"))
    with pytest.raises(OSError, match=f"port {port} is in use"):
        start(command(options(folder)), port=port, folder=folder.parent / "second")
    assert not list(folder.parent.glob("second/*.log"))
    done = dsv3("serve", "--engine", "vllm", "--cpu", "--python", PYTHON, "--model", folder, "--port", port)
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr


# ---- further engines, each alone


def test_mtp_gives_the_same_tokens_and_stopping_leaves_no_process(folder, reference):
    mark = str(uuid.uuid4())
    with serving(options(folder, mtp=1), folder.parent / "mtp", MARK=mark) as running:
        assert len(alive(mark)) > 2
        for question, _, completion in zip(QUESTIONS, *reference[:2], strict=True):
            assert tokens(running, question)[1] == completion, question
    assert alive(mark) == []
    assert "SpeculativeConfig(method='mtp'" in running.log.read_text()


def test_an_offline_batch_gives_the_same_answers(folder, reference, tmp_path):
    serve = options(folder)
    replies = generate(vllm.CPU_ENGINE, serve, QUESTIONS, folder=tmp_path, max_new_tokens=LIMIT, dtype="float32")
    assert replies == reference[2]


def test_the_commands_from_a_shell(folder, tmp_path, monkeypatch):
    mark, port = str(uuid.uuid4()), free_port()
    run = [sys.executable, "-m", "dsv3", "serve", "--engine", "vllm", "--cpu", "--python", str(PYTHON)]
    run += ["--model", folder.name, "--context", str(CONTEXT), "--port", str(port), "--folder", str(tmp_path)]
    env = os.environ | {"MARK": mark}
    process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=env, cwd=folder.parent)
    assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}/v1 answers after ")
    base = f"http://127.0.0.1:{port}/v1"
    llm = load(folder)
    for question in ("37 + 48 = ?", "12 乘 34 等于多少？", "What is 7 - 9?"):
        done = dsv3("ask", "--base-url", base, question, "--temperature", 0, "--max-tokens", LIMIT)
        assert done.stdout == llm.chat(question, max_new_tokens=LIMIT).text + "\n"
        assert "tokens/s" in done.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert alive(mark) == []


def test_killed_while_it_starts_it_leaves_no_process(folder, tmp_path):
    mark = str(uuid.uuid4())
    run = [sys.executable, "-m", "dsv3", "serve", "--engine", "vllm", "--cpu", "--python", str(PYTHON)]
    run += ["--model", str(folder), "--port", str(free_port()), "--folder", str(tmp_path)]
    process = subprocess.Popen(run, env=os.environ | {"MARK": mark})
    until(lambda: len(alive(mark)) > 3)  # dsv3, the guard, the server, the engine's core
    process.kill()
    process.wait()
    until(lambda: not alive(mark), 60)


@pytest.mark.skipif("amx_tile" in Path("/proc/cpuinfo").read_text(), reason="with AMX vLLM can do FP8")
def test_fp8_weights_fail_with_their_cause(tmp_path, capsys):
    serve = options(TINY_R1)
    with pytest.raises(ChildProcessError, match="no kernel for FP8 here: .* dsv3 fp8_cast_bf16"):
        start(vllm.build(serve), port=serve.port, folder=tmp_path)
    assert "Failed to find a kernel" in (tmp_path / f"server-{serve.port}.log").read_text()
