"""Fetches a checkpoint: tiny-r1 from the package, others from ModelScope or Hugging Face, checked before and after.

The hub's client transfers, into a folder of its own inside the target. Around it: file names that leave the folder are
refused, broken connections are taken up again with patience, and every file is held against the hub's list before it is
moved to its place. Until all are there, the folder is no checkpoint; what was there before stays.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from . import paths
from .checkpoint import ours, read
from .checkpoint.compare import compare
from .checkpoint.plan import Move, Plan
from .checkpoint.write import WORKERS, Bar, execute, free_bytes, missing_bytes, open_journal, show
from .cost import weight_bytes
from .hubs.catalogue import find_model, hub_id, models, unknown
from .hubs.clients import HUBS, Hub, HubFile
from .hubs.folder import MISSING, STAGING, check_content, check_folder, check_names, check_places, make_staging
from .hubs.transfer import PATIENCE, Listing, Patience, Transfer, leftovers, on_disk
from .outside import printable
from .paths import TINY_R1

ROUNDS = 3  # times that a file is fetched whose content is wrong
THEN = ("cast", "convert")


@dataclass(frozen=True)
class Source:
    """What to fetch, and from where."""

    hub: Hub
    model: str

    def __str__(self) -> str:
        return f"{self.model} ({'ModelScope' if self.hub == 'modelscope' else 'Hugging Face'})"


def source(name: str, hub: Hub) -> Source:
    """The source that ``name`` means: a name of the catalogue, ``owner/name`` at the hub, or the address of its page.

    Raises:
        ValueError: it is neither, or the catalogue knows no id of it at that hub.
    """
    model = find_model(name)
    if model is None:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", hub_id(name)):
            raise ValueError(f"{unknown(name)}, or give an id owner/name")
        return Source(hub, hub_id(name))
    ident = getattr(model, hub, None)
    if not ident:
        others = [f"--hub {other} has it" for other in HUBS if getattr(model, other)]
        raise ValueError(f"{model.name}: no id at {hub} is known; {others[0] if others else 'it ships with dsv3'}")
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
        copy_tiny_r1(target, then, verify_only)
        return
    wanted = source(name, hub)
    transfer = Transfer(wanted.hub, wanted.model, target / STAGING, patience)
    found = list_files(transfer)
    check_folder(found.files, target, verify_only)
    unfinished = os.path.lexists(target / read.UNFINISHED)
    todo = wrong(found.files, target)
    if not verify_only and not unfinished:
        check_content(todo, target, ())
    check_room(replace(found, files=tuple(f for f in found.files if f.name in todo)), target, extra_bytes(name, then))
    fetched = 0
    if todo or unfinished:
        target.mkdir(parents=True, exist_ok=True)
        what, mine = f"download of {wanted.model}", [*todo, STAGING, ours.RECORD]
        with open_journal(what, f"download {wanted.model}", target, mine, replace=verify_only) as journal:
            todo = wrong((f for f in found.files if f.name in todo), target)  # another run may have fetched some since
            if not verify_only:
                check_content(todo, target, journal.files if journal.replace else ())
            make_staging(transfer.staging)
            fetched = bring(transfer, found, todo, target)
            leave_record(what, found, todo.keys() | journal.files, target)
            shutil.rmtree(transfer.staging)
            (target / read.UNFINISHED).unlink()
    _check_checkpoint(target)
    size = f"{len(found.files)} files, {read.amount(found.nbytes)}"
    unhashed = sum(not (f.sha256 or f.git_sha1) for f in found.files)
    how = f", {unhashed} by size only" if unhashed else ""
    print(f"{target}: {size}, all as the hub lists them{how} ({fetched} fetched)", file=sys.stderr)


def list_files(transfer: Transfer) -> Listing:
    """What the hub has. A record of dsv3 among it came with somebody's upload and is left out: it says nothing here.

    Raises:
        ValueError: a name that cannot be used (``check_names``).
        OSError: the hub does not answer, or not with a list.
    """
    found = transfer.listing()
    found = replace(found, files=tuple(f for f in found.files if f.name != ours.RECORD))
    check_names(found.files, transfer.staging.parent)
    return found


def leave_record(what: str, found: Listing, made: Collection[str], target: Path) -> None:
    """Add the files ``made`` to the record of what is ours in ``target``."""
    before = ours.read_record(target)
    files, texts = (before.files, before.texts) if before and before.what == what else ({}, {})
    for f in found.files:
        if f.name in made:
            files[f.name] = (target / f.name).stat().st_size
            if not f.name.endswith(".safetensors"):
                texts[f.name] = f.sha256 or read.digest(target / f.name)
    written = target / STAGING / ours.RECORD
    written.write_bytes(ours.Record(what, found.revision, files, texts).to_json())
    os.replace(written, target / ours.RECORD)


def bring(transfer: Transfer, found: Listing, todo: dict[str, str], target: Path) -> int:
    """Fetch the files ``todo`` (name -> what is wrong in ``target``) and put each into its place once it is as listed.

    Returns how many were fetched; others may have been there from an interrupted run.

    Raises:
        ValueError: content that is wrong after ``ROUNDS`` fetches; what was in ``target`` stays.
        FileExistsError: somebody put something into the place of a file meanwhile.
    """
    for name, why in todo.items():
        if why != MISSING:
            print(f"{target / name}: {why}; fetched again", file=sys.stderr)
    files = [f for f in found.files if f.name in todo]
    fetched: set[str] = set()
    for attempt in range(ROUNDS + 1):
        reasons = wrong(files, transfer.staging)
        check_places(files, target)
        for name in (f.name for f in files if f.name not in reasons):
            if todo[name] == MISSING and os.path.lexists(target / name):
                raise FileExistsError(f"{target / name}: appeared during the download; move it away")
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with (transfer.staging / name).open("rb") as file:
                os.fsync(file.fileno())  # else, after a power cut, the name may be there without the bytes
            os.replace(transfer.staging / name, target / name)
        files = [f for f in files if f.name in reasons]
        if not files:
            return len(fetched)
        for name, why in reasons.items():
            if why != MISSING:
                print(printable(f"{target / name}: fetched with {why}"), file=sys.stderr)
                (transfer.staging / name).unlink()
        if attempt < ROUNDS:
            fetched |= reasons.keys()
            transfer.fetch(found.revision, files)
    shown = read.some([f"{name} ({why})" for name, why in reasons.items()])
    raise ValueError(f"{target}: not as the hub lists it after {ROUNDS} fetches, and not kept: {shown}")


def wrong(files: Iterable[HubFile], folder: Path) -> dict[str, str]:
    """Which of ``files`` are missing in ``folder`` or not as listed: name -> why."""
    reasons, to_read = {}, []
    for f in files:
        file = folder / f.name
        if not os.path.lexists(file):
            reasons[f.name] = MISSING
        elif not ours.is_plain(file):
            reasons[f.name] = "no regular file"
        elif f.nbytes is not None and file.stat().st_size != f.nbytes:
            reasons[f.name] = f"{file.stat().st_size} bytes, should be {f.nbytes}"
        else:
            to_read.append(f)
    bar = Bar("checking", sum(f.nbytes or 0 for f in to_read))
    with ThreadPoolExecutor(WORKERS) as pool:
        for f, good in zip(to_read, pool.map(lambda f: _as_listed(f, folder / f.name), to_read), strict=True):
            bar.add(f.nbytes or 0)
            if not good:
                reasons[f.name] = "other content"
    bar.close()
    return reasons


def _as_listed(f: HubFile, file: Path) -> bool:
    if f.sha256:
        return read.digest(file) == f.sha256
    if f.git_sha1:
        return read.digest(file, "sha1", b"blob %d\0" % file.stat().st_size) == f.git_sha1
    with file.open("rb") as opened:  # no hash to compare: at least it must not be a web page, such as a login
        page = re.match(rb"\s*<(!doctype\s+html|html)\b", opened.read(1000), re.IGNORECASE)
    return not (page and file.suffix in (".safetensors", ".json"))


def _check_checkpoint(target: Path) -> None:
    """Whether the files, all as listed, are a whole checkpoint.

    Raises:
        ValueError: not; it is so at the hub, too, and cannot be mended here.
    """
    if any(target.glob("*.safetensors")):
        read.open_folder(target)


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
    if model and model.runs != "dsv3 generate":
        raise ValueError(f"{name} is stored in {model.precision}, which dsv3 neither casts nor converts")
    if "cast" in steps and not cfg.fp8:
        raise ValueError(f"{name} is BF16 already: nothing to cast")
    last = "bf16" if "cast" in steps else cfg.dtype
    return {step: weight_bytes(cfg, "bf16" if step == "cast" else last) for step in steps}


def check_room(found: Listing, target: Path, extra: dict[str, int]) -> None:
    """Whether the disk has room for what is left to fetch of ``found`` and for the steps ``extra`` (name -> bytes).

    Raises:
        OSError: not; with the figures.
    """
    staging = target / STAGING
    missing = sum(max((f.nbytes or 0) - on_disk(staging, f), 0) for f in found.files)
    check_free(max(missing - sum(f.stat().st_size for f in leftovers(staging)), 0), target, extra)


def check_free(missing: int, target: Path, extra: dict[str, int]) -> None:
    """Whether the disk has room for ``missing`` bytes to fetch and for the steps ``extra`` (name -> bytes).

    Raises:
        OSError: not; with the figures.
    """
    needed, free = missing + sum(extra.values()), free_bytes(target)
    if needed <= free:
        return
    parts = " + ".join(f"{read.amount(n)} to {step}" for step, n in ({"fetch": missing} | extra).items())
    hint = ""
    if paths.can_write(paths.AUTODL_DATA) and free_bytes(paths.AUTODL_DATA) > needed:
        hint = f"; {paths.AUTODL_DATA} has {read.amount(free_bytes(paths.AUTODL_DATA))} free"
    room = f"needs {read.amount(needed)} ({parts}), {read.amount(free)} are free"
    raise OSError(f"{target}: {room}{hint}; nothing was fetched")


def copy_tiny_r1(target: Path, then: Iterable[str] = (), verify_only: bool = False) -> None:
    """Write the shipped FP8 checkpoint to ``target``; no network. A copy from elsewhere is fine as it is.

    The arguments, and what is raised, are those of ``download``.
    """
    plan, extra = tiny_r1_plan(), extra_bytes(TINY_R1.name, then)
    if verify_only:
        check_folder([HubFile(n, None, None) for n in (*plan.sizes, *plan.texts)], target, verify_only)
    todo = tiny_r1_todo(plan, target)
    only = todo | {ours.RECORD} if todo and verify_only else None
    check_free(missing_bytes(plan, target, only) if todo else 0, target, extra)
    if todo:
        execute(plan, target, only=only)
    else:
        print(_all_there(plan, target), file=sys.stderr)


def tiny_r1_todo(plan: Plan, target: Path) -> set[str]:
    """Which of the plan's files are not in ``target`` as planned; while that is unfinished or not there, all."""
    names = {*plan.sizes, *plan.texts}
    if not target.is_dir() or os.path.lexists(target / read.UNFINISHED):
        return names
    found = compare(plan, target)
    return names & {*found.files, *found.tensors.values()}


