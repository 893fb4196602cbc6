"""From text to text: ``load`` gives an ``LLM``, a model with its tokenizer, which answers."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from .config import ModelConfig
from .inference.chat import Reply, Tokenizer, opens_thinking, split_thinking
from .inference.decode import Model, Stats, generate, longest
from .inference.fast import Fast
from .inference.graph import recorded
from .inference.sampling import Sampling, whole
from .inference.weights import find, fingerprints
from .inference.weights import load as load_weights
from .kernels import pick
from .layout import check_ranks
from .model import Transformer
from .paths import TINY_R1
from .ranks.device import alone
from .ranks.parallel import Parallel, agree
from .runtime import NUMERICS, Runtime

Prompt = str | list[dict[str, str]]  # a question, or a conversation of {"role": ..., "content": ...} messages

ROLES = ("system", "user", "assistant", "tool")
CHOICES = {  # of ``load``
    "model": ("fast", "plain"),
    "attn": ("absorb", "naive"),
    "gemm": ("fp8", "w8a16", "bf16"),
    "numerics": tuple(NUMERICS),
    "dtype": (torch.bfloat16, torch.float16, torch.float32, torch.float64),
}
MOST_DRAFTS = 64  # no model guesses as many tokens well


class LLM:
    """A model with its tokenizer: ``chat``, ``stream``, ``generate``; ``Sampling`` lists the options of all three.

    All of them also take ``chat_template_kwargs``, what the chat template is told: ``{"thinking": True}`` for V3.1.

    Attributes:
        model: ``Fast``, on a GPU ``Replayed``, or the ``Transformer`` of ``model.py``.
        drafts: tokens that the MTP layer guesses in each step.
        notes: what of the checkpoint is not as its config says, and why decoding is slower than it could be, if it is;
            a line each.
        stats: what the latest call took.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, drafts: int = 0, notes: tuple[str, ...] = ()):
        self.model, self.tokenizer, self.drafts, self.notes = model, tokenizer, drafts, notes
        self.stats = Stats()

    def __repr__(self) -> str:
        kind, run = "plain" if isinstance(self.model, Transformer) else "fast", self.model.run
        return f"LLM(model={kind!r}, device='{run.device}', gemm={run.gemm!r})"

    def chat(self, message: Prompt, **options: Any) -> Reply:
        """The answer to a question, or to a conversation of ``{"role": ..., "content": ...}`` messages.

        >>> load("tiny-r1").chat("37 + 48 = ?").answer.strip()
        'Answer: 85'
        """
        return self.generate([message], **options)[0]

    def generate(self, prompts: Iterable[Prompt], **options: Any) -> list[Reply]:
        """The answers to separate questions, computed in batches of ``cfg.max_batch_size``."""
        return list(self.answers(prompts, **options))

    def answers(
        self, prompts: Iterable[Prompt], *, chat_template_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[Reply]:
        """The same one by one, in the order of ``prompts``, each as soon as it and those before it are whole."""
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
            raise ValueError(f"prompts = {prompts!r:.40}: give a list of prompts; chat answers a single one")
        ids = [self._prompt(prompt, chat_template_kwargs) for prompt in prompts]
        sampling = Sampling(**options)
        tokens = self._tokens(ids, sampling)
        limits = [longest(self.model.cfg, p, sampling.max_new_tokens) for p in ids]

        def whole_ones() -> Iterator[Reply]:
            done: list[list[int]] = [[] for _ in ids]
            first = 0  # of those that are not whole
            for i, token in tokens:
                done[i].append(token)
                while first < len(ids) and (self._stopped(done[first]) or len(done[first]) == limits[first]):
                    yield self._reply(ids[first], done[first])
                    first += 1

        return whole_ones()

    def stream(
        self, message: Prompt, *, chat_template_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[str]:
        """The completion piece by piece, thinking first, ``</think>`` between; never half a character."""
        tokens = self._tokens([self._prompt(message, chat_template_kwargs)], Sampling(**options))
        return self.tokenizer.stream(token for _, token in tokens if token not in self.tokenizer.eos_ids)

    def opens_thinking(self, message: Prompt, chat_template_kwargs: Mapping[str, Any] | None = None) -> bool:
        """Whether the answer begins inside a thought, as R1's does; ``split_thinking`` wants to know."""
        return opens_thinking(self._prompt(message, chat_template_kwargs), self.tokenizer.think_ids)

    def _prompt(self, message: Prompt, template: Mapping[str, Any] | None) -> list[int]:
        if template and self.model.run.tp.rank == 0 and (unused := self.tokenizer.unused(template)):
            warnings.warn(unused, stacklevel=2)
        return self.tokenizer.prompt(conversation(message), template)

    def _tokens(self, prompts: list[list[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
        self.stats = Stats()
        return generate(
            self.model, prompts, eos_id=self.tokenizer.eos_ids, think_ids=self.tokenizer.think_ids, drafts=self.drafts,
            stats=self.stats, **asdict(sampling),
        )  # fmt: skip

    def _stopped(self, tokens: list[int]) -> bool:
        return bool(tokens) and tokens[-1] in self.tokenizer.eos_ids

    def _reply(self, prompt: list[int], tokens: list[int]) -> Reply:
        finish = "stop" if self._stopped(tokens) else "length"
        if finish == "length" and len(prompt) + len(tokens) >= self.model.cfg.max_seq_len:
            finish = "context"
        opened = opens_thinking(prompt, self.tokenizer.think_ids)
        said = tokens[:-1] if finish == "stop" else tokens  # not every token that ends an answer is a special one
        return Reply(*split_thinking(self.tokenizer.decode(said), opened), len(tokens), finish)


def conversation(message: Prompt) -> list[dict[str, str]]:
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
        try:
            json.dumps(dict(turn))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"message {i + 1}: JSON cannot hold it: {error}") from None
    return [dict(turn) for turn in messages]


def check_sizes(mtp: int, max_batch_size: int | None, max_seq_len: int | None) -> None:
    """Check the sizes that ``load`` takes.

    Raises:
        ValueError: names one that is out of its range.
    """
    whole("mtp", mtp, 0, MOST_DRAFTS)
    if max_batch_size is not None:
        whole("max_batch_size", max_batch_size, 1)
    if max_seq_len is not None:
        whole("max_seq_len", max_seq_len, 2)


def load(
    path: str | Path,
    *,
    config: str | Path | None = None,
    model: Literal["fast", "plain"] = "fast",
    attn: Literal["naive", "absorb"] = "absorb",
    gemm: Literal["fp8", "w8a16", "bf16"] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    numerics: Literal["exact", "hf", "demo"] = "exact",
    device: Literal["cuda", "cpu"] | None = None,
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    mtp: int = 0,
    tp: Parallel | None = None,
) -> LLM:
    """Load a checkpoint folder, Hugging Face's or converted, or ``"tiny-r1"``, which comes with the package.

    Args:
        config: a config to use instead of the folder's; how the weights are stored still comes from the folder's.
        model: ``"plain"``: the ``Transformer`` of ``model.py``, to read, hook and change; ``"fast"``: ``Fast``, or on a
            GPU ``Replayed``, which computes the same. Attn naive, other numerics and float64 are the plain one's,
            whatever is asked for.
        gemm: how FP8 weights are multiplied (``Runtime``); by default what the device has units for (``kernels.pick``).
        numerics: ``"demo"`` and ``"hf"`` show what BF16 in router, expert sum and head does (``runtime.NUMERICS``).
        device: ``"cuda"`` or ``"cpu"``; by default ``tp``'s, else CUDA where there is one.
        max_batch_size: sequences computed together; by default the config's, 8.
        max_seq_len: the context, prompt and answer together, in tokens; by default the config's.
        mtp: tokens that the MTP layer guesses in each step; 0 does not load it.
        tp: this rank's place; by default a single process.

    Raises:
        FileNotFoundError, ValueError: what is missing or wrong, and what to do.
    """
    check_sizes(mtp, max_batch_size, max_seq_len)
    for name, value in {"model": model, "attn": attn, "gemm": gemm, "numerics": numerics, "dtype": dtype}.items():
        if value not in CHOICES[name] and not (name == "gemm" and value is None):
            raise ValueError(f"{name} = {value!r:.40}: must be one of {', '.join(map(str, CHOICES[name]))}")
    for name, given in {"path": path, "config": config}.items():
        if not isinstance(given, str | PathLike) and not (name == "config" and given is None) or given == "":
            raise ValueError(f"{name} = {given!r:.40}: give a path; for the current folder '.'")
    if tp is not None and not isinstance(tp, Parallel):
        raise ValueError(f"tp = {tp!r:.40}: give this rank's Parallel, as ranks.join.launch does")
    folder = TINY_R1 if str(path) == "tiny-r1" and not Path(path).exists() else Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkpoint folder, or tiny-r1")
    cfg = ModelConfig.load(config or folder)
    if config and (folder / "config.json").is_file():
        own = ModelConfig.load(folder)
        cfg = replace(cfg, dtype=own.dtype, scale_fmt=own.scale_fmt)
    cfg = replace(cfg, max_batch_size=max_batch_size or cfg.max_batch_size, max_seq_len=max_seq_len or cfg.max_seq_len)
    tp = tp or Parallel()
    processor = alone(tp.device if device is None else device)
    choice = pick(processor)
    gemm = gemm or choice.gemm
    # Only weights that stay FP8 must be cut along their blocks.
    check_ranks(replace(cfg, dtype="bf16") if gemm == "bf16" else cfg, tp.size)
    run = Runtime(
        tp=tp, kernels=choice.kernels, gemm=gemm, attn=attn, dtype=dtype, numerics=NUMERICS[numerics], device=processor
    )
    forms = {"gemm": gemm, "attn": attn, "activations": dtype, "numerics": numerics, "mtp": mtp}
    agree(tp, asdict(cfg) | forms, "config")
    tokenizer = Tokenizer(folder)
    tokenizer.check(cfg.vocab_size)
    agree(tp, {"tokens that end an answer": sorted(tokenizer.eos_ids)}, "tokenizer")
    source = find(folder, cfg, run, mtp=mtp > 0)  # before the model takes its memory
    plain = Transformer(source.cfg, run)
    load_weights(plain, folder, cfg, source)
    if tp.size > 1:
        agree(tp, fingerprints(plain), "weights")
    fast = model == "fast" and attn == "absorb" and numerics == "exact" and dtype != torch.float64
    if not fast:
        return LLM(plain.eval(), tokenizer, mtp, source.notes)
    quick, why = recorded(Fast(plain))
    return LLM(quick, tokenizer, mtp, source.notes + ((why,) if why else ()))
