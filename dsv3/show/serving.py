"""Figures and the widget of lesson 11: requests side by side, tokens a second, a chooser of engines' commands."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .style import BLUE, GREY, ORANGE, axes
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

    from ..lab.serving import Request


def timeline(runs: "dict[str, list[Request]]") -> "Figure":
    """When each request waited for its first token, and when its tokens came; a panel for each run."""
    figure, panels = axes(1, len(runs), size=(5.5 * len(runs), 3.6))
    longest = max(r.end for requests in runs.values() for r in requests)
    for ax, (title, requests) in zip(panels, runs.items(), strict=True):
        for row, r in enumerate(requests, start=1):
            ax.barh(row, r.first - r.sent, left=r.sent, color=GREY, label=None if row > 1 else "waits")
            ax.barh(row, r.end - r.first, left=r.first, color=BLUE, label=None if row > 1 else "tokens come")
        ax.invert_yaxis()
        ax.set(xlabel="seconds", ylabel="request", title=title, xlim=(0, 1.05 * longest))
    panels[0].legend(fontsize=11, loc="upper right")
    return figure


def rates(rows: dict[str, float], ylabel: str = "tokens/s") -> "Figure":
    """Bars with their values."""
    figure, (ax,) = axes(size=(8, 3.6))
    bars = ax.bar(list(rows), list(rows.values()), color=[GREY] * (len(rows) - 1) + [BLUE])
    ax.bar_label(bars, fmt="%.0f", fontsize=11)
    ax.set_ylabel(ylabel)
    return figure


def recorded(result: dict, works: tuple[str, str], tools: tuple[str, ...]) -> "Figure":
    """benchmarks/results/decode-cpu.json: tokens/s of each tool, a bar for each of two kinds of work."""
    figure, (ax,) = axes(size=(8, 3.8))
    found = {(row["work"], row["tool"]): row["tokens_per_s"] for row in result["rows"] if "tool" in row}
    for shift, (work, colour) in enumerate(zip(works, (ORANGE, BLUE), strict=True)):
        at = [place + 0.4 * shift for place in range(len(tools))]
        bars = ax.bar(at, [found[work, tool] for tool in tools], 0.38, color=colour, label=work)
        ax.bar_label(bars, fmt="%.0f", fontsize=11)
    ax.set(xticks=[place + 0.2 for place in range(len(tools))], xticklabels=tools, ylabel="tokens/s, all sequences")
    ax.legend(fontsize=11)
    return figure


def chooser(command: Callable[..., str], engines: Mapping[str, str], gpus: Sequence[str]) -> "VBox":
    """A command with menus. Its ``children`` are the menus and the text.

    Args:
        command: engine, gpu, machines and mtp, by name -> the text.
        engines: an engine's title -> its name.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    menus = {
        "engine": widgets.Dropdown(options=engines, value="sglang", description="engine"),
        "gpu": widgets.Dropdown(options=gpus, value="H200-141G", description="GPU"),
        "machines": widgets.IntSlider(value=1, min=1, max=2, description="machines"),
        "mtp": widgets.IntSlider(value=0, min=0, max=3, description="MTP drafts"),
    }
    text = widgets.HTML()

    def draw() -> None:
        text.value = f"<pre>{escape(command(**{name: menu.value for name, menu in menus.items()}))}</pre>"

    follow(menus.values(), draw)
    return widgets.VBox([widgets.VBox(list(menus.values())), text])
