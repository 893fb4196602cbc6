"""From token ids to token ids: prefill, decode, batches in waves, speculative decoding with the MTP layer."""

import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache
from ..config import ModelConfig
from ..model import Transformer
from .fast import Fast
from .graph import Replayed
from .sampling import Chooser, Sampling, whole

Model = Transformer | Fast | Replayed
CHUNK = 2048  # prompt tokens per sequence and prefill step: bounds the memory of the attention scores


@dataclass
class Stats:
    """What generating took; sums over all prompts and waves.

    Attributes:
        prompt_tokens, tokens: read, and generated.
        prefill_seconds, decode_seconds: until the first token of each wave, and from there on; where steps are launched
            ahead, on a GPU, the caller's time between two tokens is part of it.
        steps: passes through the model that decoded.
        drafted, accepted: guesses of the MTP layer, and those that were right.
    """

    prompt_tokens: int = 0
    tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.prompt_tokens} prompt tokens in {self.prefill_seconds:.2f} s, {self.tokens} new ones in "
            f"{self.decode_seconds:.2f} s, {self.tokens / max(self.decode_seconds, 1e-9):.1f} tokens/s"
        )
        if self.drafted:
            text += f"; {self.accepted} of {self.drafted} drafts accepted, {self.accepted / self.drafted:.1%}"
        return text


def generate(
    model: Model,
    prompts: list[list[int]],
    *,
    eos_id: int | Collection[int],
    think_ids: tuple[int, int] | None = None,
    drafts: int = 0,
    chunk: int = CHUNK,
    stats: Stats | None = None,
    **options: Any,
) -> Iterator[tuple[int, int]]:
    """Tokens as they come: (index of the prompt, token id). A sequence ends at ``eos_id``, which is given, too.

    Prompts may have any lengths; more than ``cfg.max_batch_size`` are answered in waves.

    Args:
        eos_id: the token that ends a sequence, or several that do.
        think_ids: the tokens ``<think>`` and ``</think>``; a ``think_budget`` needs them.
        drafts: tokens that the MTP layer guesses in each step; the model checks them in one pass.
        chunk: prompt tokens that are read at once.
        stats: is added to.
        options: those of ``Sampling``.

    Raises:
        ValueError: at once: a prompt that is empty, fills the context or has a token that the model does not know, or
            an option out of its range.
        TypeError: there is no such option.
    """
    sampling = Sampling(**options)
    whole("drafts", drafts, 0)
    whole("chunk", chunk, 1)
    limit = model.cfg.max_seq_len
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i + 1} is empty")
        if len(prompt) >= limit:
            raise ValueError(
                f"prompt {i + 1} has {len(prompt)} tokens, the context {limit}: no room for an answer; shorten it"
            )
        if max(prompt) >= model.cfg.vocab_size:
            rows = model.cfg.vocab_size
            raise ValueError(f"prompt {i + 1} has the token {max(prompt)}, but the model {rows} rows: leave it out")
    if drafts and not len(model.mtp):
        raise ValueError("drafts need the MTP layer: load the model with mtp")
    stats = stats or Stats()
    ends = frozenset([eos_id] if isinstance(eos_id, int) else eos_id)

    @torch.inference_mode()
    def waves() -> Iterator[tuple[int, int]]:
        wave = model.cfg.max_batch_size
        for first in range(0, len(prompts), wave):
            some = prompts[first : first + wave]
            seeds = range(sampling.seed + first, sampling.seed + first + len(some))
            chooser = Chooser(model.run.tp, model.run.device, some, seeds, sampling, think_ids)
            with _cache(model, len(some)) as cache:
                for i, token in _wave(model, some, cache, chooser, ends, sampling.max_new_tokens, drafts, chunk, stats):
                    yield first + i, token

    return waves()


def _cache(model: Model, batch: int) -> AbstractContextManager[Cache]:
    return model.room(batch) if isinstance(model, Replayed) else nullcontext(Cache())


