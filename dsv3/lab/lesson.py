"""What every lesson begins with: ``preflight`` says what this machine can do, and gives the lesson its folders.

Imports neither torch nor transformers: the lesson on downloading runs in 2 GB of RAM.
"""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..paths import TINY_R1, expand, home, short
from ..sizing.machine import Machine, cores, memory

CURES = {
    "torch": "pip install torch",
    "triton": "pip install 'dsv3[kernels]' (Linux only)",
    "modelscope": "pip install 'dsv3[download]'",
    "openai": "pip install 'dsv3[serving]'",
    "transformers": "pip install transformers",
    "matplotlib": "pip install 'dsv3[notebooks]'",
    "ipywidgets": "pip install 'dsv3[notebooks]'",
}


@dataclass(frozen=True)
class Lesson:
    """A lesson's surroundings.

    Attributes:
        folder: for what the lesson writes; it exists.
        checkpoint: tiny-r1, or the folder that ``DSV3_CHECKPOINT`` names.
        missing: packages that are not installed; the cells that need them say so.
    """

    folder: Path
    checkpoint: Path
    missing: tuple[str, ...]


def preflight(name: str, *, needs: tuple[str, ...] = (), ram_gb: float = 2, disk_gb: float = 0.1) -> Lesson:
    """Print what this machine has, what it lacks for a lesson and the cure; never stops anyone.

    Args:
        name: of the lesson, ``"03_fp8_casting"``; its folder is named so.
        needs: packages that the lesson imports.
        ram_gb, disk_gb: that it needs.
    """
    m = Machine()
    folder = home() / "lessons" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: {error.strerror}; set DSV3_HOME to a folder of yours") from None
    named = os.environ.get("DSV3_CHECKPOINT")
    checkpoint = expand(named, "DSV3_CHECKPOINT") if named else TINY_R1
    missing = tuple(package for package in needs if importlib.util.find_spec(package) is None)
    machine, limit = memory(m)
    available, free = limit or machine, shutil.disk_usage(folder).free
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_mib / 1024:.0f} GB)" for gpu in m.gpus or ())
    print(f"Python {platform.python_version()}, {platform.system()}, {cores(m):g} CPU cores")
    print(f"GPU     {gpus or 'none: everything here runs on the CPU'}")
    if available is not None:
        print(f"memory  {_enough(available, 'GB', ram_gb)}")
    print(f"disk    {_enough(free, 'GB free', disk_gb)}, in {short(folder)}")
    if checkpoint != TINY_R1 and not (checkpoint / "config.json").is_file():
        print(f"model   DSV3_CHECKPOINT={named} has no config.json; tiny-r1 instead")
        checkpoint = TINY_R1
    else:
        print(f"model   {'tiny-r1, which comes with dsv3' if checkpoint == TINY_R1 else short(checkpoint)}")
    for package in missing:
        print(f"missing {package}: {CURES.get(package, f'pip install {package}')}")
    return Lesson(folder, checkpoint, missing)


def _enough(nbytes: int, what: str, gigabytes: float) -> str:
    """``23 GB free, 2 needed``, and what to do if that is too little."""
    cure = "" if nbytes >= gigabytes * 1e9 else ": too little, close other notebooks or set DSV3_HOME to a larger disk"
    return f"{nbytes / 1e9:,.0f} {what}, {gigabytes:g} needed{cure}"
