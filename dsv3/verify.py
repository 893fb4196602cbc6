"""Is a converted or cast folder, byte for byte, what its source gives? And are files what a list of hashes says?"""

import argparse
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from . import convert, fp8_cast_bf16
from .checkpoint import ours, read
from .checkpoint.compare import NO_FILE, STRANGER, Differences, compare
from .checkpoint.ours import RECORD
from .checkpoint.plan import Plan
from .checkpoint.read import UNFINISHED
from .checkpoint.write import WORKERS, execute
from .outside import printable, small

LONGEST = 64 << 20  # bytes of a manifest


def plan_of(folder: Path, source: Path) -> Plan:
    """The plan that made ``folder`` from ``source``: a conversion or a cast, told by its record or its files.

    Raises:
        ValueError: it is neither.
    """
    ours.check_separate(source, folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    made = ours.read_record(folder)
    if made is None:
        sizes = read.converted_for(folder)
    elif match := re.fullmatch(r"convert to (\d{1,6}) ranks", made.what):
        sizes = {int(match[1])}
    elif made.what == fp8_cast_bf16.WHAT:
        sizes = set()
    else:
        raise ValueError(
            f"{folder}: made by another verb ({made.what}); --source is for conversions and casts to BF16, "
            "--write-manifest and --manifest are for any folder"
        )
    if len(sizes) > 1:
        raise ValueError(f"{folder}: holds conversions for {sorted(sizes)} ranks; keep one in a folder")
    return convert.plan(source, sizes.pop()) if sizes else fp8_cast_bf16.plan(source)


def verify(folder: Path, source: Path) -> Differences:
    """What in ``folder`` differs from what ``source`` gives; false if nothing does. Nothing is written.

    Raises:
        ValueError: the run that writes it has not ended.
    """
    plan = plan_of(folder, source)
    check_finished(folder)
    plan.tell()
    return compare(plan, folder)


def check_finished(folder: Path) -> None:
    """Whether no run has still to finish ``folder``.

    Raises:
        ValueError: one has.
    """
    if os.path.lexists(folder / UNFINISHED):
        raise ValueError(f"{folder}: unfinished; run the command that writes it again, it goes on where it stopped")


def repair(folder: Path, source: Path) -> Differences:
    """Make again the files that differ, and nothing else; what differed.

    Raises:
        ValueError: no record says that ``folder`` was made from ``source``, so that nothing in it is ours to replace.
        FileExistsError: there are files that are not of it.
    """
    made = ours.read_record(folder)
    if made is None:
        raise ValueError(f"{folder}: has no record ({RECORD}) that dsv3 made it, so --repair changes nothing there")
    plan = plan_of(folder, source)
    if (made.what, made.origin) != (plan.what, plan.origin):
        raise ValueError(
            f"{folder}: its record ({made.what}) is of another source than {source}, or that changed since; "
            "nothing was changed"
        )
    with fp8_cast_bf16.single_threaded_torch():
        if os.path.lexists(folder / UNFINISHED):
            execute(plan, folder)
        found = compare(plan, folder)
        wrong = {*found.files, *found.tensors.values()}
        if wrong:
            execute(plan, folder, only=wrong | {RECORD})
    return found


def listing(folder: Path) -> list[str]:
    """Paths of everything in ``folder`` and below that is not a folder; record and journal are left out."""
    found, look = [], [""]
    for under in look:
        for entry in os.scandir(folder / under):
            name = under + entry.name
            if entry.is_dir(follow_symlinks=False):
                look.append(f"{name}/")
            elif name not in (RECORD, UNFINISHED):
                found.append(name)
    return sorted(found)


def is_file(folder: Path, name: str) -> bool:
    """Whether a regular file is there, at most by a link that stays where the folder's files may lie."""
    file = folder / name
    return file.is_file() and any(file.resolve().is_relative_to(root) for root in read.roots(folder))


def hashes(folder: Path, manifest: Path | None = None, workers: int = WORKERS) -> dict[str, str]:
    """sha256 of every file in ``folder`` and below, by its path there; of ``manifest``, if it lies there, not.

    Raises:
        ValueError: the folder is unfinished, or something in it is not a regular file.
    """
    check_finished(folder)
    names = [n for n in listing(folder) if not (manifest and (folder / n).resolve() == manifest.resolve())]
    odd = [n for n in names if not is_file(folder, n)]
    if odd:
        raise ValueError(f"{folder}: {read.some(odd)}: not a regular file in the folder; it has no hash")
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(read.digest, (folder / n for n in names)), strict=True))


