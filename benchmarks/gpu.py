"""A real GPU in one command, in 6 minutes: right first, then fast. ``make gpu``, or ``python -m benchmarks.gpu``.

Needs torch, Triton and a GPU; no network, no other package. Compiles in parallel, runs the checks of tests/gpu, times
every kernel against its rivals in the same run, tries the candidate tiles, then times decoding and prefill of whole
models (``gpu_steps.py``), writes all of it as JSON and prints a short table last. Times of kernels are per call, the
median of CUDA graphs' replays between events, with inputs that rotate past the L2 cache.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv3.cli import run
from dsv3.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from .gpu_cases import Case, Work

ROOT = Path(__file__).parents[1]
OURS = "ours"  # of a case's calls; the others are rivals
SECONDS = 340  # of a whole run: no model runs longer, and no kernel begins in the second half
Row = dict[str, Any]


def timed(calls: list[Callable[[], Any]], graph: bool = True, replays: int = 10) -> float:
    """Seconds per call, the median of ``replays``; the calls are the same work on different inputs, taken in turn.

    ``graph``: captured once, so that the host's time is left out; otherwise the host's time counts.
    """
    import torch

    def events(work: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    for call in calls:  # compiles
        call()
    torch.cuda.synchronize()
    estimate = min(events(calls[0]) for _ in range(3))
    rounds = max(1, min(20, math.ceil(2e-3 / max(estimate, 1e-6) / len(calls))))

    def work() -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            work()
        work = captured.replay
    events(work)
    return statistics.median(events(work) for _ in range(replays)) / (rounds * len(calls))


def rotations(nbytes: int, cache: int, memory: int) -> int:
    """How many sets of inputs it takes so that none is in the cache when its turn comes again, as far as memory allows.

    Between two turns of a set, the others must read twice the cache; a set's rivals need up to 8 times its bytes.
    """
    return max(1, min(2 + 2 * cache // nbytes, memory // (8 * nbytes), 64))


def measure(case: "Case", device: "torch.device", copy: float) -> Row:
    """One row: our time, what it means, and each rival's time over ours; ``copy`` in bytes per second."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    sets: list[Work] = [case.make(device) for _ in range(rotations(case.nbytes, cache, free))]
    times, missing = {}, dict(sets[0].missing)
    for name in sets[0].calls:
        try:
            times[name] = timed([s.calls[name] for s in sets], name not in case.hosted)
        except Exception as error:  # a rival that fails must not lose our own time
            if name == OURS:
                raise
            missing[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    tiles = {str(tile): timed([s.tiled(tile) for s in sets]) for tile in case.tiles}
    return row(case, times, copy) | {
        "missing": missing,
        "tiles_us": {tile: round(seconds * 1e6, 2) for tile, seconds in tiles.items()},
    }


def row(case: "Case", times: dict[str, float], copy: float) -> Row:
    """What the times (seconds, ``"ours"`` and the rivals') mean; a ratio above 1 says that ours is faster."""
    from .gpu_cases import COPY

    ours = times[OURS]
    ratios = {COPY: case.nbytes / ours / copy} | {name: t / ours for name, t in times.items() if name != OURS}
    return {
        "group": case.group,
        "shape": case.shape,
        "us": round(ours * 1e6, 2),
        "gb_per_s": round(case.nbytes / ours / 1e9, 1),
        "tflops": round(case.flops / ours / 1e12, 1),
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "goals": case.goals,
    }


def summary(rows: Iterable[Row], wanted: Iterable[tuple[str, str, float]]) -> list[Row]:
    """One line per group and goal: how many shapes reach it, the median ratio and the worst; or ``not measured``."""
    rows, lines = list(rows), []
    for group, rival, goal in wanted:
        mine = [r for r in rows if r["group"] == group and r.get("goals", {}).get(rival) == goal]
        ratios = [r["ratios"][rival] for r in mine if rival in r["ratios"]]
        line = {"group": group, "against": rival, "goal": goal, "shapes": len(ratios), "result": "not measured"}
        if ratios:
            line |= {"reached": sum(r >= goal for r in ratios), "worst": min(ratios)}
            line["result"] = round(statistics.median(ratios), 3)
        lines.append(line)
    return lines


def goals(cfg: ModelConfig) -> list[tuple[str, str, float]]:
    """All (group, rival, least ratio), in the table's order."""
    from dsv3.kernels import hardware

    from . import gpu_steps
    from .gpu_step_cases import cases

    found = [(c.group, rival, goal) for c in cases(cfg, hardware.H100) for rival, goal in c.goals.items()]
    return [*dict.fromkeys(found), *gpu_steps.goals()]


def table(lines: Iterable[Row]) -> str:
    """The summary as text, at most 100 columns."""
    text = [f"{'kernel':20} {'against':12} {'goal':>5} {'median':>7} {'worst':>7}  shapes that reach it"]
    for line in lines:
        name = f"{line['group']:20} {line['against']:12} {line['goal']:5.2f}"
        if line["result"] == "not measured":
            text.append(f"{name} {'not measured':>15}")
            continue
        text.append(f"{name} {line['result']:7.2f} {line['worst']:7.2f}  {line['reached']} of {line['shapes']}")
    return "\n".join(text)


def verify(device: "torch.device") -> dict[str, str]:
    """Every check -> ``"passed"``, ``"not run: why"``, or what was wrong; nothing here stops the run."""
    import torch

    from .gpu_checks import CHECKS, lacking

    results = {}
    for name in CHECKS:
        began = time.monotonic()
        torch.manual_seed(time.time_ns() % 2**31)
        try:
            if why := lacking(name, device):
                results[name] = f"not run: {why}"
            else:
                CHECKS[name](device)
                torch.cuda.synchronize()
                results[name] = "passed"
        except Exception as error:  # a kernel may fail in any way; the report must say which
            results[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"check {name:20} {results[name]}  ({time.monotonic() - began:.1f} s)", flush=True)
    return results


def benchmark(
    device: "torch.device", checks: dict[str, str], cfg: ModelConfig, until: float
) -> tuple[float, list[Row]]:
    """The copy's bytes per second and a row per case; cases whose check is red, or that come too late, say so."""
    import torch

    from dsv3.kernels import hardware

    from .gpu_cases import copy_call
    from .gpu_step_cases import cases

    call, nbytes = copy_call(device)
    copy = nbytes / timed([call])
    del call
    print(f"copy {copy / 1e9:,.0f} GB/s, read and written", flush=True)
    rows = []
    for case in cases(cfg, hardware.hardware_of(device)):
        made: Row = {"group": case.group, "shape": case.shape}
        if checks.get(case.check) != "passed":
            made["not_measured"] = f"check {case.check} did not pass"
        elif time.monotonic() > until:
            made["not_measured"] = "out of time"
        else:
            try:
                made = measure(case, device, copy)
            except Exception as error:  # one case that does not fit must not lose the others
                made["not_measured"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            torch.cuda.empty_cache()
        shown = made.get("not_measured") or f"{made['us']:,.1f} us  {made['ratios']}"
        print(f"{case.group:20} {case.shape:44} {shown}", flush=True)
        rows.append(made)
    return copy, rows


def machine(device: "torch.device") -> Row:
    """What the figures were measured on."""
    import torch
    import triton

    seen = torch.cuda.get_device_properties(device)
    major, minor = torch.cuda.get_device_capability(device)
    versions = {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda}
    versions |= {"python": platform.python_version(), "date": date.today().isoformat()}
    if find_spec("transformers"):
        versions["transformers"] = version("transformers")
    size = round(seen.total_memory / 1e9, 1)
    return {
        "device": seen.name,
        "target": f"sm_{major}{minor}",
        "sms": seen.multi_processor_count,
        "gb": size,
    } | versions


def write(document: Row, *folders: Path) -> list[Path]:
    """The document as ``<device>.json`` in each folder, whole or not at all."""
    name = re.sub(r"[^a-z0-9]+", "-", document["device"].lower()).strip("-") + ".json"
    files = [folder / name for folder in folders]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(part, file)
    return files


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the whole run, about")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--recorded", type=Path, default=ROOT / "notebooks" / "recorded", metavar="DIR")
    args = parser.parse_args(argv)
    began = time.monotonic()
    import torch

    if not torch.cuda.is_available():
        raise ValueError("no CUDA GPU is seen here, so nothing was run; results stay 'not measured'")
    from dsv3.kernels import pick

    if os.environ.get("TRITON_INTERPRET"):
        raise ValueError("TRITON_INTERPRET is set, so nothing would run on the GPU: unset it")
    device = torch.device("cuda", torch.cuda.current_device())
    choice = pick(device)
    print(choice.why, flush=True)
    if choice.kernels.__name__ != "dsv3.kernels.triton":
        raise ValueError(f"Triton's kernels cannot run here: {choice.why}")
    cfg = ModelConfig.load("config_671B.json")
    from . import gpu_steps, gpu_warm

    gpu_warm.warm(device)
    checks = verify(device)
    copy, rows = benchmark(device, checks, cfg, began + args.seconds / 2)
    rows += gpu_steps.measure(began + args.seconds)
    lines = summary(rows, goals(cfg))
    document = machine(device) | {"copy_gb_per_s": round(copy / 1e9, 1), "summary": lines, "checks": checks}
    document |= {"rows": rows, "seconds": round(time.monotonic() - began)}
    for file in write(document, args.results, args.recorded):
        print(f"wrote {file}")
    print(f"{document['device']}, torch {document['torch']}, triton {document['triton']}: {document['seconds']} s")
    print(table(lines))
    if red := [name for name, result in checks.items() if not result.startswith(("passed", "not run"))]:
        print(f"FAILED: {', '.join(red)}")
        sys.exit(1)


if __name__ == "__main__":
    run(main)
