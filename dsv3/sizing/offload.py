"""One card and much RAM: a GGUF file whose routed experts stay in RAM. Pure functions.

What every token needs is on the card: attention, dense layers, shared experts, the head, and the cache. A token reads
only K of E routed experts, so those may lie in slower memory. llama.cpp (``--n-cpu-moe``) and KTransformers do it so.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from ..config import ModelConfig
from ..cost import cache_bytes, parameters, touched
from ..paths import ASSETS
from ..said import Language, Said, pad, say, told
from . import machine as here
from .gpus import GPU, find_gpu
from .needs import Split, Workload, activations, check_context, largest

GGUF = ASSETS / "gguf.json"
PROMPT = 512  # tokens of a prompt that llama.cpp computes at once (--ubatch-size)
SYSTEM = 8e9  # bytes of RAM for the system, buffers and the engine itself
# RAM of machines that people have, GB/s by its data sheet: channels x transfers x 8 bytes.
MEMORIES = {"2 x DDR5-5600": 89.6, "8 x DDR4-3200": 204.8, "12 x DDR5-4800": 460.8}
CARD, RAMS = "RTX-4090", (192, 256, 512, 768)  # machines that people have: one such card beside so many GB of RAM
FORMULAS = {
    Said("file"): Said(
        "bits per weight as in the published files of DeepSeek-R1, for the routed experts and for the rest"
    ),
    Said("on the card"): Said(
        "the rest, without the embedding; batch x context x cache of a token in 2 bytes; activations of {prompt}"
        " tokens, as for GPUs; the reserve; and the experts of as many layers as then still fit",
        prompt=PROMPT,
    ),
    Said("in RAM"): Said(
        "the other layers' experts, the embedding, {system:g} GB for the system; without a card, all",
        system=SYSTEM / 1e9,
    ),
    Said("decoding"): Said(
        "a step reads, one after the other, from RAM (1 - (1 - K/E)^batch of the experts there) and from the"
        " card (what is there, and the cache), each at its memory's full bandwidth; arithmetic and the bus left out"
    ),
}


@dataclass(frozen=True, kw_only=True)
class File:
    """A kind of GGUF file.

    Attributes:
        gib: size of DeepSeek-R1's, 2^30 bytes.
        rest_bits: bits per weight outside of the routed experts.
    """

    name: str
    gib: float
    rest_bits: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What somebody measured: so many tokens/s with one sequence."""

    file: str
    tokens_per_s: float
    gpu: str | None
    gpus: int
    ram_gb: float
    ram_bandwidth_gb_s: float
    machine: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """``gpus`` cards of one kind, or none, beside RAM.

    Attributes:
        ram_gb: 1e9 bytes.
        ram_bandwidth_gb_s: 1e9 bytes a second; None: not known.
    """

    gpu: GPU | None
    gpus: int
    ram_gb: float
    ram_bandwidth_gb_s: float | None = None

    @property
    def said(self) -> Said:
        """``1 x RTX-4090, 512 GB of RAM``."""
        if self.gpu and self.gpus:
            return Said("{n} x {gpu}, {ram:,.4g} GB of RAM", n=self.gpus, gpu=self.gpu.name, ram=self.ram_gb)
        return Said("no card, {ram:,.4g} GB of RAM", ram=self.ram_gb)

    def __str__(self) -> str:
        return str(self.said)


@dataclass(frozen=True, kw_only=True)
class Offload:
    """An answer: a file on a machine.

    Attributes:
        nbytes: of the whole file.
        card: bytes on the cards that every token needs, with cache, activations and reserve; 0 without a card.
        cards: bytes that they have.
        layers: of how many layers the routed experts are on the cards, too.
        ram: bytes that must be in RAM.
        largest_context: with this batch; 0 if not even one token fits.
        tokens_per_s: for each memory, by its name, the bound.
    """

    model: str
    file: str
    machine: Machine
    workload: Workload
    nbytes: int
    card: int
    cards: int
    layers: int
    moe_layers: int
    ram: int
    fits: bool
    largest_context: int
    tokens_per_s: dict[str, float]


@cache
def _table() -> tuple[tuple[File, ...], tuple[Report, ...]]:
    found = json.loads(GGUF.read_text(encoding="utf-8"))
    return tuple(File(**row) for row in found["files"]), tuple(Report(**row) for row in found["reported"])


def files() -> tuple[File, ...]:
    """The kinds of files, the largest first."""
    return _table()[0]


def reports() -> tuple[Report, ...]:
    """What others measured with DeepSeek-R1 or V3."""
    return _table()[1]


def find_file(name: str) -> File | None:
    """The kind of file called ``name``, in any case, with or without ``UD-``; None if there is no such kind."""
    wanted = name.upper().removeprefix("UD-")
    return next((file for file in files() if file.name.upper().removeprefix("UD-") == wanted), None)


