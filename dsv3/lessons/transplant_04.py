"""Lesson 04's parts as a converter: tiny-r1 for two ranks, and its answers from those files."""

import json
import shutil
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from ..checkpoint import read
from ..checkpoint.plan import SIDE_FILES
from ..config import BLOCK, ModelConfig
from ..convert import convert as package_convert
from ..lab.command import command
from ..layout import layout
from ..paths import TINY_R1
from .part import Transplant

Mapping = dict[str, tuple[str, int | None]]


def mapping() -> Mapping:
    """The rows of ``mapping`` in DeepSeek's convert.py that its names reach, from the package's table of tensors.

    V2-Lite's ``q_proj`` is among them.
    """
    found: Mapping = {}
    for cfg in (ModelConfig.load("config_16B.json"), ModelConfig.load("config_671B.json")):
        for row in layout(replace(cfg, n_mtp_layers=0)):
            if row.expert is None:
                found[row.hf.split(".")[-2]] = row.name.split(".")[-2], row.cut
    return found


class Piece(NamedTuple):
    """A tensor's part in a rank's file: the runs of the source's bytes that make it."""

    name: str
    entry: read.Entry
    shape: list[int]
    runs: list[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        return sum(length for _, length in self.runs)


def pieces(parts: SimpleNamespace, source: Path, rank: int, ranks: int) -> list[Piece]:
    """What the file of ``rank`` holds, in the order of the source's bytes; without the MTP layer, as DeepSeek's."""
    cfg, words, found = ModelConfig.load(source), mapping(), []
    for e in read.open_folder(source).values():
        if e.name.startswith(f"model.layers.{cfg.n_layers}."):
            continue
        name, dim = parts.rename(e.name, words)
        if "experts" in (split := name.split(".")):
            begin, end = parts.share(cfg.n_routed_experts, rank, ranks)
            if not begin <= int(split[-3]) < end:
                continue
        shape, begin, end = list(e.shape), 0, e.shape[0]
        if dim is not None:
            # A block's scale cannot be cut: weights go by blocks, so their scales by ones come out at the same places.
            begin, end = parts.share(e.shape[dim], rank, ranks, BLOCK if e.dtype == "F8_E4M3" else 1)
            shape[dim] = end - begin
        which = parts.runs(e.shape, read.ITEMSIZE[e.dtype], dim, begin, end)
        found.append(Piece(name, e, shape, which))
    return found


def convert(parts: SimpleNamespace, source: Path, target: Path, ranks: int) -> None:
    """Write a file for each rank, tokenizer and config beside them, into ``target``, which is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for rank in range(ranks):
        held = pieces(parts, source, rank, ranks)
        with (target / read.converted_name("model", rank, ranks)).open("wb") as out:
            out.write(parts.head([(p.name, p.entry.dtype, p.shape, p.nbytes) for p in held]))
            for piece in held:
                with piece.entry.file.open("rb") as file:
                    parts.copy(file, piece.entry.start, piece.runs, out)
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


# ---------------------------------------------------------------------------------------------------- the scores


def equal(ours: Path, theirs: Path, ranks: int = 2) -> int:
    """Of all ranks' tensors in ``theirs``, how many are the same in ``ours``: type, shape and bytes."""
    same = 0
    for rank in range(ranks):
        file = read.converted_name("model", rank, ranks)
        right = read.open_files(theirs, [theirs / file])
        try:
            found = read.open_files(ours, [ours / file])
        except ValueError:  # no safetensors file at all
            continue
        for name, e in right.items():
            kind = (found[name].dtype, found[name].shape) if name in found else None
            same += kind == (e.dtype, e.shape) and found.read(name) == right.read(name)
    return same


def answered(folder: Path, sums: int) -> int:
    """Of so many sums that training never saw, how many two processes answer from ``folder``; 0 if they refuse."""
    from . import transplant  # it imports torch, which converting does not need

    problems = transplant.data.held_out_set(sums)
    (folder / "sums.txt").write_text("".join(f"{question}\n" for _, question in problems), encoding="utf-8")
    ask = f"--input-file sums.txt --temperature 0 --max-new-tokens {transplant.MOST} --output-file answers.jsonl"
    torchrun = "dsv3 torchrun --standalone --nproc-per-node 2 -m dsv3.generate --ckpt-path ."
    with redirect_stdout(StringIO()):
        if command(f"{torchrun} {ask}", folder):
            return 0
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    replies = [transplant.answer(json.loads(line)["answer"]) for line in lines]
    return sum(reply == problem.answer for reply, (problem, _) in zip(replies, problems, strict=True))


def score_bytes(parts: SimpleNamespace) -> int:
    """Of the 326 tensors in two ranks' files, how many are those of ``dsv3 convert``."""
    with tempfile.TemporaryDirectory() as name:
        package_convert(TINY_R1, Path(name) / "theirs", 2)
        convert(parts, TINY_R1, Path(name) / "ours", 2)
        return equal(Path(name) / "ours", Path(name) / "theirs")


def cost(parts: SimpleNamespace, target: Path, right: Path, sums: int) -> tuple[int, int | None]:
    """Tensors of two ranks' files that are as in ``right``, and sums that two ranks answer; None if anything refuses.

    The ranks are threads here, which begin at once; files that are all equal need no answers.
    """
    from ..lab.threads import on_ranks
    from ..llm import load
    from . import transplant

    problems = transplant.data.held_out_set(sums)
    questions = [question for _, question in problems]
    try:
        convert(parts, TINY_R1, target, 2)
    except Exception:  # a wrong part may raise anything
        return 0, None
    same = equal(target, right)
    if same == equal(right, right):
        return same, sums
    limits = {"temperature": 0, "max_new_tokens": transplant.MOST}
    try:
        replies = on_ranks(2, lambda tp: load(target, tp=tp, device="cpu").generate(questions, **limits))[0]
    except (ValueError, RuntimeError, OSError):  # one of the ranks has refused the file
        return same, None
    return same, sum(transplant.answer(r.answer) == p.answer for r, (p, _) in zip(replies, problems, strict=True))


def score_sums(parts: SimpleNamespace) -> int:
    """Of 20 sums, how many two processes answer rightly from files that the parts made."""
    from . import transplant

    with tempfile.TemporaryDirectory() as name:
        convert(parts, TINY_R1, Path(name) / "ours", 2)
        return answered(Path(name) / "ours", transplant.SUMS)


TRANSPLANTS = [
    Transplant("two ranks' files, tensor by tensor", score_bytes, 326, ("copy", "add start")),
    Transplant("two processes answer from them", score_sums, 20, ("copy", "add start")),
]
