"""The files of a batch: prompts in, answers out."""

import itertools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from ..ranks.parallel import Parallel
from .chat import Reply

PROMPTS_MOST = 64 << 20  # bytes of a file of prompts
Write = Callable[[str, Reply], None]


def read_prompts(source: Path, tp: Parallel) -> list[str]:
    """The lines of rank 0's ``source`` on every rank, without blank ones.

    Raises:
        ValueError: ``source`` holds no prompt, or is not UTF-8.
        FileNotFoundError: no such file.
    """
    if tp.rank > 0:
        return tp.broadcast_text(None).split("\n")
    nonblock = getattr(os, "O_NONBLOCK", 0)  # a FIFO that nobody writes to is empty, and not waited for
    try:
        with open(source, "rb", opener=lambda path, flags: os.open(path, flags | nonblock)) as file:
            if nonblock:
                os.set_blocking(file.fileno(), True)
            data = file.read(PROMPTS_MOST + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such file") from None
    if len(data) > PROMPTS_MOST:
        raise ValueError(f"{source}: more than {PROMPTS_MOST >> 20} MB of prompts; split the file")
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text (byte {error.start})") from None
    prompts = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        raise ValueError(f"{source}: holds no prompt; write one a line")
    tp.broadcast_text("\n".join(prompts))
    return prompts


@contextmanager
def answers_file(target: Path, source: Path) -> Iterator[Write]:
    """A function that writes an answer as a JSON line, at once, into ``target`` + ``.part``, or ``.part2``, ...

    At the end that file becomes ``target``, which may hold earlier answers until then, but nothing else. However the
    run ends before, what it answered stays in the part.

    Args:
        source: the file of prompts.

    Raises:
        ValueError, OSError: ``target`` is taken, or cannot be made; or the disk is full.
    """
    _check_free(target, source)
    names = (target.with_name(f"{target.name}.part{n if n > 1 else ''}") for n in itertools.count(1))
    for part in names:
        try:
            file = open(part, "xb", buffering=0)  # noqa: SIM115
            break
        except FileExistsError:  # of another run, or of somebody else
            continue
    size = count = 0

    def write(prompt: str, reply: Reply) -> None:
        nonlocal size, count
        row = (json.dumps({"prompt": prompt} | asdict(reply), ensure_ascii=False) + "\n").encode()
        try:
            done = 0
            while done < len(row):
                done += file.write(row[done:])
            size, count = size + len(row), count + 1
        except BaseException as error:  # Ctrl-C comes at any moment
            file.truncate(size)  # whole lines only, as many as counted
            if isinstance(error, OSError):
                raise OSError(f"{part}: {error.strerror}; it keeps the {count} answers before") from None
            raise

    try:
        with file:
            yield write
            os.fsync(file.fileno())
        _check_free(target, source)
        os.replace(part, target)
    except BaseException as error:
        if not count:
            part.unlink()
        elif str(part) not in str(error):
            print(f"{part} keeps the {count} answers so far", file=sys.stderr)
        raise


def _check_free(target: Path, source: Path) -> None:
    """Check that nothing is at ``target`` but earlier answers.

    Raises:
        ValueError: something else is.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(f"{target}: is no ordinary file; give another name for the answers")
    if source.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the file of prompts; give another name for the answers")
    with open(target, "rb+") as file:
        while line := file.readline(PROMPTS_MOST):
            if not _is_answer(line):
                raise ValueError(f"{target}: is there, and holds something else than answers; give another name")


def _is_answer(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and row.keys() == {"prompt", *(field.name for field in fields(Reply))}
