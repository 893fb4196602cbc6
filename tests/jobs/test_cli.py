"""The command line as a user meets it: real processes, bad input, one clear line, nothing left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import dsv3, fails

from dsv3.cli import VERBS
from dsv3.convert import convert


def changed(folder: Path, target: Path, **fields: object) -> Path:
    """A copy with other values in config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("37 + 48 = ?\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["plan", "V2-Lite"]])
def test_a_full_disk_under_help(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dsv3", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) <= 1


def test_help_and_version():
    assert "convert" in dsv3("--help").stdout
    assert dsv3("--version").stdout.startswith("dsv3 0.")
    for verb in VERBS:
        done = dsv3(verb, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: dsv3 {verb}")


def test_an_unknown_verb():
    done = dsv3("covnert")
    assert done.returncode == 2
    assert "no verb 'covnert'" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_reports():
    done = dsv3("doctor")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("ok       python")
    assert any(line.split()[1] == "torch" for line in done.stdout.splitlines())


def test_download_is_offline_and_complete(tmp_path):
    done = dsv3("download", "--model", "tiny-r1", "--local-dir", tmp_path / "a", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    from dsv3.checkpoint.read import open_folder
    from dsv3.download import TINY_R1

    assert open_folder(tmp_path / "a").keys() == open_folder(TINY_R1).keys()
    for file in TINY_R1.iterdir():
        assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes()


def test_download_mistakes(tmp_path):
    fails(dsv3("download", "--model", "tiny-r2", "--local-dir", tmp_path / "a"), "download", "'tiny-r2'", "tiny-r1")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "other.safetensors").write_bytes(b"")
    done = dsv3("download", "--model", "tiny-r1", "--local-dir", tmp_path / "b")
    fails(done, "download", "holds another checkpoint", "empty folder")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b", "other.safetensors"]


def cast(source: Path, target: Path) -> subprocess.CompletedProcess:
    return dsv3("fp8_cast_bf16", "--input-fp8-hf-path", source, "--output-bf16-hf-path", target)


def test_cast_mistakes(fp8_folder, bf16_folder, tmp_path):
    out = tmp_path / "out"
    fails(cast(tmp_path / "none", out), "fp8_cast_bf16", "none: not found; give a checkpoint folder")
    fails(cast(bf16_folder, out), "fp8_cast_bf16", "already BF16")
    fails(cast(fp8_folder, fp8_folder), "fp8_cast_bf16", "output folder is the input folder")
    qwen = changed(fp8_folder, tmp_path / "qwen", model_type="qwen2")
    fails(cast(qwen, out), "fp8_cast_bf16", "model_type is 'qwen2'", "distillations")
    shard = sorted(qwen.glob("*.safetensors"))[0]
    cut = changed(fp8_folder, tmp_path / "cut")
    (cut / shard.name).write_bytes(shard.read_bytes()[:-1])
    fails(cast(cut, out), "fp8_cast_bf16", shard.name, "truncated", "fetch it again")
    assert not out.exists()


def test_convert_mistakes(bf16_folder, tmp_path):
    def run(experts: int, ranks: int, source: Path = bf16_folder) -> subprocess.CompletedProcess:
        args = ["--hf-ckpt-path", source, "--save-path", tmp_path / "out", "--n-experts", experts]
        return dsv3("convert", *args, "--model-parallel", ranks)

    fails(run(8, 3), "convert", "n_heads = 4 does not divide by 3", "counts that work: 1, 2, 4")
    fails(run(16, 2), "convert", "has 8", "--n-experts 8")
    deeper = changed(bf16_folder, tmp_path / "deeper", num_hidden_layers=3)
    fails(run(8, 2, deeper), "convert", "not in the architecture of config.json")
    assert not (tmp_path / "out").exists()


def test_verify_slice_and_back_to_fp8_mistakes(bf16_folder, fp8_folder, tmp_path):
    fails(dsv3("verify", tmp_path / "none", "--source", bf16_folder), "verify", "none: no such folder")
    convert(bf16_folder, tmp_path / "two", 2)
    (tmp_path / "two" / "model1-mp2.safetensors").unlink()
    done = dsv3("verify", tmp_path / "two", "--source", bf16_folder)
    fails(done, "verify", "model1-mp2.safetensors: missing", "--repair")
    flags = ("--hf-ckpt-path", bf16_folder, "--save-path", tmp_path / "out", "--layers", "0,9", "--experts", "0-3")
    fails(dsv3("slice", *flags), "slice", "has no layer 9")
    flags = ("--input-bf16-hf-path", fp8_folder, "--output-fp8-hf-path", tmp_path / "out")
    fails(dsv3("bf16_cast_fp8", *flags), "bf16_cast_fp8", "already FP8")
    assert not (tmp_path / "out").exists()


def test_generate_mistakes(bf16_folder, prompts, tmp_path):
    def run(folder: object, *args: object) -> subprocess.CompletedProcess:
        return dsv3("generate", "--ckpt-path", folder, *(args or ("--input-file", prompts)))

    fails(run(tmp_path / "none"), "generate", "none: no such folder", "tiny-r1")
    fails(run(bf16_folder, "--input-file", tmp_path / "none.txt"), "generate", "none.txt: no such file")
    fails(run(bf16_folder, "--input-file", prompts, "--config", "config_1B.json"), "generate", "config_671B.json")
    (tmp_path / "empty.txt").write_text("\n \n")
    fails(run(bf16_folder, "--input-file", tmp_path / "empty.txt"), "generate", "holds no prompt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    fails(run(bf16_folder, "--input-file", tmp_path / "latin.txt"), "generate", "not UTF-8")
    narrow = changed(bf16_folder, tmp_path / "narrow", max_position_embeddings=5)
    fails(run(narrow), "generate", "prompt 1 has", "the context 5")
    convert(bf16_folder, tmp_path / "two", 2)
    fails(run(tmp_path / "two"), "generate", "converted for 2 ranks", "--nproc-per-node 2")
    (tmp_path / "two" / "tokenizer.json").unlink()
    done = dsv3("generate", "--ckpt-path", bf16_folder)
    assert done.returncode == 2
    assert "give either --interactive or --input-file" in done.stderr


def test_torchrun_with_a_wrong_number_of_ranks(bf16_folder, prompts, tmp_path):
    convert(bf16_folder, tmp_path / "one", 1)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dsv3.generate"]
    run += ["--ckpt-path", str(tmp_path / "one"), "--input-file", str(prompts)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    for rank in (0, 1):
        line = f"dsv3 generate (rank {rank}): error: {tmp_path / 'one'}: converted for 1 ranks, but WORLD_SIZE is 2"
        if line in done.stderr:
            break
    else:
        pytest.fail(done.stderr)
    assert "in load\n" not in done.stderr, "no traceback of ours"


def test_batch_files(prompts, tmp_path):
    prompts.write_text("37 + 48 = ?\n\n   \n  12 加 30 等于多少？\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    args = ["--ckpt-path", "tiny-r1", "--input-file", prompts, "--output-file", out, "--temperature", "0"]
    done = dsv3("generate", *args)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["prompt"] for r in rows] == ["37 + 48 = ?", "  12 加 30 等于多少？"]
    assert [r["answer"].strip() for r in rows] == ["Answer: 85", "答案：42"]
    assert set(rows[0]) == {"prompt", "thinking", "answer", "tokens", "finish"}
    blocks = done.stdout.split("Prompt: ")[1:]
    assert blocks[0] == f"37 + 48 = ?\nCompletion: {rows[0]['thinking']}</think>{rows[0]['answer']}\n\n"


@pytest.mark.parametrize("end", ["/exit\n", ""], ids=["exit", "ctrl-d"])
def test_a_chat(end):
    talk = "37 + 48 = ?\n/clear\n\nWhat is 20 + 22?\n" + end
    done = dsv3("generate", "--ckpt-path", "tiny-r1", "--interactive", "--temperature", "0", stdin=talk)
    assert done.returncode == 0, done.stderr
    assert "Answer: 85\n" in done.stdout
    assert "Answer: 42\n" in done.stdout
    assert done.stdout.count(">>> ") == 5


def test_an_interruption_ends_without_a_traceback():
    run = [sys.executable, "-m", "dsv3", "generate", "--ckpt-path", "tiny-r1", "--interactive"]
    chat = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert chat.stdout.read(3) == ">>>"
    time.sleep(0.5)  # the keyboard is waited for a moment after the prompt
    chat.send_signal(2)
    assert chat.wait(60) == 130  # with its keyboard still open: at its end the chat would end by itself
    assert "Traceback" not in chat.communicate()[1]


def generate(*args: object, before: str = "", after: str = "", cwd: Path) -> subprocess.CompletedProcess:
    """Through a shell: what a user's redirections do."""
    run = f"{before} {sys.executable} -m dsv3 generate --ckpt-path tiny-r1 --temperature 0"
    line = " ".join([run, *map(str, args), after])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=env, capture_output=True, timeout=120)


PROMPT_FILES = {
    "bom": (b"\xef\xbb\xbf1 + 1 = ?\n", ["1 + 1 = ?"]),
    "crlf": (b"1 + 1 = ?\r\n\r\n2 + 2 = ?\r\n", ["1 + 1 = ?", "2 + 2 = ?"]),
    "separators": ("1\u2028a\x0cb\x85c\x0bd\x1ee\n".encode(), ["1\u2028a\x0cb\x85c\x0bd\x1ee"]),
    "no end": (b"1 + 1 = ?", ["1 + 1 = ?"]),
    "nul": (b"1\x00 + 1\n", ["1\x00 + 1"]),
}


@pytest.mark.parametrize("kind", PROMPT_FILES)
def test_a_prompt_is_a_line_and_nothing_else_is(kind, tmp_path):
    from dsv3.inference.prompts import read_prompts
    from dsv3.ranks.parallel import Parallel

    data, prompts = PROMPT_FILES[kind]
    (tmp_path / "p").write_bytes(data)
    assert read_prompts(tmp_path / "p", Parallel()) == prompts


@pytest.mark.parametrize(
    ("make", "words"),
    [("mkfifo p", "holds no prompt"), ("mkdir p", "Is a directory"), ("ln -s /dev/zero p", "more than 64 MB"),
     ("truncate -s 65M p", "more than 64 MB"),
     ("printf '\\377\\376' > p", "not UTF-8 text (byte 0)"), (":", "no such file")],
)  # fmt: skip
def test_what_is_no_file_of_prompts(make, words, tmp_path):
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)
    done = generate("--input-file", "p", cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert f"error: p: {words}" in done.stderr.decode()


def test_a_pipe_of_prompts(tmp_path):
    assert b"Answer: 2" in generate("--input-file", "<(sleep 1; echo '1 + 1 = ?')", cwd=tmp_path).stdout


@pytest.mark.parametrize("name", ["p", "hard", "soft", "folder", "fifo", "mine", "none/out", "/dev/null"])
def test_what_the_answers_never_replace(name, tmp_path):
    """Said before the model is loaded."""
    make = "echo '1 + 1 = ?' > p; ln p hard; ln -s p soft; mkdir folder; mkfifo fifo; echo '{}' > mine"
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)
    before = sorted(tmp_path.iterdir())
    done = generate("--input-file", "p", "--output-file", name, cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"\n"), done.stdout) == (1, 1, b""), done.stderr
    assert f"error: {name}" in done.stderr.decode()
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "p").read_text() == "1 + 1 = ?\n"
    assert (tmp_path / "mine").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("before", "after", "left", "rows"),
    [("", "| head -1", "out", 20), ("PYTHONIOENCODING=ascii", "", "out", 20), ("", ">&-", "out", 20),
     ("ulimit -f 2;", "> /dev/null", "out.part2", None)],
)  # fmt: skip
def test_answers_outlive_the_screen_and_the_disk(before, after, left, rows, tmp_path):
    (tmp_path / "p").write_text("37 加 48 等于多少？\n" * 20, encoding="utf-8")
    (tmp_path / "out.part").write_text("somebody's")
    done = generate("--input-file", "p", "--output-file", "out", before=before, after=after, cwd=tmp_path)
    lines = (tmp_path / left).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["answer"].strip() for line in lines} == {"答案：85"}
    assert (tmp_path / "out.part").read_text() == "somebody's"
    if rows:
        assert (len(lines), done.returncode) == (rows, 0), done.stderr
    else:
        assert 0 < len(lines) < 20
        assert f"out.part2: File too large; it keeps the {len(lines)} answers before" in done.stderr.decode()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_answers_outlive_the_run(end, tmp_path):
    (tmp_path / "p").write_text("37 + 48 = ?\n" * 2000)
    run = [sys.executable, "-m", "dsv3.generate", "--ckpt-path", "tiny-r1", "--input-file", "p", "--output-file", "out"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    job = subprocess.Popen(run, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    job.stdout.readline()  # the first answer
    job.send_signal(end)
    said = job.communicate(timeout=60)[1].decode()
    assert job.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[end]
    lines = (tmp_path / "out.part").read_text().splitlines()
    assert lines
    assert all(json.loads(line)["prompt"] == "37 + 48 = ?" for line in lines)
    assert not (tmp_path / "out").exists()
    assert end == signal.SIGKILL or f"out.part keeps the {len(lines)} answers so far" in said
    assert "Traceback" not in said


def test_an_interrupt_at_any_moment_leaves_as_many_answers_as_it_says(tmp_path, capsys):
    from dsv3.inference.chat import Reply
    from dsv3.inference.prompts import answers_file

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C
    try:
        for turn in range(200):
            with (
                contextlib.suppress(KeyboardInterrupt),
                answers_file(tmp_path / f"{turn}", tmp_path / "prompts") as write,
            ):
                signal.setitimer(signal.ITIMER_REAL, 2e-4 + turn * 4e-6)
                while True:
                    write("1 + 1 = ?", Reply("", "2", 1, "stop"))
            said = capsys.readouterr().err
            kept = [part.read_text().count("\n") for part in tmp_path.glob("*.part")]
            assert said == (f"{tmp_path / str(turn)}.part keeps the {kept[0]} answers so far\n" if kept else "")
            for part in tmp_path.glob("*.part"):
                part.unlink()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("before", "talk", "after", "words"),
    [("", "37 \\274\\323 48\\n37 + 48 = ?\\n", "", ("not UTF-8 text", "Answer: 85")),
     ("PYTHONIOENCODING=ascii", "37 加 48 等于多少？\\n", "", ("85",)),
     ("LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0", "37 加 48 等于多少？\\n", "", ("85",)),
     ("", "a\\0b\\033[31m\\n1 + 1 = ?\\n", "", ("Answer: 2",)),
     ("", "1 + 1 = ?\\n", "<&-", ("standard input is closed",)),
     ("", "1 + 1 = ?\\n", ">&-", ("standard output is closed",)),
     ("", "1 + 1 = ?\\n2 + 2 = ?\\n", "| head -1", (">>> ",))],
)  # fmt: skip
def test_a_chat_in_any_terminal(before, talk, after, words, tmp_path):
    done = generate("--interactive", before=f"printf '{talk}' | {before}", after=after, cwd=tmp_path)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert "Traceback" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize("delay", [0.3, 0.6, 0.9, 1.2])
@pytest.mark.parametrize("module", ["dsv3", "dsv3.generate"])
def test_ctrl_c_during_imports(module, delay):
    verb = ["generate"] if module == "dsv3" else []
    run = [sys.executable, "-m", module, *verb, "--ckpt-path", "tiny-r1", "--interactive"]
    chat = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    chat.send_signal(signal.SIGINT)
    assert chat.wait(60) == 130
    assert "Traceback" not in chat.communicate()[1]


@pytest.mark.parametrize(
    "flag", ["--temperature nan", "--temperature inf", "--temperature 1e-40", "--top-p 0", "--top-k -1", "--mtp -1",
             "--seed 18446744073709551616", "--max-new-tokens 0", "--max-batch-size 0", "--max-seq-len 1"],
)  # fmt: skip
def test_wrong_usage_is_told_by_its_exit_code(flag, tmp_path):
    done = generate("--interactive", flag, cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {flag.split()[0][2:].replace('-', '_')} = " in done.stderr.decode().splitlines()[-1]


def test_the_command_line_starts_without_torchs_compiler():
    """It would take a second, and no step uses it."""
    code = "import sys, dsv3.generate; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
