"""Fetches a checkpoint: tiny-r1 from the package, others from ModelScope or Hugging Face, checked before and after.

The hub's client transfers. Around it: file names that leave the folder are refused, broken connections are taken up
again with patience, and in the end every file is held against the hub's list. Until then the folder is no checkpoint.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .checkpoint import read
from .checkpoint.plan import Move, Plan
from .checkpoint.write import WORKERS, Bar, execute, free_bytes, open_journal
from .cost import weight_bytes
from .hubs.catalogue import find_model, models
from .hubs.clients import CACHE, HUBS, Hub, HubFile
from .hubs.transfer import PATIENCE, Listing, Patience, Transfer, leftovers, on_disk
from .paths import TINY_R1

MISSING = "missing"
ROUNDS = 3  # fetches of a file whose content is wrong
THEN = ("cast", "convert")


@dataclass(frozen=True)
class Source:
    """What to fetch, and from where."""

    hub: Hub
    model: str

    def __str__(self) -> str:
        return f"{self.model} ({'ModelScope' if self.hub == 'modelscope' else 'Hugging Face'})"


def source(name: str, hub: Hub) -> Source:
    """The source that ``name``, of the catalogue or ``owner/name``, means.

    Raises:
        ValueError: neither.
    """
    model = find_model(name)
    if model is None and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Source(hub, name)
    ident = getattr(model, hub, None)
    if not ident:
        known = ", ".join(m.name for m in models())
        raise ValueError(f"no model {name!r}; known: {known}, or an id owner/name")
    return Source(hub, ident)


def download(
    name: str,
    target: Path,
    hub: Hub = "modelscope",
    then: Iterable[str] = (),
    verify_only: bool = False,
    patience: Patience = PATIENCE,
) -> None:
    """Fetch ``name``, of the catalogue or ``owner/name``, into ``target``; continue and repair what is there.

    Args:
        then: what will follow, of ``THEN``: its room is asked for, too.
        verify_only: the checkpoint should be there; fetch only what is wrong with it.

    Raises:
        ValueError: an unknown name, a file name that leaves the folder, content that stays wrong.
        FileExistsError: ``target`` holds something else, or another run is at it.
        OSError: no room; or the hub does not answer, or stops answering.
    """
    if name == TINY_R1.name:
        copy_tiny_r1(target)
        return
    of = source(name, hub)
    transfer = Transfer(of.hub, of.model, target, patience)
    found = transfer.listing()
    check_names(found.files, target)
    check_folder(found.files, target, verify_only)
    check_room(found, target, extra_bytes(name, then))
    right: set[str] = set()
    if not verify_only and not (target / read.UNFINISHED).exists():
        check_content(found.files, target, right)
    target.mkdir(parents=True, exist_ok=True)
    with open_journal(f"download of {of.model}", f"download {of.model}", target):
        fetched = bring(transfer, found, right)
        shutil.rmtree(target / CACHE, ignore_errors=True)
        (target / read.UNFINISHED).unlink()
    _check_checkpoint(target)
    size = f"{len(found.files)} files, {found.nbytes / 1e9:.2f} GB"
    unhashed = sum(not (f.sha256 or f.git_sha1) for f in found.files)
    how = f", {unhashed} by size only" if unhashed else ""
    print(f"{target}: {size}, all as the hub lists them{how} ({fetched} fetched)", file=sys.stderr)


def bring(transfer: Transfer, found: Listing, right: set[str]) -> int:
    """Fetch and check until every file is as listed, ``right`` ones apart; how many were fetched.

    Raises:
        ValueError: content that is wrong after ``ROUNDS`` fetches; the wrong files are not kept.
    """
    fetched: set[str] = set()
    for attempt in range(ROUNDS + 1):
        reasons = wrong(found.files, transfer.target, right)
        if not reasons:
            return len(fetched)
        for name, why in reasons.items():
            if why != MISSING:
                print(f"{transfer.target / name}: {why}; removed", file=sys.stderr)
                (transfer.target / name).unlink()
        if attempt == ROUNDS:
            break
        fetched |= reasons.keys()
        transfer.fetch(found.revision, [f for f in found.files if f.name in reasons])
    shown = read.some([f"{name} ({why})" for name, why in reasons.items()])
    raise ValueError(f"{transfer.target}: not as the hub lists it after {ROUNDS} fetches, and removed: {shown}")


def wrong(files: Iterable[HubFile], target: Path, right: set[str]) -> dict[str, str]:
    """The files that are missing or not as listed, and why. Those found right join ``right`` and are not read again."""
    reasons, to_read = {}, []
    for f in files:
        file = target / f.name
        if f.name in right:
            continue
        if not file.is_file():
            reasons[f.name] = MISSING
        elif f.nbytes is not None and file.stat().st_size != f.nbytes:
            reasons[f.name] = f"{file.stat().st_size} bytes, should be {f.nbytes}"
        else:
            to_read.append(f)
    bar = Bar("checking", sum(f.nbytes or 0 for f in to_read))
    with ThreadPoolExecutor(WORKERS) as pool:
        for f, good in zip(to_read, pool.map(lambda f: _as_listed(f, target), to_read), strict=True):
            bar.add(f.nbytes or 0)
            if good:
                right.add(f.name)
            else:
                reasons[f.name] = "other content"
    bar.close()
    return reasons


def _as_listed(f: HubFile, target: Path) -> bool:
    file = target / f.name
    if f.sha256:
        return read.digest(file) == f.sha256
    if f.git_sha1:
        return read.digest(file, "sha1", b"blob %d\0" % file.stat().st_size) == f.git_sha1
    return True


def _check_checkpoint(target: Path) -> None:
    """
    Raises:
        ValueError: the files are as listed, but the checkpoint is not whole: as published, it cannot be.
    """
    if any(target.glob("*.safetensors")):
        read.open_folder(target)


def check_names(files: Iterable[HubFile], target: Path) -> None:
    """
    Raises:
        ValueError: a name that leads out of ``target``, or is not a file name on every system.
    """
    root = target.resolve()
    for name in (f.name for f in files):
        parts = name.split("/")
        plain = all(re.fullmatch(r"[^\\:\x00-\x1f]{1,255}", p) and p not in (".", "..") for p in parts)
        if not plain or not (target / name).resolve().is_relative_to(root):
            raise ValueError(f"the hub lists a file that leads out of the folder: {name[:200]!r}; nothing was fetched")


def check_folder(files: Iterable[HubFile], target: Path, verify_only: bool) -> None:
    """
    Raises:
        FileNotFoundError: nothing there to verify.
        FileExistsError: ``target`` is a file, or holds safetensors that are not listed.
    """
    if verify_only and not target.is_dir():
        raise FileNotFoundError(f"{target}: no such folder; leave out --verify-only to fetch it")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: exists and is not a folder")
    listed = {f.name for f in files}
    strangers = sorted(f.name for f in target.glob("*.safetensors") if f.name not in listed)
    if strangers:
        raise FileExistsError(f"{target}: holds another checkpoint ({strangers[0]}); give an empty folder or remove it")


def check_content(files: Iterable[HubFile], target: Path, right: set[str]) -> None:
    """What is there before a first run is as listed, and joins ``right``; nothing of somebody else's is replaced.

    Raises:
        FileExistsError: a file is there with other content.
    """
    others = [name for name, why in wrong(files, target, right).items() if why != MISSING]
    if others:
        way_out = "give an empty folder, or --verify-only to replace it"
        raise FileExistsError(f"{target}: {read.some(others)} not as the hub lists it; {way_out}")


def extra_bytes(name: str, then: Iterable[str]) -> dict[str, int]:
    """Bytes that a cast to BF16 and a conversion will write.

    Raises:
        ValueError: not known for this model.
    """
    steps = [step for step in THEN if step in set(then)]
    if not steps:
        return {}
    model = find_model(name)
    cfg = model.load_config() if model else None
    if cfg is None:
        raise ValueError(f"{name}: --then knows the DeepSeek-V2/V3 models of the catalogue only")
    if "cast" in steps and not cfg.fp8:
        raise ValueError(f"{name} is BF16 already: nothing to cast")
    last = "bf16" if "cast" in steps else cfg.dtype
    return {step: weight_bytes(cfg, "bf16" if step == "cast" else last) for step in steps}


def check_room(found: Listing, target: Path, extra: dict[str, int]) -> None:
    """
    Raises:
        OSError: the disk has less room than is needed; with the figures.
    """
    missing = found.nbytes - sum(min(on_disk(target, f), f.nbytes or 0) for f in found.files)
    missing = max(missing - sum(f.stat().st_size for f in leftovers(target)), 0)
    needed, free = missing + sum(extra.values()), free_bytes(target)
    if needed <= free:
        return
    parts = " + ".join(f"{n / 1e9:.2f} GB to {step}" for step, n in ({"fetch": missing} | extra).items())
    hint = ""
    if paths.AUTODL_DATA.is_dir() and free_bytes(paths.AUTODL_DATA) > needed:
        hint = f"; {paths.AUTODL_DATA} has {free_bytes(paths.AUTODL_DATA) / 1e9:.2f} GB free"
    room = f"needs {needed / 1e9:.2f} GB ({parts}), {free / 1e9:.2f} GB are free"
    raise OSError(f"{target}: {room}{hint}; nothing was fetched")


def copy_tiny_r1(target: Path) -> None:
    """Write the shipped FP8 checkpoint to ``target``; no network."""
    files = sorted({e.file for e in read.open_folder(TINY_R1).values()})
    sizes = {file.name: file.stat().st_size for file in files}
    plan = Plan("copy of tiny-r1", heads=dict.fromkeys(sizes, b""), sizes=sizes, sources=files)
    plan.fill(Move(file, 0, sizes[file.name], file.name, 0) for file in files)
    plan.texts[read.INDEX] = (TINY_R1 / read.INDEX).read_bytes()
    plan.carry_over(TINY_R1)
    execute(plan, target)


def show_room(name: str, target: Path, hub: Hub, then: Iterable[str]) -> None:
    """Print what would be fetched and what room there is; nothing is written.

    Raises:
        OSError: it would not fit.
    """
    of = source(name, hub)
    found = Transfer(of.hub, of.model, target).listing()
    check_names(found.files, target)
    print(f"{of}: {len(found.files)} files -> {target}")
    for f in found.files:
        print(f"  {(f.nbytes or 0) / 1e9:10.3f} GB  {f.name}")
    extra = extra_bytes(name, then)
    for what, nbytes in ({"fetch": found.nbytes} | extra).items():
        print(f"{nbytes / 1e9:12.3f} GB to {what}")
    print(f"{free_bytes(target) / 1e9:12.3f} GB free at {target}")
    check_room(found, target, extra)


def catalogue() -> str:
    """The catalogue as a table."""
    rows = [f"{'model':31}{'type':13}{'':6}{'GB':>8}  {'runs in':15}id: ModelScope, Hugging Face"]
    for m in models():
        ids = ", ".join(dict.fromkeys(filter(None, (m.modelscope, m.huggingface)))) or "none, it ships with dsv3"
        rows.append(f"{m.name:31}{m.architecture:13}{m.precision:6}{m.nbytes / 1e9:8.2f}  {m.runs:15}{ids}")
    return "\n".join(rows)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 download", description=__doc__)
    parser.add_argument("--model", metavar="NAME", help="of the catalogue (--list), or an id owner/name of the hub")
    parser.add_argument("--local-dir", type=Path, metavar="DIR", help=f"default: {paths.home()}/NAME")
    parser.add_argument("--hub", choices=HUBS, default=HUBS[0], help="default: modelscope")
    parser.add_argument(
        "--then", choices=THEN, nargs="+", default=[], help="what will follow: its room is asked for, too"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--verify-only", action="store_true", help="check what is there; fetch only what is wrong")
    how.add_argument("--dry-run", action="store_true", help="print files, sizes and room; fetch nothing")
    how.add_argument("--list", action="store_true", help="print the catalogue")
    args = parser.parse_args(argv)
    if args.list:
        print(catalogue())
        return
    if not args.model:
        parser.error("give --model or --list")
    target = args.local_dir or paths.checkpoint(args.model.rpartition("/")[2])
    if args.dry_run:
        show_room(args.model, target, args.hub, args.then)
    else:
        download(args.model, target, args.hub, args.then, args.verify_only)


if __name__ == "__main__":
    from .cli import run

    run(main)
