"""FP8 -> BF16: what transformers, and engines on cards without FP8 units, load. In pieces, on the CPU unless told."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from .checkpoint import ours
from .checkpoint.plan import CHUNK, Chunks, Move, Op, Out, Plan, Sources
from .checkpoint.read import Entry
from .checkpoint.stored import open_model
from .checkpoint.write import execute, show
from .config import BLOCK, ModelConfig
from .outside import small_json

WHAT = "cast to BF16"
Device = Literal["cpu", "cuda"]


def cast(source: Path, target: Path, device: Device = "cpu") -> None:
    """Write the FP8 checkpoint in ``source`` to ``target`` in BF16, shard by shard under the same file names.

    Each value is ``bf16(float32(fp8) * scale)``, rounded once. ``config.json`` loses its ``quantization_config``,
    scales disappear, the index is rebuilt, tokenizer and generation config are carried over. Interrupted, the same call
    goes on.

    Args:
        device: what multiplies. Starting CUDA takes longer than a small checkpoint does on the CPU (11.7 s against 0.1
            for tiny-r1, with an H100); a large one goes to the card and back, and whether that pays was not measured.
            So a GPU is used only where it is asked for; the bytes are the same.

    Raises:
        ValueError: ``source`` is not FP8, or a tensor or its scale is missing; nothing is written then. Or no GPU.
        OSError: no room, or another run is at work there.
    """
    ours.check_separate(source, target)
    result = plan(source, device)
    with single_threaded_torch():
        execute(result, target)


def plan(source: Path, device: Device = "cpu") -> Plan:
    """What ``cast`` will write."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device cuda: no GPU is seen here; without it the CPU casts, to the same bytes")
    cfg = ModelConfig.load(source)
    if not cfg.fp8:
        raise ValueError(f"{source}: already BF16 (config.json has no FP8 quantization_config); nothing to cast")
    stored = open_model(source, cfg)
    rows, found = stored.rows, stored.found
    files = list(dict.fromkeys(e.file for e in found.values()))
    result = Plan(WHAT, sources=files, source=source, notes=stored.notes)
    kept = [e for e in found.values() if not rows[e.name].is_scale]
    where: dict[str, str] = {}
    offsets: dict[str, int] = {}
    for file in files:
        here = [Out(e.name, "BF16" if e.dtype == "F8_E4M3" else e.dtype, e.shape) for e in kept if e.file is file]
        if here:
            offsets |= result.file(file.name, here)
            where |= dict.fromkeys((out.name for out in here), file.name)

    def op(e: Entry) -> Op:
        if e.dtype == "F8_E4M3":
            return Dequantise(e, found[rows[e.name].scale().hf], e.file.name, offsets[e.name], device)
        return Move(e.file, e.start, e.stop - e.start, e.file.name, offsets[e.name])

    result.fill(map(op, kept))
    result.index(where, sum(result.sizes.values()) - sum(map(len, result.heads.values())))
    result.carry_over(source, skip=("config.json",))
    hf = small_json(source / "config.json")
    del hf["quantization_config"]
    named = "dtype" if "dtype" in hf else "torch_dtype"  # transformers 5 writes the first
    result.json("config.json", hf | {named: "bfloat16"})
    return result


class Dequantise(NamedTuple):
    """An FP8 matrix and its scales, wherever they lie, to BF16 in ``target`` at ``at``."""

    weight: Entry
    scale: Entry
    target: str
    at: int
    device: Device

    @property
    def targets(self) -> set[str]:
        return {self.target}

    @property
    def nbytes(self) -> int:
        return 2 * (self.weight.stop - self.weight.start)

    def chunks(self, sources: Sources) -> Chunks:
        import torch

        from .inference.weights import scales
        from .kernels import native, reference

        dequantise = native.weight_dequant if self.device == "cpu" else reference.weight_dequant
        n_rows, width = self.weight.shape
        data = sources.read(self.scale.file, self.scale.start, self.scale.stop - self.scale.start)
        scale = scales(data, self.scale.dtype, self.scale.shape)
        step = max(BLOCK, CHUNK // max(width, 1) // BLOCK * BLOCK)
        for row in range(0, n_rows, step):
            rows = min(step, n_rows - row)
            data = sources.read(self.weight.file, self.weight.start + row * width, rows * width)
            w = torch.frombuffer(bytearray(data), dtype=torch.float8_e4m3fn).view(rows, width)
            s = scale[row // BLOCK : -(-(row + rows) // BLOCK)]
            w = dequantise(w.to(self.device), s.to(self.device)).cpu()
            yield self.target, self.at + 2 * row * width, w.view(torch.uint8).numpy().data.cast("B")


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """The steps are what runs in parallel; torch's own threads would only get in their way."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(argv: list[str]) -> None:
    """The command line, with the official flags."""
    parser = argparse.ArgumentParser(prog="dsv3 fp8_cast_bf16", description=__doc__)
    parser.add_argument("--input-fp8-hf-path", type=ours.path, required=True, metavar="IN")
    parser.add_argument("--output-bf16-hf-path", type=ours.path, required=True, metavar="OUT")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and how long it may take")
    parser.add_argument("--device", choices=get_args(Device), default="cpu", help="what multiplies; the default is cpu")
    args = parser.parse_args(argv)
    if args.dry_run:
        ours.check_separate(args.input_fp8_hf_path, args.output_bf16_hf_path)
        show(plan(args.input_fp8_hf_path, args.device), args.output_bf16_hf_path)
    else:
        cast(args.input_fp8_hf_path, args.output_bf16_hf_path, args.device)


if __name__ == "__main__":
    from .cli import run

    run(main)
