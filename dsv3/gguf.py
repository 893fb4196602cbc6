"""Makes a GGUF file of a folder with llama.cpp's own converter; what cannot work is refused before it starts.

The MTP layer is left out, as the converter does; no Python of the folder is run, and nothing is unpickled.
"""

import argparse
import os
import secrets
import sys
from contextlib import suppress

from .checkpoint import ours
from .engines import converter
from .engines.command import comment
from .engines.converter import OUTTYPES, Order
from .engines.process import Process
from .outside import printable, word
from .serve import refuse


def make(order: Order, pre_tokenizer: str | None) -> str:
    """Run the converter -> what the file says of itself. It appears under its name when it is whole.

    Raises:
        ChildProcessError: the converter failed; its log stays beside the file's place, and is named.
        ValueError: what it made is not the folder's model.
        FileExistsError: meanwhile something took the file's name.
    """
    part = order.outfile.with_name(f".dsv3-{secrets.token_hex(8)}.gguf.part")
    log = order.outfile.name + ".log"
    command = converter.command(order, part, pre_tokenizer)
    process = Process(command.argv, order.outfile.absolute().parent, log, os.environ, what="the converter")
    try:
        print(printable(f"{command.checked}'s converter runs: log in {process.log}"), file=sys.stderr, flush=True)
        if process.wait():
            raise process.failed()
        said = converter.read_back(part, order)
        if os.path.lexists(order.outfile):
            raise FileExistsError(f"{order.outfile}: came meanwhile; move it away and start again")
        os.replace(part, order.outfile)
    except ChildProcessError:
        raise
    except BaseException:  # Ctrl-C, too
        process.stop()
        process.log.unlink(missing_ok=True)
        raise
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    process.log.unlink()
    return said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsv3 gguf", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=ours.path, metavar="FOLDER", help="a Hugging Face folder, in BF16 or FP8")
    parser.add_argument("--llama-cpp", type=ours.path, required=True, metavar="DIR", help="llama.cpp's source")
    parser.add_argument("--outfile", type=ours.path, required=True, metavar="X.gguf", help="what to write; a new file")
    parser.add_argument("--outtype", choices=OUTTYPES, default=Order.outtype, help="of matrices; default: %(default)s")
    parser.add_argument("--python", default=Order.python, metavar="PATH", help="one with torch and transformers; this")
    parser.add_argument("--dry-run", action="store_true", help="check, print the command, start nothing")
    return parser


def main(argv: list[str]) -> None:
    """The command line: exit code 1 and a line for each reason if it cannot work."""
    args = _parser().parse_args(argv)
    for name, given in (("FOLDER", args.folder), ("--llama-cpp", args.llama_cpp), ("--outfile", args.outfile)):
        word(name, str(given))
    word("--python", args.python)
    order = Order(
        folder=args.folder,
        llama_cpp=args.llama_cpp,
        outfile=args.outfile,
        outtype=args.outtype,
        python=os.path.abspath(args.python) if os.sep in args.python else args.python,
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
