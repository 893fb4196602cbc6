"""Generation across processes: a fork, and every split of the model under torchrun."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from jobs import dsv3, fails

from dsv3 import llm as g
from dsv3.convert import convert
from dsv3.download import TINY_R1
from dsv3.fp8_cast_bf16 import cast
from dsv3.inference.chat import Reply
from tests.unit.test_generate import QUESTIONS


@pytest.fixture(scope="module")
def alone() -> list[Reply]:
    """What one process answers."""
    return g.load("tiny-r1").generate(QUESTIONS, temperature=0)


FORK = """
import os, torch, dsv3
torch.set_num_threads(2)
llm = dsv3.load("tiny-r1")
said = llm.chat("37 + 48 = ?", temperature=0)
child = os.fork()
if child == 0:
    os._exit(llm.generate(["37 + 48 = ?"] * 4, temperature=0) != [said] * 4)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_after_work_on_two_threads_can_answer():
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", FORK], env=env, check=True, timeout=120)


@pytest.mark.parametrize(
    ("precision", "ranks", "flags"),
    [("fp8", 2, ["--gemm", "w8a16"]), ("bf16", 2, ["--mtp", "2"]), ("bf16", 4, ["--check-ranks"])],
)
def test_torchrun_on_every_split_equals_one_process(precision, ranks, flags, alone, tmp_path):
    source = TINY_R1
    if precision == "bf16":
        source = tmp_path / "bf16"
        cast(TINY_R1, source)
    convert(source, tmp_path / "ranks", ranks)
    (tmp_path / "prompts").write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    run += ["-m", "dsv3.generate"]
    run += ["--ckpt-path", str(tmp_path / "ranks"), "--config", str(TINY_R1 / "config.json"), "--temperature", "0"]
    run += ["--input-file", str(tmp_path / "prompts"), "--output-file", str(tmp_path / "out.jsonl"), *flags]
    done = subprocess.run(run, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["prompt"], r["thinking"], r["answer"]) for r in rows] == [
        (q, a.thinking, a.answer) for q, a in zip(QUESTIONS, alone, strict=True)
    ]
    assert done.stdout == "".join(
        f"Prompt: {q}\nCompletion: {a.text}\n\n" for q, a in zip(QUESTIONS, alone, strict=True)
    )


def test_ranks_end_at_any_of_several_tokens_and_hear_the_templates_options(alone, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(TINY_R1, source)
    feed = g.Tokenizer(TINY_R1).encode("\n")
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, *feed]}))
    own = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    (source / "chat_template.jinja").write_text(
        "{% if thinking %}" + own + "{% else %}nothing{% endif %}", encoding="utf-8"
    )
    cast(source, tmp_path / "bf16")
    convert(tmp_path / "bf16", tmp_path / "ranks", 2)
    (tmp_path / "prompts").write_text(QUESTIONS[0] + "\n", encoding="utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dsv3.generate"]
    run += ["--ckpt-path", str(tmp_path / "ranks"), "--input-file", str(tmp_path / "prompts"), "--temperature", "0"]
    run += ["--config", str(TINY_R1 / "config.json")]
    run += ["--chat-template-kwargs", '{"thinking": true, "no_such": 1}']
    done = subprocess.run(run, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Prompt: {QUESTIONS[0]}\nCompletion: {alone[0].text.split(chr(10))[0]}\n\n"
    (told,) = (line for line in done.stderr.splitlines() if "no_such" in line)
    assert told.endswith("chat_template.jinja: the chat template does not use no_such; it stays without effect")


@pytest.mark.parametrize("options", ["{thinking: true}", "[]", '{"messages": []}'])
def test_options_of_the_template_that_are_none(options):
    done = dsv3("generate", "--ckpt-path", "tiny-r1", "--interactive", "--chat-template-kwargs", options)
    assert done.returncode == 2
    assert "dsv3 generate: error: chat_template_kwargs" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["tiktoken.model", "tokenizer.model"])
def test_a_tokenizer_of_another_kind_is_one_line(kind, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(TINY_R1, folder)
    (folder / "tokenizer.json").rename(folder / kind)
    (tmp_path / "prompts").write_text("1 + 1 = ?\n", encoding="utf-8")
    done = dsv3("generate", "--ckpt-path", folder, "--input-file", tmp_path / "prompts")
    fails(done, "generate", "no tokenizer.json", "tiktoken's" if kind == "tiktoken.model" else "SentencePiece's")
