"""Fills a model from a folder: a Hugging Face checkpoint or converted files, each rank its own slices."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import read
from ..checkpoint.plan import CHUNK
from ..checkpoint.stored import as_stored, open_model
from ..config import BLOCK, ModelConfig
from ..kernels import native
from ..layout import Row, layout
from ..model import Linear, Transformer
from ..runtime import Runtime

TORCH = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.uint8,  # its bits, which ``powers`` reads: torch has the type from 2.7 on
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
}


def tensor(found: read.Checkpoint, name: str, part: tuple[slice, ...] | None = None) -> Tensor:
    """A tensor, or the slices ``part`` of it, as stored; only the rows that are needed are read."""
    entry = found[name]
    rows = part[0] if part and entry.shape[0] else None
    shape = ((rows.stop - rows.start), *entry.shape[1:]) if rows else entry.shape
    whole = torch.empty(shape, dtype=TORCH[entry.dtype])
    read_into(whole, found, name, rows)
    whole = powers(whole) if entry.dtype == "F8_E8M0" else whole
    return whole[(slice(None), *part[1:])] if part else whole


def powers(exponents: Tensor) -> Tensor:
    """[...] uint8, the bits of F8_E8M0 -> float32: 2^(e - 127)."""
    bits = exponents.to(torch.int32) << 23
    return torch.where(exponents == 0, 1 << 22, bits).to(torch.int32).view(torch.float32)


def scales(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Scales as they stand in a file -> float32."""
    stored = torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).view(shape)
    return powers(stored) if dtype == "F8_E8M0" else stored.float()


def read_into(whole: Tensor, found: read.Checkpoint, name: str, rows: slice | None) -> None:
    """Fill a contiguous CPU tensor with a stored one of its type, or with some rows of that."""
    if whole.numel():
        found.read(name, rows, whole.view(-1).view(torch.uint8).numpy().data)


def load(model: Transformer, folder: Path, cfg: ModelConfig, source: "Source | None" = None) -> None:
    """Read every parameter of ``model`` from ``folder``, whose checkpoint is described by ``cfg``.

    FP8 weights that the model does not hold as FP8 are dequantised here, once. A matrix that an FP8 checkpoint left as
    it was stays so in the model, too. Peak memory: the model and one tensor.

    Args:
        source: what ``find`` gave, if it was asked before the model was made.

    Raises:
        ValueError: as ``find``.
    """
    source = source or find(folder, cfg, model.run, mtp=model.cfg.n_mtp_layers > 0)
    rows = [row for row in source.rows if not row.copy_of]
    _unscale(model, rows)
    with torch.no_grad():
        for row, weight in _parameters(model, rows):
            if row.kind == "fp8" and weight.dtype != torch.float8_e4m3fn:
                weight.copy_(source.dequantised(row))
            else:
                source.stored(row, weight)


def find(folder: Path, cfg: ModelConfig, run: Runtime, *, mtp: bool) -> "Source":
    """The folder's tensors, their headers held against ``cfg``: numbers of a config that are wrong cost no memory.

    Args:
        mtp: the model will guess ahead; only its first MTP layer does.

    Raises:
        FileNotFoundError: no such folder, or a file is missing.
        ValueError: the folder was converted for another number of ranks, or a tensor is missing, unknown or misshapen,
            or there is no MTP layer to guess with.
    """
    tp = run.tp
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    sizes = read.converted_for(folder)
    if sizes and tp.size not in sizes:
        was = " or ".join(map(str, sorted(sizes)))
        raise ValueError(
            f"{folder}: converted for {was} ranks, but WORLD_SIZE is {tp.size}; "
            f"start with torchrun --nproc-per-node {was}, or convert again with --model-parallel {tp.size}"
        )
    source = _Converted(folder, cfg, run, mtp) if sizes else _HuggingFace(folder, cfg, run, mtp)
    if mtp and not source.cfg.n_mtp_layers:
        raise ValueError(f"{folder}: has no whole MTP layer to guess with; load it without mtp")
    return source


def fingerprints(model: Transformer) -> dict[str, str]:
    """A short hash per one-dimensional parameter (norms, gate biases): every rank holds them whole, so all must agree.

    A fraction of the model, read once more: two checkpoints that differ at all mostly differ there.
    """
    return {
        name: hashlib.blake2b(p.detach().cpu().view(torch.uint8).numpy().data, digest_size=8).hexdigest()
        for name, p in model.named_parameters()
        if p.dim() == 1
    }


def _parameters(model: Transformer, rows: list[Row]) -> Iterator[tuple[Row, Tensor]]:
    """Each parameter of the model with its row of the table."""
    ours = dict(model.named_parameters())
    tp = model.run.tp
    for row in rows:
        if row.name in ours:
            yield row, ours.pop(row.name)
        elif not row.is_scale and tp.rank in row.holders(tp.size, model.cfg.n_routed_experts):
            raise ValueError(f"{row.name}: in the table of tensors, but not in the model")
    if ours:
        raise ValueError(f"not in the table of tensors: {read.some(list(ours))}")


