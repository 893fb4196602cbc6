"""Answers a file of prompts, or chats, with the flags of DeepSeek's demo; under torchrun rank 0 speaks for all."""

import argparse
import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, fields
from typing import Any, cast

from .checkpoint import ours
from .cli import drop_output
from .inference.chat import END_THINK, THINK, split_thinking
from .inference.divergence import compare_layers
from .inference.graph import Replayed
from .inference.prompts import Write, answers_file, read_prompts
from .inference.sampling import Sampling, add_flags
from .inference.texts import template_options
from .kernels import pick
from .llm import CHOICES, LLM, check_sizes, load
from .model import Transformer
from .outside import printable
from .ranks.join import launch
from .ranks.parallel import Parallel, agree
from .ranks.traffic import Traffic

HELP = """/clear       forget the conversation
/think off   show only that the model thinks, not what (/think on: show it again)
/help        this list
/exit        leave; so does Ctrl-D. Ctrl-C stops an answer."""
# What DeepSeek's command line has. Python's default is greedy, so that answers can be compared.
DEMO = Sampling(temperature=0.2)


def need_terminal(keyboard: bool, screen: bool) -> None:
    """Make ready what is typed into and printed to: other encodings and broken text must not end a run.

    Raises:
        OSError: one that is needed is closed.
    """
    for stream, name, needed in ((sys.stdin, "input", keyboard), (sys.stdout, "output", screen or keyboard)):
        if needed and stream is None:
            raise OSError(f"standard {name} is closed: open it, or give --input-file and --output-file")
    if keyboard and isinstance(sys.stdin, io.TextIOWrapper):
        ascii_only = sys.stdin.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968")
        sys.stdin.reconfigure(encoding="utf-8" if ascii_only else None, errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def interactive(
    llm: LLM,
    tp: Parallel,
    sampling: Sampling,
    system: str | None = None,
    stats: bool = False,
    template: Mapping[str, Any] | None = None,
) -> None:
    """A chat; ``HELP`` lists its commands.

    Args:
        system: a system prompt, which ``/clear`` keeps.
        stats: print after each answer what it took.
        template: what the chat template is told.

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
        answer = _answer(llm, tp.rank == 0, messages, sampling, show, template)
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


def _answer(
    llm: LLM,
    speak: bool,
    messages: list[dict[str, str]],
    sampling: Sampling,
    show: bool,
    template: Mapping[str, Any] | None = None,
) -> str | None:
    """Print the model's turn as it comes -> what of it belongs into the conversation; None if there is nothing.

    Only the answer does: a thought that was cut off must not come back as if it had been said.
    """
    pieces: list[str] = []
    opened = llm.opens_thinking(messages, template)

    def kept() -> Iterator[str]:
        for piece in llm.stream(messages, chat_template_kwargs=template, **asdict(sampling)):
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
    thinking, said = opened, False
    for piece in pieces:
        if not thinking and not said and piece.strip() == THINK:  # the model opens it itself
            thinking = True
            yield "(thinking ..."
        elif not thinking:
            said = said or bool(piece.strip())
            yield piece
        elif END_THINK in piece:
            thinking, said = False, True
            yield ")" + piece.split(END_THINK, 1)[1]
    if thinking:
        yield " unfinished)"


def _tell(llm: LLM, tp: Parallel, before: Traffic) -> None:
    """What the latest call took, and sent since ``before``."""
    print(llm.stats, file=sys.stderr)
    if isinstance(llm.model, Replayed):
        print(llm.model.held, file=sys.stderr)
    if tp.size > 1:
        sent = tp.traffic - before
        tokens = max(llm.stats.tokens, 1)
        print(
            f"each rank: {sent.collectives.total()} collectives, {sent.nbytes.total()} bytes; "
            f"{sent.collectives.total() / tokens:.1f} and {sent.nbytes.total() / tokens:.0f} for each new token",
            file=sys.stderr,
        )


def batch(
    llm: LLM,
    tp: Parallel,
    sampling: Sampling,
    prompts: list[str],
    write: Write | None = None,
    stats: bool = False,
    template: Mapping[str, Any] | None = None,
) -> None:
    """Answer ``prompts``; print each answer as soon as it and those before it are whole, and ``write`` it."""
    sent = tp.traffic.copy()
    answers = llm.answers(prompts, chat_template_kwargs=template, **asdict(sampling))
    for prompt, reply in zip(prompts, answers, strict=True):
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


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _sampling(args: argparse.Namespace) -> Sampling:
    return Sampling(**{option.name: getattr(args, option.name) for option in fields(Sampling)})


def asked(argv: list[str], prog: str) -> argparse.Namespace:
    """What the command line ``argv`` says; wrong usage exits with code 2."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--ckpt-path", type=ours.path, required=True, metavar="DIR", help="converted or Hugging Face, or tiny-r1")
    add("--config", type=ours.path, help="config file or shipped name; by default the checkpoint's own")
    add("--interactive", action="store_true", help="chat; /help lists the commands")
    add("--input-file", type=ours.path, metavar="FILE", help="answer a file of prompts, one a line")
    add(
        "--output-file", type=ours.path, metavar="FILE",
        help="write the answers as JSON lines, too; at first to FILE.part",
    )  # fmt: skip
    add_flags(parser, DEMO)
    add("--system", metavar="TEXT", help="system prompt of the chat")
    add("--chat-template-kwargs", metavar="JSON", help="tell the chat template, as '{\"thinking\": true}' for V3.1")
    add("--mtp", type=int, nargs="?", const=1, default=0, metavar="K", help="guess K tokens ahead with the MTP layer")
    add("--max-batch-size", type=int, metavar="N", help="prompts computed together")
    add("--max-seq-len", type=int, metavar="N", help="context: prompt and answer together")
    add("--gemm", choices=CHOICES["gemm"], help="what becomes of FP8 weights; by default what the device can")
    add("--attn", choices=CHOICES["attn"], default="absorb", help="cache the latent, or whole keys and values")
    add("--numerics", choices=CHOICES["numerics"], default="exact", help="demo, hf: BF16 where those have it")
    add("--device", choices=("cuda", "cpu"), help="by default cuda where each process has a GPU of its own")
    add("--stats", action="store_true", help="say what it took, and what crossed between ranks")
    add("--check-ranks", action="store_true", help="name the first layer and rank that compute something else; slow")
    args = parser.parse_args(argv)
    if bool(args.input_file) == args.interactive:
        parser.error("give either --interactive or --input-file")
    if args.system and not args.interactive:
        parser.error("--system needs --interactive")
    if args.output_file and args.interactive:
        parser.error("--output-file needs --input-file")
    try:
        _sampling(args)
        args.chat_template_kwargs = template_options(args.chat_template_kwargs)
        check_sizes(args.mtp, args.max_batch_size, args.max_seq_len)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    args = asked(argv, "dsv3 generate")
    sampling = _sampling(args)
    with launch(args.device) as tp, ExitStack() as stack:
        own = ("ckpt_path", "config", "input_file", "output_file")  # paths may differ between machines
        agree(tp, {name: value for name, value in vars(args).items() if name not in own}, "options")
        if tp.rank == 0:
            need_terminal(keyboard=args.interactive, screen=not args.output_file)
        write = None
        if args.output_file and tp.rank == 0:
            write = stack.enter_context(answers_file(args.output_file, args.input_file))
        prompts = [] if args.interactive else read_prompts(args.input_file, tp)
        llm = load(
            args.ckpt_path, config=args.config, attn=args.attn, gemm=args.gemm, numerics=args.numerics,
            max_batch_size=args.max_batch_size, max_seq_len=args.max_seq_len, mtp=args.mtp, tp=tp,
            model="plain" if args.check_ranks else "fast",
        )  # fmt: skip
        for note in llm.notes if tp.rank == 0 else ():
            print(printable(note), file=sys.stderr)
        if isinstance(llm.model, Replayed) and tp.rank == 0:
            llm.model.tell = _to_stderr
        if llm.model.cfg.fp8 and not args.gemm and tp.rank == 0:
            print(pick(llm.model.run.device).why, file=sys.stderr)
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = lambda message, *_: _to_stderr(printable(message))
        if args.check_ranks:
            stack.enter_context(compare_layers(cast(Transformer, llm.model)))
        if args.interactive:
            interactive(llm, tp, sampling, args.system, args.stats, args.chat_template_kwargs)
        else:
            batch(llm, tp, sampling, prompts, write, args.stats, args.chat_template_kwargs)


if __name__ == "__main__":
    from .cli import run

    run(main)
