"""Plans as text and as a figure."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..sizing.gpus import GPU
from ..sizing.needs import FORMULAS, Load, Need, Precision
from ..sizing.planner import COUNTS, Plan, Subject
from .style import BLUE, GREEN, GREY, ORANGE, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_MACHINE = 8
LABELS = {"cache": "KV cache"}
COLOURS = dict(zip(Need._fields, (BLUE, ORANGE, GREEN, GREY), strict=True))


def gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.{1 if nbytes >= 1e9 else 3}f}"


def title(of: Plan) -> str:
    """``DeepSeek-R1 in FP8 on 8 x H20-96G (tp 8, pp 1, ep 8), 1 sequence of 4,096 tokens``."""
    sequences = f"{of.load.batch:,} sequence{'s' if of.load.batch > 1 else ''} of {of.load.context:,} tokens"
    split = f"tp {of.split.tp}, pp {of.split.pp}, ep {of.split.ep}"
    return f"{of.model} in {of.precision.upper()} on {of.split.gpus} x {of.gpu.name} ({split}), {sequences}"


def text(of: Plan, rate: float | None = None, price: float | None = None) -> str:
    """A plan as people read it, formulas shown. ``rate``: MB/s of the download; ``price``: of a GPU for an hour."""
    need, lines = of.fullest, [f"{title(of)}: {'fits' if of.fits else 'does NOT fit'}", ""]
    for part in Need._fields:
        lines.append(f"{LABELS.get(part, part):17}{gigabytes(getattr(need, part)):>9} GB on the fullest GPU")
        if part == "weights":
            lines += [f"  {name:15}{gigabytes(n):>9}" for name, n in of.parts.items() if n > need.weights / 1000]
    lines.append(f"{'sum':17}{gigabytes(need.total):>9} GB of {gigabytes(of.gpu.nbytes)}: {_room(of)}")
    lines += [f"{'all GPUs':17}{gigabytes(sum(n.total for n in of.ranks)):>9} GB", ""]
    lines += [*_limits(of), *_speed(of), *_disk(of, rate)]
    if price is not None:
        hourly = price * of.split.gpus
        lines.append(f"cost             {hourly:,.2f} an hour, {24 * hourly:,.2f} a day, at {price:g} a GPU and hour")
    lines += ["", "engines"] + [f"  {'yes' if e.runs else 'no':4}{e.name:14}{e.note}".rstrip() for e in of.engines]
    return "\n".join([*lines, "", "how it is counted"] + [f"  {name:15}{how}" for name, how in FORMULAS.items()])


def _room(of: Plan) -> str:
    return f"{gigabytes(of.free)} free" if of.fits else f"{gigabytes(-of.free)} too much"


def _limits(of: Plan) -> list[str]:
    if not of.largest_context:
        return ["largest context  none: not even one token fits"]
    line = f"largest context  {of.largest_context:,} tokens with {of.load.batch:,} at once"
    return [f"{line}; {of.largest_batch:,} at once with {of.load.context:,} tokens"]


def _speed(of: Plan) -> list[str]:
    compute = of.decode.compute_s
    arithmetic = "arithmetic not known" if compute is None else f"{1e3 * compute:.2f} ms of arithmetic"
    step = f"a step takes {1e3 * of.decode.memory_s:.2f} ms of reading, {arithmetic}"
    return [f"decoding         at most {of.decode.tokens_per_s:,.0f} tokens/s in all, communication left out: {step}"]


def _disk(of: Plan, rate: float | None) -> list[str]:
    sizes = " + ".join(f"{gigabytes(n)} GB {what}" for what, n in of.disk.items())
    lines = [f"disk             {sizes}"]
    if rate:
        hours = of.disk["download"] / (rate * 1e6) / 3600
        lines.append(f"download         {hours:,.1f} hours at {rate:g} MB/s")
    return lines


def comparison(
    of: Subject, precision: Precision, load: Load, found: list[Plan], kinds: Iterable[GPU], rate: float | None = None
) -> str:
    """What each kind of GPU would take: the smallest number that fits, and the kinds that do not come so large."""
    sequences = f"{load.batch:,} x {load.context:,} tokens"
    lines = [f"{of.name} in {precision.upper()}, {sequences}: the fewest GPUs of each kind that fit", ""]
    lines.append(f"{'GPU':18}{'number':>7}{'tp':>4}{'pp':>4}{'GB needed':>11}{'of':>7}{'tokens/s <=':>13}  engines")
    for p in found:
        engines = ", ".join(e.name for e in p.engines if e.runs)
        sizes = f"{gigabytes(p.fullest.total):>11}{gigabytes(p.gpu.nbytes):>7}"
        split = f"{p.split.gpus:>7}{p.split.tp:>4}{p.split.pp:>4}"
        lines.append(f"{p.gpu.name:18}{split}{sizes}{p.decode.tokens_per_s:>13,.0f}  {engines}")
    fitting = {p.gpu.name for p in found}
    without = [g.name for g in kinds if g.name not in fitting]
    if without:
        lines.append(f"no number up to {COUNTS[-1]} fits: {', '.join(without)}")
    if any(p.split.gpus > PER_MACHINE for p in found):
        lines.append(f"more than {PER_MACHINE} GPUs are more than one machine; one kind in full: --gpu NAME")
    return "\n".join(lines + (["", *_disk(found[0], rate)] if found else []))


def figure(of: Plan) -> "Figure":
    """Memory of each GPU by part, against what it has."""
    fig, (ax,) = axes(size=(max(8.0, 2.5 + 0.45 * len(of.ranks)), 4.2))
    below = [0.0] * len(of.ranks)
    for part in Need._fields:
        heights = [getattr(need, part) / 1e9 for need in of.ranks]
        ax.bar(range(len(heights)), heights, bottom=below, color=COLOURS[part], label=LABELS.get(part, part))
        below = [b + h for b, h in zip(below, heights, strict=True)]
    ax.axhline(of.gpu.nbytes / 1e9, color="black", linestyle="--", label=of.gpu.name)
    ax.set(xlabel="GPU", ylabel="GB", xticks=range(len(of.ranks)))
    ax.set_title(title(of).replace(" (", "\n("), fontsize=11)
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def save(of: Plan, file: Path) -> None:
    """Draw ``figure`` into ``file``; its ending says the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: an ending that matplotlib does not write.
    """
    try:
        fig = figure(of)
    except ImportError:
        raise ImportError("matplotlib is not installed: pip install matplotlib") from None
    formats = fig.canvas.get_supported_filetypes()
    kind = file.suffix.removeprefix(".").lower()
    if kind not in formats:
        raise ValueError(f"{file}: not a picture's ending; known: {', '.join(sorted(formats))}")
    part = file.with_name(file.name + ".part")
    fig.savefig(part, format=kind, dpi=150)
    os.replace(part, file)
