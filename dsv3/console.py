"""The terminal side of ``dsv3 generate``: a chat, or a file of prompts. Rank 0 speaks, the others follow."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from .generate import LLM
from .inference.chat import END_THINK, split_thinking
from .inference.sampling import Sampling
from .ranks.parallel import Parallel
from .ranks.traffic import Traffic

HELP = """/clear       forget the conversation
/think off   show only that the model thinks, not what (/think on: show it again)
/help        this list
/exit        leave; so does Ctrl-D. Ctrl-C stops an answer."""


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
    try:
        return input(">>> ")
    except EOFError:
        return "/exit"


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
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text (byte {error.start})") from None
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{source}: holds no prompt; write one a line")
    tp.broadcast_text("\n".join(prompts))
    return prompts


def batch(
    llm: LLM, tp: Parallel, options: Sampling, prompts: list[str], target: Path | None = None, stats: bool = False
) -> None:
    """Answer ``prompts``; print, and write JSON lines to ``target``."""
    sent = tp.traffic.copy()
    replies = llm.generate(prompts, **options)
    if tp.rank != 0:
        return
    for prompt, reply in zip(prompts, replies, strict=True):
        print(f"Prompt: {prompt}\nCompletion: {reply.text}\n")
        if reply.finish == "length":
            print(f"(cut off after {reply.tokens} tokens; --max-new-tokens gives more)", file=sys.stderr)
        if reply.finish == "context":
            size = llm.model.cfg.max_seq_len
            print(f"(cut off after {reply.tokens} tokens: the context of {size} tokens is full)", file=sys.stderr)
    if stats:
        _tell(llm, tp, sent)
    if target:
        rows = ({"prompt": p} | asdict(r) for p, r in zip(prompts, replies, strict=True))
        part = target.with_name(target.name + ".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(part, target)
