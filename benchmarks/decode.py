"""Decoding, side by side: dsv3 in its forms, transformers; vLLM's CPU build and llama.cpp where their Python is given.

python benchmarks/decode.py --work DIR [--vllm VENV/bin/python] [--llama VENV/bin/python] [--device cuda] [--json FILE]

Each contender is a process of its own that loads the model, warms up, and then decodes 128 tokens behind a prompt of 32
whenever it is asked; the rounds go round the contenders, so that all see the same machine. Medians of tokens/s, without
the time of the prompt (from transformers' and vLLM's runs one of a single token is subtracted). llama.cpp (packages
llama-cpp-python and gguf) reads files that ``to_gguf.py`` makes, in BF16 and in Q8_0; unless its likeliest tokens are
dsv3's, nothing is measured.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import torch
from make_checkpoint import plan

from dsv3 import cost
from dsv3.checkpoint.write import execute
from dsv3.cli import run
from dsv3.config import ModelConfig
from dsv3.fp8_cast_bf16 import cast
from dsv3.paths import TINY_R1

PROMPT = torch.randint(10, 1000, (32,), generator=torch.Generator().manual_seed(0)).tolist()
AGREE = 0.9  # of the places of the prompt, whose likeliest tokens are compared; a wrong model agrees nowhere

# A contender: reads a batch size a line, answers with tokens/s. ``build`` gives a function batch -> tokens/s and, where
# tokens are compared, one for the likeliest token behind each of the prompt's.
SERVER = """
import sys, time, json
threads, options, batches, prompt = map(json.loads, sys.argv[2:])
likeliest = list
{build}
speak = sys.stdout
for batch in batches:
    decode(batch)
print("ready", json.dumps(likeliest()), file=speak, flush=True)
for line in sys.stdin:
    print(json.dumps(decode(int(line))), file=speak, flush=True)
"""
OURS = """
import dsv3, torch
torch.set_num_threads(threads)
from dsv3.inference.decode import Stats, generate
llm = dsv3.load(sys.argv[1], **options)
def decode(batch):
    stats = Stats()
    for _ in generate(llm.model, [prompt] * batch, eos_id=-1, max_new_tokens=128, stats=stats):
        pass
    return stats.tokens / stats.decode_seconds * (127 / 128)
def likeliest():
    with torch.inference_mode():
        return llm.model.logits(llm.model(torch.tensor([prompt], device=llm.model.run.device)))[0].argmax(-1).tolist()
"""
TRANSFORMERS = """
import torch
torch.set_num_threads(threads)
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).to(options["device"])
def timed(x, n):
    began = time.monotonic()
    model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=n, min_new_tokens=n, do_sample=False)
    return time.monotonic() - began
def decode(batch):
    x = torch.tensor([prompt] * batch, device=model.device)
    return batch * 127 / (timed(x, 128) - timed(x, 1))
"""
VLLM = """
import torch
torch.set_num_threads(threads)
from vllm import LLM, SamplingParams
model = LLM(sys.argv[1], dtype="bfloat16", max_model_len=512, max_num_seqs=8, disable_log_stats=True)
def timed(batch, n):
    began = time.monotonic()
    model.generate([{"prompt_token_ids": prompt}] * batch, SamplingParams(max_tokens=n, min_tokens=n, ignore_eos=True,
                   temperature=0, detokenize=False), use_tqdm=False)
    return time.monotonic() - began
def decode(batch):
    return batch * 127 / (timed(batch, 128) - timed(batch, 1))
"""
LLAMA = """
import llama_cpp
import numpy
llama_cpp.llama_backend_init()
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
params = llama_cpp.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 512, threads, threads
context = llama_cpp.llama_init_from_model(model, params)
vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
def after(tokens):
    array = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch only points to it
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
        sys.exit("llama_decode failed")
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return int(numpy.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())
def begin():
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
def decode(batch):
    begin()
    token, began = after(prompt), time.monotonic()
    for _ in range(127):
        token = after([token])
    return 127 / (time.monotonic() - began)
def likeliest():
    begin()
    return [after([token]) for token in prompt]