@cache
def _parts(cfg: ModelConfig) -> dict[str, int]:
    return parameters(cfg)


@cache
def bits(file: File) -> tuple[float, float]:
    """Bits per weight of the routed experts and of the rest, so that both make the published size."""
    parts = _parts(ModelConfig.load("config_671B.json"))
    rest = (parts["total"] - parts["routed"]) * file.rest_bits
    return (file.gib * 2**30 * 8 - rest) / parts["routed"], file.rest_bits


def offload(name: str, cfg: ModelConfig, file: File, machine: Machine, workload: Workload) -> Offload:
    """What a model in a kind of file needs of a machine.

    Raises:
        ValueError: the model has no routed experts, or the context is longer than its own.
    """
    if cfg.dense:
        refusal = "{name}: no routed experts, so there is nothing to keep in RAM; plan without --ram"
        raise ValueError(Said(refusal, name=name))
    check_context(name, cfg, workload)
    parts, (expert_bits, rest_bits) = _parts(cfg), bits(file)
    experts = round(parts["routed"] * expert_bits / 8)
    embedding = round(parts["embedding"] * rest_bits / 8)
    rest = round((parts["total"] - parts["routed"]) * rest_bits / 8)
    moe_layers = cfg.n_layers - cfg.n_dense_layers
    cards = machine.gpus * machine.gpu.nbytes if machine.gpu else 0

    def on_card(context: int) -> int:
        work = Workload(context=context, batch=workload.batch, chunk=PROMPT)
        kept = workload.batch * context * cache_bytes(cfg)
        return rest - embedding + kept + activations(cfg, Split(), work) + round(workload.reserve * cards)

    def share(context: int) -> tuple[int, int]:
        """Of how many layers the experts are on the cards, and the bytes in RAM."""
        if not cards:
            return 0, experts + on_card(context) + embedding + int(SYSTEM)
        layers = max(0, min(moe_layers, (cards - on_card(context)) * moe_layers // experts))
        return layers, experts * (moe_layers - layers) // moe_layers + embedding + int(SYSTEM)

    def works(context: int) -> bool:
        return (not cards or on_card(context) <= cards) and share(context)[1] <= machine.ram_gb * 1e9

    layers, ram = share(workload.context)
    read = touched(cfg, workload.batch) * experts
    there = rest - embedding + workload.batch * workload.context * cache_bytes(cfg)
    slow = read * (moe_layers - layers) / moe_layers + (0 if cards else there)
    fast = (read * layers / moe_layers + there) / (machine.gpu.bandwidth_gb_s * 1e9) if machine.gpu and cards else 0.0
    known = machine.ram_bandwidth_gb_s
    memories = {f"{known:g} GB/s": known} if known else {f"{k}, {v:g} GB/s": v for k, v in MEMORIES.items()}
    return Offload(
        model=name,
        file=file.name,
        machine=machine,
        workload=workload,
        nbytes=experts + rest,
        card=on_card(workload.context) if cards else 0,
        cards=cards,
        layers=layers,
        moe_layers=moe_layers,
        ram=ram,
        fits=works(workload.context),
        largest_context=largest(cfg.max_seq_len, works),
        tokens_per_s={k: workload.batch / (slow / (v * 1e9) + fast) for k, v in memories.items()},
    )


def plans(name: str, cfg: ModelConfig, machine: Machine, workload: Workload, kind: str | None = None) -> list[Offload]:
    """Every kind of file on a machine, or the one called ``kind``, the largest first.

    Raises:
        ValueError: as ``offload``, or no kind is called so.
    """
    named = find_file(kind) if kind else None
    if kind and named is None:
        raise ValueError(f"{kind!r:.60}: no kind of GGUF file; one of {', '.join(file.name for file in files())}")
    return [offload(name, cfg, file, machine, workload) for file in ([named] if named else files())]


def usual(name: str, cfg: ModelConfig, workload: Workload) -> list[Offload]:
    """Beside one ``CARD`` each of ``RAMS`` with the largest file that fits; left out where none does, where the card
    holds all experts, and where less RAM has room for the same file.

    Raises:
        ValueError: as ``offload``.
    """
    card, found = find_gpu(CARD), dict[str, Offload]()
    for ram in RAMS:
        fitting = [p for p in plans(name, cfg, Machine(gpu=card, gpus=1, ram_gb=ram), workload) if p.fits]
        if fitting and fitting[0].layers < fitting[0].moe_layers:
            found.setdefault(fitting[0].file, fitting[0])
    return list(found.values())


def this_machine(m: here.Machine) -> Machine | None:
    """RAM that this process gets, and the cards of the first kind that the list knows; None if nothing says how much
    RAM there is."""
    whole, limit = here.memory(m)
    ram = limit or whole
    if ram is None:
        return None
    cards = [card for gpu in m.gpus or () if (card := _known(gpu.name))]
    return Machine(gpu=cards[0] if cards else None, gpus=cards.count(cards[0]) if cards else 0, ram_gb=ram / 1e9)


def _known(name: str) -> GPU | None:
    """The card called so; None: the list does not know it."""
    with suppress(ValueError):
        return find_gpu(name)
    return None


def reported(cfg: ModelConfig, kind: str | None = None) -> list[tuple[Report, float]]:
    """Reports of models of ``cfg``'s size, of every kind of file or one, each with the bound of its machine."""
    if (cfg.n_layers, cfg.dim, cfg.n_routed_experts) != (61, 7168, 256):  # DeepSeek-V3 and R1
        return []
    return [(report, bound(report, cfg)) for report in reports() if kind in (None, report.file)]


def bound(report: Report, cfg: ModelConfig) -> float:
    """Tokens/s that the machine of a report cannot exceed with one sequence and a short context."""
    gpu = find_gpu(report.gpu) if report.gpu else None
    machine = Machine(gpu=gpu, gpus=report.gpus, ram_gb=report.ram_gb, ram_bandwidth_gb_s=report.ram_bandwidth_gb_s)
    file = find_file(report.file)
    if file is None:
        raise ValueError(f"{report.file}: no such file in {GGUF.name}")
    return next(iter(offload("DeepSeek-R1", cfg, file, machine, Workload(context=1024)).tokens_per_s.values()))


def text(plans: list[Offload], reported: Iterable[tuple[Report, float]] = (), language: Language = "en") -> str:
    """Plans for one machine as people read them, a file a line, formulas shown; then what others measured."""
    first = plans[0]
    what = {"model": first.model, "machine": first.machine.said, "sequences": first.workload.sequences}
    lines = [say(language, "{model} on {machine}, {sequences}", **what), "", *_head(first, language)]
    for p in plans:
        layers = say(language, "{n} of {all}", n=p.layers, all=p.moe_layers)
        fits = say(language, "yes" if p.fits else "no")
        sizes = f"{p.file:12}{p.nbytes / 1e9:7,.0f}{p.card / 1e9:12.1f}{pad(layers, -11)}{p.ram / 1e9:8,.0f}"
        speed = "".join(f"{bound:28.1f}" for bound in p.tokens_per_s.values())
        lines.append(f"{sizes}{pad(fits, -6)}{p.largest_context:9,}{speed}")
    lines += ["", say(language, "how it is counted")]
    lines += [f"  {pad(told(name, language), 12)}{told(how, language)}" for name, how in FORMULAS.items()]
    return "\n".join([*lines, *reported_lines(reported, language)])


def _head(first: Offload, language: Language) -> Iterable[str]:
    """The two lines above the columns."""
    columns = [
        (Said("file"), "", 12),
        ("GB", "", -7),
        (Said("GB on card"), Said("of {gb:.1f}", gb=first.cards / 1e9), -12),
        (Said("layers of"), Said("experts"), -11),
        (Said("GB in"), Said("RAM"), -8),
        ("", Said("fits"), -6),
        (Said("largest"), Said("context"), -9),
    ]
    above = "".join(pad(told(words, language), width) for words, _, width in columns)
    below = "".join(pad(told(words, language), width) for _, words, width in columns)
    yield f"{above}  {say(language, 'tokens/s at most with RAM of')}"
    yield below + "".join(f"{name:>28}" for name in first.tokens_per_s)


def reported_lines(reported: Iterable[tuple[Report, float]], language: Language = "en") -> list[str]:
    """What others measured, in a column of its own beside the bound, and where they say so; nothing if nobody did."""
    rows = [
        f"{r.tokens_per_s:>10.4g}{limit:>8.1f}  {r.file:12}{say(language, r.machine)}\n{'':32}{r.source}"
        for r, limit in reported
    ]
    title = say(language, "reported elsewhere, with DeepSeek-R1 or V3: tokens/s of one sequence")
    figures = pad(say(language, "reported"), -10) + pad(say(language, "bound"), -8)
    head = f"{figures}  {pad(say(language, 'file'), 12)}{say(language, 'machine')}"
    return ["", title, head, *rows] if rows else []


def comparison(found: list[Offload]) -> str:
    """What ``usual`` found, a machine a line."""
    speeds = [f"{gb_s:.0f}" for gb_s in MEMORIES.values()]
    lines = [
        "one card and much RAM (llama.cpp, KTransformers): the largest GGUF file of each machine",
        "",
        f"{'machine':30}{'file':12}{'GB':>5}  tokens/s <= with RAM of {', '.join(speeds)} GB/s",
    ]
    for p in found:
        bounds = "".join(f"{speed:8.1f}" for speed in p.tokens_per_s.values())
        lines.append(f"{p.machine.said:30}{p.file:12}{p.nbytes / 1e9:5,.0f}  {bounds}")
    return "\n".join(lines)
