"""Fetches a checkpoint: tiny-r1 from the package, everything else from ModelScope."""

import argparse
from pathlib import Path

from .checkpoint import read
from .checkpoint.plan import Move, Plan
from .checkpoint.write import execute

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
    files = sorted({e.file for e in read.open_folder(TINY_R1).values()})
    sizes = {file.name: file.stat().st_size for file in files}
    plan = Plan("copy of tiny-r1", heads=dict.fromkeys(sizes, b""), sizes=sizes, sources=files)
    plan.fill(Move(file, 0, sizes[file.name], file.name, 0) for file in files)
    plan.texts[read.INDEX] = (TINY_R1 / read.INDEX).read_bytes()
    plan.carry_over(TINY_R1)
    execute(plan, target)


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
