"""A plan as people read it, formulas shown."""

from collections.abc import Iterable

from .gpus import GPU, PER_MACHINE
from .needs import FORMULAS, Need, Precision, Workload
from .planner import COUNTS, Fit, Runner, Subject

LABELS = {"cache": "KV cache"}


def gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.{1 if nbytes >= 1e9 else 3}f}"


def title(plan: Fit) -> str:
    """``DeepSeek-R1 in FP8 on 8 x H20-96G (tp 8, pp 1, ep 8), 1 sequence of 4,096 tokens``."""
    batch, context = plan.workload.batch, plan.workload.context
    sequences = f"{batch:,} sequence{'s' if batch > 1 else ''} of {context:,} tokens"
    split = f"tp {plan.split.tp}, pp {plan.split.pp}, ep {plan.split.ep}"
    return f"{plan.model} in {plan.precision.upper()} on {plan.split.gpus} x {plan.gpu.name} ({split}), {sequences}"


def text(plan: Fit, runners: Iterable[Runner], rate: float | None = None, price: float | None = None) -> str:
    """A plan and who runs it as people read it, formulas shown.

    Args:
        rate: MB/s of the download. price: of a GPU for an hour.
    """
    need, lines = plan.fullest, [f"{title(plan)}: {'fits' if plan.fits else 'does NOT fit'}", ""]
    for part in Need._fields:
        lines.append(f"{LABELS.get(part, part):17}{gigabytes(getattr(need, part)):>9} GB on the fullest GPU")
        if part == "weights":
            lines += [f"  stored as {plan.stored}"] if plan.stored else []
            lines += [f"  {name:15}{gigabytes(n):>9}" for name, n in plan.parts.items() if n > need.weights / 1000]
    lines.append(f"{'sum':17}{gigabytes(need.total):>9} GB of {gigabytes(plan.gpu.nbytes)}: {_room(plan)}")
    lines += [f"{'all GPUs':17}{gigabytes(sum(n.total for n in plan.ranks)):>9} GB", ""]
    lines += [*_limits(plan), *_speed(plan), *_disk(plan, rate)]
    if price is not None:
        hourly = price * plan.split.gpus
        lines.append(f"cost             {hourly:,.2f} an hour, {24 * hourly:,.2f} a day, at {price:g} a GPU and hour")
    lines += ["", "engines"] + [f"  {'yes' if e.runs else 'no':4}{e.name:14}{e.note}".rstrip() for e in runners]
    return "\n".join([*lines, "", "how it is counted"] + [f"  {name:15}{how}" for name, how in FORMULAS.items()])


def _room(plan: Fit) -> str:
    return f"{gigabytes(plan.free)} free" if plan.fits else f"{gigabytes(-plan.free)} too much"


def _limits(plan: Fit) -> list[str]:
    if not plan.largest_context:
        return ["largest context  none: not even one token fits"]
    line = f"largest context  {plan.largest_context:,} tokens with {plan.workload.batch:,} at once"
    return [f"{line}; {plan.largest_batch:,} at once with {plan.workload.context:,} tokens"]


def _speed(plan: Fit) -> list[str]:
    compute = plan.decode.compute_s
    arithmetic = "arithmetic not known" if compute is None else f"{1e3 * compute:.2f} ms of arithmetic"
    step = f"a step takes {1e3 * plan.decode.memory_s:.2f} ms of reading, {arithmetic}"
    return [f"decoding         at most {plan.decode.tokens_per_s:,.0f} tokens/s in all, communication left out: {step}"]


def _disk(plan: Fit, rate: float | None) -> list[str]:
    sizes = " + ".join(f"{gigabytes(n)} GB {what}" for what, n in plan.disk.items())
    lines = [f"disk             {sizes}"]
    if rate:
        hours = plan.disk["download"] / (rate * 1e6) / 3600
        lines.append(f"download         {hours:,.1f} hours at {rate:g} MB/s")
    return lines


def comparison(
    subject: Subject,
    precision: Precision,
    workload: Workload,
    found: list[tuple[Fit, list[Runner]]],
    kinds: Iterable[GPU],
    rate: float | None = None,
) -> str:
    """What each kind of GPU would take: the smallest number that fits, and the kinds that do not come so large."""
    sequences = f"{workload.batch:,} x {workload.context:,} tokens"
    lines = [f"{subject.name} in {precision.upper()}, {sequences}: the fewest GPUs of each kind that fit"]
    lines += [f"stored as {subject.quantized}", ""] if subject.quantized else [""]
    lines.append(f"{'GPU':18}{'number':>7}{'tp':>4}{'pp':>4}{'GB needed':>11}{'of':>7}{'tokens/s <=':>13}  engines")
    for p, runners in found:
        engines = ", ".join(e.name for e in runners if e.runs)
        sizes = f"{gigabytes(p.fullest.total):>11}{gigabytes(p.gpu.nbytes):>7}"
        split = f"{p.split.gpus:>7}{p.split.tp:>4}{p.split.pp:>4}"
        lines.append(f"{p.gpu.name:18}{split}{sizes}{p.decode.tokens_per_s:>13,.0f}  {engines}")
    fitting = {p.gpu.name for p, _ in found}
    without = [g.name for g in kinds if g.name not in fitting]
    if without:
        lines.append(f"no number up to {COUNTS[-1]} fits: {', '.join(without)}")
    if any(p.split.gpus > PER_MACHINE for p, _ in found):
        lines.append(f"more than {PER_MACHINE} GPUs are more than one machine; one kind in full: --gpu NAME")
    return "\n".join(lines + (["", *_disk(found[0][0], rate)] if found else []))
