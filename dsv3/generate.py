"""Generation from text to text: ``load`` gives an ``LLM``; ``main`` is the official command line, torchrun's, too."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, Unpack

import torch

from .config import ModelConfig
from .inference.chat import Reply, Tokenizer, opens_thinking, split_thinking
from .inference.decode import Stats, generate
from .inference.fast import Fast
from .inference.sampling import Sampling, check
from .inference.weights import fingerprints
from .inference.weights import load as load_weights
from .kernels import pick
from .layout import check_ranks
from .model import Transformer
from .paths import TINY_R1
from .ranks.parallel import Parallel, agree, launch
from .runtime import NUMERICS, Runtime


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
        return self._replies([self._prompt(message)], options)[0]

    def generate(self, prompts: list[str], **options: Unpack[Sampling]) -> list[Reply]:
        """The answers to separate questions, computed in batches of ``cfg.max_batch_size``."""
        return self._replies([self._prompt(p) for p in prompts], options)

    def stream(self, message: str | list[dict[str, str]], **options: Unpack[Sampling]) -> Iterator[str]:
        """The completion piece by piece, thinking first, ``</think>`` between; never half a character."""
        tokens = (token for _, token in self._tokens([self._prompt(message)], options))
        yield from self.tokenizer.stream(tokens)

    def opens_thinking(self, message: str | list[dict[str, str]]) -> bool:
        """Whether the answer begins inside a thought, as R1's does; ``split_thinking`` wants to know."""
        return opens_thinking(self._prompt(message), self.tokenizer.think_ids)

    def _prompt(self, message: str | list[dict[str, str]]) -> list[int]:
        messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
        return self.tokenizer.prompt(messages)

    def _tokens(self, prompts: list[list[int]], options: Sampling) -> Iterator[tuple[int, int]]:
        self.stats = Stats()
        ids = {"eos_id": self.tokenizer.eos_id, "think_ids": self.tokenizer.think_ids}
        return generate(self.model, prompts, drafts=self.drafts, stats=self.stats, **ids, **options)

    def _replies(self, prompts: list[list[int]], options: Sampling) -> list[Reply]:
        done: list[list[int]] = [[] for _ in prompts]
        for i, token in self._tokens(prompts, options):
            done[i].append(token)
        return [self._reply(prompt, tokens) for prompt, tokens in zip(prompts, done, strict=True)]

    def _reply(self, prompt: list[int], tokens: list[int]) -> Reply:
        finish = "stop" if tokens and tokens[-1] == self.tokenizer.eos_id else "length"
        if finish == "length" and len(prompt) + len(tokens) >= self.model.cfg.max_seq_len:
            finish = "context"
        opened = opens_thinking(prompt, self.tokenizer.think_ids)
        return Reply(*split_thinking(self.tokenizer.decode(tokens), opened), len(tokens), finish)


