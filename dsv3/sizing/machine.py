"""Facts about a machine, found without torch: memory and cores that a process really gets, GPUs, disks, the network."""

import csv
import http.client
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..outside import printable

PATIENCE = 10  # seconds for one command; nvidia-smi wakes up sleeping GPUs first
MOST = 1 << 18  # bytes that a command may print


def run_command(command: list[str]) -> str | None:
    """What ``command`` prints; None if it does not exist, fails, takes too long, or prints more than ``MOST``."""
    if shutil.which(command[0]) is None:
        return None
    null = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=null, stdout=subprocess.PIPE, stderr=null, start_new_session=True)
    except OSError:
        return None
    # Not communicate(), which waits for whoever holds the pipe, also after the command has been killed.
    found: list[bytes] = []
    assert process.stdout is not None  # a pipe
    read = process.stdout.read
    reader = threading.Thread(target=lambda: found.append(read(MOST)), daemon=True)
    reader.start()
    try:
        reader.join(PATIENCE)
        code = process.wait(PATIENCE) if found and len(found[0]) < MOST else None
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _end(process)
    return found[0].decode("utf-8", "replace").replace("\r\n", "\n") if code == 0 else None


def _end(process: subprocess.Popen) -> None:
    """End a command, if it still runs, and what it left behind in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    process.wait()


@dataclass(frozen=True)
class Machine:
    """Where to look; tests give another ``root``, ``env`` and ``run``.

    Attributes:
        root: the folder that holds /proc, /sys and /dev.
        folder: where checkpoints would be written.
        run: a command -> what it prints, or None.
    """

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    folder: Path = Path(".")
    run: Callable[[list[str]], str | None] = run_command

    def read(self, path: str) -> str | None:
        """The text of a file below ``root``, or None."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    @cached_property
    def gpus(self) -> "list[SeenGPU] | None":
        """The GPUs that nvidia-smi lists; None without it, or if it cannot talk to the driver."""
        return _gpus(self.run(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]))

    @cached_property
    def driver_cuda(self) -> tuple[int, int] | None:
        """The newest CUDA that the driver runs, from nvidia-smi's first lines: (12, 8); None if it does not say."""
        found = re.search(r"CUDA(?: UMD)? Version\s*:\s*(\d{1,4})\.(\d{1,4})", self.run(["nvidia-smi"]) or "")
        return (int(found[1]), int(found[2])) if found else None

    @cached_property
    def links(self) -> dict[tuple[int, int], str]:
        """How pairs of GPUs are linked, by ``nvidia-smi topo -m``: NV18 (NVLink), PIX, PXB, PHB, NODE, SYS (PCIe)."""
        return _links(self.run(["nvidia-smi", "topo", "-m"]) or "")


# ------------------------------------------------------------------------------------------------ memory and cores


def _groups(m: Machine, controller: str) -> Iterator[str]:
    """The control groups that this process is in, innermost first, as folders below ``root``: version 2, and 1."""
    for line in (m.read("proc/self/cgroup") or "0::/").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        base = f"sys/fs/cgroup/{names}".rstrip("/")
        if not os.path.isdir(m.root / base):
            base = f"sys/fs/cgroup/{controller}"
        # In a container the path may be the host's, which is not there; then its root is ours.
        parts = [p for p in path.split("/") if p not in ("", "..")]
        for i in range(len(parts), -1, -1):
            yield "/".join([base, *parts[:i]])


def memory(m: Machine) -> tuple[int | None, int | None]:
    """Bytes of RAM: of the machine, and the least that a control group allows; None where nothing says so."""
    total = re.search(r"MemTotal:\s+(\d+) kB", m.read("proc/meminfo") or "")
    machine = int(total[1]) * 1024 if total else None
    if machine is None and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = []
    for group in _groups(m, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = (m.read(f"{group}/{name}") or "").strip()
            if text.isdigit() and (machine is None or int(text) < machine):
                limits.append(int(text))
    return machine, min(limits, default=None)


def cores(m: Machine) -> float:
    """Cores that this process may use: its affinity, or the control groups' quota where that is less."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(available)]
    for group in _groups(m, "cpu"):
        quota, _, period = (m.read(f"{group}/cpu.max") or "").strip().partition(" ")
        if not quota:
            quota = (m.read(f"{group}/cpu.cfs_quota_us") or "").strip()
            period = (m.read(f"{group}/cpu.cfs_period_us") or "").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas)


# ------------------------------------------------------------------------------------------------ GPUs


@dataclass(frozen=True)
class SeenGPU:
    """A GPU as nvidia-smi shows it."""

    number: int
    name: str
    memory_mib: int
    used_mib: int
    capability: str
    driver: str


NUMBER = re.compile("[0-9]{1,12}")
QUERY = "index,name,memory.total,memory.used,compute_cap,driver_version"


def _gpus(text: str | None) -> list[SeenGPU] | None:
    if text is None:
        return None
    found = []
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    except csv.Error:
        return None
    for row in rows:
        if len(row) == len(QUERY.split(",")) and NUMBER.fullmatch(row[0]):
            total, used = (int(n) if NUMBER.fullmatch(n) else 0 for n in row[2:4])  # "[N/A]" where it is the CPU's
            found.append(SeenGPU(int(row[0]), printable(row[1]), total, used, printable(row[4]), printable(row[5])))
    return found


def _links(text: str) -> dict[tuple[int, int], str]:
    found, columns = {}, 0
    for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines():
        cells = line.split()
        if not columns and cells[:1] == ["GPU0"] and cells[1:2] != ["X"]:
            columns = sum(bool(re.fullmatch(r"GPU\d+", c)) for c in cells)
        elif columns and cells and (row := re.fullmatch(r"GPU(\d+)", cells[0])):
            for column, link in enumerate(cells[1 : 1 + columns]):
                if int(row[1]) < column:
                    found[int(row[1]), column] = link
    return found


# ------------------------------------------------------------------------------------------------ disk and network


def write_rate(folder: Path, nbytes: int = 256 << 20) -> float:
    """Bytes per second of writing to ``folder``, until they are on the disk; nothing is left there.

    Raises:
        OSError: it cannot be written.
    """
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.monotonic()
        for _ in range(nbytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return nbytes / (time.monotonic() - began)


def reach(url: str, seconds: float = 4) -> str | None:
    """None if ``url`` answers at all, through the proxy that is set; else why it does not, in a few words."""
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "dsv3"})
        with urllib.request.urlopen(request, timeout=seconds):
            return None
    except urllib.error.HTTPError:
        return None  # it answered
    except (ValueError, http.client.InvalidURL):
        return "not a web address"
    except (OSError, http.client.HTTPException) as error:
        return printable(getattr(error, "reason", error)) or type(error).__name__
