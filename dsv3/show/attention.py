"""Attention made visible: what the cache costs, how positions turn, and where a model looks while it thinks."""

import math
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..cache import Cache
from ..config import ModelConfig
from ..generate import LLM
from ..inference.chat import Tokenizer
from ..lab.probe import COLUMN, Solved, answered
from ..model import MLA, Place, Transformer, inverse_frequencies
from ..runtime import Runtime
from ..sizing.gpus import GPU
from .style import BLUE, GREEN, GREY, HEAT, ORANGE, RED, axes, ipywidgets, png

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

CONTEXTS = tuple(2**n for n in range(10, 18))

# ------------------------------------------------------------------------------------------------------ sizes


def kept_numbers(cfg: ModelConfig) -> dict[str, int]:
    """Numbers that each kind of attention keeps per token and layer, all with the head sizes of ``cfg``.

    Source: DeepSeek-V2 report (arXiv 2405.04434), table 1.
    """
    head = cfg.qk_head_dim + cfg.v_head_dim
    return {
        "MHA": cfg.n_heads * head,
        "GQA, 8 groups": 8 * head,
        "MQA": head,
        "MLA": cfg.kv_lora_rank + cfg.qk_rope_head_dim,
    }


def cache(cfg: ModelConfig, gpu: GPU) -> "Figure":
    """Gigabytes of BF16 cache of one sequence against its length, for each kind of attention; ``gpu`` as a line."""
    fig, (ax,) = axes(size=(8.0, 4.2))
    for (name, numbers), colour in zip(kept_numbers(cfg).items(), (RED, ORANGE, GREY, BLUE), strict=True):
        sizes = [2 * cfg.n_layers * numbers * tokens / 1e9 for tokens in CONTEXTS]
        ax.plot(CONTEXTS, sizes, marker="o", color=colour, label=name)
    ax.axhline(gpu.nbytes / 1e9, color="black", linestyle="--", label=f"memory of one {gpu.name}")
    ax.set(xlabel="context (tokens)", ylabel="KV cache (GB)")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def frequencies(cfg: ModelConfig) -> "Figure":
    """How often each rotated pair turns within ``original_seq_len`` tokens: plain RoPE, and after YaRN."""
    fig, (ax,) = axes(size=(8.0, 3.8))
    for name, of, colour in (("RoPE", replace(cfg, rope_factor=1.0), GREY), ("YaRN", cfg, BLUE)):
        turned = inverse_frequencies(of) * cfg.original_seq_len / (2 * math.pi)
        ax.plot(range(len(turned)), turned, marker="o", markersize=4, color=colour, label=name)
    for times in (cfg.beta_fast, cfg.beta_slow):
        ax.axhline(times, color=ORANGE, linestyle="--", label=f"{times} turn{'s' if times > 1 else ''}")
    ax.set(xlabel="pair of the rotated part", ylabel=f"turns in {cfg.original_seq_len:,} tokens", yscale="log")
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


class Step(NamedTuple):
    """One layer's attention for one new token: time, what it keeps of the tokens before, and its result [H, P]."""

    milliseconds: float
    megabytes: float
    result: Tensor


