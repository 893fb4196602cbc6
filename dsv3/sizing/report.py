"""A plan as people read it, formulas shown."""

from collections.abc import Iterable, Iterator

from ..said import Language, Said, pad, say, told
from .gpus import GPU, PER_MACHINE
from .needs import FORMULAS, Need, Precision, Workload
from .planner import COUNTS, Fit, Runner, Subject

LABELS = {  # of the parts of a GPU's memory, and of its weights
    "weights": Said("weights"),
    "cache": Said("KV cache"),
    "activations": Said("activations"),
    "reserve": Said("reserve"),
    "embedding": Said("embedding"),
    "attention": Said("attention"),
    "dense": Said("dense"),
    "gate": Said("gate"),
    "routed": Said("routed"),
    "shared": Said("shared"),
    "norm": Said("norm"),
    "head": Said("head"),
    "mtp": Said("mtp"),
}
WIDTH = 17  # columns of a label


def gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.{1 if nbytes >= 1e9 else 3}f}"


def title(plan: Fit) -> Said:
    """``DeepSeek-R1 in FP8 on 8 x H20-96G (tp 8, pp 1, ep 8), 1 sequence of 4,096 tokens``."""
    return Said(
        "{model} in {precision} on {gpus} x {gpu} (tp {tp}, pp {pp}, ep {ep}), {sequences}",
        model=plan.model,
        precision=plan.precision.upper(),
        gpus=plan.split.gpus,
        gpu=plan.gpu.name,
        tp=plan.split.tp,
        pp=plan.split.pp,
        ep=plan.split.ep,
        sequences=plan.workload.sequences,
    )


def text(
    plan: Fit,
    runners: Iterable[Runner],
    rate: float | None = None,
    price: float | None = None,
    language: Language = "en",
) -> str:
    """A plan and who runs it as people read it, formulas shown.

    Args:
        rate: MB/s of the download. price: of a GPU for an hour.
    """

    def row(label: str, words: str, indent: str = "") -> str:
        return pad(indent + told(label, language), WIDTH) + told(words, language)

    need = plan.fullest
    lines = [say(language, "{plan}: fits" if plan.fits else "{plan}: does NOT fit", plan=title(plan)), ""]
    for part in Need._fields:
        lines.append(row(LABELS[part], Said("{gb:>9} GB on the fullest GPU", gb=gigabytes(getattr(need, part)))))
        if part == "weights":
            lines += [say(language, "  stored as {how}", how=plan.stored)] if plan.stored else []
            large = {LABELS[name]: n for name, n in plan.parts.items() if n > need.weights / 1000}
            lines += [row(label, f"{gigabytes(n):>9}", "  ") for label, n in large.items()]
    lines.append(row(Said("sum"), _sum(plan)))
    lines += [row(Said("all GPUs"), f"{gigabytes(sum(n.total for n in plan.ranks)):>9} GB"), ""]
    lines += [row(Said("largest context"), _limits(plan)), row(Said("decoding"), _speed(plan))]
    lines += [row(*line) for line in _disk(plan, language, rate)]
    if price is not None:
        hour = price * plan.split.gpus
        cost = "{hour:,.2f} an hour, {day:,.2f} a day, at {price:g} a GPU and hour"
        lines.append(row(Said("cost"), Said(cost, hour=hour, day=24 * hour, price=price)))
    lines += ["", say(language, "engines")]
    for engine in runners:
        runs = pad(say(language, "yes" if engine.runs else "no"), 4)
        lines.append(f"  {runs}{engine.name:14}{told(engine.note, language)}".rstrip())
    lines += ["", say(language, "how it is counted")]
    return "\n".join([*lines, *(row(name, how, "  ") for name, how in FORMULAS.items())])


def _sum(plan: Fit) -> Said:
    room = "{gb:>9} GB of {all}: {rest} free" if plan.fits else "{gb:>9} GB of {all}: {rest} too much"
    return Said(room, gb=gigabytes(plan.fullest.total), all=gigabytes(plan.gpu.nbytes), rest=gigabytes(abs(plan.free)))


def _limits(plan: Fit) -> Said:
    if not plan.largest_context:
        return Said("none: not even one token fits")
    return Said(
        "{longest:,} tokens with {batch:,} at once; {most:,} at once with {context:,} tokens",
        longest=plan.largest_context,
        batch=plan.workload.batch,
        most=plan.largest_batch,
        context=plan.workload.context,
    )


def _speed(plan: Fit) -> Said:
    compute = plan.decode.compute_s
    known = Said("{ms:.2f} ms of arithmetic", ms=1e3 * (compute or 0))
    return Said(
        "at most {rate:,.0f} tokens/s in all, communication left out: a step takes {ms:.2f} ms of reading,"
        " {arithmetic}",
        rate=plan.decode.tokens_per_s,
        ms=1e3 * plan.decode.memory_s,
        arithmetic=Said("arithmetic not known") if compute is None else known,
    )


def _disk(plan: Fit, language: Language, rate: float | None) -> Iterator[tuple[str, str]]:
    """Labels, and what stands beside them."""
    files = (say(language, "{gb} GB {what}", gb=gigabytes(n), what=what) for what, n in plan.disk.items())
    yield Said("disk"), " + ".join(files)
    if rate:
        hours = plan.disk["download"] / (rate * 1e6) / 3600
        yield Said("download"), Said("{hours:,.1f} hours at {rate:g} MB/s", hours=hours, rate=rate)


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
    files = ["", *(f"{label:{WIDTH}}{words}" for label, words in _disk(found[0][0], "en", rate))] if found else []
    return "\n".join(lines + files)
