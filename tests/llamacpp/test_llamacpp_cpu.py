"""llama.cpp serves tiny-r1, cast and made a GGUF file by dsv3: its tokens are dsv3's. ``make test-llamacpp`` builds it.

Tokens are compared in float32, where both programs' roundings are far smaller than the gap between the best token and
the next on any CPU, and in BF16 and F16, where they came out the same, too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
import torch
from jobs import alive, dsv3, fails, until

from benchmarks.llamacpp import WORKER, ours, program, theirs
from dsv3.checkpoint.gguf import open_gguf
from dsv3.engines import checks, converter, llamacpp
from dsv3.engines.client import Client
from dsv3.engines.converter import PRE_TOKENIZERS, Order
from dsv3.engines.options import Serve
from dsv3.engines.server import start
from dsv3.lab.jobs import free_port
from dsv3.llm import load
from dsv3.paths import TINY_R1
from dsv3.sizing.machine import Machine
from dsv3.tiny.data import held_out_set
from dsv3.tiny.evaluate import answer
from dsv3.tiny.tokenizer import corpus
from tests.unit.engines.test_converter import SMOLLM

ROOT = Path(__file__).parents[2]
MADE = ROOT / ".venv-llamacpp"
PYTHON = Path(os.environ.get("DSV3_LLAMACPP_PYTHON", MADE / "bin" / "python")).absolute()
SOURCE = Path(os.environ.get("DSV3_LLAMACPP_SOURCE", MADE / "source" / "vendor" / "llama.cpp")).absolute()
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file() or not SOURCE.is_dir(), reason=f"no llama.cpp at {PYTHON}, {SOURCE}: make test-llamacpp"
)

PROBLEMS = held_out_set(50)
QUESTIONS = [question for _, question in PROBLEMS]
CONTEXT, LIMIT = 512, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """tiny-r1 in BF16."""
    target = tmp_path_factory.mktemp("llamacpp") / "tiny-r1-bf16"
    run = [sys.executable, "-m", "dsv3.fp8_cast_bf16", "--input-fp8-hf-path", TINY_R1, "--output-bf16-hf-path", target]
    subprocess.run(run, check=True)
    return target


def gguf(folder: Path, file: Path, *more: object) -> subprocess.CompletedProcess:
    return dsv3("gguf", folder, "--llama-cpp", SOURCE, "--outfile", file, *more)


@pytest.fixture(scope="module")
def files(folder) -> dict[str, Path]:
    """The folder as GGUF files, by type."""
    made = {outtype: folder.with_name(f"tiny-r1-{outtype}.gguf") for outtype in ("f32", "bf16", "f16", "q8_0")}
    for outtype, file in made.items():
        done = gguf(folder, file, "--outtype", outtype)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{file}: deepseek2, 52 tensors, {file.stat().st_size / 1e6:.1f} MB\n"
        assert "the MTP layer is left out" in done.stderr
        assert "it is told that it is smollm" in done.stderr
    assert not [f for f in folder.parent.iterdir() if f.suffix not in (".gguf", "") or f.name.startswith(".")]
    return made


@pytest.fixture(scope="module")
def llm(folder):
    return load(folder, dtype=torch.float32, max_batch_size=10)


@pytest.fixture(scope="module")
def reference(llm) -> list[tuple[list[int], list[int]]]:
    """What dsv3 generates in float32: prompts and completions."""
    return ours(llm, QUESTIONS, LIMIT)


# ---- the files


def test_the_types_and_the_size_that_was_foretold(files, folder):
    for outtype, file in files.items():
        types = Counter(weight.kind for weight in open_gguf(file).weights)
        assert types == ({"F32": 52} if outtype == "f32" else {"F32": 17, outtype.upper(): 35})
        order = Order(folder=folder, llama_cpp=SOURCE, outfile=file, outtype=outtype)
        assert 0 < converter.nbytes(order, checks.look(str(folder)).cfg) - file.stat().st_size < 0.1e6


def test_the_fp8_folder_gives_the_same_numbers(files, tmp_path):
    """The converter dequantises in float32 and rounds once, as the cast does."""
    done = gguf(TINY_R1, tmp_path / "fp8.gguf")
    assert done.returncode == 0, done.stderr
    assert "FP8 weights: the converter dequantises them itself" in done.stderr
    assert theirs(PYTHON, tmp_path / "fp8.gguf", QUESTIONS[:5], LIMIT) == theirs(
        PYTHON, files["bf16"], QUESTIONS[:5], LIMIT
    )


def test_the_dry_run_prints_the_command_that_makes_the_file(folder, files, tmp_path):
    file = tmp_path / "x.gguf"
    done = gguf(folder, file, "--dry-run")
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    subprocess.run(["bash", "-c", done.stdout], check=True, capture_output=True)
    assert file.stat().st_size == files["bf16"].stat().st_size


def test_what_ends_before_the_converter_starts(folder, files, tmp_path):
    file = tmp_path / "x.gguf"
    fails(gguf(folder, files["bf16"]), "gguf", "is there; move it away or give another name")
    fails(gguf(folder, file, "--python", PYTHON), "gguf", "lacks torch, transformers, tqdm", "pip install")
    fails(gguf(folder, file, "--python", tmp_path / "none"), "gguf", "No such file or directory", "name one that has")
    strange = tmp_path / "strange"
    subprocess.run(["cp", "-r", folder, strange], check=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,2}"
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer))
    fails(gguf(strange, file), "gguf", "llama.cpp does not know this tokenizer", "a newer llama.cpp may know it")
    (strange / "tokenizer.json").write_text("{}")
    fails(gguf(strange, file), "gguf", "the converter cannot read it")
    (strange / "tokenizer.json").write_text((folder / "tokenizer.json").read_text(encoding="utf-8"), encoding="utf-8")
    (strange / "README.md").write_text("---\na: b: c\n---\n")
    fails(gguf(strange, file), "gguf", "README.md, in the lines between its two ---: mapping values", "move it away")
    (strange / "README.md").unlink()
    config = json.loads((folder / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    fails(gguf(strange, file), "gguf", "for this converter llama, not deepseek2")
    assert not file.exists()


def test_python_of_the_folder_is_not_run(folder, tmp_path):
    """Where its own way fails the converter asks for the repository's tokenizer, and would run it."""
    own = tmp_path / "own"
    subprocess.run(["cp", "-r", folder, own], check=True)
    (own / "tokenization_own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Own: pass\n")
    settings = json.loads((own / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}
    (own / "tokenizer_config.json").write_text(json.dumps(settings))
    fails(gguf(own, tmp_path / "x.gguf"), "gguf", "the converter cannot read it")
    guarded = Path(converter.converter_worker.__file__)
    (tmp_path / "open.py").write_text(guarded.read_text().replace("    closed()\n", ""))
    for worker in (guarded, tmp_path / "open.py"):
        run = [sys.executable, worker, SOURCE, "convert", "-", own, "--outfile", tmp_path / "y"]
        assert subprocess.run(run, capture_output=True).returncode
        assert (tmp_path / "run").exists() == (worker != guarded)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_midway_nothing_has_the_files_name(folder, tmp_path, how):
    mark = str(uuid.uuid4())
    run = [sys.executable, "-m", "dsv3", "gguf", folder, "--llama-cpp", SOURCE, "--outfile", tmp_path / "x.gguf"]
    process = subprocess.Popen(list(map(str, run)), stderr=subprocess.PIPE, text=True, env=os.environ | {"MARK": mark})
    while "converter runs" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    until(lambda: not alive(mark))
    left = sorted(f.name for f in tmp_path.iterdir())
    assert "x.gguf" not in left
    assert how != signal.SIGINT or left == []


def test_a_converter_that_fails_leaves_its_log(folder, tmp_path):
    broken = tmp_path / "llama.cpp"
    subprocess.run(
        ["cp", "-r", SOURCE / "conversion", SOURCE / "gguf-py", SOURCE / converter.SCRIPT, tmp_path], check=True
    )
    broken.mkdir()
    for name in ("conversion", "gguf-py", converter.SCRIPT):
        (tmp_path / name).rename(broken / name)
    with (broken / converter.SCRIPT).open("a") as script:
        script.write("\n\ndef main():\n    raise ValueError('no main')\n")
    done = dsv3("gguf", folder, "--llama-cpp", broken, "--outfile", tmp_path / "x.gguf")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("dsv3 gguf: error: the converter ended with exit code 1")
    assert "ValueError: no main" in (tmp_path / "x.gguf.log").read_text()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["llama.cpp", "x.gguf.log"]


def test_the_splits_of_deepseek_v3_are_those_in_its_source():
    """And tiny-r1's are told to be "smollm", whose patterns test_converter.py compares."""
    source = (SOURCE / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    for name, label in (("deepseek-v3", "DEEPSEEK3_LLM"), ("smollm", "SMOLLM")):
        case = source.split(f"case LLAMA_VOCAB_PRE_TYPE_{label}:")[1].split("break;")[0]
        found = tuple(json.loads(f'"{each}"') for each in re.findall(r'^\s+"(.*)",$', case, re.M))
        assert found == (SMOLLM if name == "smollm" else {v: k for k, v in PRE_TOKENIZERS.items()}[name])


# ---- tokens


def test_texts_become_the_same_tokens(llm, files):
    """All that tiny-r1 learned from and is asked, by llama.cpp's own tokenizer."""
    texts = sorted({*corpus(seed=1, n=1000), *(question for _, question in held_out_set(1000))})
    got = theirs(PYTHON, files["bf16"], texts, 0)
    for each, (prompt, _) in zip(texts, got, strict=True):
        assert prompt == llm.tokenizer.prompt([{"role": "user", "content": each}]), each


@pytest.mark.parametrize(("outtype", "cache"), [("f32", "F32"), ("bf16", "F16"), ("f16", "F16")])
def test_prompts_and_fifty_greedy_answers_are_those_of_generate(files, reference, outtype, cache):
    got = theirs(PYTHON, files[outtype], QUESTIONS, LIMIT, cache)
    for question, mine, his in zip(QUESTIONS, reference, got, strict=True):
        assert his == mine, question


def test_four_bits_still_calculate(llm, files, tmp_path):
    for name in ("Q4_0", "Q4_K_M"):
        file = tmp_path / f"{name}.gguf"
        program(PYTHON, WORKER, "quantize", files["bf16"], file, name)
        replies = [llm._reply(*both) for both in theirs(PYTHON, file, QUESTIONS, LIMIT)]
        right = sum(answer(r.answer) == p.answer for r, (p, _) in zip(replies, PROBLEMS, strict=True))
        assert right >= 40
        # Rows of 128 are too short for blocks of 256: each head's part of kv_b, and the experts' way back.
        kinds = {weight.name: weight.kind for weight in open_gguf(file).weights}
        short = {name for name in kinds if re.search(r"attn_k_b|ffn_down_exps", name)}
        assert len(short) == 5
        assert {kinds[name] for name in short} == ({"Q4_0"} if name == "Q4_0" else {"Q5_0", "Q8_0"})


# ---- its server


@pytest.fixture(scope="module")
def server(files, reference):  # computed first, while nothing else runs
    serve = Serve(model=str(files["bf16"]), python=str(PYTHON), cpu=True, context=CONTEXT, port=free_port())
    command, folder = llamacpp.build_package(serve), files["bf16"].parent / "server"
    with start(command, port=serve.port, folder=folder, health=llamacpp.PACKAGE.health) as running:
        yield running


@pytest.mark.parametrize("streaming", [True, False])
def test_the_client_tells_thinking_from_the_answer(server, llm, reference, streaming):
    client = Client(server.url)
    for question, both in list(zip(QUESTIONS, reference, strict=True))[:10]:
        reply = llm._reply(*both)
        if streaming:
            assert len(list(client.stream(question, temperature=0, max_tokens=LIMIT))) > 10
        else:
            client.ask(question, temperature=0, max_tokens=LIMIT)
        assert (client.latest.thinking, client.latest.answer) == (reply.thinking, reply.answer)
        assert client.latest.finish == reply.finish


def test_its_port_is_refused_to_another(server, files):
    port = int(server.url.split(":")[2].removesuffix("/v1"))
    done = dsv3(*command(files["bf16"], port))
    fails(done, "serve", f"port {port} is in use")


def command(file: Path, port: int, *more: object) -> list[object]:
    run = ["serve", "--engine", "llamacpp", "--cpu", "--python", PYTHON, "--model", file]
    return [*run, "--context", CONTEXT, "--port", port, *more]


def test_the_commands_from_a_shell(files, folder, tmp_path):
    """With a key, and another HOST in the environment, which the server would obey."""
    mark, port = str(uuid.uuid4()), free_port()
    words = command(files["q8_0"], port, "--folder", tmp_path, "--api-key-env", "MY_KEY")
    env = os.environ | {"MARK": mark, "MY_KEY": "secret-key", "HOST": "0.0.0.0", "PORT": "1"}
    run = [sys.executable, "-m", "dsv3", *map(str, words)]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}/v1 answers after ")
    assert "secret-key" not in "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in alive(mark))
    assert f"Uvicorn running on http://127.0.0.1:{port}" in (tmp_path / f"server-{port}.log").read_text()
    base, model = f"http://127.0.0.1:{port}/v1", load(folder)
    for question in ("37 + 48 = ?", "12 乘 34 等于多少？", "What is 7 - 9?"):
        ask = ("ask", "--base-url", base, question, "--temperature", 0, "--max-tokens", LIMIT)
        done = dsv3(*ask, "--api-key-env", "MY_KEY", MY_KEY="secret-key")
        assert done.stdout == model.chat(question, max_new_tokens=LIMIT).text + "\n"
    fails(dsv3(*ask), "ask", "the server wants another key")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "llama-server is not here, so the server of llama-cpp-python runs" in said
    assert alive(mark) == []


def test_settings_in_the_environment_are_refused(files):
    serve = Serve(model=str(files["bf16"]), python=str(PYTHON), cpu=True)
    look = checks.look(serve.model)
    m = Machine(env={"Seed": "1", "N_CTX": "2", "HOST": "h"})
    assert [line.split(":")[0] for line in llamacpp.package_here(serve, look, m)] == ["Seed"]


def test_every_flag_exists():
    done = subprocess.run(
        [sys.executable, "-m", "dsv3.engines.check_flags", "--engine", "llamacpp", "--python", PYTHON],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.match(r"(\d+) of \1 flags exist; they were looked up in llama-cpp-python", done.stdout)
