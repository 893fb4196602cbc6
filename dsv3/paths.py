"""Where things live: the one place that knows. ``DSV3_HOME``, else the AutoDL data disk, else the user's cache."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
TINY_R1 = ASSETS / "tiny-r1"
AUTODL_DATA = Path("/root/autodl-tmp")  # the data disk of an AutoDL instance: large, fast, not saved in an image
AUTODL_SHARED = Path("/root/autodl-fs")  # network disk, shared by a region's instances
AUTODL_PROXY = Path("/etc/network_turbo")  # sets the proxy that speeds up GitHub and Hugging Face


def home(env: Mapping[str, str] = os.environ, data_disk: Path = AUTODL_DATA) -> Path:
    """The folder for checkpoints and what is made of them; it need not exist."""
    if env.get("DSV3_HOME"):
        return Path(env["DSV3_HOME"]).expanduser()
    if data_disk.is_dir() and os.access(data_disk, os.W_OK):
        return data_disk / "dsv3"
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dsv3"
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsv3"


def checkpoint(name: str) -> Path:
    """Where the checkpoint ``name`` belongs: ``DeepSeek-R1``, ``DeepSeek-R1-bf16``."""
    return home() / name


def short(path: Path) -> str:
    """The path for people: ``~`` for the user's folder."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
