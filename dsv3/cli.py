"""``dsv3 VERB``: thin; every verb is ``main`` of the module that bears its name."""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .outside import printable

VERBS = {
    "doctor": "is this machine ready?",
    "plan": "how many GPUs, how much memory, disk and time?",
    "download": "fetch a checkpoint (tiny-r1 needs no network)",
    "fp8_cast_bf16": "FP8 checkpoint -> BF16",
    "convert": "Hugging Face checkpoint -> one file per rank",
    "bf16_cast_fp8": "BF16 checkpoint -> FP8, the way back",
    "slice": "chosen layers and experts of a checkpoint -> a small one",
    "verify": "is a cast or converted folder what its source gives?",
    "explain": "what does this error mean, and what cures it?",
    "ask": "ask a model that a server serves",
    "generate": "answer prompts; under torchrun on several ranks",
    "torchrun": "torchrun, with its flags, that says in one line what went wrong",
    "gguf": "folder -> GGUF file, by llama.cpp's own converter",
    "serve": "start an inference engine on a checkpoint, or print its command",
    "launch": "print the Slurm or ssh script that starts generation on given hosts",
    "compile": "a kernel's machine code for a named GPU, without one",
}


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 1 failed with one line, 2 wrong usage, 130 interrupted.

    ``DSV3_DEBUG=1`` shows the traceback behind the line.
    """
    module = main.__module__
    if module == "__main__":  # python -m MODULE, or a script
        spec = sys.modules["__main__"].__spec__
        module = spec.name if spec else Path(sys.argv[0]).stem
    name = module.removeprefix("dsv3.").removesuffix(".__main__")
    who = "dsv3" if name == "cli" else f"dsv3 {name}"
    alone = os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ
    rank = "" if alone else f" (rank {printable(os.environ['RANK'], 20)})"
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for fd in range(3):  # if one is closed, the next opened file gets its number, and our output
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # print(file=sys.stderr) would then write to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    code: int | str | None = 0
    try:
        main(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 1
    except SystemExit as end:  # wrong usage, --help
        code = end.code
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("DSV3_DEBUG") == "1":
            raise
        print(f"{who}{rank}: error: {describe(error)}", file=sys.stderr, flush=True)
        code = 1
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # nobody reads it, or the disk is full: Python would try again when it ends
        drop_output()
        code = code or 1
    sys.exit(code)


def drop_output() -> None:
    """From here on what is printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet_imports() -> None:
    """Until ``run``: Ctrl-C ends the process at once, without the traceback of some import; nothing is open yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    os._exit(130)


def describe(error: Exception) -> str:
    """One line for a user; the system's own errors as ``path: reason``."""
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return printable(str(error)) or type(error).__name__


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {what}" for verb, what in VERBS.items())
    return f"usage: dsv3 VERB [options]\n\n{verbs}\n\n'dsv3 VERB --help' shows a verb's options."


def main() -> None:
    """The console script."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        run(lambda _: print(usage()))
    elif verb == "--version":
        from . import __version__

        run(lambda _: print(f"dsv3 {__version__}"))
    elif verb in VERBS:
        quiet_imports()
        module = importlib.import_module(f".{verb}", __package__)
        run(module.main, rest)
    else:
        print(f"dsv3: error: no verb {printable(repr(verb))}\n{usage()}", file=sys.stderr)
        sys.exit(2)
