"""Fetches a checkpoint: tiny-r1 from the package, everything else from ModelScope."""

import argparse
import sys
from pathlib import Path

from .checkpoint import read
from .checkpoint.write import Folder

TINY_R1 = Path(__file__).parent / "assets" / "tiny-r1"
MODELS = {
    "DeepSeek-R1": "deepseek-ai/DeepSeek-R1",
    "DeepSeek-R1-Zero": "deepseek-ai/DeepSeek-R1-Zero",
    "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
    "DeepSeek-V3.1": "deepseek-ai/DeepSeek-V3.1",
    "DeepSeek-V2-Lite-Chat": "deepseek-ai/DeepSeek-V2-Lite-Chat",
}


def download(model: str, target: Path) -> None:
    """Fetch ``model``, ``tiny-r1`` or a name of ``MODELS`` or a ModelScope id ``owner/name``, into ``target``.

    Raises:
        ValueError: an unknown name.
        ImportError: ModelScope's client is not installed.
    """
    if model == "tiny-r1":
        copy_tiny_r1(target)
        return
    if model not in MODELS and model.count("/") != 1:
        raise ValueError(f"no model {model!r}; known: tiny-r1, {', '.join(MODELS)}, or a ModelScope id owner/name")
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ImportError("ModelScope's client is not installed: pip install 'dsv3[download]'") from None
    snapshot_download(MODELS.get(model, model), local_dir=str(target))


def copy_tiny_r1(target: Path) -> None:
    """Write the shipped FP8 checkpoint to ``target``; no network."""
    found = read.open_folder(TINY_R1)
    names = sorted({e.file.name for e in found.values()})
    with Folder(target, names) as folder:
        for name in names:
            folder.copy(TINY_R1 / name)
        folder.copy(TINY_R1 / read.INDEX)
        folder.copy_side_files(TINY_R1)
        folder.finish()
    print(f"tiny-r1: {len(found)} tensors in {len(names)} files -> {target}", file=sys.stderr)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 download", description=__doc__)
    parser.add_argument("--model", required=True, metavar="NAME", help=f"tiny-r1, {', '.join(MODELS)}, or owner/name")
    parser.add_argument("--local-dir", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    download(args.model, args.local_dir)


if __name__ == "__main__":
    from .cli import run

    run(main)
