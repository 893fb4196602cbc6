"""Checks of lesson 01: the memory that a process may really use, and whether a driver runs a torch."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from ..sizing.machine import Machine, memory
from . import Wrong, exercise

MEMINFO = "MemTotal:       {} kB\nMemFree:        1234 kB\nMemAvailable:   5678 kB\n"
LIMITS = (None, "max\n", "2147483648\n", " 858993459200 \n", "9223372036854771712\n")

# torch's CUDA build, the newest CUDA of the driver, the verdict. Builds run on every driver of the same major version
# or a newer one: CUDA's minor-version compatibility.
DRIVERS = (
    ("12.8", "12.4", "ok"),
    ("12.10", "12.9", "ok"),
    ("13.0", "12.8", "old driver"),
    ("12.4", "13.0", "ok"),
    ("9.2", "12.4", "ok"),
    ("12.1", "11.8", "old driver"),
    (None, "12.4", "CPU build"),
    ("13.0", "13.0", "ok"),
)


@exercise("01", 1)
def check_usable_memory(usable_memory: Callable[[str, str | None], int]) -> None:
    for kilobytes in (65_536_000, 4_194_304):
        meminfo = MEMINFO.format(kilobytes)
        for limit in LIMITS:
            wanted, found = _usable(meminfo, limit), usable_memory(meminfo, limit)
            if found != wanted:
                hint = "a kB of /proc/meminfo is 1,024 bytes" if found == kilobytes * 1000 else "the smaller one counts"
                given = f"{kilobytes:,} kB in the machine, memory.max {limit!r}"
                raise Wrong(f"{given}: it returns {found!r}, but {wanted:,} bytes may be used; {hint}")


def _usable(meminfo: str, limit: str | None) -> int:
    """What the doctor says of a machine with these files."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n"}
        for name, text in (files | ({"sys/fs/cgroup/memory.max": limit} if limit else {})).items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return min(nbytes for nbytes in memory(Machine(root=Path(folder))) if nbytes is not None)


@exercise("01", 2)
def check_verdict(verdict: Callable[[str | None, str], str]) -> None:
    for built, driver, wanted in DRIVERS:
        found = verdict(built, driver)
        if found != wanted:
            hint = "only the number before the dot decides, as a number" if built else "None is a torch without CUDA"
            raise Wrong(f"torch for CUDA {built} on a driver for {driver}: {wanted!r}, not {found!r}; {hint}")
