"""Experts made visible: which tokens they see, how evenly they are loaded, and what a batch has to read."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..cost import touched
from ..generate import LLM
from ..lab.probe import COLUMN, Solved, answered
from ..layout import layout
from ..model import Gate, Transformer
from .attention import labels, short
from .style import BLUE, GREEN, GREY, HEAT, ORANGE, RED, axes, ipywidgets, png

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

PARTS = ("digit", "operator", "digit", "operator", "carry", "lent", "= and :", "sum", "= and :", "result")
KINDS = ("digit", "carry", "sum", "result", "other digits", "operator", "= and :", "new line", "English", "Chinese")


def kinds(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """What each token of a solved sum is: one of ``KINDS``, or empty for special tokens, spaces and marks."""
    of = [_kind(character) for character in text]
    for mark in re.finditer(r"<[^>\n]+>", text):  # <think> and its like
        of[mark.start() : mark.end()] = [""] * len(mark[0])
    for line in COLUMN.finditer(text):
        for group, part in enumerate(PARTS, start=1):
            of[line.start(group) : line.end(group)] = [part] * len(line[group])
    return [of[end - 1] if end > begin else "" for begin, end in offsets]


def _kind(character: str) -> str:
    if character.isdecimal():
        return "other digits"
    if character == "\n":
        return "new line"
    if character.isalpha():
        return "English" if character.isascii() else "Chinese"
    return "operator" if character in "+-*×" else "= and :" if character in "=:" else ""


class Routed(NamedTuple):
    """Where one layer sent its tokens: weights and expert ids, [B, S, K] each."""

    weights: Tensor
    experts: Tensor


@torch.inference_mode()
def routed(model: Transformer, tokens: Tensor) -> list[Routed]:
    """[B, S] token ids -> where each layer with experts sent them."""
    chosen: list[Routed] = []
    gates = [module for block in model.layers for module in block.modules() if isinstance(module, Gate)]
    hooks = [
        gate.register_forward_hook(
            lambda _, __, y: chosen.append(Routed(*(part.view(*tokens.shape, -1) for part in y)))
        )
        for gate in gates
    ]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return chosen


def load(experts: Tensor, n_experts: int) -> Tensor:
    """[..., K] expert ids -> [E], each one's share of all choices; they sum to 1."""
    return torch.bincount(experts.flatten(), minlength=n_experts) / experts.numel()


def by_kind(experts: Tensor, of: Solved, n_experts: int, ahead: int = 0) -> tuple[list[str], Tensor]:
    """How often a token of each kind goes to each expert: the kinds that occur, and [kinds, E] between 0 and 1.

    Args:
        experts: [B, S, K], of the tokens ``of.tokens``.
        ahead: 0 sorts a token by its own kind, 1 by the kind of the token that comes next.
    """
    hits = F.one_hot(experts, n_experts).sum(-2).float()
    rows: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for row, (text, offsets) in enumerate(zip(of.texts, of.offsets, strict=True)):
        names = kinds(text, offsets)
        for place in range(len(names) - ahead):
            if (name := names[place + ahead]) in rows:
                rows[name].append(hits[row, place])
    found = {kind: torch.stack(hits).mean(0) for kind, hits in rows.items() if hits}
    return list(found), torch.stack(list(found.values()))


# ----------------------------------------------------------------------------------------------------- figures


def heat(names: Sequence[str], shares: Sequence[Tensor], titles: Sequence[str], groups: int) -> "Figure":
    """For each of ``shares`` [kinds, E] a heat map; lines separate the groups of experts."""
    fig, found = axes(1, len(shares), size=(10.0, 1.2 + 0.32 * len(names)))
    for ax, share, title in zip(found, shares, titles, strict=True):
        drawn = ax.imshow(share.numpy(), cmap=HEAT, vmin=0, vmax=1, aspect="auto")
        ax.set(title=title, xlabel="expert", xticks=range(0, share.shape[1], 2))
        ax.set_yticks(range(len(names)), names if ax is found[0] else [""] * len(names))
        for edge in range(1, groups):
            ax.axvline(edge * share.shape[1] / groups - 0.5, color="white", linewidth=1.5)
    fig.colorbar(drawn, ax=found, label="share of such tokens\nthat go there")
    return fig