def load(
    path: str | Path,
    *,
    config: str | Path | None = None,
    attn: Literal["naive", "absorb"] = "absorb",
    gemm: Literal["fp8", "w8a16", "bf16"] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    numerics: Literal["exact", "hf", "demo"] = "exact",
    device: str | None = None,
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
        device: ``"cuda"`` or ``"cpu"``; by default CUDA where there is one.
        max_batch_size: sequences computed together; by default the config's, 8.
        max_seq_len: the context, prompt and answer together, in tokens; by default the config's.
        mtp: tokens that the MTP layer guesses in each step; 0 does not load it.
        fast: run ``Fast``, which computes the same as ``model.py``; the naive form and other numerics run in that.
        compile: compile the step of a single sequence with ``torch.compile``: seconds at the start, faster then.
        tp: this rank's place; by default a single process.

    Raises:
        FileNotFoundError, ValueError: what is missing or wrong, and what to do.
    """
    folder = TINY_R1 if str(path) == "tiny-r1" and not Path(path).exists() else Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkpoint folder, or tiny-r1")
    cfg = ModelConfig.load(config or folder)
    if config and (folder / "config.json").is_file():
        own = ModelConfig.load(folder)
        cfg = replace(cfg, dtype=own.dtype, scale_fmt=own.scale_fmt)
    sizes = {"max_batch_size": max_batch_size, "max_seq_len": max_seq_len}
    cfg = replace(cfg, **{name: size for name, size in sizes.items() if size is not None})
    if mtp and not cfg.n_mtp_layers:
        raise ValueError(f"{folder}: its config has no MTP layer (num_nextn_predict_layers); load it without mtp")
    fast = fast and attn == "absorb" and numerics == "exact"
    if compile and not fast:
        raise ValueError(
            "compile knows attn absorb and numerics exact only, and cannot check ranks; leave one of them out"
        )
    tp = tp or Parallel()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
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
    model = Transformer(cfg if mtp else replace(cfg, n_mtp_layers=0), run)
    load_weights(model, folder, cfg)
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
    add("--output-file", type=Path, metavar="FILE", help="write the answers as JSON lines, too")
    add("--max-new-tokens", type=int, default=200, metavar="N")
    add("--temperature", type=float, default=0.2, metavar="T", help="0 is greedy")
    add("--top-p", type=float, default=1.0, metavar="P", help="sample among the likeliest that make up P")
    add("--top-k", type=int, default=0, metavar="K", help="sample among the K likeliest")
    add("--seed", type=int, default=0)
    add("--think-budget", type=int, metavar="N", help="end the thinking after N tokens")
    add("--system", metavar="TEXT", help="system prompt of the chat")
    add("--mtp", type=int, nargs="?", const=1, default=0, metavar="K", help="guess K tokens ahead with the MTP layer")
    add("--max-batch-size", type=int, metavar="N", help="prompts computed together")
    add("--max-seq-len", type=int, metavar="N", help="context: prompt and answer together")
    add("--gemm", choices=("fp8", "w8a16", "bf16"), help="what becomes of FP8 weights; by default what the device can")
    add("--attn", choices=("absorb", "naive"), default="absorb", help="cache the latent, or whole keys and values")
    add("--numerics", choices=tuple(NUMERICS), default="exact", help="demo, hf: BF16 where those have it")
    add("--compile", action="store_true", help="compile the step of a single sequence: slower start, faster then")
    add("--stats", action="store_true", help="say what it took, and what crossed between ranks")
    add("--check-ranks", action="store_true", help="name the first layer and rank that compute something else; slow")
    args = parser.parse_args(argv)
    if bool(args.input_file) == args.interactive:
        parser.error("give either --interactive or --input-file")
    if args.system and not args.interactive:
        parser.error("--system needs --interactive")
    for name, least in (("max_new_tokens", 1), ("max_batch_size", 1), ("max_seq_len", 2), ("mtp", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    options = Sampling(
        max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k,
        seed=args.seed, think_budget=args.think_budget,
    )  # fmt: skip
    try:
        check(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, think_budget=args.think_budget)
    except ValueError as error:
        parser.error(str(error))
    from .console import batch, interactive, read_prompts
    from .inference.divergence import compare_layers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with launch(device) as tp:
        own = ("ckpt_path", "config", "input_file", "output_file")  # paths may differ between machines
        agree(tp, {name: value for name, value in vars(args).items() if name not in own}, "options")
        prompts = [] if args.interactive else read_prompts(args.input_file, tp)
        llm = load(
            args.ckpt_path, config=args.config, attn=args.attn, gemm=args.gemm, numerics=args.numerics, device=device,
            max_batch_size=args.max_batch_size, max_seq_len=args.max_seq_len, mtp=args.mtp, fast=not args.check_ranks,
            compile=args.compile, tp=tp,
        )  # fmt: skip
        if llm.model.cfg.fp8 and not args.gemm and tp.rank == 0:
            print(pick(torch.device(device)).why, file=sys.stderr)
        with compare_layers(llm.model) if args.check_ranks else nullcontext():
            if args.interactive:
                interactive(llm, tp, options, args.system, args.stats)
            else:
                batch(llm, tp, options, prompts, args.output_file, args.stats)


if __name__ == "__main__":
    from .cli import run

    run(main)
