"""Figures and the widget of lesson 05: what the cache costs, how positions turn, and where a model looks."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLACK, BLUE, GREY, HEAT, SKY, axes, png
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..sizing.gpus import GPU

CONTEXTS = tuple(2**n for n in range(10, 18))


def cache(numbers: Mapping[str, int], layers: int, gpu: "GPU") -> "Figure":
    """Gigabytes of BF16 cache of one sequence against its length; ``gpu`` as a line.

    Args:
        numbers: kind of attention -> numbers that it keeps per token and layer.
    """
    fig, (ax,) = axes(size=(8.0, 4.2))
    for (name, kept), colour in zip(numbers.items(), (BLACK, SKY, GREY, BLUE), strict=True):
        sizes = [2 * layers * kept * tokens / 1e9 for tokens in CONTEXTS]
        ax.plot(CONTEXTS, sizes, marker="o", color=colour, label=name)
    ax.axhline(gpu.nbytes / 1e9, color=BLACK, linestyle="--", label=f"memory of one {gpu.name}")
    ax.set(
        xlabel="context (tokens)", ylabel="KV cache (GB)", title="With full keys and values, one long chat fills a GPU"
    )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def frequencies(turns: "Mapping[str, Tensor]", tokens: int, marks: Sequence[int]) -> "Figure":
    """How often each rotated pair turns within ``tokens`` tokens, a curve for each name; ``marks`` as lines."""
    fig, (ax,) = axes(size=(8.0, 3.8))
    for (name, turned), colour in zip(turns.items(), (GREY, BLUE), strict=True):
        ax.plot(range(len(turned)), turned, marker="o", markersize=4, color=colour, label=name)
    for times in marks:
        ax.axhline(times, color=BLACK, linestyle="--", label=f"{times} turn{'s' if times > 1 else ''}")
    ax.set(xlabel="pair of the rotated part", ylabel=f"turns in {tokens:,} tokens", yscale="log")
    ax.set_title("YaRN slows the slow pairs, and leaves the fast ones")
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def short(word: str) -> str:
    """A token's label where there is room for two characters."""
    return word if len(word) < 3 else f"{word[0]}…"


def heat(weights: "Tensor", queries: Sequence[str], keys: Sequence[str], title: str = "") -> "Figure":
    """Weights [Q, K] as a heat map: a row for each query, a column for each key."""
    fig, (ax,) = axes(size=(max(7.0, 1.8 + 0.19 * len(keys)), 1.5 + 0.25 * len(queries)))
    drawn = ax.imshow(weights.numpy(), cmap=HEAT, vmin=0, vmax=1, aspect="auto")
    ax.set(xlabel="looks at", ylabel="about to write", title=title)
    ax.set_xticks(range(len(keys)), [short(key) for key in keys])
    ax.set_yticks(range(len(queries)), queries)
    ax.tick_params(length=0)
    fig.colorbar(drawn, label="weight", fraction=0.03)
    return fig


def explorer(look: "Callable[[str], tuple[Tensor, Sequence[str], int]]", question: str = "4857 + 2986 = ?") -> "VBox":
    """The heat map of any question, layer and head. Its ``children`` are the row of choices and the picture.

    Args:
        look: question -> the attention weights [L, H, S, S] of question and answer, a word for each token, and the
            number of tokens before the answer.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    seen = {question: look(question)}
    layers, heads = seen[question][0].shape[:2]
    asked = widgets.Text(value=question, description="question", continuous_update=False)
    layer = widgets.IntSlider(value=layers, min=1, max=layers, description="layer")
    head = widgets.IntSlider(value=1, min=1, max=heads, description="head")
    picture = widgets.Image(format="png")

    def draw() -> None:
        if asked.value not in seen:
            seen[asked.value] = look(asked.value)
        weights, words, first = seen[asked.value]
        shown = weights[layer.value - 1, head.value - 1, first - 1 : len(words) - 1]
        picture.value = png(heat(shown, words[first:], words, f"layer {layer.value}, head {head.value}"))

    follow((asked, layer, head), draw)
    return widgets.VBox([widgets.HBox([asked, layer, head]), picture])
