"""The terminal side of ``dsv3 generate``: a chat, or a file of prompts. Rank 0 speaks, the others follow."""

import itertools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from .cli import drop_output
from .generate import LLM
from .inference.chat import END_THINK, Reply, split_thinking
from .inference.sampling import Sampling
from .ranks.parallel import Parallel
from .ranks.traffic import Traffic

HELP = """/clear       forget the conversation
/think off   show only that the model thinks, not what (/think on: show it again)
/help        this list
/exit        leave; so does Ctrl-D. Ctrl-C stops an answer."""
PROMPTS_MOST = 64 << 20  # bytes of a file of prompts
Write = Callable[[str, Reply], None]


def need_terminal(keyboard: bool, screen: bool) -> None:
    """Make ready what is typed into and printed to: other encodings and broken text must not end a run.

    Raises:
        OSError: one that is needed is closed.
    """
    for stream, name, needed in ((sys.stdin, "input", keyboard), (sys.stdout, "output", screen or keyboard)):
        if needed and stream is None:
            raise OSError(f"standard {name} is closed: open it, or give --input-file and --output-file")
    if keyboard:
        ascii_only = sys.stdin.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968")
        sys.stdin.reconfigure(encoding="utf-8" if ascii_only else None, errors="surrogateescape")
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")


def interactive(llm: LLM, tp: Parallel, options: Sampling, system: str | None = None, stats: bool = False) -> None:
    """A chat; ``HELP`` lists its commands.

    Args:
        system: a system prompt, which ``/clear`` keeps.
        stats: print after each answer what it took.

    Raises:
        KeyboardInterrupt: Ctrl-C while nothing is being answered.
    """
    start = [{"role": "system", "content": system}] if system else []
    messages, show = list(start), True
    while True:
        prompt = tp.broadcast_text(_ask() if tp.rank == 0 else None).strip()
        if prompt == "/exit":
            return
        if prompt.startswith("/"):
            if prompt == "/clear":
                messages = list(start)
            elif prompt in ("/think on", "/think off"):
                show = prompt == "/think on"
            elif tp.rank == 0:
                print(HELP)
            continue
        if not prompt:
            continue
        messages.append({"role": "user", "content": prompt})
        sent = tp.traffic.copy()
        answer = _answer(llm, tp.rank == 0, messages, options, show)
        if stats and tp.rank == 0:
            _tell(llm, tp, sent)
        if answer is None:
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer})


def _ask() -> str:
    while True:
        try:
            line = input(">>> ")
        except EOFError:
            return "/exit"
        try:
            line.encode()
        except UnicodeEncodeError as error:
            encoding = sys.stdin.encoding.upper()
            print(f"not {encoding} text, from character {error.start + 1} on; set the terminal to {encoding}")
            continue
        return line


def _answer(llm: LLM, speak: bool, messages: list[dict[str, str]], options: Sampling, show: bool) -> str | None:
    """Print the model's turn as it comes -> what of it belongs into the conversation; None if there is nothing.

    Only the answer does: a thought that was cut off must not come back as if it had been said.
    """
    pieces: list[str] = []
    opened = llm.opens_thinking(messages)

    def kept() -> Iterator[str]:
        for piece in llm.stream(messages, **options):
            pieces.append(piece)
            yield piece

    try:
        for piece in kept() if show else _folded(kept(), opened):
            if speak:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if llm.model.run.tp.size > 1:  # the other ranks may be anywhere
            raise
        print(" (stopped)")
    except ValueError as error:  # the conversation fills the context
        if speak:
            print(f"{error}; /clear starts anew")
        return None
    else:
        if speak:
            print()
    return split_thinking("".join(pieces), opened)[1].strip() or None


def _folded(pieces: Iterable[str], opened: bool) -> Iterator[str]:
    """The pieces without the thinking, of which only the beginning and the end are told."""
    if opened:
        yield "(thinking ..."
    thinking = opened
    for piece in pieces:
        if not thinking:
            yield piece
        elif END_THINK in piece:
            thinking = False
            yield ")" + piece.split(END_THINK, 1)[1]
    if thinking:
        yield " unfinished)"


def _tell(llm: LLM, tp: Parallel, before: Traffic) -> None:
    """What the latest call took, and sent since ``before``."""
    print(llm.stats, file=sys.stderr)
    if tp.size > 1:
        sent = tp.traffic - before
        tokens = max(llm.stats.tokens, 1)
        print(
            f"each rank: {sent.collectives.total()} collectives, {sent.nbytes.total()} bytes; "
            f"{sent.collectives.total() / tokens:.1f} and {sent.nbytes.total() / tokens:.0f} for each new token",
            file=sys.stderr,
        )


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


def batch(
    llm: LLM, tp: Parallel, options: Sampling, prompts: list[str], write: Write | None = None, stats: bool = False
) -> None:
    """Answer ``prompts``; print each answer as soon as it and those before it are whole, and ``write`` it."""
    sent = tp.traffic.copy()
    for prompt, reply in zip(prompts, llm.answers(prompts, **options), strict=True):
        if tp.rank > 0:
            continue
        if write:
            write(prompt, reply)
        try:
            print(f"Prompt: {prompt}\nCompletion: {reply.text}\n", flush=True)
        except BrokenPipeError:
            if not write:
                raise
            drop_output()  # whoever read it has seen enough; the file is still wanted
        if reply.finish == "length":
            print(f"(cut off after {reply.tokens} tokens; --max-new-tokens gives more)", file=sys.stderr)
        if reply.finish == "context":
            size = llm.model.cfg.max_seq_len
            print(f"(cut off after {reply.tokens} tokens: the context of {size} tokens is full)", file=sys.stderr)
    if stats and tp.rank == 0:
        _tell(llm, tp, sent)


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
        except OSError as error:
            file.truncate(size)  # whole lines only
            raise OSError(f"{part}: {error.strerror}; it keeps the {count} answers before") from None
        size, count = size + len(row), count + 1

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
    """Raises ValueError unless nothing is at ``target``, or earlier answers, or an empty file."""
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
