"""Is a converted or cast folder, byte for byte, what its source gives? And are files what a list of hashes says?"""

import argparse
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import convert, fp8_cast_bf16
from .checkpoint import read
from .checkpoint.compare import Differences, compare
from .checkpoint.plan import Plan
from .checkpoint.write import WORKERS, check_separate, execute, remake
from .cli import printable


def plan_of(folder: Path, source: Path) -> Plan:
    """The plan that made ``folder`` from ``source``: a conversion or a cast, told by the folder's files.

    Raises:
        ValueError: it is neither.
    """
    check_separate(source, folder)
    sizes = read.converted_for(folder)
    if len(sizes) > 1:
        raise ValueError(f"{folder}: holds conversions for {sorted(sizes)} ranks; keep one in a folder")
    if sizes:
        return convert.plan(source, sizes.pop())
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    return fp8_cast_bf16.plan(source)


def verify(folder: Path, source: Path) -> Differences:
    """What in ``folder`` differs from what ``source`` gives; false if nothing does. Nothing is written."""
    return compare(plan_of(folder, source), folder)


def repair(folder: Path, source: Path) -> Differences:
    """Make again what differs, and nothing else; what differed."""
    plan = plan_of(folder, source)
    found = compare(plan, folder)
    if found:
        remake(plan, folder, found.steps, set(found.files))
        with fp8_cast_bf16.single_threaded_torch():
            execute(plan, folder)
    return found


def hashes(folder: Path, workers: int = WORKERS) -> dict[str, str]:
    """sha256 of every file in ``folder``, by name; unfinished and hidden ones left out."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith(".") and f.suffix != ".part"]
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip((f.name for f in files), pool.map(read.digest, files), strict=True))


def check_list(folder: Path, manifest: Path) -> list[str]:
    """What is wrong with the files that ``manifest`` names, a line each.

    ``manifest`` is as ``sha256sum`` writes it, a hash and a file name a line; a size in bytes may stand between.

    Raises:
        ValueError: another form, or a name that leaves the folder.
    """
    wrong, wanted = [], {}
    for line in read.small_text(manifest, read.MAX_HEADER).splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) (?:(\d+) )?[ *]?([^/\\]+)", line)
        if not match:
            raise ValueError(f"{manifest}: not a hash and a file name: {line[:80]!r}")
        wanted[match[3]] = (match[1], match[2])
    there = {}
    for name, (digest, size) in wanted.items():
        file = folder / name
        if not file.is_file():
            wrong.append(f"{name}: missing")
        elif size and file.stat().st_size != int(size):
            wrong.append(f"{name}: {file.stat().st_size} bytes, should be {size}")
        else:
            there[file] = digest
    with ThreadPoolExecutor(WORKERS) as pool:
        for file, digest in zip(there, pool.map(read.digest, there), strict=True):
            if digest != there[file]:
                wrong.append(f"{file.name}: other content (sha256)")
    return sorted(wrong)


def main(argv: list[str]) -> None:
    """The command line: prints ``equal``, or what differs and exits with 1."""
    parser = argparse.ArgumentParser(prog="dsv3 verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="converted or cast checkpoint")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--source", type=Path, metavar="DIR", help="the checkpoint that it was made from")
    how.add_argument("--manifest", type=Path, metavar="FILE", help="hashes as sha256sum writes them")
    how.add_argument("--write-manifest", type=Path, metavar="FILE", help="write the hashes of what is there now")
    parser.add_argument("--repair", action="store_true", help="with --source: make again what differs")
    args = parser.parse_args(argv)
    if args.repair and not args.source:
        parser.error("--repair needs --source")
    if not args.folder.is_dir():
        raise FileNotFoundError(f"{args.folder}: no such folder")
    if args.write_manifest:
        lines = [f"{digest}  {name}\n" for name, digest in hashes(args.folder).items()]
        part = args.write_manifest.with_name(args.write_manifest.name + ".part")
        part.write_text("".join(lines), encoding="utf-8")
        os.replace(part, args.write_manifest)
        print(f"{args.write_manifest}: {len(lines)} files")
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
            raise ValueError(f"{args.folder}: {found}; --repair makes again what differs")
    print("equal")


if __name__ == "__main__":
    from .cli import run

    run(main)