def _all_there(plan: Plan, target: Path) -> str:
    return f"{target}: {len(plan.sizes)} files, all there already"


def tiny_r1_plan() -> Plan:
    """What a copy of tiny-r1 holds."""
    files = sorted({e.file for e in read.open_folder(TINY_R1).values()})
    sizes = {file.name: file.stat().st_size for file in files}
    heads = {file.name: _head(file) for file in files}
    plan = Plan("copy of tiny-r1", heads=heads, sizes=sizes, sources=files)
    plan.fill(Move(file, 0, sizes[file.name], file.name, 0) for file in files)
    plan.texts[read.INDEX] = (TINY_R1 / read.INDEX).read_bytes()
    plan.carry_over(TINY_R1)
    return plan


def _head(file: Path) -> bytes:
    """The length and the JSON of a safetensors file's header."""
    with file.open("rb") as f:
        length = f.read(8)
        return length + f.read(int.from_bytes(length, "little"))


def show_room(name: str, target: Path, hub: Hub, then: Iterable[str]) -> None:
    """Print what would be fetched and what room there is; nothing is written.

    Raises:
        OSError: it would not fit, or something is in the way.
    """
    if name == TINY_R1.name:
        show_tiny_r1(target, then)
        return
    wanted = source(name, hub)
    found = list_files(Transfer(wanted.hub, wanted.model, target / STAGING))
    check_folder(found.files, target, verify_only=False)
    print(f"{wanted}: {len(found.files)} files -> {target}")
    for f in found.files:
        print(f"  {read.amount(f.nbytes or 0):>13}  {f.name}")
    extra = extra_bytes(name, then)
    for what, nbytes in ({"fetch": found.nbytes} | extra).items():
        print(f"{read.amount(nbytes):>15} to {what}")
    print(f"{read.amount(free_bytes(target)):>15} free at {target}")
    there = {f.name for f in found.files if f.nbytes is not None and on_disk(target, f) == f.nbytes}
    check_room(replace(found, files=tuple(f for f in found.files if f.name not in there)), target, extra)