def loads(shares: dict[str, Tensor], title: str = "") -> "Figure":
    """Bars of each expert's load for each variant, against the even share."""
    fig, (ax,) = axes(size=(9.0, 3.4))
    count = len(next(iter(shares.values())))
    width = 0.8 / len(shares)
    for i, ((name, share), colour) in enumerate(zip(shares.items(), (BLUE, ORANGE, GREY), strict=False)):
        ax.bar(
            [e + (i + 0.5) * width - 0.4 for e in range(count)], 100 * share.numpy(), width, color=colour, label=name
        )
    ax.axhline(100 / count, color="black", linestyle="--", label=f"even: {100 / count:.2f} %")
    ax.set(xlabel="expert", ylabel="share of the load (%)", xticks=range(count), title=title)
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def choice(scores: Tensor, biased: Tensor, experts: Tensor, kept: Tensor, groups: int) -> "Figure":
    """One token's way through the gate: scores [E] and scores with bias, the ``kept`` groups, the chosen experts."""
    fig, (ax,) = axes(size=(9.0, 3.6))
    count = len(scores)
    size = count // groups
    for n, group in enumerate(kept.tolist()):
        label = "groups that stay" if n == 0 else None
        ax.axvspan(group * size - 0.5, (group + 1) * size - 0.5, color=GREY, alpha=0.18, label=label)
    chosen = [GREEN if e in experts.tolist() else BLUE for e in range(count)]
    ax.bar(range(count), scores.numpy(), 0.6, color=chosen, label="score (green: chosen)")
    ax.scatter(
        range(count), biased.numpy(), color=ORANGE, marker="_", s=160, linewidth=3, zorder=3, label="score + bias"
    )
    ax.set(xlabel="expert", ylabel="affinity", xticks=range(count))
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def signature(found: dict[str, tuple[float, float]]) -> "Figure":
    """For each variant of the routing: sums solved, and the busiest expert's load as a multiple of the even share."""
    fig, (left, right) = axes(1, 2, size=(10.0, 4.0))
    names = list(found)
    solved, busiest = ([found[name][i] for name in names] for i in (0, 1))
    left.barh(
        names, [100 * s for s in solved], color=[GREEN if s > 0.99 else ORANGE if s > 0.5 else RED for s in solved]
    )
    left.bar_label(left.containers[0], labels=[f" {s:.0%}" for s in solved], fontsize=11)
    left.set(xlabel="sums solved (%)", xlim=(0, 125))
    right.barh(names, busiest, color=BLUE)
    right.bar_label(right.containers[0], labels=[f" {b:.2f}" for b in busiest], fontsize=11)
    right.axvline(1, color="black", linestyle="--")
    right.set(xlabel="busiest expert's load (1 is even)", xlim=(0, 1.25 * max(busiest)))
    right.tick_params(labelleft=False)
    for ax in (left, right):
        ax.invert_yaxis()
    return fig


def balance(histories: dict[str, Sequence[float]], every: int = 1) -> "Figure":
    """The busiest expert's load after ``every`` so many steps, as a multiple of the even share, for each variant."""
    fig, (ax,) = axes(size=(8.0, 3.4))
    for (name, history), colour in zip(histories.items(), (RED, BLUE, GREEN, ORANGE), strict=False):
        ax.plot(range(0, every * len(history), every), history, color=colour, label=name)
    ax.axhline(1, color="black", linestyle="--", label="even")
    ax.set(xlabel="step", ylabel="busiest expert's load\n(1 is the even share)")
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def read_bytes(cfg: ModelConfig, batch: int) -> tuple[float, int]:
    """Bytes of weights that a decode step of ``batch`` tokens reads: routed experts, and all else but the embedding."""
    held = Counter()
    for row in layout(cfg):
        held[row.part] += row.nbytes
    return held["routed"] * touched(cfg, batch), held.total() - held["routed"] - held["embedding"] - held["mtp"]


def reading(cfg: ModelConfig, batches: Sequence[int]) -> "Figure":
    """What a decode step reads against the batch: in all, and for each token."""
    fig, (left, right) = axes(1, 2, size=(9.5, 3.6))
    pairs = [read_bytes(cfg, batch) for batch in batches]
    left.plot(batches, [sum(pair) / 1e9 for pair in pairs], marker="o", color=BLUE, label="all weights read")
    left.plot(batches, [pair[0] / 1e9 for pair in pairs], marker="o", color=ORANGE, label="routed experts")
    left.set(xlabel="sequences in the batch", ylabel="GB read by a step", xscale="log")
    left.legend(fontsize=11)
    per_token = [sum(pair) / batch / 1e9 for pair, batch in zip(pairs, batches, strict=True)]
    right.plot(batches, per_token, marker="o", color=GREEN)
    right.set(xlabel="sequences in the batch", ylabel="GB read per token", xscale="log", ylim=(0, None))
    for ax in (left, right):
        ax.set_xticks(batches, batches)
        ax.minorticks_off()
    return fig


def raster(weights: Tensor, words: Sequence[str], groups: int, title: str = "") -> "Figure":
    """Routing weights [S, E], 0 where a token does not go: a column for each token, a row for each expert."""
    fig, (ax,) = axes(size=(max(7.0, 1.6 + 0.19 * len(words)), 3.8))
    drawn = ax.imshow(weights.T.numpy(), cmap=HEAT, vmin=0, aspect="auto")
    ax.set(xlabel="token", ylabel="expert", title=title)
    ax.set_xticks(range(len(words)), [short(word) for word in words])
    for edge in range(1, groups):
        ax.axhline(edge * weights.shape[1] / groups - 0.5, color="white", linewidth=1.5)
    fig.colorbar(drawn, label="weight", fraction=0.03)
    return fig


def explorer(llm: LLM, question: str = "4857 + 2986 = ?") -> "VBox":
    """The experts of every token of a question and its answer. Its ``children`` are the row of choices and the picture.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    cfg = llm.model.cfg
    asked = widgets.Text(value=question, description="question", continuous_update=False)
    layer = widgets.IntSlider(value=1, min=1, max=cfg.n_layers - cfg.n_dense_layers, description="MoE layer")
    picture = widgets.Image(format="png")
    seen: dict[str, tuple[list[Routed], list[str]]] = {}

    def show(_: object = None) -> None:
        if asked.value not in seen:
            tokens, _ = answered(llm, asked.value)
            seen[asked.value] = routed(llm.model, torch.tensor([tokens])), labels(llm.tokenizer, tokens)
        found, words = seen[asked.value]
        picture.value = png(raster(spread(found[layer.value - 1], cfg.n_routed_experts), words, cfg.n_expert_groups))

    for choice in (asked, layer):
        choice.observe(show, names="value")
    show()
    return widgets.VBox([widgets.HBox([asked, layer]), picture])


def spread(of: Routed, n_experts: int) -> Tensor:
    """The first sequence's weights as [S, E], 0 for experts that a token does not go to."""
    weights, experts = of.weights[0], of.experts[0]
    return torch.zeros(len(weights), n_experts).scatter_(1, experts, weights.float())