def line(digest: str, name: str) -> str:
    """A line as ``sha256sum`` writes it."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def read_manifest(manifest: Path) -> dict[str, tuple[str, int | None]]:
    """name -> sha256 and, where it says so, bytes.

    ``manifest`` is as ``sha256sum`` writes it, a hash and a path in the folder a line; a size in bytes may stand
    between.

    Raises:
        ValueError: another form, a name that leaves the folder, or no line at all.
    """
    wanted: dict[str, tuple[str, int | None]] = {}
    try:
        text = small(manifest, LONGEST).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{manifest}: not a list of hashes and file names")
    for n, entry in enumerate(text.split("\n"), 1):
        if not entry.strip():
            continue
        match = re.fullmatch(r"(\\?)([0-9a-fA-F]{64}) (?:(\d{1,20}) )?[ *]?([^\r]+)\r?", entry)
        escaped, name = (match[1], match[4]) if match else ("", "")
        if escaped:
            name = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)
        if not match or not name.strip() or not ours.inside(name) or (not escaped and "\\" in name):
            raise ValueError(f"{manifest}: line {n}: not a hash and a file name in the folder: {entry[:80]!r}")
        name = str(PurePosixPath(name))  # sha256sum may write ./ before a name
        value = (match[2].lower(), int(match[3]) if match[3] else None)
        if wanted.setdefault(name, value) != value:
            raise ValueError(f"{manifest}: line {n}: names {name[:80]!r} a second time, with another hash")
    if not wanted:
        raise ValueError(f"{manifest}: lists no file")
    return wanted


def check_list(folder: Path, manifest: Path) -> list[str]:
    """What is wrong with ``folder``, held against all that ``manifest`` lists, a line each.

    Raises:
        ValueError: ``manifest`` is none, or the folder is unfinished.
    """
    check_finished(folder)
    wanted = read_manifest(manifest)
    wrong, there = [], []
    for name, (_, nbytes) in wanted.items():
        if not is_file(folder, name):
            wrong.append(
                f"{name}: {'not a regular file in the folder' if os.path.lexists(folder / name) else 'missing'}"
            )
        elif nbytes is not None and (folder / name).stat().st_size != nbytes:
            wrong.append(f"{name}: {(folder / name).stat().st_size} bytes, should be {nbytes}")
        else:
            there.append(name)
    for name in listing(folder):
        if name not in wanted and (folder / name).resolve() != manifest.resolve():
            wrong.append(f"{name}: not in the list")
    with ThreadPoolExecutor(WORKERS) as pool:
        for name, digest in zip(there, pool.map(read.digest, (folder / n for n in there)), strict=True):
            if digest != wanted[name][0]:
                wrong.append(f"{name}: other content (sha256)")
    return sorted(wrong)


def write_manifest(folder: Path, manifest: Path) -> int:
    """Write the hashes of what is in ``folder``; how many.

    Raises:
        FileExistsError: something that is no manifest, or one with other files or hashes, lies at ``manifest``; it
            stays.
    """
    before = None
    if os.path.lexists(manifest) and not (ours.is_plain(manifest) and manifest.stat().st_size == 0):
        try:
            if not ours.is_plain(manifest):
                raise ValueError("not a regular file")
            before = {name: digest for name, (digest, _) in read_manifest(manifest).items()}
        except ValueError as error:
            raise FileExistsError(f"{manifest}: is there and no manifest; give another name ({error})") from None
    found = hashes(folder, manifest)
    if before is not None and before != found:
        raise FileExistsError(f"{manifest}: holds other files or hashes; give another name or remove it")
    part = manifest.with_name(f"{manifest.name}.part")
    fd = ours.create(part, ours=False)
    try:
        with open(fd, "w", encoding="utf-8", newline="") as f:
            f.writelines(line(digest, name) for name, digest in found.items())
        os.replace(part, manifest)
    except BaseException:  # it is ours, and would stop every later run
        part.unlink(missing_ok=True)
        raise
    return len(found)


def main(argv: list[str]) -> None:
    """The command line: prints ``equal``, or what differs and exits with 1."""
    parser = argparse.ArgumentParser(prog="dsv3 verify", description=__doc__)
    parser.add_argument("folder", type=ours.path, help="converted or cast checkpoint")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--source", type=ours.path, metavar="DIR", help="the checkpoint that it was made from")
    how.add_argument("--manifest", type=ours.path, metavar="FILE", help="hashes as sha256sum writes them")
    how.add_argument("--write-manifest", type=ours.path, metavar="FILE", help="write the hashes of what is there now")
    parser.add_argument("--repair", action="store_true", help="with --source: make again what differs")
    args = parser.parse_args(argv)
    if args.repair and not args.source:
        parser.error("--repair needs --source")
    if not args.folder.is_dir():
        raise FileNotFoundError(f"{args.folder}: no such folder")
    if args.write_manifest:
        print(f"{args.write_manifest}: {write_manifest(args.folder, args.write_manifest)} files")
        return
    if args.manifest:
        wrong = check_list(args.folder, args.manifest)
        if wrong:
            raise ValueError(f"{args.folder}: {read.some(wrong)}")
    elif args.repair:
        found = repair(args.folder, args.source)
        print(printable(f"made again: {found}") if found else "equal")
        return
    else:
        found = verify(args.folder, args.source)
        if found:
            in_the_way = {*found.files.values()} & {STRANGER, *NO_FILE}
            cure = "; --repair makes again what differs" if ours.read_record(args.folder) and not in_the_way else ""
            raise ValueError(f"{args.folder}: {found}{cure}")
    print("equal")


if __name__ == "__main__":
    from .cli import run

    run(main)
