"""Generation from text to text: ``load`` gives an ``LLM``; ``main`` is the official command line, torchrun's, too."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, Unpack

import torch

from .config import ModelConfig
from .inference.chat import Reply, Tokenizer, opens_thinking, split_thinking
from .inference.decode import Stats, generate, longest
from .inference.fast import Fast
from .inference.sampling import MAX_NEW_TOKENS, Sampling, check, whole
from .inference.weights import find, fingerprints
from .inference.weights import load as load_weights
from .kernels import pick
from .layout import check_ranks
from .model import Transformer
from .paths import TINY_R1
from .ranks.device import alone
from .ranks.join import launch
from .ranks.parallel import Parallel, agree
from .runtime import NUMERICS, Runtime

ROLES = ("system", "user", "assistant", "tool")
CHOICES = {  # of ``load``
    "attn": ("absorb", "naive"),
    "gemm": ("fp8", "w8a16", "bf16"),
    "numerics": tuple(NUMERICS),
    "dtype": (torch.bfloat16, torch.float16, torch.float32, torch.float64),
}
SIZES = {"max_batch_size": (1,), "max_seq_len": (2,), "mtp": (0, 64)}  # no model guesses 64 tokens well


class LLM:
    """A model with its tokenizer: ``chat``, ``stream``, ``generate``; ``Sampling`` lists the options of all three.

    Attributes:
        drafts: tokens that the MTP layer guesses in each step.
        stats: what the latest call took.
    """

    def __init__(self, model: Transformer | Fast, tokenizer: Tokenizer, drafts: int = 0):
        self.model, self.tokenizer, self.drafts = model, tokenizer, drafts
        self.stats = Stats()

    def chat(self, message: str | list[dict[str, str]], **options: Unpack[Sampling]) -> Reply:
        """The answer to a question, or to a conversation of ``{"role": ..., "content": ...}`` messages.

        >>> load("tiny-r1").chat("37 + 48 = ?").answer.strip()
        'Answer: 85'
        """
        return self.generate([message], **options)[0]

    def generate(self, prompts: list[str], **options: Unpack[Sampling]) -> list[Reply]:
        """The answers to separate questions, computed in batches of ``cfg.max_batch_size``."""
        return list(self.answers(prompts, **options))

    def answers(self, prompts: list[str], **options: Unpack[Sampling]) -> Iterator[Reply]:
        """The same one by one, in the order of ``prompts``, each as soon as it and those before it are whole."""
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
            raise ValueError(f"prompts = {prompts!r:.40}: give a list of prompts; chat answers a single one")
        ids = [self._prompt(prompt) for prompt in prompts]
        tokens = self._tokens(ids, options)
        limits = [longest(self.model.cfg, p, options.get("max_new_tokens", MAX_NEW_TOKENS)) for p in ids]

        def whole_ones() -> Iterator[Reply]:
            done: list[list[int]] = [[] for _ in ids]
            first = 0  # of those that are not whole
            for i, token in tokens:
                done[i].append(token)
                while first < len(ids) and (self._stopped(done[first]) or len(done[first]) == limits[first]):
                    yield self._reply(ids[first], done[first])
                    first += 1

        return whole_ones()

    def stream(self, message: str | list[dict[str, str]], **options: Unpack[Sampling]) -> Iterator[str]:
        """The completion piece by piece, thinking first, ``</think>`` between; never half a character."""
        return self.tokenizer.stream(token for _, token in self._tokens([self._prompt(message)], options))

    def opens_thinking(self, message: str | list[dict[str, str]]) -> bool:
        """Whether the answer begins inside a thought, as R1's does; ``split_thinking`` wants to know."""
        return opens_thinking(self._prompt(message), self.tokenizer.think_ids)

    def _prompt(self, message: str | list[dict[str, str]]) -> list[int]:
        return self.tokenizer.prompt(conversation(message))

    def _tokens(self, prompts: list[list[int]], options: Sampling) -> Iterator[tuple[int, int]]:
        self.stats = Stats()
        ids = {"eos_id": self.tokenizer.eos_id, "think_ids": self.tokenizer.think_ids}
        return generate(self.model, prompts, drafts=self.drafts, stats=self.stats, **ids, **options)

    def _stopped(self, tokens: list[int]) -> bool:
        return tokens[-1:] == [self.tokenizer.eos_id]

    def _reply(self, prompt: list[int], tokens: list[int]) -> Reply:
        finish = "stop" if self._stopped(tokens) else "length"
        if finish == "length" and len(prompt) + len(tokens) >= self.model.cfg.max_seq_len:
            finish = "context"
        opened = opens_thinking(prompt, self.tokenizer.think_ids)
        return Reply(*split_thinking(self.tokenizer.decode(tokens), opened), len(tokens), finish)