"""
PEERS = {"dsv3": "llama.cpp BF16", "dsv3 --gemm w8a16": "llama.cpp Q8_0"}  # of about the same bytes


class Contender:
    """A process that decodes when asked.

    Attributes:
        likeliest: the token that it finds likeliest behind each of the prompt's; empty where that is not compared.
    """

    def __init__(
        self, python: str, build: str, folder: Path, threads: int, options: dict[str, object], batches: tuple[int, ...]
    ):
        code = SERVER.replace("{build}", build)
        command = [python, "-c", code, str(folder), *map(json.dumps, (threads, options, batches, PROMPT))]
        env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        while (line := self.process.stdout.readline()) and not line.startswith("ready"):
            pass
        if not line:
            raise RuntimeError(f"{folder}: a contender did not start: {build.splitlines()[1]}")
        self.likeliest = json.loads(line.removeprefix("ready"))

    def decode(self, batch: int) -> float:
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def side_by_side(
    contenders: dict[str, Contender], batches: tuple[int, ...], repeat: int
) -> dict[int, dict[str, float]]:
    """batch -> contender -> the median of its tokens/s."""
    rounds = {batch: {name: [] for name in contenders} for batch in batches}
    for _ in range(repeat):
        for batch in batches:
            for name, contender in contenders.items():
                rounds[batch][name].append(contender.decode(batch))
    for contender in contenders.values():
        contender.end()
    return {batch: {name: statistics.median(speeds) for name, speeds in row.items()} for batch, row in rounds.items()}


def check_tokens(contenders: dict[str, Contender]) -> None:
    """Hold the likeliest tokens of all who say them against those of the first.

    Raises:
        ValueError: one computes something else, so that its speed says nothing.
    """
    first, *others = ((name, c.likeliest) for name, c in contenders.items() if c.likeliest)
    for name, tokens in others:
        same = sum(a == b for a, b in zip(tokens, first[1], strict=True))
        print(f"{name}: the likeliest token is that of {first[0]} at {same} of {len(PROMPT)} places", file=sys.stderr)
        if same < AGREE * len(PROMPT):
            raise ValueError(f"{name}: computes another model than {first[0]}; nothing is measured")


def bandwidth(device: str, repeat: int) -> float:
    """Bytes per second at which a sum reads 1 GiB of float32."""
    x = torch.ones(1 << 28, device=device)  # zeros would all be one page
    times = []
    for _ in range(repeat + 1):
        began = time.monotonic()
        x.sum().item()
        times.append(time.monotonic() - began)
    return x.nbytes / statistics.median(times[1:])


def sums(threads: int, device: str, repeat: int) -> list[dict[str, object]]:
    """tiny-r1 on 40 held-out sums, one at a time, with and without its MTP layer, in turn."""
    import dsv3
    from dsv3.tiny.data import held_out_set

    torch.set_num_threads(threads)
    questions = [question for _, question in held_out_set(40, seed=3)]
    llms = {k: dsv3.load("tiny-r1", max_batch_size=1, mtp=k, device=device) for k in (0, 1, 2)}
    speeds = {k: [] for k in llms}
    for _ in range(repeat + 1):
        for k, llm in llms.items():
            llm.generate(questions)
            speeds[k].append(llm.stats.tokens / llm.stats.decode_seconds)
    rows = []
    for k, llm in llms.items():
        row = {"work": "tiny-r1, sums, batch 1", "tool": f"dsv3 --mtp {k}" if k else "dsv3"}
        row["tokens_per_s"] = round(statistics.median(speeds[k][1:]), 1)
        row["times_without"] = round(
            row["tokens_per_s"] / (rows[0]["tokens_per_s"] if rows else row["tokens_per_s"]), 2
        )
        if k:
            row["accepted"] = round(llm.stats.accepted / llm.stats.drafted, 3)
            row["tokens_per_step"] = round(llm.stats.tokens / llm.stats.steps, 2)
        rows.append(row)
    return rows


def first_token(work: Path, repeat: int) -> dict[str, object]:
    """Seconds from the command to the end of a process that answers with one token."""
    prompts = work / "prompt.txt"
    prompts.write_text("37 + 48 = ?\n", encoding="utf-8")
    command = [sys.executable, "-m", "dsv3.generate", "--ckpt-path", str(TINY_R1), "--input-file", str(prompts)]
    times = []
    for _ in range(repeat + 1):
        began = time.monotonic()
        subprocess.run([*command, "--max-new-tokens", "1"], check=True, capture_output=True)
        times.append(time.monotonic() - began)
    return {"work": "first token of tiny-r1, from the command", "seconds": round(statistics.median(times[1:]), 2)}


def prepare(work: Path) -> dict[str, Path]:
    """The checkpoints, made once: tiny-r1's cast, and the model of a billion in FP8 and BF16, with a tokenizer."""
    folders = {"tiny-bf16": work / "tiny-r1-bf16", "fp8": work / "billion", "bf16": work / "billion-bf16"}
    if not (folders["tiny-bf16"] / "config.json").exists():
        cast(TINY_R1, folders["tiny-bf16"])
    if not (folders["fp8"] / "config.json").exists():
        execute(plan("billion"), folders["fp8"])
    if not (folders["bf16"] / "config.json").exists():
        cast(folders["fp8"], folders["bf16"])
    for folder in folders.values():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY_R1 / name, folder)
    return folders


