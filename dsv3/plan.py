"""How many GPUs, how much memory, disk and time does a model need? Answered before anything is rented or downloaded."""

import argparse
import json
import re
import shlex
import sys
from dataclasses import asdict

from .checkpoint import ours
from .engines.table import runners
from .sizing import offload
from .sizing.gpus import find_gpu, gpus
from .sizing.needs import LARGEST, PRECISIONS, Precision, Split, Workload, auto_split
from .sizing.offload import files, find_file
from .sizing.planner import WORKLOAD, Fit, Runner, Subject, as_json, plan, smallest, subject
from .sizing.report import comparison, text


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r:.60}: must be a whole number of 1 or more, {LARGEST:,} at most")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not text.isascii() or not (value == 0 or 1e-6 <= value <= 1e12):
        raise argparse.ArgumentTypeError(f"{text!r:.60}: must be a number of 0 or more, 1e12 at most")
    return value


def _precision(text: str) -> str:
    """A precision, or a kind of GGUF file by its usual name."""
    if text.lower() in PRECISIONS:
        return text.lower()
    if file := find_file(text):
        return file.name
    raise argparse.ArgumentTypeError(f"{text!r:.60}: none of {', '.join([*PRECISIONS, *(f.name for f in files())])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsv3 plan",
        description=__doc__,
        epilog="Without --gpus: the smallest number of each kind that fits; without --gpu, too: the largest GGUF file "
        "beside one card and so much RAM, which --json leaves out. Exit code 1: nothing that is said fits.",
    )
    parser.add_argument("model", help="R1, V3.1, Kimi-K2-Base ... (dsv3 download --list), a folder, or a config.json")
    parser.add_argument(
        "--precision",
        type=_precision,
        help=f"of the weights: {', '.join(PRECISIONS)}; default: as "
        f"published; with --ram a GGUF file: {', '.join(f.name for f in files())}; default: all",
    )
    parser.add_argument("--gpu", metavar="NAME", help=f"one of {', '.join(g.name for g in gpus())}")
    parser.add_argument("--gpus", type=_count, metavar="N", help="how many there are, in all machines")
    parser.add_argument(
        "--ram",
        type=_amount,
        metavar="GB",
        help="of the machine: routed experts stay in RAM, as with llama.cpp and KTransformers",
    )
    parser.add_argument("--ram-bandwidth", type=_amount, metavar="GB/S", help="of the RAM; default: three usual ones")
    parser.add_argument(
        "--context", type=_count, metavar="TOKENS", help=f"of each sequence; default {WORKLOAD.context}"
    )
    parser.add_argument("--batch", type=_count, default=WORKLOAD.batch, metavar="N", help="sequences at once")
    parser.add_argument("--tp", type=_count, metavar="N", help="tensor-parallel ranks; default: as many as possible")
    parser.add_argument("--pp", type=_count, metavar="N", help="pipeline stages; default: what is left of --gpus")
    parser.add_argument("--ep", type=_count, metavar="N", help="groups with whole experts; default: --tp, none is cut")
    parser.add_argument("--mtp", action="store_true", help="hold the MTP layer, for speculative decoding")
    parser.add_argument("--rate", type=_amount, metavar="MB/S", help="of the download, for its time")
    parser.add_argument("--price", type=_amount, metavar="P", help="of one GPU for an hour, for the cost")
    parser.add_argument("--json", action="store_true", help="one JSON document, bytes as integers")
    parser.add_argument("--figure", type=ours.path, metavar="FILE", help="draw the plan: .png, .svg or .pdf")
    return parser


