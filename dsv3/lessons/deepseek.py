"""DeepSeek's own demo, opened: a passage of the reader's clone of DeepSeek-V3, or its permanent link."""

import hashlib
import os
from pathlib import Path

from ..paths import beginning, expand, home

REPOSITORY = "https://github.com/deepseek-ai/DeepSeek-V3"
COMMIT = "9b4e9788e4a3a731f7567338ed15d3ec549ce03b"  # of 28 August 2025
KNOWN = {  # file of inference/ -> how its SHA-256 begins at that commit
    "convert.py": "a84c9972313dd768",
    "fp8_cast_bf16.py": "7269820b32dedc2d",
    "generate.py": "d1a5db4b9bc602ce",
    "kernel.py": "ffee39fb93658b6d",
    "model.py": "fdb7995bc234badb",
}


def clone() -> Path | None:
    """The reader's clone: ``DSV3_DEEPSEEK``, or a folder ``DeepSeek-V3`` here, one above, or in dsv3's own folder."""
    if named := os.environ.get("DSV3_DEEPSEEK"):
        places = [expand(named, "DSV3_DEEPSEEK")]
    else:
        places = [folder / "DeepSeek-V3" for folder in (Path.cwd(), Path.cwd().parent, home())]
    return next((folder for folder in places if (folder / "inference" / "model.py").is_file()), None)


def passage(file: str, first: int, last: int) -> str:
    """Lines ``first`` to ``last`` of a file of ``inference/``, with their numbers, or the link to them."""
    link = f"{REPOSITORY}/blob/{COMMIT}/inference/{file}#L{first}-L{last}"
    folder = clone()
    if folder is None:
        return f"{link}\n(git clone {REPOSITORY} beside this notebook shows the lines here.)"
    try:
        text = beginning(folder / "inference" / file)
    except OSError as error:
        return f"{link}\n({folder}: {error.strerror})"
    if not hashlib.sha256(text).hexdigest().startswith(KNOWN[file]):
        return (
            f"{link}\n(Your clone has another version of inference/{file}: git checkout {COMMIT[:7]} has these lines.)"
        )
    lines = text.decode().splitlines()[first - 1 : last]
    return "\n".join([f"inference/{file}", *(f"{first + i:4}  {line}" for i, line in enumerate(lines))])
