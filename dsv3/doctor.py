"""Is this machine ready? Each finding is ok, a warning or a failure, with what to do about it."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from . import outside, paths
from .checkpoint.write import disk_usage, free_bytes
from .hubs.catalogue import model_named
from .kernels import why_no_triton
from .kernels.hardware import FP8_UNITS
from .sizing.anonymous import without_names, without_secrets
from .sizing.machine import Machine, SeenGPU, cores, memory, reach, write_rate

PACKAGES = ("safetensors", "tokenizers", "jinja2", "numpy")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
COMPILERS = ("c++", "g++", "clang++", "cl")
OLDER_TORCH = "pip install 'torch<2.11' for a driver of CUDA 12, or a newer driver"  # later wheels are for CUDA 13
SMALL_RAM, NO_GPU_RAM = 4e9, 2.2e9  # bytes; less than the first cannot generate; AutoDL's no-GPU mode has 2 GB


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``cure`` says what to do, empty if there is nothing."""

    level: Literal["ok", "warning", "failure"]
    what: str
    text: str
    cure: str = ""


Check = Callable[[Machine], Iterable[Finding]]


def examine(m: Machine, extra: Iterable[Check] = ()) -> list[Finding]:
    """All findings about ``m``: the standing checks, which take no network and write nothing, and ``extra``. Never
    raises."""
    checks: list[Check] = [check_python, check_packages, check_torch, check_triton, check_gpus, check_links, check_nccl]
    checks += [check_memory, check_disks, check_compiler, check_jupyter, check_proxy, check_autodl, *extra]
    # All at the same time: nvidia-smi may take seconds, and importing torch does.
    with ThreadPoolExecutor(len(checks)) as pool:
        found = [finding for some in pool.map(lambda check: _safely(check, m), checks) for finding in some]
    return [Finding(f.level, f.what, _tidy(f.text), _tidy(f.cure)) for f in found]


def _tidy(text: str) -> str:
    return outside.without_logins(outside.printable(text))


def _safely(check: Check, m: Machine) -> list[Finding]:
    try:
        return list(check(m))
    except Exception as error:  # one check that fails must not hide what the others found
        name = check.__name__.removeprefix("check_")
        return [Finding("warning", name, f"could not be checked: {type(error).__name__}: {error}")]


# ------------------------------------------------------------------------------------------------ software


def check_python(m: Machine) -> Iterable[Finding]:
    """3.11 or newer."""
    version, new = platform.python_version(), sys.version_info >= (3, 11)
    yield Finding("ok", "python", version) if new else Finding("failure", "python", version, "install 3.11 or newer")


