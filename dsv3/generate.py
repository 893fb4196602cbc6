"""Generation: prefill, decode, sampling, batches, streaming; the entry point for ``torchrun``.

``load`` gives an ``LLM`` for Python and notebooks; ``main`` is the official command line.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor

from .chat import Reply, Tokenizer, split_thinking
from .checkpoint.load import load as load_weights
from .config import ModelConfig
from .download import TINY_R1
from .kernels import pick
from .layout import check_ranks
from .model import Cache, Transformer
from .parallel import Parallel, launch
from .runtime import Runtime

CHUNK = 2048  # prompt tokens per sequence and prefill step: bounds the memory of the attention scores


class Sampling(TypedDict, total=False):
    """Options of everything that generates.

    Attributes:
        max_new_tokens: the longest completion, in tokens; 200 by default.
        temperature: 0, the default, takes the likeliest token; otherwise logits are divided by it before sampling.
        seed: of the sampling; the same seed gives the same tokens.
    """

    max_new_tokens: int
    temperature: float
    seed: int


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: list[list[int]],
    *,
    eos_id: int,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[int, int]]:
    """Tokens as they come: (index of the prompt, token id). A sequence ends at ``eos_id``, which is given, too.

    Options as in ``Sampling``. Prompts may have any lengths; more than ``cfg.max_batch_size`` are answered in waves.

    Raises:
        ValueError: a prompt that is empty or fills the context.
    """
    limit = model.cfg.max_seq_len
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i + 1} is empty")
        if len(prompt) >= limit:
            raise ValueError(
                f"prompt {i + 1} has {len(prompt)} tokens, the context {limit}: no room for an answer; shorten it"
            )
    rng = torch.Generator(model.run.device).manual_seed(seed)
    wave = model.cfg.max_batch_size
    for first in range(0, len(prompts), wave):
        for i, token in _wave(model, prompts[first : first + wave], eos_id, max_new_tokens, temperature, rng):
            yield first + i, token


def _wave(
    model: Transformer,
    prompts: list[list[int]],
    eos_id: int,
    max_new_tokens: int,
    temperature: float,
    rng: torch.Generator,
) -> Iterator[tuple[int, int]]:
    """One batch to its end. A finished sequence repeats its last step, unseen, until all are finished."""
    device, limit = model.run.device, model.cfg.max_seq_len
    cache = Cache()
    h, lengths = prefill(model, prompts, cache)
    going = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        token = model.run.tp.broadcast(sample(model.logits(h), temperature, rng))
        for i, t in enumerate(token.tolist()):
            if going[i]:
                yield i, t
                going[i] = t != eos_id and int(lengths[i]) + 1 < limit
        if not going.any():
            return
        h = model(token.unsqueeze(1), lengths, cache)[:, -1]
        lengths = lengths + going.to(device)


def prefill(model: Transformer, prompts: list[list[int]], cache: Cache) -> tuple[Tensor, Tensor]:
    """Read the prompts into ``cache`` -> hidden state of each one's last token [B, D], and lengths [B]."""
    device = model.run.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    width = int(lengths.max())
    # Padded on the right: what stands behind a prompt is hidden by position, and overwritten by the answer.
    tokens = torch.tensor([p + [0] * (width - len(p)) for p in prompts], device=device)
    last = torch.empty(len(prompts), model.cfg.dim, dtype=model.run.dtype, device=device)
    for start in range(0, width, CHUNK):
        h = model(tokens[:, start : start + CHUNK], start, cache)
        ends_here = ((lengths - 1) // CHUNK == start // CHUNK).nonzero().squeeze(1)
        last[ends_here] = h[ends_here, lengths[ends_here] - 1 - start]
    return last, lengths


def sample(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """[B, V] float32 -> [B] token ids; softmax and choice in float32."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng).squeeze(1)


class LLM:
    """A model with its tokenizer: ``chat``, ``stream``, ``generate``; ``Sampling`` lists the options of all three."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer

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

    def _prompt(self, message: str | list[dict[str, str]]) -> list[int]:
        messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
        return self.tokenizer.prompt(messages)

    def _tokens(self, prompts: list[list[int]], options: Sampling) -> Iterator[tuple[int, int]]:
        return generate(self.model, prompts, eos_id=self.tokenizer.eos_id, **options)

    def _replies(self, prompts: list[list[int]], options: Sampling) -> list[Reply]:
        done: list[list[int]] = [[] for _ in prompts]
        for i, token in self._tokens(prompts, options):
            done[i].append(token)
        return [self.reply(tokens) for tokens in done]

    def reply(self, tokens: list[int]) -> Reply:
        """A completion's tokens -> thinking and answer."""
        finish = "stop" if tokens and tokens[-1] == self.tokenizer.eos_id else "length"
        return Reply(*split_thinking(self.tokenizer.decode(tokens)), len(tokens), finish)


def load(
    path: str | Path,
    *,
    config: str | Path | None = None,
    attn: Literal["naive", "absorb"] = "absorb",
    gemm: Literal["fp8", "bf16"] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | None = None,
    max_batch_size: int | None = None,
    tp: Parallel | None = None,
) -> LLM:
    """Load a checkpoint folder, Hugging Face's or converted, or ``"tiny-r1"``, which comes with the package.

    Args:
        config: a config to use instead of the folder's; how the weights are stored still comes from the folder's.
        gemm: how FP8 weights are multiplied; by default what the device has units for (``kernels.pick``).
        device: ``"cuda"`` or ``"cpu"``; by default CUDA where there is one.
        max_batch_size: sequences computed together; by default the config's, 8.
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
    if max_batch_size:
        cfg = replace(cfg, max_batch_size=max_batch_size)
    tp = tp or Parallel()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    choice = pick(place)
    gemm = gemm or choice.gemm
    # Only weights that stay FP8 must be cut along their blocks.
    check_ranks(cfg if gemm == "fp8" else replace(cfg, dtype="bf16"), tp.size)
    run = Runtime(tp=tp, kernels=choice.kernels, gemm=gemm, attn=attn, dtype=dtype, device=place)
    if cfg.fp8 and tp.rank == 0 and gemm == choice.gemm:
        print(choice.why, file=sys.stderr)
    tokenizer = Tokenizer(folder)
    model = Transformer(replace(cfg, n_mtp_layers=0), run)
    load_weights(model, folder, cfg)
    return LLM(model.eval(), tokenizer)


# ------------------------------------------------------------------------------------------------- command line


def interactive(llm: LLM, tp: Parallel, options: Sampling) -> None:
    """A chat on rank 0; the other ranks follow. ``/clear`` forgets the conversation, ``/exit`` or Ctrl-D ends it."""
    messages: list[dict[str, str]] = []
    while True:
        prompt = tp.broadcast_text(_ask() if tp.rank == 0 else None, llm.model.run.device)
        if prompt == "/exit":
            return
        if prompt == "/clear":
            messages.clear()
        if not prompt.strip() or prompt == "/clear":
            continue
        messages.append({"role": "user", "content": prompt})
        pieces = []
        try:
            for piece in llm.stream(messages, **options):
                pieces.append(piece)
                if tp.rank == 0:
                    print(piece, end="", flush=True)
        except ValueError as error:  # the conversation fills the context
            if tp.rank == 0:
                print(f"{error}; /clear starts anew")
            messages.pop()
            continue
        if tp.rank == 0:
            print()
        # Only the answer: thinking that was cut off must not come back as if it had been said.
        messages.append({"role": "assistant", "content": split_thinking("".join(pieces))[1].strip()})


def _ask() -> str:
    try:
        return input(">>> ")
    except EOFError:
        return "/exit"


def batch(llm: LLM, tp: Parallel, options: Sampling, source: Path, target: Path | None) -> None:
    """Answer each line of ``source`` (blank ones are skipped); print, and write JSON lines to ``target``."""
    prompts = [line for line in _text(source).splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{source}: holds no prompt; write one a line")
    replies = llm.generate(prompts, **options)
    if tp.rank != 0:
        return
    for prompt, reply in zip(prompts, replies, strict=True):
        print(f"Prompt: {prompt}\nCompletion: {reply.text}\n")
        if reply.finish == "length":
            print(f"(cut off after {reply.tokens} tokens; --max-new-tokens gives more)", file=sys.stderr)
    if target:
        rows = ({"prompt": p} | asdict(r) for p, r in zip(prompts, replies, strict=True))
        part = target.with_name(target.name + ".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(part, target)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text (byte {error.start})") from None


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    parser = argparse.ArgumentParser(prog="dsv3 generate", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--ckpt-path", required=True, metavar="DIR", help="converted or Hugging Face folder, or tiny-r1"
    )
    parser.add_argument("--config", help="config file or shipped name; by default the checkpoint's own")
    parser.add_argument("--interactive", action="store_true", help="chat; /clear forgets, /exit ends")
    parser.add_argument("--input-file", type=Path, metavar="FILE", help="answer a file of prompts, one a line")
    parser.add_argument("--output-file", type=Path, metavar="FILE", help="write the answers as JSON lines, too")
    parser.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.2, metavar="T", help="0 is greedy")
    args = parser.parse_args(argv)
    if bool(args.input_file) == args.interactive:
        parser.error("give either --interactive or --input-file")
    if args.max_new_tokens < 1 or args.temperature < 0:
        parser.error("--max-new-tokens must be 1 or more and --temperature 0 or more")
    if args.input_file and not args.input_file.is_file():
        raise FileNotFoundError(f"{args.input_file}: no such file")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with launch(device) as tp:
        llm = load(args.ckpt_path, config=args.config, device=device, tp=tp)
        options = Sampling(max_new_tokens=args.max_new_tokens, temperature=args.temperature)
        if args.interactive:
            interactive(llm, tp, options)
        else:
            batch(llm, tp, options, args.input_file, args.output_file)


if __name__ == "__main__":
    from .cli import run

    run(main)
