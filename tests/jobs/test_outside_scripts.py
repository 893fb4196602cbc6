"""Text from outside in scripts: legal text arrives as one word, byte for byte; what could end a line is refused.

The scripts are run, with stand-ins for ssh, Slurm, MPI and the engines that record their words.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from jobs import linux

from dsv3 import launch, serve
from dsv3.engines.table import ENGINES

pytestmark = linux

ENGINES_OF_LWS = ("sglang", "vllm", "lmdeploy")
KEYED = ("sglang", "vllm", "lmdeploy", "ascend")  # TensorRT-LLM has no key
NAMED = ("sglang", "vllm", "ascend")  # take the name of a quantization
SCRIPTS = [("generate", "ssh"), ("generate", "slurm")]
SCRIPTS += [(e.name, kind) for e in ENGINES for kind in ("ssh", "slurm", "dry-run")]
SCRIPTS += [(name, "lws") for name in ENGINES_OF_LWS]
PLANT = "$(touch PWN)`touch PWN`;touch PWN&touch PWN|touch PWN #"
WORDS = [
    f'it\'s "{PLANT}" \\ ! % ~ * ? [a] {{b,c}} <x >y \\n $HOME $$ $$$ $(DSV3_API_KEY) $(K) ${{K}} é 中文 👩‍🔬 ',
    *("~", "~root", "a=b", "%1", "NODE", "EOF", "HOST", "#x", "!x", "&", "\\", "'", "$$(K)", "x - y", "%j", "null"),
    *("ADDRESS-OF-NODE-0", " lead", "trail ", "a: b", "| x", "*x", "@x", "'$(touch PWN)'", '"; touch PWN; "', "é"),
]
SAY = 'printf "%s\\0" "$PWD" "$0" "$@" > "$OUT.$BASHPID"'


def stand_in(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def printed(engine: str, kind: str, model: str, python: Path, quantization: str) -> list[str]:
    """The arguments for which a verb prints the script."""
    options = ["--tp", "2"] + [f"--quantization={quantization}"] * (engine in NAMED)
    if engine in KEYED:
        options += ["--host", "0.0.0.0", "--api-key-env", "K"]
    if kind == "dry-run":
        return ["--engine", engine, f"--model={model}", f"--python={python}", "--dry-run", *options]
    flags = [f"--{kind}", "--gpus-per-host", "1", f"--model={model}", f"--python={python}"]
    flags += ["--nodes", "2"] if kind == "lws" else ["--hosts", "me@gpu01,gpu02"]
    if engine == "generate":
        return [*flags, "--", "--input-file", quantization, "--config", quantization]
    return [*flags, "--engine", engine, "--", *options]


def expanded(text: str) -> str:
    """What Kubernetes makes of a container's argument (k8s.io/kubernetes/third_party/forked/golang/expansion)."""
    return re.sub(r"\$\$|\$\((\w*)\)", lambda found: "$" if found[0] == "$$" else "EXPANDED", text)


def programs(folder: Path, python: Path, then: str) -> dict[str, str]:
    """Stand-ins for everything that a script calls -> the environment that finds them."""
    bin = folder / "bin"
    # ssh joins its words and has a shell read them; srun runs its words.
    stand_in(bin, "ssh", 'while [[ $1 == -* ]]; do [ "$1" = -o ] && shift; shift; done; shift; sh -c "$*"')
    stand_in(bin, "srun", 'while [[ $1 == -* ]]; do shift; done; for i in 0 1; do SLURM_NODEID=$i "$@"; done')
    stand_in(bin, "mpirun", 'shift 4; "$@"')
    stand_in(bin, "scontrol", "echo gpu01; echo gpu02")
    names = ["sglang", "vllm", "lmdeploy", "trtllm-serve", "trtllm-llmapi-launch", "ray", "python"]
    for name in names:
        stand_in(python.parent, name, SAY + then)
    env = {"PATH": f"{bin}:/usr/bin:/bin", "OUT": str(folder / "said"), "SLURM_JOB_NODELIST": "x", "K": "the-key"}
    return env | {"LWS_LEADER_ADDRESS": "leader", "LWS_WORKER_INDEX": "1", "SLURM_NODEID": "0", "LANG": "C.UTF-8"}


