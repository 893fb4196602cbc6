"""tiny-r1 in llama.cpp, in 16, 8 and 4 bits: how many held-out sums are right, and how many answers are dsv3's.

python -m benchmarks.llamacpp --work DIR --llama VENV/bin/python --llama-cpp SOURCE [--n 500] [--json FILE]

``make test-llamacpp`` leaves both, ``.venv-llamacpp/bin/python`` and ``.venv-llamacpp/source/vendor/llama.cpp``. The
folder is cast to BF16, files come from ``dsv3 gguf`` and, for 4 bits, from llama.cpp's own ``llama_model_quantize``.
All answers are greedy; the prompts are llama.cpp's own tokens of its own rendering of the chat template. Keys and
values are kept in float16, llama.cpp's default. As many files are asked at a time as there are cores.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from dsv3.checkpoint.gguf import open_gguf
from dsv3.cli import run
from dsv3.engines.converter import Order, asked
from dsv3.fp8_cast_bf16 import cast
from dsv3.gguf import make
from dsv3.inference.sampling import Sampling
from dsv3.llm import LLM, load
from dsv3.outside import printable
from dsv3.paths import TINY_R1
from dsv3.tiny.data import Problem, held_out_set
from dsv3.tiny.evaluate import LIMIT, answer

WORKER = Path(__file__).with_name("llama_worker.py")
CONVERTED, QUANTISED = ("BF16", "Q8_0"), ("Q4_0", "Q4_K_M")
Answers = list[tuple[list[int], list[int]]]  # prompt and completion


def program(*words: object) -> str:
    """What a program prints.

    Raises:
        ChildProcessError: it fails; the last line of its errors says why.
    """
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        what = shlex.join(map(str, words[:3]))
        raise ChildProcessError(printable(": ".join([f"{what} ended with exit code {done.returncode}", *last])))
    return done.stdout


def files(work: Path, folder: Path, llama: str, source: Path) -> dict[str, Path]:
    """Name of a type -> its file, made once."""
    made = {name: work / f"tiny-r1-{name}.gguf" for name in CONVERTED}
    for name, file in made.items():
        if not file.is_file():
            order = Order(folder=folder, llama_cpp=source, outfile=file, outtype=name.lower())
            verdict = asked(order)
            if verdict.wrong:
                raise ValueError(verdict.wrong[0])
            make(order, verdict.pre_tokenizer)
    for name in QUANTISED:
        file = made[name] = work / f"tiny-r1-{name}.gguf"
        if not file.is_file():
            part = file.with_suffix(".part")
            program(llama, WORKER, "quantize", made["BF16"], part, name)
            part.replace(file)
    return made


def theirs(llama: str, file: Path, questions: list[str], limit: int, cache: str = "F16") -> Answers:
    """What llama.cpp answers: token ids."""
    request, target = file.with_suffix(".request.json"), file.with_suffix(".answer.json")
    wanted = {"questions": questions, "limit": limit, "cache": cache}
    request.write_text(json.dumps(wanted), encoding="utf-8")
    program(llama, WORKER, "answer", file, request, target)
    return [(prompt, tokens) for prompt, tokens in json.loads(target.read_text(encoding="utf-8"))]


def ours(llm: LLM, questions: list[str], limit: int) -> Answers:
    """What ``dsv3 generate`` answers: token ids, the last one of an answer that ends included."""
    prompts = [llm.tokenizer.prompt([{"role": "user", "content": question}]) for question in questions]
    completions: list[list[int]] = [[] for _ in prompts]
    for i, token in llm._tokens(prompts, Sampling(max_new_tokens=limit)):
        completions[i].append(token)
    return list(zip(prompts, completions, strict=True))


def right(llm: LLM, problems: list[tuple[Problem, str]], answers: Answers) -> int:
    """How many answers end in the right number."""
    replies = [llm._reply(*both) for both in answers]
    return sum(answer(r.answer) == p.answer for r, (p, _) in zip(replies, problems, strict=True))


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--llama", required=True, metavar="PYTHON", help="a Python that has llama-cpp-python")
    parser.add_argument("--llama-cpp", type=Path, required=True, metavar="SOURCE", help="llama.cpp's source")
    parser.add_argument("--n", type=int, default=500, help="held-out sums")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    folder = args.work / "tiny-r1-bf16"
    cast(TINY_R1, folder)
    problems = held_out_set(args.n)
    questions = [question for _, question in problems]
    made = files(args.work, folder, args.llama, args.llama_cpp)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = {name: pool.submit(theirs, args.llama, file, questions, LIMIT) for name, file in made.items()}
        llm = load(folder, max_batch_size=10)
        answers = {"dsv3": ours(llm, questions, LIMIT)} | {name: each.result() for name, each in waiting.items()}
    rows = []
    for name, each in answers.items():
        same = [(p == q, a == b) for (p, a), (q, b) in zip(each, answers["dsv3"], strict=True)]
        row = {"tool": "dsv3" if name == "dsv3" else "llama.cpp", "weights": "BF16" if name == "dsv3" else name}
        row |= {"right": right(llm, problems, each), "n": args.n}
        row |= {"same_prompts": sum(p for p, _ in same), "same_answers": sum(a for _, a in same)}
        if name in made:
            found = open_gguf(made[name])
            row |= {"mb": round(found.nbytes / 1e6, 2), "tensors": dict(Counter(w.kind for w in found.weights))}
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.json:
        package = "import importlib.metadata as m; print(m.version('llama_cpp_python'))"
        head = {"device": "cpu", "cores": os.cpu_count(), "machine": platform.machine()}
        head |= {"llama_cpp_python": program(args.llama, "-c", package).strip(), "torch": torch.__version__}
        head |= {"transformers": version("transformers"), "python": platform.python_version()}
        head |= {"date": date.today().isoformat()}
        args.json.write_text(json.dumps(head | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