def compared(work: str, measured: dict[int, dict[str, float]]) -> Iterator[dict[str, object]]:
    """A row for each contender, printed: its speed, and how many times that of the others."""
    for batch, speeds in measured.items():
        others = max(speeds[name] for name in ("transformers", "vllm", "llama.cpp BF16") if name in speeds)
        for name, speed in speeds.items():
            row = {"work": f"{work}, batch {batch}", "tool": name, "tokens_per_s": round(speed, 1)}
            row["times_best_other"] = round(speed / others, 2)
            if PEERS.get(name) in speeds:
                row["times_llama_cpp"] = round(speed / speeds[PEERS[name]], 2)
            print(json.dumps(row), flush=True)
            yield row


def for_llama(python: str, folders: dict[str, Path]) -> dict[str, Path]:
    """llama.cpp's files of the model of a billion, made once by ``python``'s package gguf: contender -> file."""
    files = {}
    for kind in ("BF16", "Q8_0"):
        file = files[f"llama.cpp {kind}"] = folders["bf16"].with_name(f"billion-{kind}.gguf")
        if not file.exists():
            made = file.with_suffix(".part")
            script = Path(__file__).with_name("to_gguf.py")
            subprocess.run([python, str(script), str(folders["bf16"]), str(made), kind], check=True)
            made.replace(file)
    return files


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for 4 GB of checkpoints")
    parser.add_argument("--vllm", metavar="PYTHON", help="the Python of an environment with vLLM's CPU build")
    parser.add_argument("--llama", metavar="PYTHON", help="the Python of one with llama-cpp-python and gguf")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    folders, rows = prepare(args.work), []
    device = {"device": args.device}

    def compare(
        work: str,
        folder: Path,
        ours: dict[str, tuple[Path, dict[str, object]]],
        batches: tuple[int, ...],
        llama: dict[str, Path],
    ) -> None:
        contenders = {
            name: Contender(sys.executable, OURS, where, args.threads, device | options, batches)
            for name, (where, options) in ours.items()
        }
        contenders["transformers"] = Contender(sys.executable, TRANSFORMERS, folder, args.threads, device, batches)
        if args.vllm:
            contenders["vllm"] = Contender(args.vllm, VLLM, folder, args.threads, {}, batches)
        contenders |= {
            name: Contender(args.llama, LLAMA, file, args.threads, {}, batches) for name, file in llama.items()
        }
        check_tokens(contenders)
        rows.extend(compared(work, side_by_side(contenders, batches, args.repeat)))

    tiny, bf16 = folders["tiny-bf16"], folders["bf16"]
    forms = {"dsv3 model.py": (tiny, {"model": "plain"}), "dsv3": (tiny, {})}
    compare("tiny-r1 BF16", tiny, forms, (1, 8), {})
    for row in sums(args.threads, args.device, args.repeat):
        rows.append(row)
        print(json.dumps(row), flush=True)
    forms = {"dsv3": (bf16, {}), "dsv3 --gemm w8a16": (folders["fp8"], {"gemm": "w8a16"})}
    compare("1 B BF16", bf16, forms, (1,), for_llama(args.llama, folders) if args.llama else {})
    rate = bandwidth(args.device, args.repeat)
    cfg = ModelConfig.load(bf16)
    for row in rows:
        if row["work"] == "1 B BF16, batch 1":
            nbytes = cost.activated(cfg)["total"] * (1 if row["tool"].endswith(("w8a16", "Q8_0")) else 2)
            row["share_of_bandwidth"] = round(row["tokens_per_s"] * nbytes / rate, 3)
            print(json.dumps(row), flush=True)
    rows.append(first_token(args.work, args.repeat))
    print(json.dumps(rows[-1]))
    if args.json:
        import transformers

        head = {
            "device": args.device,
            "threads": args.threads,
            "machine": platform.machine(),
            "torch": torch.__version__,
        }
        head |= {"gpu": torch.cuda.get_device_name()} if args.device == "cuda" else {}
        head |= {"transformers": transformers.__version__, "date": date.today().isoformat(), "repeat": args.repeat}
        head |= {"read_gb_per_s": round(rate / 1e9, 1), "parameters": cost.parameters(cfg)["total"]}
        head |= {"activated": cost.activated(cfg)["total"]}
        args.json.write_text(json.dumps(head | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
