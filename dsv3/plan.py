"""How many GPUs, how much memory, disk and time does a model need? Answered before anything is rented or downloaded."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from .catalogue import find_model, models
from .config import ModelConfig
from .cost import flops, weight_bytes
from .fit import (
    FORMULAS,
    PRECISIONS,
    Decode,
    Load,
    Need,
    Precision,
    Split,
    auto_split,
    check_split,
    decode,
    fits,
    largest,
    needs,
    table,
    weights,
)
from .hardware import GPU, Engine, engines, find_gpu, gpus

COUNTS = (1, 2, 4, 8, 16, 32, 64)  # GPUs that people rent together
LOAD = Load()
MOST = 1 << 20  # sequences at once; more than any GPU holds


@dataclass(frozen=True)
class Subject:
    """A model to plan for, and the precision that its files have."""

    name: str
    cfg: ModelConfig
    published: Precision


class Counted(NamedTuple):
    """Sums of the tensor table that do not change with the GPU, the context or the batch."""

    held: list[Counter[str]]
    disk: dict[str, int]
    multiplied: int  # cost.flops, without the context's part


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An answer: what each GPU must hold, whether that fits, and what follows from it.

    Attributes:
        ranks: the need of each GPU, stage by stage.
        parts: weights of the fullest GPU by part of the model.
        largest_context: with this batch; 0 if not even one token fits.
        largest_batch: with this context.
        disk: bytes by what they are for, in the order in which they are written.
    """

    model: str
    precision: Precision
    gpu: GPU
    split: Split
    load: Load
    ranks: tuple[Need, ...]
    parts: dict[str, int]
    fits: bool
    largest_context: int
    largest_batch: int
    decode: Decode
    disk: dict[str, int]
    engines: tuple[Engine, ...]

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
        ValueError: a model that the tensor table does not describe, with what the catalogue knows of it.
        FileNotFoundError: nothing of that name.
    """
    model = find_model(name)
    if model is None:
        try:
            cfg = ModelConfig.load(name)
        except FileNotFoundError:
            known = ", ".join(m.name for m in models())
            raise FileNotFoundError(f"{name}: no such folder or config.json, and not one of {known}") from None
        return Subject(Path(name).name, cfg, cfg.dtype)
    cfg = model.load_config()
    if cfg is None:
        raise ValueError(
            f"{model.name} is a {model.architecture} model, and the planner sums DeepSeek-V2/V3 tensors only; what is "
            f"known: its weights take {model.nbytes / 1e9:.1f} GB in {model.precision.upper()}; KV cache, activations "
            "and CUDA come on top, and SGLang, vLLM or transformers run it"
        )
    return Subject(model.name, cfg, cfg.dtype)


def plan(
    of: Subject,
    gpu: GPU,
    split: Split,
    precision: Precision | None = None,
    load: Load = LOAD,
    counted: Counted | None = None,
) -> Plan:
    """What ``of`` needs on ``split.gpus`` GPUs. ``counted``, for these arguments, spares counting it for every plan.

    Raises:
        ValueError: the model cannot be split so, or the context is longer than its own.
    """
    cfg, precision = of.cfg, precision or of.published
    check_split(cfg, precision, split)
    if load.context > cfg.max_seq_len:
        raise ValueError(f"--context {load.context}: {of.name} has {cfg.max_seq_len}")
    held, sizes, multiplied = counted or count(of, split, precision, load)

    def works(context: int, batch: int) -> bool:
        return fits(needs(cfg, held, gpu, split, replace(load, context=context, batch=batch)), gpu)

    wanted = needs(cfg, held, gpu, split, load)
    return Plan(
        model=of.name,
        precision=precision,
        gpu=gpu,
        split=split,
        load=load,
        ranks=tuple(wanted),
        parts=dict(max(held, key=lambda part: part.total())),
        fits=fits(wanted, gpu),
        largest_context=largest(cfg.max_seq_len, lambda n: works(n, load.batch)),
        largest_batch=largest(MOST, lambda n: works(load.context, n)),
        decode=decode(cfg, held, multiplied, gpu, precision, split, load),
        disk=sizes,
        engines=tuple(engines(gpu, precision, split.pp > 1)),
    )


def smallest(
    of: Subject, kinds: Iterable[GPU], precision: Precision | None = None, load: Load = LOAD
) -> Iterator[Plan]:
    """For each kind of GPU the plan with the fewest of ``COUNTS`` that fits; kinds without one are left out."""
    precision = precision or of.published
    tensors, sizes, multiplied = table(of.cfg, precision), disk(of, precision), flops(of.cfg)
    least = weights(tensors, Split())[0].total()
    held: dict[Split, list[Counter[str]]] = {}
    for gpu in kinds:
        for n in COUNTS:
            if least > n * gpu.nbytes:
                continue
            try:
                split = auto_split(of.cfg, precision, n)
            except ValueError:
                break
            if split not in held:
                held[split] = weights(tensors, split, load.mtp)
            found = plan(of, gpu, split, precision, load, Counted(held[split], sizes, multiplied))
            if found.fits:
                yield found
                break


def count(of: Subject, split: Split, precision: Precision | None = None, load: Load = LOAD) -> Counted:
    """What ``plan`` needs from the tensor table: the part that takes time (half a second for DeepSeek-R1)."""
    precision = precision or of.published
    return Counted(weights(table(of.cfg, precision), split, load.mtp), disk(of, precision), flops(of.cfg))


def disk(of: Subject, precision: Precision) -> dict[str, int]:
    """Bytes of the files: the download, the cast if ``precision`` needs one, and the conversion for ``dsv3 generate``.

    INT8 and INT4 checkpoints are somebody else's: their size is an estimate from the table.
    """
    cfg = of.cfg
    if precision not in ("fp8", "bf16"):
        return {"download": weights(table(cfg, precision), Split(), mtp=True)[0].total()}
    sizes = {"download": weight_bytes(cfg, of.published)}
    if precision != of.published:
        sizes[f"cast to {precision.upper()}"] = weight_bytes(cfg, precision)
    return sizes | {"converted": weights(table(cfg, precision), Split(), mtp=True)[0].total()}


def as_json(found: Plan, rate: float | None = None, price: float | None = None) -> dict[str, object]:
    """A plan as JSON; bytes as integers. ``rate`` in MB/s and ``price`` per GPU and hour add times and costs."""
    extra: dict[str, object] = {"gpus": found.split.gpus, "free": found.free, "formulas": FORMULAS}
    if rate:
        extra["download_seconds"] = found.disk["download"] / (rate * 1e6)
    if price is not None:
        extra |= {"cost_per_hour": price * found.split.gpus, "cost_per_day": price * found.split.gpus * 24}
    ranks = [need._asdict() | {"total": need.total} for need in found.ranks]
    return asdict(found) | {"ranks": ranks, "decode": found.decode._asdict()} | extra


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of 1 or more")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of 0 or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsv3 plan",
        description=__doc__,
        epilog="Without --gpus: the smallest number of each kind that fits. Exit code 1: it does not fit.",
    )
    parser.add_argument("model", help="DeepSeek-R1, V3, V3.1, V2, V2-Lite ..., a checkpoint folder, or a config.json")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the weights; default: as published")
    parser.add_argument("--gpu", metavar="NAME", help=f"one of {', '.join(g.name for g in gpus())}")
    parser.add_argument("--gpus", type=_count, metavar="N", help="how many there are, in all machines")
    parser.add_argument("--context", type=_count, metavar="TOKENS", help=f"of each sequence; default {LOAD.context}")
    parser.add_argument("--batch", type=_count, default=LOAD.batch, metavar="N", help="sequences at once")
    parser.add_argument("--tp", type=_count, metavar="N", help="tensor-parallel ranks; default: as many as possible")
    parser.add_argument("--pp", type=_count, metavar="N", help="pipeline stages; default: what is left of --gpus")
    parser.add_argument("--ep", type=_count, metavar="N", help="groups with whole experts; default: --tp, none is cut")
    parser.add_argument("--mtp", action="store_true", help="hold the MTP layer, for speculative decoding")
    parser.add_argument("--rate", type=_amount, metavar="MB/S", help="of the download, for its time")
    parser.add_argument("--price", type=_amount, metavar="P", help="of one GPU for an hour, for the cost")
    parser.add_argument("--json", action="store_true", help="one JSON document, bytes as integers")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the plan: .png, .svg or .pdf")
    return parser


def _split(args: argparse.Namespace, of: Subject, precision: Precision) -> Split:
    """The split that the flags say, the rest chosen."""
    if args.tp is None and args.pp is None:
        tp, pp = (s := auto_split(of.cfg, precision, args.gpus)).tp, s.pp
    else:
        tp = args.tp or max(args.gpus // args.pp, 1)
        pp = args.pp or max(args.gpus // tp, 1)
    if tp * pp != args.gpus:
        raise ValueError(f"--tp {tp} x --pp {pp} are {tp * pp} GPUs, but --gpus says {args.gpus}")
    return Split(tp=tp, pp=pp, ep=tp if args.ep is None else args.ep)


def main(argv: list[str]) -> None:
    """The command line."""
    from .show import plan as show

    parser = _parser()
    args = parser.parse_args(argv)
    if args.gpus is not None and not args.gpu:
        parser.error("--gpus needs --gpu")
    if args.gpus is None and (args.tp or args.pp or args.ep or args.figure):
        parser.error("--tp, --pp, --ep and --figure need --gpu and --gpus")
    of = subject(args.model)
    precision = args.precision or of.published
    context = min(LOAD.context, of.cfg.max_seq_len) if args.context is None else args.context
    load = Load(context=context, batch=args.batch, mtp=args.mtp)
    if args.gpus is None:
        kinds = [find_gpu(args.gpu)] if args.gpu else gpus()
        found = list(smallest(of, kinds, precision, load))
        if args.json:
            print(json.dumps([as_json(p, args.rate, args.price) for p in found]))
        else:
            print(show.comparison(of, precision, load, found, kinds))
        sys.exit(0 if found else 1)
    answer = plan(of, find_gpu(args.gpu), _split(args, of, precision), precision, load)
    if args.figure:
        show.save(answer, args.figure)
    print(json.dumps(as_json(answer, args.rate, args.price)) if args.json else show.text(answer, args.rate, args.price))
    sys.exit(0 if answer.fits else 1)


if __name__ == "__main__":
    from .cli import run

    run(main)