@torch.inference_mode()
def steps(cfg: ModelConfig, contexts: Sequence[int], repeats: int = 3, seed: int = 0) -> dict[str, list[Step]]:
    """The heart of MLA at the size of ``cfg`` in BF16, in both forms, over the same random latents.

    What stands before and behind it depends on ``cfg.dim`` and not on the context, so it is left out. Milliseconds are
    the median of ``repeats``.
    """
    torch.manual_seed(seed)
    small = replace(cfg, dim=64, q_lora_rank=64, dtype="bf16")
    mla = MLA(small, Runtime(), layer=0)
    mla.wkv_b.weight.normal_(0, cfg.kv_lora_rank**-0.5)
    length = max(contexts)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape).bfloat16()

    q_nope, q_pe = random(1, cfg.n_heads, cfg.qk_nope_head_dim), random(1, cfg.n_heads, cfg.qk_rope_head_dim)
    c, k_pe = random(length, cfg.kv_lora_rank), random(length, cfg.qk_rope_head_dim)
    k_nope, v = mla.wkv_b(c).unflatten(-1, (cfg.n_heads, -1)).split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=-1)
    k = torch.cat([k_nope, k_pe.unsqueeze(2).expand(-1, -1, cfg.n_heads, -1)], dim=-1)
    forms = {"naive": (mla.naive, (k, v)), "absorbed": (mla.absorbed, (torch.cat([c, k_pe], dim=-1),))}
    found: dict[str, list[Step]] = {}
    for name, (form, whole) in forms.items():
        for end in contexts:
            kept = [part[:, :end].clone() for part in whole]
            cache = Cache()
            cache.layers[0] = kept
            last = torch.tensor([[end - 1]])
            here = Place(last, end, torch.empty(0), torch.zeros(1, 1, 1, end), cache)
            took = []
            for _ in range(repeats):
                begin = time.perf_counter()
                result = form(q_nope, q_pe, c[:, end - 1 : end], k_pe[:, end - 1 : end], here)
                took.append(1e3 * (time.perf_counter() - begin))
            size = sum(part.nbytes for part in kept) / 1e6
            found.setdefault(name, []).append(Step(statistics.median(took), size, result[0, 0]))
    return found


def timed(contexts: Sequence[int], of: dict[str, list[Step]]) -> "Figure":
    """What a layer's step keeps and how long it takes against the context, for each form of attention."""
    fig, (left, right) = axes(1, 2, size=(9.0, 3.6))
    for (form, found), colour in zip(of.items(), (RED, BLUE), strict=True):
        left.plot(contexts, [step.megabytes for step in found], marker="o", color=colour, label=form)
        right.plot(contexts, [step.milliseconds for step in found], marker="o", color=colour, label=form)
    left.set(xlabel="context (tokens)", ylabel="cache of the layer (MB)", title="kept", yscale="log")
    right.set(xlabel="context (tokens)", ylabel="a step (ms)", title="measured on this machine", yscale="log")
    left.legend(fontsize=11)
    return fig


def signature(numbers: dict[str, int], scores: dict[str, float]) -> "Figure":
    """Numbers kept per token and layer, and the score of each variant on sums."""
    fig, (left, right) = axes(1, 2, size=(9.5, 3.4))
    left.barh(list(numbers), list(numbers.values()), color=[BLUE if name == "MLA" else GREY for name in numbers])
    left.bar_label(left.containers[0], labels=[f" {n:,}" for n in numbers.values()], fontsize=11)
    left.set(xlabel="numbers kept per token and layer", xscale="log", xlim=(100, 3e5))
    values = [100 * value for value in scores.values()]
    right.barh(list(scores), values, color=[GREEN if value > 50 else RED for value in values])
    right.bar_label(right.containers[0], labels=[f" {value:.0f} %" for value in values], fontsize=11)
    right.set(xlabel="sums solved (%)", xlim=(0, 125))
    for ax in (left, right):
        ax.invert_yaxis()
    return fig


# ---------------------------------------------------------------------------------------------- where it looks


class Looked(NamedTuple):
    """A pass over one sequence.

    Attributes:
        weights: [L, H, S, S] float32, what each query (third) takes from each key (last).
        logits: [S, V] float32.
    """

    weights: Tensor
    logits: Tensor


@torch.inference_mode()
def look(model: Transformer, tokens: Sequence[int], hidden: Collection[tuple[int, int, int]] = ()) -> Looked:
    """Run ``tokens`` through the model and keep all attention weights.

    Args:
        hidden: (layer, query, key): the query cannot see the key in that layer, in any head.
    """
    with _recorded(model, hidden) as weights:
        h = model(torch.tensor([list(tokens)], device=model.run.device))
        return Looked(torch.stack(weights), model.logits(h)[0])


