"""Fills a model from a folder: a Hugging Face checkpoint or converted files, each rank its own slices."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..checkpoint import read
from ..checkpoint.plan import CHUNK
from ..config import BLOCK, ModelConfig
from ..kernels import native
from ..layout import Row, layout
from ..model import Transformer
from ..runtime import Runtime

Shapes = dict[str, tuple[tuple[int, ...], str]]  # a tensor's name -> its shape, and how it is stored
TORCH = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def tensor(found: read.Checkpoint, name: str, part: tuple[slice, ...] | None = None) -> Tensor:
    """A tensor, or the slices ``part`` of it, as stored; only the rows that are needed are read."""
    entry = found[name]
    rows = part[0] if part and entry.shape[0] else None
    shape = ((rows.stop - rows.start), *entry.shape[1:]) if rows else entry.shape
    whole = torch.empty(shape, dtype=TORCH[entry.dtype])
    read_into(whole, found, name, rows)
    return whole[(slice(None), *part[1:])] if part else whole


def read_into(whole: Tensor, found: read.Checkpoint, name: str, rows: slice | None) -> None:
    """Fill a contiguous CPU tensor with a stored one of its type, or with some rows of that."""
    if whole.numel():
        found.read(name, rows, whole.view(-1).view(torch.uint8).numpy().data)


def load(model: Transformer, folder: Path, cfg: ModelConfig, source: "Source | None" = None) -> None:
    """Read every parameter of ``model`` from ``folder``, whose checkpoint is described by ``cfg``.

    FP8 weights that the model does not hold as FP8 are dequantised here, once. Peak memory: the model and one tensor.

    Args:
        source: what ``find`` gave, if it was asked before the model was made.

    Raises:
        ValueError: as ``find``.
    """
    source = source or find(folder, cfg, model.cfg.n_mtp_layers, model.run)
    with torch.no_grad():
        for row, parameter in _parameters(model, cfg):
            if _unquantise(row, parameter):
                parameter.copy_(source.dequantised(row))
            else:
                source.stored(row, parameter)


def find(folder: Path, cfg: ModelConfig, n_mtp_layers: int, run: Runtime) -> "Source":
    """The folder's tensors, their headers held against ``cfg``: numbers of a config that are wrong cost no memory.

    Args:
        n_mtp_layers: those that the model will have.

    Raises:
        FileNotFoundError: no such folder, or a file is missing.
        ValueError: the folder was converted for another number of ranks, or a tensor is missing, unknown or misshapen.
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
    rows = list(_rows(cfg, n_mtp_layers))
    if sizes:
        return _Converted(folder, cfg, rows, n_mtp_layers, run)
    return _HuggingFace(folder, cfg, rows, run)


def fingerprints(model: Transformer) -> dict[str, str]:
    """A short hash per one-dimensional parameter (norms, gate biases): every rank holds them whole, so all must agree.

    A fraction of the model, read once more: two checkpoints that differ at all mostly differ there.
    """
    return {
        name: hashlib.blake2b(p.detach().cpu().view(torch.uint8).numpy().data, digest_size=8).hexdigest()
        for name, p in model.named_parameters()
        if p.dim() == 1
    }


def _parameters(model: Transformer, cfg: ModelConfig) -> Iterator[tuple[Row, Tensor]]:
    """Each parameter of the model with its row of the table."""
    ours = dict(model.named_parameters())
    tp = model.run.tp
    for row in _rows(cfg, model.cfg.n_mtp_layers):
        if row.name in ours:
            yield row, ours.pop(row.name)
        elif not row.is_scale and tp.rank in row.holders(tp.size, cfg.n_routed_experts):
            raise ValueError(f"{row.name}: in the table of tensors, but not in the model")
    if ours:
        raise ValueError(f"not in the table of tensors: {read.some(list(ours))}")


def _rows(cfg: ModelConfig, n_mtp_layers: int) -> Iterator[Row]:
    """The rows of ``cfg``'s table that the model uses; it may have been built without the MTP layers."""
    return (row for row in layout(replace(cfg, n_mtp_layers=n_mtp_layers)) if row.copy_of is None)


def _unquantise(row: Row, parameter: Tensor) -> bool:
    return row.kind == "fp8" and parameter.dtype != torch.float8_e4m3fn


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

    def __init__(self, folder: Path, cfg: ModelConfig, rows: list[Row], run: Runtime):
        self.found, self.tp, self.dtype = read.open_model(folder, rows, layout(cfg)), run.tp, run.dtype

    def stored(self, row: Row, parameter: Tensor) -> None:
        _copy(parameter, self.found, row.hf, row.local(self.tp.rank, self.tp.size))

    def dequantised(self, row: Row) -> Tensor:
        """The rank's part in the model's dtype. A cut inside a block reads that whole block and then cuts."""
        part = row.local(self.tp.rank, self.tp.size)
        scale = tensor(self.found, row.scale().hf)
        blocks = tuple(slice(s.start // BLOCK, -(-s.stop // BLOCK)) for s in part)
        wide = tuple(slice(b.start * BLOCK, min(b.stop * BLOCK, n)) for b, n in zip(blocks, row.shape, strict=True))
        w = native.weight_dequant(tensor(self.found, row.hf, wide), scale[blocks], BLOCK, self.dtype)
        inside = (slice(s.start - a.start, s.stop - a.start) for s, a in zip(part, wide, strict=True))
        return w[tuple(inside)]


class _Converted:
    """Reads a rank's own files, whose tensors are cut already."""

    def __init__(self, folder: Path, cfg: ModelConfig, rows: list[Row], n_mtp_layers: int, run: Runtime):
        tp, self.dtype = run.tp, run.dtype
        kinds: tuple[Literal["model", "mtp"], ...] = ("model", "mtp") if n_mtp_layers else ("model",)
        files = [folder / read.converted_name(kind, tp.rank, tp.size) for kind in kinds]
        missing = [f.name for f in files if not f.is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: {read.some(missing)} missing; convert again")
        self.found = read.open_files(folder, files)
        wanted: Shapes = {}
        for row in rows:
            if tp.rank in row.holders(tp.size, cfg.n_routed_experts):
                part = row.local(tp.rank, tp.size)
                wanted[row.name] = (tuple(s.stop - s.start for s in part), row.kind)
        read.check(self.found, wanted, set(wanted))

    def stored(self, row: Row, parameter: Tensor) -> None:
        _copy(parameter, self.found, row.name, tuple(slice(0, n) for n in parameter.shape))

    def dequantised(self, row: Row) -> Tensor:
        scale = tensor(self.found, row.scale().name)
        return native.weight_dequant(tensor(self.found, row.name), scale, BLOCK, self.dtype)


Source = _HuggingFace | _Converted
