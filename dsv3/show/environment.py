"""Lesson 01: machines that are not there, as the doctor sees them; what the tools take of memory; their figures.

Imports no torch.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .. import doctor, paths
from ..doctor import Finding
from ..sizing.machine import Machine
from .style import BLUE, GREEN, GREY, ORANGE, RED, axes, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

LEVELS = {"ok": GREEN, "warning": ORANGE, "failure": RED}
CHECKS = (doctor.check_gpus, doctor.check_links, doctor.check_memory, doctor.check_proxy, doctor.check_autodl)
PAGE = "| NVIDIA-SMI {driver}    Driver Version: {driver}    CUDA Version: {cuda}   |\n"
PEAK = r"VmHWM:\s+(\d+) kB"
CHILD = """
import contextlib, io, runpy, sys
code = 0
sys.argv.pop(0)
with contextlib.redirect_stdout(io.StringIO()):
    try:
        if sys.argv[0]:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
print(open("/proc/self/status").read())
sys.exit(code)
"""


def pretend(folder: Path) -> dict[str, Machine]:
    """Machines made of a few files in ``folder`` and of what nvidia-smi would print: the doctor reads no more."""
    h20 = [f"{i}, NVIDIA H20, 97871, 4, 9.0, 550.54.15" for i in range(8)]
    geforce = [f"{i}, NVIDIA GeForce RTX 4090, 24564, 1, 8.9, 570.86.10" for i in range(2)]
    return {
        "laptop, 16 GB": _machine(folder / "laptop", 16),
        "AutoDL, no-GPU mode": _machine(folder / "no-gpu", 512, limit=2, autodl=True),
        "AutoDL, 8 x H20": _machine(folder / "h20", 1024, limit=800, gpus=h20, link="NV18", autodl=True),
        "2 x RTX 4090, proxy on": _machine(
            folder / "geforce", 256, limit=120, gpus=geforce, link="PHB", autodl=True, proxy=True
        ),
        "A800, in use": _machine(folder / "a800", 256, gpus=["0, NVIDIA A800-SXM4-80GB, 81920, 30000, 8.0, 550.54.15"]),
    }


def _machine(
    root: Path,
    ram: int,
    limit: int | None = None,
    gpus: Sequence[str] = (),
    link: str = "",
    autodl: bool = False,
    proxy: bool = False,
) -> Machine:
    """A machine with ``ram`` GB, of which its container may use ``limit``, and ``gpus`` as nvidia-smi lists them."""
    files = {"proc/meminfo": f"MemTotal: {ram << 20} kB\n", "proc/self/cgroup": "0::/\n"}
    files |= {f"dev/nvidia{i}": "" for i in range(len(gpus))}
    if limit:
        files["sys/fs/cgroup/memory.max"] = f"{limit << 30}\n"
    if autodl:
        files[f"{paths.AUTODL_DATA.relative_to('/')}/.keep"] = ""
        files[str(paths.AUTODL_PROXY.relative_to("/"))] = "export http_proxy=http://127.0.0.1:7890\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    env = {"http_proxy": "http://127.0.0.1:7890"} if proxy else {}
    return Machine(root=root, env=env, folder=root, run=_smi(gpus, link))


def _smi(gpus: Sequence[str], link: str) -> Callable[[list[str]], str | None]:
    """What nvidia-smi answers on a machine with ``gpus``, all pairs linked by ``link``."""
    names = [f"GPU{i}" for i in range(len(gpus))]
    rows = ["\t" + "\t".join(names)]
    rows += [f"{a}\t" + "\t".join("X" if a == b else link for b in names) for a in names]

    def run(command: list[str]) -> str | None:
        if not gpus:
            return None
        if "topo" in command:
            return "\n".join(rows)
        return PAGE.format(driver=gpus[0].split(", ")[-1], cuda="12.4") if len(command) == 1 else "\n".join(gpus)

    return run


def seen(m: Machine) -> list[Finding]:
    """What the doctor finds about a machine itself; software left out, and the number of cores, which no file says."""
    return [finding for check in CHECKS for finding in check(m) if finding.what != "cores"]


def worst(findings: Sequence[Finding]) -> dict[str, str]:
    """The worst level of each kind of finding; ``gpu 0`` and ``gpu 1`` are one kind."""
    order = list(LEVELS)
    found: dict[str, str] = {}
    for f in findings:
        kind = re.sub(r" \d+$", "", f.what)
        found[kind] = max(found.get(kind, "ok"), f.level, key=order.index)
    return found


def levels(found: Mapping[str, Sequence[Finding]]) -> "Figure":
    """A grid: a row for each kind of finding, a column for each machine, the worst level as a colour and a word."""
    columns = {name: worst(findings) for name, findings in found.items()}
    rows = list(dict.fromkeys(kind for column in columns.values() for kind in column))
    figure, (ax,) = axes(size=(10.0, 0.5 * len(rows) + 1.4))
    for x, column in enumerate(columns.values()):
        for y, kind in enumerate(rows):
            level = column.get(kind)
            ax.add_patch(_cell(x, y, LEVELS[level] if level else "#f2f2f2"))
            ax.text(x, y, level or "-", ha="center", va="center", fontsize=11)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(columns)), [name.replace(", ", ",\n") for name in columns])
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    return figure


def _cell(x: int, y: int, colour: str) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, alpha=0.75)


def peak(module: str | None = None, *arguments: str) -> int | None:
    """Bytes of memory that ``python -m module arguments`` takes at most, or Python itself; None where only Linux tells.

    Raises:
        ValueError: it fails.
    """
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-c", CHILD, module or "", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"python -m {module} ends with code {done.returncode}: {done.stderr[:300]}")
    return int(re.search(PEAK, done.stdout)[1]) * 1000


def peaks(found: Mapping[str, int]) -> "Figure":
    """Peak memory of each command in MB, and the 2 GB of AutoDL's no-GPU mode."""
    figure, (ax,) = axes(size=(9.0, 0.45 * len(found) + 1.2))
    megabytes = [nbytes / 1e6 for nbytes in found.values()]
    ax.barh([f"{name}: {n:,.0f} MB" for name, n in zip(found, megabytes, strict=True)], megabytes, color=BLUE)
    ax.axvline(2 * 1024**3 / 1e6, color=GREY, linestyle="--", label="AutoDL's no-GPU mode: 2 GB")
    ax.set(xlabel="memory at most, MB", xscale="log", xlim=(5, 4000))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.invert_yaxis()
    figure.legend(fontsize=11, loc="outside upper center")
    return figure


def explorer(machines: Mapping[str, Machine]) -> "VBox":
    """The doctor's findings about a machine of your choice; its ``children`` are the menu and the table.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    which = widgets.Dropdown(options=list(machines), description="machine")
    answer = widgets.HTML()

    def show(_: object = None) -> None:
        answer.value = f"<pre>{escape(doctor.table(seen(machines[which.value])))}</pre>"

    which.observe(show, names="value")
    show()
    return widgets.VBox([which, answer])