def show_tiny_r1(target: Path, then: Iterable[str]) -> None:
    """``show_room`` for what is copied from the package."""
    plan, extra = tiny_r1_plan(), extra_bytes(TINY_R1.name, then)
    todo = tiny_r1_todo(plan, target)
    if todo:
        show(plan, target)
    else:
        print(_all_there(plan, target))
    for what, nbytes in extra.items():
        print(f"{read.amount(nbytes):>15} to {what}")
    check_free(missing_bytes(plan, target) if todo else 0, target, extra)


def catalogue() -> str:
    """The catalogue as a table."""
    rows = [f"{'model':39}{'type':15}{'':10}{'GB':>8}  {'runs in':15}id: ModelScope, Hugging Face"]
    for m in models():
        ids = ", ".join(dict.fromkeys(filter(None, (m.modelscope, m.huggingface)))) or "none, it ships with dsv3"
        size = f"{m.nbytes / 1e9:.2f}" if m.nbytes else "-"
        rows.append(f"{m.name:39}{m.architecture:15}{m.precision:10}{size:>8}  {m.runs:15}{ids}")
    return "\n".join(rows)


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 download", description=__doc__)
    parser.add_argument("--model", metavar="NAME", help="of the catalogue (--list), or an id owner/name of the hub")
    parser.add_argument("--local-dir", type=ours.path, metavar="DIR", help=f"default: {paths.home()}/NAME")
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
    target = args.local_dir or paths.checkpoint(hub_id(args.model).rpartition("/")[2])
    if args.dry_run:
        show_room(args.model, target, args.hub, args.then)
    else:
        download(args.model, target, args.hub, args.then, args.verify_only)


if __name__ == "__main__":
    from .cli import run

    run(main)