def conversation(message: str | list[dict[str, str]]) -> list[dict[str, str]]:
    """A question as a conversation, or a conversation as it is.

    Raises:
        ValueError: neither, or one that no template can take; says which message, and why.
    """
    messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
    if not isinstance(messages, list | tuple) or not all(isinstance(m, Mapping) for m in messages):
        raise ValueError(f"prompt {message!r:.40}: give a string, or a list of messages with role and content")
    if not messages or isinstance(message, str) and not message.strip():
        raise ValueError("the prompt is empty")
    for i, turn in enumerate(messages):
        if turn.get("role") not in ROLES:
            raise ValueError(f"message {i + 1}: its role is {turn.get('role')!r:.40}, not one of {', '.join(ROLES)}")
        if not isinstance(turn.get("content"), str):
            raise ValueError(f"message {i + 1}: its content is {turn.get('content')!r:.40}, not a string")
        try:
            turn["content"].encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"message {i + 1}: half a character at place {error.start}: no text") from None
    return messages


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for one of ``SIZES`` that is out of its range."""
    for name, size in sizes.items():
        whole(name, size, *SIZES[name])


def load(
    path: str | Path,
    *,
    config: str | Path | None = None,
    attn: Literal["naive", "absorb"] = "absorb",
    gemm: Literal["fp8", "w8a16", "bf16"] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    numerics: Literal["exact", "hf", "demo"] = "exact",
    device: Literal["cuda", "cpu"] | None = None,
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    mtp: int = 0,
    fast: bool = True,
    compile: bool = False,
    tp: Parallel | None = None,
) -> LLM:
    """Load a checkpoint folder, Hugging Face's or converted, or ``"tiny-r1"``, which comes with the package.

    Args:
        config: a config to use instead of the folder's; how the weights are stored still comes from the folder's.
        gemm: how FP8 weights are multiplied (``Runtime``); by default what the device has units for (``kernels.pick``).
        numerics: ``"demo"`` and ``"hf"`` show what BF16 in router, expert sum and head does (``runtime.NUMERICS``).
        device: ``"cuda"`` or ``"cpu"``; by default ``tp``'s, else CUDA where there is one.
        max_batch_size: sequences computed together; by default the config's, 8.
        max_seq_len: the context, prompt and answer together, in tokens; by default the config's.
        mtp: tokens that the MTP layer guesses in each step; 0 does not load it.
        fast: run ``Fast``, which computes the same as ``model.py``; the naive form and other numerics run in that.
        compile: compile the step of a single sequence with ``torch.compile``: seconds at the start, faster then.
        tp: this rank's place; by default a single process.

    Raises:
        FileNotFoundError, ValueError: what is missing or wrong, and what to do.
    """
    sizes = {"max_batch_size": max_batch_size, "max_seq_len": max_seq_len}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    check_sizes(**sizes, mtp=mtp)
    for name, value in {"attn": attn, "gemm": gemm, "numerics": numerics, "dtype": dtype}.items():
        if value not in CHOICES[name] and not (name == "gemm" and value is None):
            raise ValueError(f"{name} = {value!r:.40}: must be one of {', '.join(map(str, CHOICES[name]))}")
    folder = TINY_R1 if str(path) == "tiny-r1" and not Path(path).exists() else Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkpoint folder, or tiny-r1")
    cfg = ModelConfig.load(config or folder)
    if config and (folder / "config.json").is_file():
        own = ModelConfig.load(folder)
        cfg = replace(cfg, dtype=own.dtype, scale_fmt=own.scale_fmt)
    cfg = replace(cfg, **sizes)
    if mtp and not cfg.n_mtp_layers:
        raise ValueError(f"{folder}: its config has no MTP layer (num_nextn_predict_layers); load it without mtp")
    fast = fast and attn == "absorb" and numerics == "exact" and dtype != torch.float64
    if compile and not fast:
        raise ValueError(
            "compile knows attn absorb and numerics exact only, and cannot check ranks; leave one of them out"
        )
    tp = tp or Parallel()
    place = alone(tp.device if device is None else device)
    choice = pick(place)
    gemm = gemm or choice.gemm
    # Only weights that stay FP8 must be cut along their blocks.
    check_ranks(replace(cfg, dtype="bf16") if gemm == "bf16" else cfg, tp.size)
    run = Runtime(
        tp=tp, kernels=choice.kernels, gemm=gemm, attn=attn, dtype=dtype, numerics=NUMERICS[numerics], device=place
    )
    forms = {"gemm": gemm, "attn": attn, "activations": dtype, "numerics": numerics, "mtp": mtp}
    agree(tp, asdict(cfg) | forms, "config")
    tokenizer = Tokenizer(folder)
    tokenizer.check(cfg.vocab_size)
    used = cfg if mtp else replace(cfg, n_mtp_layers=0)
    source = find(folder, cfg, used.n_mtp_layers, run)  # before the model takes its memory
    model = Transformer(used, run)
    load_weights(model, folder, cfg, source)
    if tp.size > 1:
        agree(tp, fingerprints(model), "weights")
    if compile:
        from .compiled import Compiled

        return LLM(Compiled(model), tokenizer, mtp)
    return LLM(Fast(model) if fast else model.eval(), tokenizer, mtp)


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    parser = argparse.ArgumentParser(prog="dsv3 generate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--ckpt-path", required=True, metavar="DIR", help="converted or Hugging Face folder, or tiny-r1")
    add("--config", help="config file or shipped name; by default the checkpoint's own")
    add("--interactive", action="store_true", help="chat; /help lists the commands")
    add("--input-file", type=Path, metavar="FILE", help="answer a file of prompts, one a line")
    add("--output-file", type=Path, metavar="FILE", help="write the answers as JSON lines, too; at first to FILE.part")
    add("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, metavar="N")
    add("--temperature", type=float, default=0.2, metavar="T", help="0 is greedy")
    add("--top-p", type=float, default=1.0, metavar="P", help="sample among the likeliest that make up P")
    add("--top-k", type=int, default=0, metavar="K", help="sample among the K likeliest")
    add("--seed", type=int, default=0)
    add("--think-budget", type=int, metavar="N", help="end the thinking after N tokens")
    add("--system", metavar="TEXT", help="system prompt of the chat")
    add("--mtp", type=int, nargs="?", const=1, default=0, metavar="K", help="guess K tokens ahead with the MTP layer")
    add("--max-batch-size", type=int, metavar="N", help="prompts computed together")
    add("--max-seq-len", type=int, metavar="N", help="context: prompt and answer together")
    add("--gemm", choices=CHOICES["gemm"], help="what becomes of FP8 weights; by default what the device can")
    add("--attn", choices=CHOICES["attn"], default="absorb", help="cache the latent, or whole keys and values")
    add("--numerics", choices=CHOICES["numerics"], default="exact", help="demo, hf: BF16 where those have it")
    add("--device", choices=("cuda", "cpu"), help="by default cuda where each process has a GPU of its own")
    add("--compile", action="store_true", help="compile the step of a single sequence: slower start, faster then")
    add("--stats", action="store_true", help="say what it took, and what crossed between ranks")
    add("--check-ranks", action="store_true", help="name the first layer and rank that compute something else; slow")
    args = parser.parse_args(argv)
    if bool(args.input_file) == args.interactive:
        parser.error("give either --interactive or --input-file")
    if args.system and not args.interactive:
        parser.error("--system needs --interactive")
    if args.output_file and args.interactive:
        parser.error("--output-file needs --input-file")
    options = Sampling(
        max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k,
        seed=args.seed, think_budget=args.think_budget,
    )  # fmt: skip
    try:
        check(**options)
        check_sizes(**{name: value for name in SIZES if (value := getattr(args, name)) is not None})
    except ValueError as error:
        parser.error(str(error))
    from .console import answers_file, batch, interactive, need_terminal, read_prompts
    from .inference.divergence import compare_layers

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
            max_batch_size=args.max_batch_size, max_seq_len=args.max_seq_len, mtp=args.mtp, fast=not args.check_ranks,
            compile=args.compile, tp=tp,
        )  # fmt: skip
        if llm.model.cfg.fp8 and not args.gemm and tp.rank == 0:
            print(pick(llm.model.run.device).why, file=sys.stderr)
        with compare_layers(llm.model) if args.check_ranks else nullcontext():
            if args.interactive:
                interactive(llm, tp, options, args.system, args.stats)
            else:
                batch(llm, tp, options, prompts, write, args.stats)


if __name__ == "__main__":
    from .cli import run

    run(main)