def _split(args: argparse.Namespace, model: Subject, precision: Precision) -> Split:
    """The split that the flags say, the rest chosen."""
    if args.tp is None and args.pp is None:
        tp, pp = (s := auto_split(model.cfg, precision, args.gpus)).tp, s.pp
    else:
        tp = args.tp or max(args.gpus // args.pp, 1)
        pp = args.pp or max(args.gpus // tp, 1)
    if tp * pp != args.gpus:
        raise ValueError(f"--tp {tp} x --pp {pp} are {tp * pp} GPUs, but --gpus says {args.gpus}")
    return Split(tp=tp, pp=pp, ep=tp if args.ep is None else args.ep)


def _runners(found: Fit) -> list[Runner]:
    return runners(found.gpu, found.precision, found.split.pp > 1)


def _with_ram(parser: argparse.ArgumentParser, args: argparse.Namespace, model: Subject) -> bool:
    """Print plans for one machine with its routed experts in RAM; whether one of the files fits."""
    if args.tp or args.pp or args.ep or args.figure or args.mtp or args.rate or args.price is not None:
        parser.error("--ram takes --gpu, --gpus, --ram-bandwidth, --precision, --context, --batch and --json")
    if args.precision in PRECISIONS:
        parser.error(f"--precision {args.precision}: with --ram one of {', '.join(f.name for f in files())}")
    gpu = find_gpu(args.gpu) if args.gpu else None
    count = (args.gpus or 1) if gpu else 0
    machine = offload.Machine(gpu=gpu, gpus=count, ram_gb=args.ram, ram_bandwidth_gb_s=args.ram_bandwidth or None)
    context = min(WORKLOAD.context, model.cfg.max_seq_len) if args.context is None else args.context
    plans = offload.plans(model.name, model.cfg, machine, Workload(context=context, batch=args.batch), args.precision)
    if args.json:
        print(json.dumps([asdict(found) for found in plans]))
    else:
        print(offload.text(plans, offload.reported(model.cfg, args.precision)))
    return any(found.fits for found in plans)


def _usual(args: argparse.Namespace, model: Subject, workload: Workload) -> list[offload.Offload]:
    """Usual machines of one card and much RAM, where nothing was said about the GPU or how the weights are stored."""
    if args.gpu or args.precision or args.mtp or model.quantized or model.cfg.dense:
        return []
    return offload.usual(model.name, model.cfg, workload)


def _more(args: argparse.Namespace, p: offload.Offload) -> str:
    """The command that says all of one of the usual machines."""
    words = ["dsv3", "plan", args.model, "--gpu", offload.CARD, "--ram", f"{p.machine.ram_gb:g}"]
    if args.context is not None:
        words += ["--context", str(args.context)]
    if args.batch != WORKLOAD.batch:
        words += ["--batch", str(args.batch)]
    return f"every file, the formulas, and what owners report: {shlex.join(words)}"


def main(argv: list[str]) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.gpus is not None and not args.gpu:
        parser.error("--gpus needs --gpu")
    if args.gpus is None and (args.tp or args.pp or args.ep or args.figure):
        parser.error("--tp, --pp, --ep and --figure need --gpu and --gpus")
    if args.price is not None and not args.gpu:
        parser.error("--price needs --gpu")
    model = subject(args.model)
    if args.ram is not None:
        sys.exit(0 if _with_ram(parser, args, model) else 1)
    if args.ram_bandwidth is not None or find_file(args.precision or ""):
        parser.error("GGUF files and --ram-bandwidth need --ram")
    precision = args.precision or model.published
    context = min(WORKLOAD.context, model.cfg.max_seq_len) if args.context is None else args.context
    workload = Workload(context=context, batch=args.batch, mtp=args.mtp)
    if args.gpus is None:
        kinds = [find_gpu(args.gpu)] if args.gpu else gpus()
        beside: list[offload.Offload] = []
        found = [(p, _runners(p)) for p in smallest(model, kinds, precision, workload)]
        if args.json:
            print(json.dumps([as_json(p, runs, args.rate, args.price) for p, runs in found]))
        elif args.gpu and found:
            print(text(*found[0], args.rate, args.price))
        else:
            print(comparison(model, precision, workload, found, kinds, args.rate))
            beside = _usual(args, model, workload)
            if beside:
                print(f"\n{offload.comparison(beside)}\n{_more(args, beside[-1])}")
        sys.exit(0 if found or beside else 1)
    answer = plan(model, find_gpu(args.gpu), _split(args, model, precision), precision, workload)
    if args.figure:
        from .show.plan import save

        save(answer, args.figure)
    given = answer, _runners(answer), args.rate, args.price
    print(json.dumps(as_json(*given)) if args.json else text(*given))
    sys.exit(0 if answer.fits else 1)


if __name__ == "__main__":
    from .cli import run

    run(main)
