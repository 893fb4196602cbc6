"""Plans: a model, GPUs, a split and a workload in; memory, fit, limits, speed, disk and engines out. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from .. import quantized
from ..config import BLOCK, FAMILIES, ModelConfig, elsewhere
from ..cost import flops, weight_bytes
from ..hubs.catalogue import Model, find_model, unknown
from ..layout import layout
from ..quantized import Quantized
from ..said import Said
from .gpus import GPU
from .needs import (
    FORMULAS,
    PRECISIONS,
    Decode,
    Need,
    Precision,
    Split,
    Table,
    Workload,
    auto_split,
    check_context,
    check_split,
    decode,
    fits,
    largest,
    needs,
    table,
    weights,
)

COUNTS = (1, 2, 4, 8, 16, 32, 64)  # GPUs that people rent together
WORKLOAD = Workload()
MOST = 1 << 20  # sequences at once; more than any GPU holds


@dataclass(frozen=True)
class Subject:
    """A model to plan for, the precision that its files have, and how they are quantised where the tensor table does
    not say it all."""

    name: str
    cfg: ModelConfig
    published: Precision
    quantized: Quantized | None = None


class Counted(NamedTuple):
    """Sums of the tensor table that do not change with the GPU, the context or the batch."""

    held: list[Counter[str]]
    disk: dict[str, int]
    multiplied: int  # cost.flops, without the context's part


class Runner(NamedTuple):
    """Whether an engine, or ``dsv3 generate``, runs a precision on a GPU, and what to know about it."""

    name: str
    runs: bool
    note: str


@dataclass(frozen=True, kw_only=True)
class Fit:
    """An answer: what each GPU must hold, whether that fits, and what follows from it.

    Attributes:
        ranks: the need of each GPU, stage by stage.
        parts: weights of the fullest GPU by part of the model.
        largest_context: with this batch; 0 if not even one token fits.
        largest_batch: with this context.
        disk: bytes by what they are for, in the order in which they are written.
        stored: how a quantised checkpoint has its weights; empty where the table says it all.
    """

    model: str
    precision: Precision
    gpu: GPU
    split: Split
    workload: Workload
    ranks: tuple[Need, ...]
    parts: dict[str, int]
    fits: bool
    largest_context: int
    largest_batch: int
    decode: Decode
    disk: dict[str, int]
    stored: str = ""

    @property
    def fullest(self) -> Need:
        return max(self.ranks, key=lambda need: need.total)

    @property
    def free(self) -> int:
        """Bytes left on the fullest GPU; negative if it does not fit."""
        return self.gpu.nbytes - self.fullest.total


def subject(name: str) -> Subject:
    """The model that ``name`` means: one of the catalogue, a folder, a config.json, or a shipped config.

    Raises:
        ValueError: no name, a GGUF file, or a model that the tensor table does not describe, with what the catalogue
            knows of it.
        FileNotFoundError: nothing of that name.
    """
    if not name.strip():
        raise ValueError("a model's name is empty (is a variable unset?); dsv3 download --list has the known ones")
    model = find_model(name)
    return _of_files(name) if model is None else _of_catalogue(model)


def _of_catalogue(model: Model) -> Subject:
    cfg, stored = model.load_config(), quantized.of(model.quantization)
    if model.architecture not in FAMILIES:
        known = f"{model.nbytes / 1e9:.1f} GB in {model.precision.upper()}" if model.nbytes else ""
        size = f"; its weights take {known}; KV cache, activations and CUDA come on top" if known else ""
        raise ValueError(f"{model.name}: {elsewhere(model.architecture)}{size}")
    if cfg is None:
        raise ValueError(f"{model.name}: its shapes are not known here; dsv3 plan FOLDER, with its config.json in it")
    precision = next((p for p in PRECISIONS if p == model.precision), None)
    if precision is None or not model.counted:
        raise ValueError(
            f"{model.name}: which of its weights are stored in how many bits is not known here; dsv3 plan FOLDER, with "
            "its config.json in it, counts them"
        )
    return Subject(model.name, cfg, precision, stored)


def _of_files(name: str) -> Subject:
    path = Path(name)
    if path.suffix == ".gguf":
        cure = "name the model it was made of: dsv3 plan DeepSeek-R1 --ram GB counts such files"
        raise ValueError(f"{name:.200}: a GGUF file; {cure}")
    try:
        stored = quantized.read(path)
        native = stored is None or stored.in_blocks_of(BLOCK)
        cfg = ModelConfig.load(name, shapes=not native)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name:.200}: no such folder or config.json, and {unknown(name)}") from None
    if stored is None or (native and not stored.left and not stored.unread):
        return Subject(path.name, cfg, cfg.dtype)
    if stored.kind is None:
        raise ValueError(f"{name}: weights are stored as {stored}: they cannot be counted")
    return Subject(path.name, cfg, stored.kind, stored)


def stored_as(model: Subject, precision: Precision) -> Table:
    """The table of ``model`` in ``precision``: as its files have it, or as a cast would make it.

    Raises:
        ValueError: its files are quantised, and ``precision`` is another one.
    """
    if precision == model.published:
        return table(model.cfg, precision, model.quantized)
    if model.quantized and not model.quantized.in_blocks_of(BLOCK):
        refusal = (
            "{name} is stored as {how}: in {precision} it is another checkpoint; plan for the model that it was made "
            "from"
        )
        raise ValueError(Said(refusal, name=model.name, how=model.quantized.said, precision=precision.upper()))
    return table(model.cfg, precision)


def plan(
    model: Subject,
    gpu: GPU,
    split: Split,
    precision: Precision | None = None,
    workload: Workload = WORKLOAD,
    counted: Counted | None = None,
) -> Fit:
    """What ``model`` needs on ``split.gpus`` GPUs. ``counted``, for these arguments, spares counting it for every plan.

    Raises:
        ValueError: the model cannot be split so, or the context is longer than its own.
    """
    cfg, precision = model.cfg, precision or model.published
    check_split(cfg, precision, split)
    check_context(model.name, cfg, workload)
    held, sizes, multiplied = counted or count(model, split, precision, workload)

    def works(context: int, batch: int) -> bool:
        return fits(needs(cfg, held, gpu, split, replace(workload, context=context, batch=batch)), gpu)

    wanted = needs(cfg, held, gpu, split, workload)
    fullest = max(held, key=Counter.total)
    return Fit(
        model=model.name,
        precision=precision,
        gpu=gpu,
        split=split,
        workload=workload,
        ranks=tuple(wanted),
        parts=dict(fullest),
        fits=fits(wanted, gpu),
        largest_context=largest(cfg.max_seq_len, lambda n: works(n, workload.batch)),
        largest_batch=largest(MOST, lambda n: works(workload.context, n)),
        decode=decode(cfg, held, multiplied, gpu, precision, split, workload),
        disk=sizes,
        stored=model.quantized.said if model.quantized else "",
    )


def smallest(
    model: Subject, kinds: Iterable[GPU], precision: Precision | None = None, workload: Workload = WORKLOAD
) -> Iterator[Fit]:
    """For each kind of GPU the plan with the fewest of ``COUNTS`` that fits; kinds without one are left out."""
    precision = precision or model.published
    tensors, multiplied = stored_as(model, precision), flops(model.cfg)
    sizes = disk(model, precision, tensors)
    least = weights(tensors, Split())[0].total()
    held: dict[Split, list[Counter[str]]] = {}
    for gpu in kinds:
        for n in COUNTS:
            if least > n * gpu.nbytes:
                continue
            try:
                split = auto_split(model.cfg, precision, n)
            except ValueError:
                break
            if split not in held:
                held[split] = weights(tensors, split, workload.mtp)
            found = plan(model, gpu, split, precision, workload, Counted(held[split], sizes, multiplied))
            if found.fits:
                yield found
                break


def count(model: Subject, split: Split, precision: Precision | None = None, workload: Workload = WORKLOAD) -> Counted:
    """What ``plan`` needs from the tensor table: the part that takes time (half a second for DeepSeek-R1)."""
    precision = precision or model.published
    tensors = stored_as(model, precision)
    return Counted(weights(tensors, split, workload.mtp), disk(model, precision, tensors), flops(model.cfg))


def disk(model: Subject, precision: Precision, tensors: Table) -> dict[str, int]:
    """Bytes of the files: the download, the cast if ``precision`` needs one, and the conversion for ``dsv3 generate``.

    ``tensors``: ``stored_as(model, precision)``. Quantised checkpoints are somebody else's, and none is cast or
    converted.
    """
    whole = weights(tensors, Split(), mtp=True)[0].total()
    copies = sum(row.nbytes for row in layout(replace(model.cfg, n_layers=1)) if row.copy_of)
    ours = model.quantized is None or model.quantized.in_blocks_of(BLOCK)
    if not ours or (precision != "fp8" and precision != "bf16"):
        return {Said("download"): whole + copies}
    if precision == model.published:
        return {Said("download"): whole + copies, Said("converted"): whole}
    published = weights(stored_as(model, model.published), Split(), mtp=True)[0].total()
    cast = weight_bytes(model.cfg, precision)
    by_cast = Said("cast to {precision}", precision=precision.upper())
    return {Said("download"): published + copies, by_cast: cast, Said("converted"): whole}


def as_json(
    found: Fit, runners: Iterable[Runner], rate: float | None = None, price: float | None = None
) -> dict[str, object]:
    """A plan and who runs it as JSON; bytes as integers. ``rate`` in MB/s and ``price`` per GPU and hour add times and
    costs."""
    extra: dict[str, object] = {"gpus": found.split.gpus, "free": found.free, "formulas": FORMULAS}
    if rate:
        extra["download_seconds"] = found.disk["download"] / (rate * 1e6)
    if price is not None:
        extra |= {"cost_per_hour": price * found.split.gpus, "cost_per_day": price * found.split.gpus * 24}
    extra["engines"] = [runner._asdict() for runner in runners]
    ranks = [need._asdict() | {"total": need.total} for need in found.ranks]
    return asdict(found) | {"ranks": ranks, "decode": found.decode._asdict()} | extra