def _unscale(model: Transformer, rows: list[Row]) -> None:
    """Take the scales from the linear layers whose matrix is not stored in FP8."""
    layers = dict(model.named_modules())
    for row in rows:
        layer = layers.get(row.name.removesuffix(".weight"))
        if row.kind == "bf16" and isinstance(layer, Linear) and layer.scale is not None:
            empty = torch.empty_like(layer.weight, dtype=model.run.dtype)
            layer.weight, layer.scale = torch.nn.Parameter(empty, requires_grad=False), None


def _copy(parameter: Tensor, found: read.Checkpoint, name: str, part: tuple[slice, ...]) -> None:
    """Fill a parameter; straight from the file where its bytes lie there in one piece."""
    entry = found[name]
    in_one_piece = part[1:] == tuple(slice(0, n) for n in entry.shape[1:])
    if in_one_piece and TORCH[entry.dtype] == parameter.dtype and parameter.device.type == "cpu":
        read_into(parameter.data, found, name, part[0])
        return
    # In pieces: to hold a big tensor a second time would take longer than to convert it.
    line = max(1, (entry.stop - entry.start) // max(entry.shape[0], 1))
    step = max(1, CHUNK // line)
    for row in range(part[0].start, part[0].stop, step):
        rows = slice(row, min(row + step, part[0].stop))
        here = slice(rows.start - part[0].start, rows.stop - part[0].start)
        parameter[here].copy_(tensor(found, name, (rows, *part[1:])))


class _HuggingFace:
    """Reads slices of whole tensors under their Hugging Face names."""

    def __init__(self, folder: Path, cfg: ModelConfig, run: Runtime, mtp: bool):
        self.tp, self.dtype = run.tp, run.dtype
        stored = open_model(folder, cfg)
        self.found, self.notes = stored.found, stored.notes
        self.cfg = replace(stored.cfg, n_mtp_layers=int(mtp and stored.cfg.n_mtp_layers > 0))
        self.rows = [r for r in stored.rows.values() if r.part != "mtp" or (mtp and r.name.startswith("mtp.0."))]

    def stored(self, row: Row, parameter: Tensor) -> None:
        _copy(parameter, self.found, row.hf, row.local(self.tp.rank, self.tp.size))

    def dequantised(self, row: Row) -> Tensor:
        """The rank's part in the model's dtype. A cut inside a block reads that whole block and then cuts."""
        part = row.local(self.tp.rank, self.tp.size)
        scale = tensor(self.found, row.scale().hf).float()
        blocks = tuple(slice(s.start // BLOCK, -(-s.stop // BLOCK)) for s in part)
        wide = tuple(slice(b.start * BLOCK, min(b.stop * BLOCK, n)) for b, n in zip(blocks, row.shape, strict=True))
        w = native.weight_dequant(tensor(self.found, row.hf, wide), scale[blocks], BLOCK, self.dtype)
        inside = (slice(s.start - a.start, s.stop - a.start) for s, a in zip(part, wide, strict=True))
        return w[tuple(inside)]


class _Converted:
    """Reads a rank's own files, whose tensors are cut already."""

    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path, cfg: ModelConfig, run: Runtime, mtp: bool):
        tp, self.dtype = run.tp, run.dtype
        files = [folder / read.converted_name("model", tp.rank, tp.size)]
        of_mtp = folder / read.converted_name("mtp", tp.rank, tp.size)
        if mtp and of_mtp.is_file():
            files.append(of_mtp)
        missing = [f.name for f in files if not f.is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: {read.some(missing)} missing; convert again")
        self.found = read.open_files(folder, files)
        self.cfg = replace(cfg, n_mtp_layers=int("mtp.0.eh_proj.weight" in self.found))
        mine = [r for r in layout(self.cfg) if tp.rank in r.holders(tp.size, cfg.n_routed_experts) and not r.copy_of]
        self.rows = list(as_stored(mine, {row.hf: row.name for row in mine}, self.found))
        shapes = {r.name: tuple(s.stop - s.start for s in r.local(tp.rank, tp.size)) for r in self.rows}
        check = {r.name: (shapes[r.name], r.kind) for r in self.rows}
        read.check(self.found, check, check.keys() | {n for n in self.found if n.startswith("mtp.")})

    def stored(self, row: Row, parameter: Tensor) -> None:
        _copy(parameter, self.found, row.name, tuple(slice(0, n) for n in parameter.shape))

    def dequantised(self, row: Row) -> Tensor:
        scale = tensor(self.found, row.scale().name).float()
        return native.weight_dequant(tensor(self.found, row.name), scale, BLOCK, self.dtype)


Source = _HuggingFace | _Converted
