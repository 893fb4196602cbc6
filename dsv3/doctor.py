"""Is this machine ready? Each finding is ok, a warning or a failure, with what to do about it."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warning", "failure"]
    what: str
    text: str


def examine(folder: Path) -> list[Finding]:
    """Look at Python, torch, its GPUs, the packages, memory, and the disk that holds ``folder``. Never raises."""
    python = platform.python_version()
    new = sys.version_info >= (3, 11)
    findings = [Finding("ok" if new else "failure", "python", python if new else f"{python}: 3.11 or newer is needed")]
    findings += [_package(name) for name in ("safetensors", "tokenizers", "jinja2", "numpy")]
    findings += _torch()
    memory = _memory()
    if memory:
        findings.append(
            Finding("ok" if memory > 2e9 else "warning", "memory", f"{memory / 1e9:.1f} GB for this process")
        )
    free = shutil.disk_usage(folder).free
    enough = free > 1e9
    findings.append(Finding("ok" if enough else "warning", "disk", f"{free / 1e9:.1f} GB free at {folder}"))
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding("failure", name, f"not installed: pip install {name}")


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("failure", "torch", f"does not load ({error}): pip install torch")]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    findings = [Finding("ok", "torch", f"{torch.__version__} ({build})")]
    if not torch.cuda.is_available():
        hint = "; the driver is missing or too old for this build" if torch.version.cuda else ""
        findings.append(Finding("warning", "gpu", f"none seen{hint}: tiny-r1 runs on the CPU"))
        return findings
    from .kernels import pick

    for i in range(torch.cuda.device_count()):
        gigabytes = torch.cuda.get_device_properties(i).total_memory / 1e9
        findings.append(Finding("ok", f"gpu {i}", f"{pick(torch.device('cuda', i)).why}; {gigabytes:.0f} GB"))
    return findings


def _memory() -> int | None:
    """Bytes of RAM that this process may use: the machine's, or the container's limit where that is lower."""
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def main(argv: list[str]) -> None:
    """The command line: a line per finding; exit code 1 if one is a failure."""
    argparse.ArgumentParser(prog="dsv3 doctor", description=__doc__).parse_args(argv)
    findings = examine(Path.cwd())
    for f in findings:
        print(f"{f.level:8} {f.what:12} {f.text}")
    if any(f.level == "failure" for f in findings):
        sys.exit(1)


if __name__ == "__main__":
    from .cli import run

    run(main)
