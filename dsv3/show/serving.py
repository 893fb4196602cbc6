"""Figures and the widget of lesson 11: requests side by side, tokens a second, engines and their commands."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .style import BLUE, GREEN, GREY, ORANGE, axes
from .widgets import follow, ipywidgets

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

    from ..lab.serving import Request
    from ..sizing.offload import Report


def timeline(runs: "dict[str, list[Request]]") -> "Figure":
    """When each request waited for its first token, and when its tokens came; a panel for each run."""
    figure, panels = axes(1, len(runs), size=(5.5 * len(runs), 3.9))
    longest = max(r.end for requests in runs.values() for r in requests)
    for ax, (title, requests) in zip(panels, runs.items(), strict=True):
        for row, r in enumerate(requests, start=1):
            ax.barh(row, r.first - r.sent, left=r.sent, color=GREY, label=None if row > 1 else "waits")
            ax.barh(row, r.end - r.first, left=r.first, color=BLUE, label=None if row > 1 else "tokens come")
        ax.invert_yaxis()
        ax.set(xlabel="seconds", ylabel="request", title=title, xlim=(0, 1.05 * longest))
    panels[0].legend(fontsize=11, loc="upper right")
    figure.suptitle("A server without batching serves one person, and the others wait", fontsize=12)
    return figure


def rates(rows: dict[str, float]) -> "Figure":
    """Bars with their values; the last one stands out."""
    figure, (ax,) = axes(size=(8, 3.6))
    bars = ax.bar(list(rows), list(rows.values()), color=[GREY] * (len(rows) - 1) + [BLUE])
    ax.bar_label(bars, fmt="%.0f", fontsize=11)
    ax.set(ylabel="tokens/s, all together", title="Only computing together raises the tokens per second")
    return figure


def recorded(result: dict, works: tuple[str, str], tools: tuple[str, ...]) -> "Figure":
    """benchmarks/results/decode-cpu.json: tokens/s of each tool, a bar for each of two kinds of work."""
    figure, (ax,) = axes(size=(8, 3.8))
    found = {(row["work"], row["tool"]): row["tokens_per_s"] for row in result["rows"] if "tool" in row}
    for shift, (work, colour) in enumerate(zip(works, (GREY, BLUE), strict=True)):
        at = [place + 0.4 * shift for place in range(len(tools))]
        bars = ax.bar(at, [found[work, tool] for tool in tools], 0.38, color=colour, label=work)
        ax.bar_label(bars, fmt="%.0f", fontsize=11)
    ax.set(xticks=[place + 0.2 for place in range(len(tools))], xticklabels=tools, ylabel="tokens/s, all sequences")
    ax.set_title("Every program gains from a batch of 8")
    ax.legend(fontsize=11)
    return figure


def verdicts(found: Mapping[str, Mapping[str, str]]) -> "Figure":
    """A grid: a row for each machine, a column for each engine, whether it goes, or in a few words why not.

    Args:
        found: machine -> engine -> an empty text if it goes, else the reason.
    """
    from matplotlib.patches import Rectangle

    engines = list(next(iter(found.values())))
    figure, (ax,) = axes(size=(2.0 * len(engines) + 1.6, 0.55 * len(found) + 1.3))
    for y, row in enumerate(found.values()):
        for x, reason in enumerate(row.values()):
            colour = ORANGE if reason else GREEN
            ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, alpha=0.6))
            ax.text(x, y, reason or "goes", ha="center", va="center", fontsize=11)
    ax.set(xlim=(-0.5, len(engines) - 0.5), ylim=(len(found) - 0.5, -0.5))
    ax.set_xticks(range(len(engines)), engines)
    ax.set_yticks(range(len(found)), list(found))
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    figure.suptitle("DeepSeek-R1, FP8 as published: the machine decides first, then the engine", fontsize=12)
    return figure


def reported(bound: Mapping[int, float], seen: Mapping[str, Mapping[int, float]]) -> "Figure":
    """Tokens/s against requests at once, both logarithmic: the planner's bound as a line, what people report as dots.

    Args:
        bound: requests at once -> tokens/s.
        seen: who -> the same.
    """
    figure, (ax,) = axes(size=(9.0, 5.4))
    ax.plot(list(bound), list(bound.values()), color=GREY, label="upper bound, 8 x H200")
    for (who, rates), marker in zip(seen.items(), "osD^vPX*", strict=False):
        ax.plot(list(rates), list(rates.values()), marker, color=BLUE, markersize=9, linestyle="none", label=who)
    ax.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="tokens/s, all together")
    ax.set_title("A bound is no forecast: far away for one person, near for a full machine")
    ax.set_xticks(list(bound), [str(n) for n in bound])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:,g}")
    ax.grid(color="#e5e5e5")
    figure.legend(fontsize=11, loc="outside lower center", ncols=2)
    return figure


def beside_bounds(rows: "Sequence[tuple[Report, float]]") -> "Figure":
    """Machines with R1's experts in RAM: what memory allows as bars, what their owners report inside them."""
    figure, (ax,) = axes(size=(9.0, 0.6 * len(rows) + 1.4))
    names = [f"{r.machine.split(';')[0]}\n{r.file}" for r, _ in rows]
    ax.barh(names, [limit for _, limit in rows], color=GREY, alpha=0.45, label="bound, from memory alone")
    bars = ax.barh(names, [r.tokens_per_s for r, _ in rows], height=0.4, color=BLUE, label="reported")
    ax.bar_label(bars, fmt=" %.1f", fontsize=11)
    ax.invert_yaxis()
    ax.set(xlabel="tokens/s, one conversation")
    figure.legend(fontsize=11, loc="outside lower center", ncols=2)
    shares = [r.tokens_per_s / limit for r, limit in rows]
    title = f"R1 with its experts in RAM: {min(shares):.2f} to {max(shares):.2f} of what memory allows"
    figure.suptitle(title, fontsize=12)
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