@contextmanager
def _recorded(model: Transformer, hidden: Collection[tuple[int, int, int]]) -> Iterator[list[Tensor]]:
    """Each layer's softmax also keeps its result, and masks what is ``hidden``."""
    kept: list[Tensor] = []
    layers = [block.attn for block in model.layers]

    def record(number: int) -> None:
        softmax = layers[number].softmax

        def recording(scores: Tensor, mask: Tensor) -> Tensor:
            mask = mask.clone()
            for layer, query, key in hidden:
                if layer == number:
                    mask[..., query, key] = -math.inf
            weights = softmax(scores, mask)
            kept.append(weights[0].float())
            return weights

        layers[number].softmax = recording

    try:
        for number in range(len(layers)):
            record(number)
        yield kept
    finally:
        for layer in layers:
            vars(layer).pop("softmax", None)


def labels(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Each token as a word for an axis: a new line as an arrow, special ones as a dot."""
    return [tokenizer.decode([token]).replace("\n", "↵").replace(" ", "␣") or "•" for token in tokens]


def short(word: str) -> str:
    """A token's label where there is room for two characters."""
    return word if len(word) < 3 else f"{word[0]}…"


def carries(of: Solved) -> list[tuple[int, int, int]]:
    """(row, query, key) of each carry of the additions: the query is about to write it, the key is the tens digit of
    the column before, which it repeats."""
    found = []
    for row, (text, offsets) in enumerate(zip(of.texts, of.offsets, strict=True)):
        token = {begin: i for i, (begin, _) in enumerate(offsets)}
        lines = [line for line in COLUMN.finditer(text) if line[2] == "+"]
        for before, line in zip(lines, lines[1:], strict=False):
            if before.end() + 1 == line.start():
                found.append((row, token[line.start(5)] - 1, token[before.start(8)]))
    return found


def heat(weights: Tensor, queries: Sequence[str], keys: Sequence[str], title: str = "") -> "Figure":
    """Weights [Q, K] as a heat map: a row for each query, a column for each key."""
    fig, (ax,) = axes(size=(max(7.0, 1.8 + 0.19 * len(keys)), 1.5 + 0.25 * len(queries)))
    drawn = ax.imshow(weights.numpy(), cmap=HEAT, vmin=0, vmax=1, aspect="auto")
    ax.set(xlabel="looks at", ylabel="about to write", title=title)
    ax.set_xticks(range(len(keys)), [short(key) for key in keys])
    ax.set_yticks(range(len(queries)), queries)
    ax.tick_params(length=0)
    fig.colorbar(drawn, label="weight", fraction=0.03)
    return fig


def explorer(llm: LLM, question: str = "4857 + 2986 = ?") -> "VBox":
    """The heat map of any question, layer and head. Its ``children`` are the row of choices and the picture.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    cfg = llm.model.cfg
    asked = widgets.Text(value=question, description="question", continuous_update=False)
    layer = widgets.IntSlider(value=cfg.n_layers, min=1, max=cfg.n_layers, description="layer")
    head = widgets.IntSlider(value=1, min=1, max=cfg.n_heads, description="head")
    picture = widgets.Image(format="png")
    seen: dict[str, tuple[Looked, list[str], int]] = {}

    def show(_: object = None) -> None:
        if asked.value not in seen:
            tokens, begin = answered(llm, asked.value)
            seen[asked.value] = look(llm.model, tokens), labels(llm.tokenizer, tokens), begin
        looked, words, first = seen[asked.value]
        rows = slice(first - 1, len(words) - 1)
        shown = looked.weights[layer.value - 1, head.value - 1, rows]
        picture.value = png(heat(shown, words[first:], words, f"layer {layer.value}, head {head.value}"))

    for choice in (asked, layer, head):
        choice.observe(show, names="value")
    show()
    return widgets.VBox([widgets.HBox([asked, layer, head]), picture])