def _wave(
    model: Model,
    prompts: list[list[int]],
    cache: Cache,
    chooser: Chooser,
    ends: frozenset[int],
    max_new_tokens: int,
    drafts: int,
    chunk: int,
    stats: Stats,
) -> Iterator[tuple[int, int]]:
    """One batch to its end; a sequence that is finished leaves it."""
    began, decoding = time.monotonic(), False
    h = prefill(model, prompts, cache, chunk, mtp=drafts > 0)  # [B, S, D], of the last S tokens
    begin = [len(prompt) - 1 for prompt in prompts]  # each sequence's position of the first of them
    limits = [len(prompt) + longest(model.cfg, prompt, max_new_tokens) for prompt in prompts]
    rows = list(range(len(prompts)))  # of the prompts that are still being answered
    ahead = model if isinstance(model, Replayed) and not drafts and chooser.on_device else None
    none = guesses = torch.empty(len(prompts), 0, dtype=torch.long, device=model.run.device)
    stats.prompt_tokens += sum(map(len, prompts))
    while True:
        logits, following = model.logits(h), None
        if ahead and decoding and all(start + 2 < limit for start, limit in zip(begin, limits, strict=True)):
            # The next step is launched before anybody has read this one's tokens. A sequence that they end is dropped
            # from it, and all of it where they end all: nobody counts it. The first token waits for no step's capture.
            chosen, read = chooser.begin(logits)
            following = ahead(chosen, [start + 1 for start in begin], cache)
            new = read()
        else:
            new = chooser(logits, guesses)
        stats.drafted += guesses.numel()
        stats.accepted += sum(len(tokens) - 1 for tokens in new)
        if decoding:
            stats.decode_seconds += time.monotonic() - began
            stats.steps += 1
        else:
            stats.prefill_seconds += time.monotonic() - began
        read_at, going = time.monotonic(), []
        for row, tokens in enumerate(new):
            length = begin[row] + 1
            for token in tokens:
                yield rows[row], token
                stats.tokens += 1
                length += 1
                if token in ends or length == limits[row]:
                    break
            else:
                going.append(row)
        if not going:
            return
        # A step that was launched ahead ran meanwhile: what the caller did with the tokens is part of its time.
        began, decoding = read_at if following is not None else time.monotonic(), True
        if len(going) < len(rows):
            cache.keep(going)
            chooser.keep(going)
            h, following = h[going], None if following is None else following[going]
            rows, begin, limits = ([column[row] for row in going] for column in (rows, begin, limits))
            new = [new[row] for row in going]
        guesses = draft(model, h, new, begin, cache, drafts) if drafts else none[: len(rows)]
        begin = [start + len(tokens) for start, tokens in zip(begin, new, strict=True)]
        if following is not None:
            h = following
            continue
        last = torch.tensor([tokens[-1:] for tokens in new], device=model.run.device)
        h = model(torch.cat([last, guesses], dim=1), _start(model, begin), cache)


def longest(cfg: ModelConfig, prompt: list[int], max_new_tokens: int) -> int:
    """The most tokens that the answer may have: the context takes prompt and answer."""
    return min(max_new_tokens, cfg.max_seq_len - len(prompt))


def _start(model: Model, begin: list[int]) -> Any:
    """Each sequence's place as ``model`` takes it; one number where they are equal, except for recorded steps."""
    if isinstance(model, Replayed):
        return begin
    return begin[0] if len(set(begin)) == 1 else torch.tensor(begin, device=model.run.device)


def prefill(model: Model, prompts: list[list[int]], cache: Cache, chunk: int, mtp: bool) -> Tensor:
    """Read the prompts into ``cache``, the MTP layer's, too -> hidden state of each one's last token, [B, 1, D]."""
    device = model.run.device
    width = max(map(len, prompts))
    # Padded on the right: what stands behind a prompt is hidden by position, and overwritten by the answer. One more,
    # since the MTP layer sees each token with the next.
    tokens = torch.tensor([p + [0] * (width + 1 - len(p)) for p in prompts], device=device)
    last = torch.empty(len(prompts), 1, model.cfg.dim, dtype=model.run.dtype, device=device)
    for start in range(0, width, chunk):
        stop = min(start + chunk, width)
        h = model(tokens[:, start:stop], start, cache)
        if mtp:
            model.predict(h, tokens[:, start + 1 : stop + 1], start, cache)
        if ends_here := [i for i, prompt in enumerate(prompts) if start < len(prompt) <= stop]:
            last[ends_here, 0] = h[ends_here, [len(prompts[i]) - 1 - start for i in ends_here]]
    return last


def draft(model: Model, h: Tensor, new: list[list[int]], begin: list[int], cache: Cache, count: int) -> Tensor:
    """What the MTP layer expects after ``new``: [B, count] token ids. Fed with its own output from the second on.

    Args:
        h: [B, S, D] hidden states from position ``begin`` [B] on.
        new: [B][1 to S] the tokens that were chosen after them.

    Source: technical report, section 2.2; only the first depth is trained, as in DeepSeek-V3's checkpoints.
    """
    device, tp = model.run.device, model.run.tp
    tokens = torch.tensor([row + [0] * (h.shape[1] - len(row)) for row in new], device=device)
    g = model.predict(h, tokens, _start(model, begin), cache)
    rows = torch.arange(len(new), device=device)
    g = g[rows, torch.tensor([len(row) - 1 for row in new], device=device)].unsqueeze(1)
    at = [start + len(row) for start, row in zip(begin, new, strict=True)]
    guesses = [tp.broadcast(model.logits(g).argmax(-1))]
    for step in range(count - 1):
        g = model.predict(g, guesses[-1], _start(model, [position + step for position in at]), cache)
        guesses.append(tp.broadcast(model.logits(g).argmax(-1)))
    return torch.cat(guesses, dim=1)
