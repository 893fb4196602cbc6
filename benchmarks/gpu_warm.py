"""Compiles what a GPU run launches, in several processes at once: half a minute, where one by one it takes minutes.

Triton compiles a kernel at its first launch and keeps it on disk, so running everything once in other processes is
enough; their results are thrown away. What fails here fails again, and is told, where it counts.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from dsv3 import compile as machine
from dsv3.config import ModelConfig
from dsv3.kernels import hardware
from dsv3.kernels.launch import Launch

from .gpu_checks import CHECKS, lacking
from .gpu_step_cases import cases
from .gpu_steps import MODELS, Model, ours

PROCESSES = 10  # each holds half a gigabyte of the GPU for itself
SECONDS = 90.0
NO_KERNELS = ("beyond_32_bits", "tiny_r1")  # checks that take memory or time, and no kernel of their own


def compiled(launch: Launch) -> None:
    """Compile a launch whose tensors may be on ``meta``, for the GPU that is here, and keep it; nothing runs."""
    launch.kernel.warmup(**launch.args, grid=launch.grid, **launch.options)


def jobs(device: torch.device) -> dict[str, Callable[[], object]]:
    """name -> what to do, what takes longest first.

    Each model with two layers, which launches what all its layers do; every check; every case with all its tiles; and
    every kernel of a decode step at its batches, for the small models to find.
    """
    seen = hardware.hardware_of(device)
    found: dict[str, Callable[[], object]] = {}

    def step(kernel: str, cfg: ModelConfig, rows: int) -> None:
        for launch in machine.launches(kernel, cfg, seen, rows):
            compiled(launch)

    def case(make: Callable[[torch.device], object], tiles: tuple[object, ...]) -> None:
        work = make(device)
        for call in (work.calls["ours"], *map(work.tiled, tiles)):
            call()

    def shallow(model: Model) -> None:
        for _ in ours(replace(model, changes=model.changes | {"n_layers": 2}), True, device):
            pass

    for name, model in MODELS.items():
        found[f"{name}, two layers"] = partial(shallow, model)
    for name in CHECKS:
        if name not in NO_KERNELS and not lacking(name, device):
            found[f"check {name}"] = partial(CHECKS[name], device)
    for row in cases(ModelConfig.load("config_671B.json"), seen):
        found[f"{row.group} {row.shape}"] = partial(case, row.make, row.tiles)
    for name, model in MODELS.items():
        for rows in (*model.decode_ms, *model.prefill_ms):
            for kernel in (*machine.KERNELS, *machine.STEP):
                found[f"{name}, {rows} rows, {kernel}"] = partial(step, kernel, model.cfg, rows)
    return found


def one(name: str, device: torch.device) -> str:
    """Do one of ``jobs`` -> what went wrong, or ``""``."""
    try:
        jobs(device)[name]()
    except Exception as error:  # a card may lack memory or units; the run itself will say so
        return f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        torch.cuda.empty_cache()  # for the other processes
    return ""


def warm(device: torch.device, seconds: float = SECONDS) -> None:
    """All jobs, as many at once as there are cores, for so many seconds at most; one line says how it went."""
    names, began, done, failed = list(jobs(device)), time.monotonic(), 0, []
    processes = min(PROCESSES, os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:  # ends them all when it is left
        results = pool.imap_unordered(partial(one, device=device), names)
        try:
            for _ in names:
                said = results.next(timeout=max(began + seconds - time.monotonic(), 0))
                done, failed = done + 1, failed + ([said] if said else [])
        except multiprocessing.TimeoutError:
            pass
    took = time.monotonic() - began
    print(f"compiled: {done - len(failed)} of {len(names)} jobs, {processes} at a time, {took:.0f} s", flush=True)
    for line in failed:
        print(f"  not compiled beforehand: {line}", flush=True)
