"""Leaves out of a report what others need not know: who made it, where, and with which keys."""

import getpass
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .. import outside, paths

TOKENS = re.compile(
    r"\b(?:hf_|ms-|sk-|gh[oprsu]_|github_pat_|glpat-|npm_|pypi-|xox[a-z]-|AKIA|ASIA|AIza)[\w-]{8,}"
    r"|\beyJ[\w-]+(?:\.[\w-]+)+|\b[0-9A-Fa-f]{32,}\b"
    r"|\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b|\b(?=[A-Za-z+]*\d)(?=\d*[A-Za-z])[A-Za-z0-9+]{32,}=*"
)


def without_secrets(text: str, kept: Iterable[str] = ()) -> str:
    """``text`` without logins and keys in addresses, tokens, IP addresses, paths that are not of the system, and the
    names of users and of this machine, but for those in ``kept``."""
    text = outside.without_logins(text)
    for folder, name in sorted(_folders().items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"(?<![\w.~/\\-]){re.escape(folder)}(?![\w.-])", name, text)
    text = re.sub(r"(['\"])((?:[A-Za-z]:)?[/\\].*?)\1", lambda found: _path(found[2]), text)
    text = re.sub(r"(?<![\w.~$*>/\\:-])(?:[A-Za-z]:)?[/\\][^\s'\",;)]+", lambda found: _path(found[0]), text)
    text = TOKENS.sub("***", text)
    text = re.sub(r"(?i)(\w*(?:token|key|secret|passw|pwd)\w*=)\S+", r"\1***", text)
    text = re.sub(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])", "***", text)
    text = re.sub(r"(?<![\w:])[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?", _address, text)
    return without_names(text, kept)


def _folders() -> dict[str, str]:
    """Folders of this user, and what stands for them."""
    found = {sys.prefix: "<python>", str(Path(sys.executable).parent): "<python>"}
    for name in ("XDG_CACHE_HOME", "HF_HOME", "DSV3_HOME", "HOME"):
        if value := os.environ.get(name):
            found |= {value: f"${name}", os.path.abspath(os.path.expanduser(value)): f"${name}"}
    try:
        found |= {str(paths.home().absolute()): "<checkpoints>" if "DSV3_HOME" not in os.environ else "$DSV3_HOME"}
        found[str(Path.home())] = "~"
    except (RuntimeError, OSError):  # nobody knows the home folder
        pass
    found[str(Path.cwd())] = "."
    return {folder: name for folder, name in found.items() if len(folder) > 2 and folder not in paths.SYSTEM}


def _path(path: str) -> str:
    outside_of_system = not path.startswith((*paths.SYSTEM, str(paths.AUTODL_DATA), str(paths.AUTODL_SHARED)))
    return "<path>" if outside_of_system or ".." in path else path


def _address(found: re.Match[str]) -> str:
    text = found[0].partition("%")[0]
    return "***" if outside.is_address(text) or re.fullmatch(r"(\w\w:){5}\w\w", text) else found[0]


def without_names(text: str, kept: Iterable[str]) -> str:
    """``text`` without the names of this user and this machine, its domain included."""
    names = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "HOSTNAME")}
    names |= {platform.node(), platform.node().partition(".")[0], Path(os.environ.get("HOME", "")).name}
    with suppress(KeyError, OSError):  # no entry in the list of users
        names.add(getpass.getuser())
    for name in sorted(names - set(kept) - {"root"}, key=len, reverse=True):
        if len(name) > 2:
            text = re.sub(rf"(?<!\w){re.escape(name)}(\.[A-Za-z][\w-]*)*(?!\w)", "***", text)
    return text