def check_packages(m: Machine) -> Iterable[Finding]:
    """What dsv3 always needs."""
    for name in PACKAGES:
        if version := _version(name):
            yield Finding("ok", name, version)
        else:
            yield Finding("failure", name, "not installed", f"pip install {name}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch(m: Machine) -> Iterable[Finding]:
    """torch loads, its build suits the driver, and it sees the GPUs that nvidia-smi sees."""
    try:
        import torch
    except (ImportError, OSError) as error:
        text = f"does not load: {' '.join(str(error).split())[:200]}"
        return [Finding("failure", "torch", text, "pip install torch (in a GPU image: use the Python that has it)")]
    cuda = torch.version.cuda
    build = f"CUDA {cuda}" if cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "CPU build"
    found = [Finding("ok", "torch", f"{torch.__version__} ({build})")]
    seen = m.gpus or []
    newest = m.driver_cuda
    if cuda and newest:
        wanted = tuple(map(int, cuda.split(".")[:2]))
        if wanted[0] > newest[0]:
            text = f"runs CUDA up to {newest[0]}.{newest[1]}, torch was built for {cuda}"
            found.append(Finding("failure", "driver", text, OLDER_TORCH))
        else:
            found.append(Finding("ok", "driver", f"runs CUDA up to {newest[0]}.{newest[1]}"))
    if seen and not cuda:
        found.append(Finding("failure", "torch sees", "no GPU: this torch is a CPU build", "install its CUDA build"))
    elif seen and not torch.cuda.is_available():
        text = "no GPU: the driver does not load for torch"
        found.append(Finding("failure", "torch sees", text, "python -c 'import torch; torch.cuda.init()' says why"))
    elif torch.cuda.is_available():
        found.append(_usable(torch, m))
    return found


def _usable(torch: ModuleType, m: Machine) -> Finding:
    """Whether torch has code for the GPUs, and reaches from one to the next."""
    n = torch.cuda.device_count()
    built = {int(a.split("_")[1].rstrip("af")) for a in torch.cuda.get_arch_list() if a.startswith("sm_")}
    for i in range(n):
        major, minor = torch.cuda.get_device_capability(i)
        if built and not any(b // 10 == major and b % 10 <= minor for b in built):
            text = f"GPU {i} (sm_{major}{minor}), but has no code for it"
            return Finding("failure", "torch sees", text, "install a newer torch, built for CUDA 12.8 or later")
    apart = n > 1 and not all(torch.cuda.can_device_access_peer(0, i) for i in range(1, n))
    if apart and m.env.get("NCCL_P2P_DISABLE") != "1":
        text = f"{n} GPUs, which do not reach each other's memory: NCCL may hang"
        return Finding("warning", "torch sees", text, "export NCCL_P2P_DISABLE=1")
    return Finding("ok", "torch sees", f"{n} GPU{'s' if n > 1 else ''}")


def check_triton(m: Machine) -> Iterable[Finding]:
    """Triton, which only Linux has."""
    lacking = why_no_triton()
    if not lacking:
        yield Finding("ok", "triton", _version("triton") or "a build of its own")
    elif sys.platform == "linux":
        yield Finding("warning", "triton", f"{lacking}; until then the kernels in torch are used")
    else:
        yield Finding("ok", "triton", "not for this system: the kernels in torch are used")


def check_compiler(m: Machine) -> Iterable[Finding]:
    """A compiler, for torch.compile, Triton and the quick products on a CPU."""
    found = next((c for c in COMPILERS if shutil.which(c)), None)
    if found:
        yield Finding("ok", "compiler", found)
    else:
        cure = {"linux": "apt-get install g++", "darwin": "xcode-select --install"}.get(sys.platform, "install one")
        yield Finding(
            "warning", "compiler", "no C++ compiler: torch.compile, Triton and the quick CPU form need one", cure
        )


def check_jupyter(m: Machine) -> Iterable[Finding]:
    """JupyterLab, and a kernel that runs this Python; read from files, Jupyter is not imported."""
    version = _version("jupyterlab") or _version("notebook")
    if not version:
        yield Finding("warning", "jupyter", "not installed: the lessons need it", "pip install -e '.[notebooks]'")
        return
    data = [Path(sys.prefix) / "share" / "jupyter"]
    if user := paths.user_folder():
        data.append(user / ".local" / "share" / "jupyter")
    data += [Path(p) for p in m.env.get("JUPYTER_PATH", "").split(os.pathsep) if p]
    names = []
    visible = filter(os.path.isdir, data)
    for file in sorted(file for folder in visible for file in folder.glob("kernels/*/kernel.json")):
        spec = json.loads(file.read_text(encoding="utf-8"))
        program = Path(spec["argv"][0])
        same = program.name == "python" or program == Path(sys.executable)
        if same and (not program.is_absolute() or program.resolve() == Path(sys.executable).resolve()):
            names.append(str(spec.get("display_name", file.parent.name)))
    if names:
        yield Finding("ok", "jupyter", f"{version}; this Python is the kernel {', '.join(names)}")
    else:
        cure = f"{sys.executable} -m ipykernel install --user --name dv3"
        yield Finding("warning", "jupyter", f"{version}, but no kernel runs this Python", cure)


# ------------------------------------------------------------------------------------------------ hardware


def check_gpus(m: Machine) -> Iterable[Finding]:
    """The GPUs that nvidia-smi sees; also without torch."""
    seen = m.gpus
    if not seen:
        why = "none" if seen is None else "nvidia-smi lists none"
        yield Finding("warning", "gpu", f"{why}: tiny-r1 runs on the CPU")
        return
    yield Finding("ok", "nvidia", f"driver {seen[0].driver}")
    for gpu in seen:
        yield _gpu(gpu)


def _gpu(gpu: SeenGPU) -> Finding:
    major, _, minor = gpu.capability.partition(".")
    fp8 = major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= FP8_UNITS
    units = "FP8 units" if fp8 else "no FP8 units: FP8 weights become BF16"
    text = f"{gpu.name}, {gpu.memory_mib:,} MiB, sm_{major}{minor}, {units}"
    if gpu.memory_mib and gpu.used_mib > 0.1 * gpu.memory_mib:
        text += f"; {gpu.used_mib:,} MiB are in use"
        return Finding("warning", f"gpu {gpu.number}", text, "nvidia-smi shows by whom")
    return Finding("ok", f"gpu {gpu.number}", text)


def check_links(m: Machine) -> Iterable[Finding]:
    """How several GPUs are linked, and whether they have the shared memory that NCCL takes."""
    seen = m.gpus or []
    if len(seen) < 2:
        return
    found = m.links
    nvlink = [link for link in found.values() if link.startswith("NV")]
    if found and len(nvlink) == len(found):
        yield Finding("ok", "links", f"NVLink between all GPUs ({', '.join(sorted(set(nvlink)))})")
    elif found:
        slow = sorted({link for link in found.values() if not link.startswith("NV")})
        text = f"{len(nvlink)} of {len(found)} pairs by NVLink, others over PCIe ({', '.join(slow)})"
        yield Finding("ok", "links", text)
    if any("GeForce" in gpu.name for gpu in seen) and m.env.get("NCCL_P2P_DISABLE") != "1":
        text = "GeForce cards do not reach each other's memory: NCCL may hang"
        yield Finding("warning", "peer-to-peer", text, "export NCCL_P2P_DISABLE=1")
    shared = m.root / "dev" / "shm"
    if os.path.isdir(shared) and shutil.disk_usage(shared).total < 1e9:
        text = f"{shutil.disk_usage(shared).total / 1e6:.0f} MB of shared memory: NCCL wants 1 GB"
        yield Finding("warning", "shm", text, "start the container with --shm-size=8g, or export NCCL_SHM_DISABLE=1")


def check_nccl(m: Machine) -> Iterable[Finding]:
    """NCCL, as a package beside torch."""
    for package in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        if version := _version(package):
            yield Finding("ok", "nccl", version)
            return
    if len(m.gpus or []) > 1:
        yield Finding("ok", "nccl", "no package of its own: torch's")


def check_memory(m: Machine) -> Iterable[Finding]:
    """RAM and cores that this process may really use."""
    machine, limit = memory(m)
    if machine is None:
        yield Finding("warning", "memory", "unknown")
    else:
        usable = min(machine, limit or machine)
        whose = f" (the container's limit; the machine has {machine / 1e9:.0f} GB)" if limit else ""
        text = f"{usable / 1e9:.1f} GB for this process{whose}"
        if usable < SMALL_RAM:
            yield Finding("warning", "memory", f"{text}: download, plan, verify and convert run, torch hardly")
        else:
            yield Finding("ok", "memory", text)
    yield Finding("ok", "cores", f"{cores(m):g}")


def check_disks(m: Machine) -> Iterable[Finding]:
    """Room where checkpoints would go, and here."""
    for what, folder in {"disk": m.folder, "checkpoints": paths.home(m.env)}.items():
        if what == "checkpoints" and not paths.can_make(folder):
            text = f"{folder.absolute()} cannot be written"
            yield Finding("warning", what, text, "set DSV3_HOME to a folder of yours")
            continue
        total, _, free = disk_usage(folder)
        text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free at {folder.absolute()}"
        low = free < 1e9
        yield Finding("warning" if low else "ok", what, text, f"du -sh {folder.absolute()}/*" if low else "")


def check_write(m: Machine) -> Iterable[Finding]:
    """Writes 256 MB where checkpoints would go, and removes them."""
    try:
        rate = write_rate(m.folder)
    except OSError as error:
        yield Finding("failure", "write test", f"{m.folder.absolute()}: {error.strerror}", "go to another folder")
        return
    hours = model_named("DeepSeek-R1").nbytes / rate / 3600
    text = f"{rate / 1e6:,.0f} MB/s at {m.folder.absolute()}: DeepSeek-R1 would take {hours:.1f} hours"
    yield Finding("ok" if rate > 50e6 else "warning", "write test", text)


# ------------------------------------------------------------------------------------------------ network, platform


def check_proxy(m: Machine) -> Iterable[Finding]:
    """Proxy variables; only that they are set, they may hold a password."""
    names = [n for n in m.env if n.lower() in PROXIES and m.env[n]]
    yield Finding("ok", "proxy", f"set by {', '.join(sorted(names))}" if names else "none")


def check_network(m: Machine) -> Iterable[Finding]:
    """Whether the hubs answer, in a few seconds."""
    hubs = {
        "modelscope": (m.env.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn", "check the network and the proxy"),
        "huggingface": (m.env.get("HF_ENDPOINT") or "https://huggingface.co", "--hub modelscope, or set HF_ENDPOINT"),
    }
    with ThreadPoolExecutor(len(hubs)) as pool:
        answers = pool.map(lambda hub: reach(hub[0]), hubs.values())
        for (name, (url, cure)), why in zip(hubs.items(), answers, strict=True):
            url = outside.bare_url(url)
            yield Finding("warning", name, f"{url}: {why}", cure) if why else Finding("ok", name, f"{url} answers")


def check_autodl(m: Machine) -> Iterable[Finding]:
    """What an AutoDL instance has of its own."""
    data = m.root / paths.AUTODL_DATA.relative_to("/")
    if not os.path.isdir(data) and not any(name.startswith("AutoDL") for name in m.env):
        return
    if os.path.isdir(data):
        text = f"data disk with {free_bytes(data) / 1e9:.1f} GB free; it is not saved in an image"
        yield Finding("ok", "autodl", text)
    machine, limit = memory(m)
    if not any((m.root / "dev").glob("nvidia[0-9]*")) and min(limit or 1e12, machine or 1e12) < NO_GPU_RAM:
        yield Finding(
            "warning", "autodl mode", "no-GPU mode: right for downloads, not for running", "start it with a GPU"
        )
    if os.path.exists(m.root / paths.AUTODL_PROXY.relative_to("/")) and any(m.env.get(p) for p in PROXIES):
        text = "the academic proxy may be on: good for Hugging Face and GitHub, slow for ModelScope and pip"
        yield Finding("warning", "autodl proxy", text, "unset http_proxy https_proxy")


# ------------------------------------------------------------------------------------------------ report


def table(findings: list[Finding]) -> str:
    """A line for each finding, and one for its cure."""
    lines = []
    for f in findings:
        lines.append(f"{f.level:8} {f.what:12} {f.text}")
        if f.cure:
            lines.append(f"{'':8} {'':12} -> {f.cure}")
    return "\n".join(lines)


def report(findings: list[Finding]) -> str:
    """A text for a bug report: versions and findings, without names of users and folders, tokens and addresses."""
    from . import __version__

    # Names of GPUs and of findings stay in the report, even if a user or a machine has the same name.
    kept = {word for f in findings for word in f"{f.what} {f.text * f.what.startswith('gpu')}".split()}
    head = f"dsv3 {__version__}, {platform.system()} {without_names(platform.release(), kept)} {platform.machine()}"
    return f"```\n{head}\n{without_secrets(table(findings), kept)}\n```"


def main(argv: list[str]) -> None:
    """The command line: a line per finding; exit code 1 if one is a failure."""
    parser = argparse.ArgumentParser(prog="dsv3 doctor", description=__doc__)
    parser.add_argument("--write-test", action="store_true", help="write 256 MB here and measure; nothing is left")
    parser.add_argument("--network", action="store_true", help="ask whether ModelScope and Hugging Face answer")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document")
    how.add_argument("--report", action="store_true", help="a text for a bug report, without secrets")
    args = parser.parse_args(argv)
    extra = [check_write] * args.write_test + [check_network] * args.network
    findings = examine(Machine(folder=Path.cwd()), extra)
    if args.json:
        print(json.dumps([asdict(f) for f in findings], ensure_ascii=False))
    else:
        print(report(findings) if args.report else table(findings))
    if any(f.level == "failure" for f in findings):
        sys.exit(1)


if __name__ == "__main__":
    from .cli import run

    run(main)
