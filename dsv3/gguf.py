"""Makes a GGUF file of a folder with llama.cpp's own converter; what cannot work is refused before it starts.

The MTP layer is left out, as the converter does; no Python of the folder is run, and nothing is unpickled.
"""

import argparse
import os
import sys
from pathlib import Path

from .checkpoint import ours
from .engines import converter
from .engines.command import comment
from .engines.converter import OUTTYPES, Order
from .engines.process import Process
from .outside import printable, word
from .paths import expand
from .serve import refuse


def make(order: Order, pre_tokenizer: str | None) -> str:
    """Run the converter -> what the file says of itself. It appears under its name when it is whole.

    Raises:
        ChildProcessError: the converter failed; its log stays beside the file's place, and is named.
        ValueError: what it made is not the folder's model.
        FileExistsError: the unfinished file of another run is there; or meanwhile something took the file's name, and
            what was made stays beside it.
    """
    part = converter.part_of(order.outfile)
    try:
        part.open("xb").close()  # of two runs that began together only one gets it
    except FileExistsError:
        raise FileExistsError(converter.taken(part)) from None
    try:
        said = _convert(order, part, pre_tokenizer)
    except BaseException:  # Ctrl-C, too
        part.unlink(missing_ok=True)
        raise
    _give_name(part, order.outfile)
    return said


def _convert(order: Order, part: Path, pre_tokenizer: str | None) -> str:
    """Let the converter write ``part`` -> what it says of itself."""
    command = converter.command(order, part, pre_tokenizer)
    folder, log = order.outfile.absolute().parent, f"{order.outfile.name}.log"
    process = Process(command.argv, folder, log, os.environ, what="the converter")
    try:
        said = f"{command.checked}'s converter runs and writes {part}; log in {process.log}"
        print(printable(said), file=sys.stderr, flush=True)
        if process.wait():
            raise process.failed(last=True)
        found = converter.read_back(part, order)
    except ChildProcessError:
        raise
    except BaseException:
        process.stop()
        process.log.unlink(missing_ok=True)
        raise
    process.log.unlink()
    return found


def _give_name(part: Path, file: Path) -> None:
    """Call ``part`` ``file``, which replaces nothing.

    Raises:
        FileExistsError: something is there.
    """
    came = f"{file}: came meanwhile; what was made is {part}: give it another name"
    try:
        os.link(part, file)
    except FileExistsError:
        raise FileExistsError(came) from None
    except OSError:  # a file system without links: what comes between the next two lines is replaced
        if os.path.lexists(file):
            raise FileExistsError(came) from None
        os.rename(part, file)
    else:
        part.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsv3 gguf", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=ours.path, metavar="FOLDER", help="a Hugging Face folder, in BF16 or FP8")
    parser.add_argument("--llama-cpp", type=ours.path, required=True, metavar="DIR", help="llama.cpp's source")
    parser.add_argument("--outfile", type=ours.path, required=True, metavar="X.gguf", help="what to write; a new file")
    parser.add_argument("--outtype", choices=OUTTYPES, default=Order.outtype, help="of matrices; default: %(default)s")
    parser.add_argument(
        "--python", default=Order.python, metavar="PATH", help="one with torch and transformers; default: this one"
    )
    parser.add_argument("--dry-run", action="store_true", help="check, print the command, start nothing")
    return parser


def main(argv: list[str]) -> None:
    """The command line: exit code 1 and a line for each reason if it cannot work."""
    args = _parser().parse_args(argv)
    for name, given in (("FOLDER", args.folder), ("--llama-cpp", args.llama_cpp), ("--outfile", args.outfile)):
        word(name, str(given))
    if not word("--python", args.python).strip():
        raise ValueError("--python: is empty (is a variable unset?); name one that has torch and transformers")
    python = str(expand(args.python, "--python")) if os.sep in args.python else args.python
    order = Order(
        folder=expand(str(args.folder), "FOLDER"),
        llama_cpp=expand(str(args.llama_cpp), "--llama-cpp"),
        outfile=expand(str(args.outfile), "--outfile"),
        outtype=args.outtype,
        python=os.path.abspath(python) if os.sep in python else python,
    )
    refuse("gguf", list(converter.refusals(order)))
    said = converter.asked(order)
    refuse("gguf", list(said.wrong))
    if args.dry_run:
        command = converter.command(order, order.outfile, said.pre_tokenizer)
        print("".join(map(comment, said.notes)) + command.text(), end="")
        return
    for note in said.notes:
        print(printable(note), file=sys.stderr)
    print(printable(f"{order.outfile}: {make(order, said.pre_tokenizer)}"))


if __name__ == "__main__":
    from .cli import run

    run(main)
