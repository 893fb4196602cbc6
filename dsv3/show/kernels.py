"""Figures of lesson 08: what a kernel's programs touch, what rounding and adding lose, and the roofline."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .style import BLUE, COLOURS, GREEN, GREY, HEAT, ORANGE, RED, axes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ..kernels.trace import Trace
    from ..sizing.gpus import GPU
    from ..sizing.roofline import Work

# ------------------------------------------------------------------------------------------ what a program touches


def lanes_figure(traces: "Sequence[Trace]", argument: str) -> "Figure":
    """One row a program: the elements of a one-dimensional tensor it touches, and those the mask keeps out."""
    from matplotlib.patches import Patch

    size = traces[0].launch.args[argument].numel()
    figure, (ax,) = axes(size=(9.0, 1.2 + 0.42 * len(traces)))
    for row, trace in enumerate(traces):
        access = next(a for a in trace.accesses if a.argument == argument)
        for element, allowed in zip(access.elements.flatten(), access.mask.flatten(), strict=True):
            colour, hatch = (BLUE, None) if allowed else ("white", "////")
            ax.bar(element + 0.5, 0.8, width=0.9, bottom=row - 0.4, edgecolor=GREY, facecolor=colour, hatch=hatch)
    end = ax.axvline(size, color=RED, label="end of the tensor")
    kinds = [Patch(facecolor=BLUE, label="touched")]
    kinds.append(Patch(facecolor="white", edgecolor=GREY, hatch="////", label="kept out by the mask"))
    ax.set(xlabel="element", yticks=range(len(traces)), yticklabels=[f"program {t.program[:2]}" for t in traces])
    ax.invert_yaxis()
    ax.set_title("Each program has its own elements; the mask keeps out what does not exist")
    figure.legend(handles=[*kinds, end], fontsize=11, frameon=False, loc="outside upper center", ncols=3)
    return figure


def touched_figure(touched: "Mapping[str, np.ndarray]") -> "Figure":
    """A panel for each matrix: how often each element was loaded or stored (``Trace.counts``)."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = axes(1, len(touched), size=(9.6, 3.4))
    for ax, (name, counts) in zip(panels, touched.items(), strict=True):
        ax.imshow(counts > 0, cmap=HEAT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.set(xlabel="column", ylabel="row")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set_title(f"{name} {list(counts.shape)}\n{(counts > 0).mean():.0%} touched")
    figure.suptitle("Yellow: what one program loads or stores", fontsize=12)
    return figure


# ------------------------------------------------------------------------------------------- rounding, accumulation


def rounding_figure(x: Sequence[float], rounded: Mapping[str, Sequence[float]]) -> "Figure":
    """Numbers before and after a cast, one line for each way to do it."""
    figure, (ax,) = axes()
    for (name, values), colour, line in zip(rounded.items(), (BLUE, RED), ("-", "--"), strict=False):
        ax.plot(x, values, color=colour, linestyle=line, label=name)
    ax.set(xlabel="float32 number", ylabel="as FP8", title="Just below 32 and 128 the interpreter gives half")
    ax.legend(fontsize=11, frameon=False)
    return figure


def error_figure(errors: Mapping[str, float], title: str, limit: float = 0.03) -> "Figure":
    """A dot for each relative error on a logarithmic axis; beyond ``limit`` in red."""
    figure, (ax,) = axes(size=(9.2, 1.2 + 0.42 * len(errors)))
    percent = [100 * error for error in errors.values()]
    ax.scatter(percent, list(errors), color=[BLUE if e < 100 * limit else RED for e in percent], s=60, zorder=3)
    for row, e in enumerate(percent):
        text = f"{e:.2g} %" if e < 1000 else f"{e / 100:,.0f} times"
        ax.annotate(text, (e, row), (10, 0), textcoords="offset points", va="center", fontsize=11)
    ax.set_xscale("log")
    ax.set(xlabel="relative error, %", xlim=(min(percent) / 3, 30 * max(percent)), ylim=(len(errors) - 0.5, -0.5))
    ax.grid(axis="y", color=GREY, alpha=0.25)
    ax.set_title(title)
    return figure


def accumulation_figure(lengths: Sequence[int], errors: Mapping[str, Sequence[float]]) -> "Figure":
    """The error of a long sum against its length, one line for each way to add."""
    figure, (ax,) = axes()
    for (name, values), mark in zip(errors.items(), "os^", strict=False):
        ax.loglog(lengths, [100 * value for value in values], marker=mark, label=name)
    ax.set(
        xlabel="K, length of the sum", ylabel="relative error, %", title="Emptied every 128, the error does not grow"
    )
    ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
    ax.minorticks_off()
    ax.legend(fontsize=11, frameon=False)
    return figure


# ----------------------------------------------------------------------------------------------------- the roofline


def roofline_figure(
    gpus: "Sequence[GPU]", works: "Iterable[Work]", measured: Sequence[tuple[float, float]] = ()
) -> "Figure":
    """What each GPU can reach at each intensity, FP8 as lines and BF16 dashed; works as vertical lines.

    Args:
        measured: (intensity, TFLOPS) of a recorded run, drawn as crosses.
    """
    figure, (ax,) = axes(size=(9.2, 4.6))
    xs = [2 ** (n / 4) for n in range(-4, 53)]
    for gpu, colour in zip(gpus, COLOURS, strict=False):
        for fp8, line in ((True, "-"), (False, "--")):
            if fp8 and not gpu.fp8_units:
                continue
            roof = [min(x * gpu.bandwidth_gb_s / 1e3, gpu.tflops(fp8)) for x in xs]
            label = f"{gpu.name}, {'FP8' if fp8 else 'BF16'}: ridge {gpu.ridge(fp8):.0f}"
            ax.loglog(xs, roof, color=colour, linestyle=line, label=label)
    for work in works:
        ax.axvline(work.intensity, color=GREY, linewidth=0.8)
        at, side = (3000, "top") if work.intensity < 10 else (0.6, "bottom")  # away from the roofs
        ax.text(work.intensity, at, work.name, rotation=90, fontsize=11, va=side, ha="right")
    if measured:
        ax.plot(*zip(*measured, strict=True), "x", color="black", label="measured")
    ax.set(xlabel="FLOP for each byte", ylabel="TFLOPS at most", ylim=(0.5, 4000), xlim=(xs[0], xs[-1]))
    ax.set_title("Left of the ridge memory limits, right of it arithmetic")
    figure.legend(fontsize=11, frameon=False, loc="outside right upper")
    return figure


def intensity_figure(
    works: "Mapping[str, Sequence[Work]]", at: Sequence[int], gpus: "Sequence[GPU]", xlabel: str
) -> "Figure":
    """FLOP for each byte of kinds of work against tokens computed together; ridges in the units of the first work."""
    figure, (ax,) = axes(size=(9.2, 4.2))
    for (name, row), colour, mark in zip(works.items(), (BLUE, ORANGE, GREEN), "os^", strict=False):
        ax.loglog(at, [work.intensity for work in row], color=colour, marker=mark, label=name)
    fp8 = next(iter(works.values()))[0].fp8
    for gpu in gpus:
        ax.axhline(gpu.ridge(fp8), color=GREY, linewidth=0.8, linestyle=":")
        units = "FP8" if fp8 and gpu.fp8_units else "BF16"
        ax.text(at[-1], gpu.ridge(fp8), f"{gpu.name}, {units}", fontsize=11, va="top", ha="right")
    ax.set(xlabel=xlabel, ylabel="FLOP for each byte", title="A larger batch helps the product, not attention")
    ax.set_xticks(at, [f"{n:,}" for n in at])
    ax.minorticks_off()
    figure.legend(fontsize=11, frameon=False, loc="outside upper center", ncols=3)
    return figure