def ran(kind: str, script: str, folder: Path, env: dict[str, str]) -> list[list[str]]:
    """Run a printed script -> the words of every program that it started, the folder first."""
    scripts = [script]
    if kind == "lws":
        template = next(yaml.safe_load_all(script))["spec"]["leaderWorkerTemplate"]
        pods = [template[f"{role}Template"]["spec"]["containers"][0] for role in ("leader", "worker")]
        scripts = [expanded(pod["args"][0]) for pod in pods]
    for one in scripts:
        subprocess.run(["bash", "-n"], input=one.encode(), check=True)
        subprocess.run(["bash"], input=one.encode(), env=env, cwd=folder, timeout=120, check=True)
    said = Path(env["OUT"])
    return [file.read_bytes().decode().split("\0")[:-1] for file in said.parent.glob(f"{said.name}.*")]


def check(engine: str, kind: str, word: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Every option is ``word``, the folders of Python and of the work are called so."""
    typed = kind == "dry-run"
    folder = tmp_path / ("work" if typed else word)
    python = Path(f"{word}+" if typed else folder, "bin", "python")  # a folder of the model's name would be the model
    folder.mkdir()
    monkeypatch.chdir(folder)
    # With the first node of an ssh script that ends, all are ended: each waits for the others' words.
    said = {"lmdeploy": 3, "trtllm": 1}.get(engine, 2)
    wait = f'; for i in {{1..300}}; do [[ $* == *--head* || $(ls "$OUT".* | wc -l) -ge {said} ]] || sleep 0.1; done'
    env = programs(tmp_path, folder / python, wait * (kind == "ssh"))
    model = f"/data/{word}" if kind == "lws" else word
    (serve if typed else launch).main(printed(engine, kind, model, python, word))
    found = ran(kind, capsys.readouterr().out, folder, env)
    served = [words for words in found if not words[1].endswith("/ray")]
    assert served
    for where, program, *words in served:
        assert Path(program).parent == python.parent
        assert where == str(folder)
        assert words.count(model) >= 1, words
        if engine == "generate":
            assert words[-4:] == ["--input-file", word, "--config", word]
        if engine in NAMED:
            assert words[words.index("--quantization") + 1] == word
    assert not list(tmp_path.rglob("PWN"))


@pytest.mark.parametrize(("engine", "kind"), SCRIPTS)
@pytest.mark.parametrize("word", WORDS if os.environ.get("DSV3_ALL_WORDS") else [WORDS[0], "a=b"], ids=WORDS.index)
def test_legal_text_arrives_as_one_word(engine, kind, word, tmp_path, monkeypatch, capsys):
    check(engine, kind, word, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("word", WORDS, ids=WORDS.index)
def test_any_word_in_slurm_and_kubernetes(word, tmp_path, monkeypatch, capsys):
    """All the words, where a run takes no second."""
    for engine, kind in (("vllm", "slurm"), ("sglang", "lws"), ("vllm", "dry-run"), ("generate", "slurm")):
        folder = tmp_path / f"{engine}.{kind}"
        folder.mkdir()
        check(engine, kind, word, folder, monkeypatch, capsys)


def test_notes_stay_comments(tmp_path, monkeypatch, capsys):
    """A folder's real name behind a link, and a GPU's name, are not options: they stand in comments only."""
    (tmp_path / "x\ntouch PWN\n").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "x\ntouch PWN\n")
    (tmp_path / "link" / "config.json").write_text("{}")
    (tmp_path / "link" / "tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    serve.main(["--engine", "vllm", "--model", "link", "--dry-run"])
    subprocess.run(["bash"], input=capsys.readouterr().out, text=True, env={"PATH": "/usr/bin:/bin"}, timeout=60)
    assert not list(tmp_path.rglob("PWN"))
