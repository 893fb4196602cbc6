"""Does the kit install for everybody? Asks pip what it would fetch from PyPI alone; nothing is installed.

``python -m tools.resolve [PYTHON ...]``: a line for each Python, by default those on the PATH, and for ``.`` and
``.[dev]``. That constraints.txt has the Triton that PyPI's torch asks for is found here: pip refuses any other.
``python -m tools.resolve --lowest`` prints the oldest versions that pyproject.toml admits, as constraints.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
SOURCES = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "CONSTRAINT")  # a machine's own, as PIP_...


def resolve(python: str, what: str) -> str:
    """What pip would fetch to install ``what``, ``"."`` or ``".[dev]"``: how many packages, how many bytes.

    Raises:
        ValueError: it finds no set; its last line says why.
    """
    env = {k: v for k, v in os.environ.items() if k.removeprefix("PIP_") not in SOURCES}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command = [*pip, "--report", f"{folder}/report.json", "-c", "constraints.txt", what]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise ValueError("; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())[-1000:])
        found = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))["install"]
    urls = [package["download_info"]["url"] for package in found]
    with ThreadPoolExecutor(8) as pool:
        nbytes = sum(pool.map(_size, [url for url in urls if url.startswith("https:")]))
    return f"{len(urls)} packages, {nbytes / 1e9:.2f} GB"


def _size(url: str) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
        return int(answer.headers["Content-Length"])


def lowest() -> list[str]:
    """``name==version`` of the oldest versions that dsv3 and its extra ``download`` admit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["download"]]
    return [re.sub(">=", "==", line) for line in wanted]


def main() -> None:
    """The command line: exit code 1 if something does not resolve."""
    parser = argparse.ArgumentParser(prog="python -m tools.resolve", description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help=f"default: {', '.join(PYTHONS)}")
    parser.add_argument("--lowest", action="store_true", help="print the oldest versions admitted, as constraints")
    args = parser.parse_args()
    if args.lowest:
        print(*lowest(), sep="\n")
        return
    failed = False
    for python in args.pythons or filter(shutil.which, PYTHONS):
        for what in (".", ".[dev]"):
            try:
                print(f"{python}  {what:6}  {resolve(python, what)}", flush=True)
            except (ValueError, OSError, subprocess.CalledProcessError) as error:
                failed = True
                print(f"{python}  {what:6}  FAILED: {error}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
