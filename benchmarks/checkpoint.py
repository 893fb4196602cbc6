"""The checkpoint tools against ``cp -r`` and, if it is at hand, against DeepSeek's own converter, side by side.

python benchmarks/checkpoint.py --work DIR [--official DeepSeek-V3/inference] [--json FILE]

Makes the test checkpoints in DIR (9 GB, and as much again for outputs), runs each command ``--repeat`` times in turn,
and prints medians: seconds, the ratio to ``cp -r`` of the same input, and peak memory. All from a warm page cache.
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
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from make_checkpoint import config, plan

from dsv3.checkpoint import read
from dsv3.checkpoint.write import execute
from dsv3.cli import run

RANKS = 8


# A process inherits its parent's peak, so a small one stands between.
TIMER = """
import json, os, subprocess, sys, time
began = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps({"seconds": time.monotonic() - began, "peak_mb": usage.ru_maxrss / 1024}))
sys.exit(status != 0)
"""


def timed(command: list[str], out: Path) -> dict[str, float]:
    """Run a process that writes ``out``, and remove that again -> seconds, and peak memory in MB."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    done = subprocess.run([sys.executable, "-c", TIMER, *command], capture_output=True, text=True)
    shutil.rmtree(out, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def side_by_side(commands: dict[str, list[str]], out: Path, repeat: int) -> dict[str, dict[str, float]]:
    """Medians of ``repeat`` rounds, in each of which every command runs once."""
    rounds = [{name: timed(command, out) for name, command in commands.items()} for _ in range(repeat)]
    return {
        name: {key: statistics.median(r[name][key] for r in rounds) for key in ("seconds", "peak_mb")}
        for name in commands
    }


# A rank's half, loaded by the package, and the same byte ranges only read; each says its own seconds.
LOAD = """
import sys, time, torch
from pathlib import Path
from dsv3.inference.weights import load
from dsv3.config import ModelConfig
from dsv3.model import Transformer
from dsv3.ranks.parallel import Parallel
from dsv3.runtime import Runtime
folder = Path(sys.argv[1])
cfg = ModelConfig.load(folder)
from dataclasses import replace
began = time.monotonic()
model = Transformer(replace(cfg, n_mtp_layers=0), Runtime(tp=Parallel(0, 2), gemm="fp8", attn="naive"))
load(model, folder, cfg)
print(time.monotonic() - began)
"""
READ = """
import sys, time
from dataclasses import replace
from pathlib import Path
from dsv3.checkpoint import read
from dsv3.config import ModelConfig
from dsv3.layout import layout
folder = Path(sys.argv[1])
cfg = ModelConfig.load(folder)
found = read.open_folder(folder)
began = time.monotonic()
kept = []
for row in layout(replace(cfg, n_mtp_layers=0)):
    if 0 in row.holders(2, cfg.n_routed_experts):
        kept.append(found.read(row.hf, row.local(0, 2)[0] if found[row.hf].shape[0] else None))
print(time.monotonic() - began)
"""


def said(code: str, folder: Path, repeat: int) -> float:
    """The median of the seconds that a script prints."""
    runs = (subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
            for _ in range(repeat))  # fmt: skip
    return statistics.median(float(r.stdout) for r in runs)


def dequantised(name: str, threads: int, repeat: int) -> float:
    """10^9 FP8 elements a second that a dequantiser turns into BF16, each thread a matrix of its own; the median."""
    import torch

    from dsv3.kernels import cpu, native, reference

    function = {"cpu": cpu, "native": native, "reference": reference}[name].weight_dequant
    w = torch.randn(2048, 4096).mul_(20).to(torch.float8_e4m3fn)
    scale = torch.rand(16, 32)
    torch.set_num_threads(1)
    speeds = []
    for _ in range(repeat):
        with ThreadPoolExecutor(threads) as pool:
            began = time.monotonic()
            list(pool.map(lambda _: function(w, scale), range(8 * threads)))
            speeds.append(8 * threads * w.numel() / 1e9 / (time.monotonic() - began))
    return round(statistics.median(speeds), 3)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="a folder on the disk to be measured")
    parser.add_argument("--official", type=Path, metavar="DIR", help="the inference folder of DeepSeek-V3's repository")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    tiny = Path(__file__).parents[1] / "dsv3" / "assets" / "tiny-r1"
    rows = []

    def report(work: str, result: dict[str, dict[str, float]], base: str, **more: object) -> None:
        for name, r in result.items():
            row = {"work": work, "tool": name} | {k: round(v, 3) for k, v in r.items()} | more
            row[f"times_{base}"] = round(r["seconds"] / result[base]["seconds"], 2)
            rows.append(row)
            print(json.dumps(row), flush=True)

    for kind in ("many", "large"):
        folder, out = args.work / kind, args.work / "out"
        if not (folder / "config.json").exists():
            execute(plan(kind), folder)
        flags = ["--hf-ckpt-path", folder, "--save-path", out, "--n-experts", config(kind).n_routed_experts]
        flags = [*map(str, flags), "--model-parallel", str(RANKS)]
        commands = {"cp": ["cp", "-r", str(folder), str(out)], "dsv3": [sys.executable, "-m", "dsv3.convert", *flags]}
        if args.official:
            commands["official"] = [sys.executable, str(args.official / "convert.py"), *flags]
        size = sum(f.stat().st_size for f in folder.iterdir())
        report(f"convert {kind} to {RANKS}", side_by_side(commands, out, args.repeat), "cp", gigabytes=size / 1e9)

    folder = args.work / "large"
    cast = [sys.executable, "-m", "dsv3.fp8_cast_bf16", "--input-fp8-hf-path", str(folder)]
    commands = {
        "cp": ["cp", "-r", str(folder), str(out)],
        "dsv3": [*cast, "--output-bf16-hf-path", str(out)],
    }
    elements = sum(e.stop - e.start for e in read.open_folder(folder).values() if e.dtype == "F8_E4M3")
    result = side_by_side(commands, out, args.repeat)
    report("cast large to BF16", result, "cp", giga_elements_per_s=round(elements / 1e9 / result["dsv3"]["seconds"], 3))

    for folder in (tiny, args.work / "large"):
        seconds = {
            tool: {"seconds": said(code, folder, args.repeat)} for tool, code in (("read", READ), ("dsv3", LOAD))
        }
        report(f"load rank 0 of 2 of {folder.name}", seconds, "read")

    for threads in (1, 2):
        speeds = {name: dequantised(name, threads, args.repeat) for name in ("reference", "cpu", "native")}
        for name, speed in speeds.items():
            rows.append(
                {"work": f"dequantise in memory, {threads} threads", "tool": name, "giga_elements_per_s": speed}
            )
            print(json.dumps(rows[-1]), flush=True)

    times = []
    for _ in range(args.repeat):
        began = time.monotonic()
        n = len(read.open_folder(args.work / "many"))
        times.append(time.monotonic() - began)
    rows.append({"work": "list many", "tool": "dsv3", "seconds": round(statistics.median(times), 3), "tensors": n})
    print(json.dumps(rows[-1]))
    if args.json:
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        machine |= {"date": date.today().isoformat(), "repeat": args.repeat}
        args.json.write_text(json.dumps(machine | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
