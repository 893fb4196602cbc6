"""Machines that are not there, as the doctor sees them. Imports no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from .. import doctor, paths
from ..doctor import Finding
from ..sizing.machine import Machine

CHECKS = (doctor.check_gpus, doctor.check_links, doctor.check_memory, doctor.check_proxy, doctor.check_autodl)
PAGE = "| NVIDIA-SMI {driver}    Driver Version: {driver}    CUDA Version: {cuda}   |\n"


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
