"""What a Hugging Face folder really holds, held against its config: the one place where that is decided.

Strict where a wrong result would come out. What inference does not need, or what stands there in another form with the
same numbers, is left out, computed or carried, and a note says so. Only headers are read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import ModelConfig
from ..layout import Row, layout, mtp_layer
from ..outside import some
from .read import Checkpoint, Entry, check, open_folder

PLAIN = ("BF16", "F16", "F32")  # numbers that need no scale
FUSED = re.compile(r"(.+\.mlp\.experts)\.(gate_up_proj|down_proj)(?:\.weight)?(|_scale_inv)")
NOT_NEEDED = {  # names of tensors -> why nothing here needs them
    r".+\.rotary_emb\.(inv_freq|cos_cached|sin_cached)": "follows from config.json",
    r".+\.self_attn\.(attn\.)?[kv]_scale": "for a KV cache in FP8, which dsv3 does not keep",
}
LAYER = re.compile(r"model\.layers\.(\d{1,6})\.(.+)")
OF_MTP = re.compile(r"(eh_proj|enorm|hnorm|embed_tokens|shared_head)\.")


@dataclass(frozen=True)
class Stored:
    """A folder's tensors as they are.

    Attributes:
        cfg: the config, with the MTP layers that are there as a whole, and of dtype ``bf16`` if no matrix is FP8.
        rows: Hugging Face name -> its row of the table; of kind ``bf16`` also where an FP8 checkpoint left a matrix as
            it was (``modules_to_not_convert``). MTP's copies of embedding and head need not be among them.
        found: where the bytes of each lie, in the order of the files.
        notes: what is not as config.json says, a line each.
    """

    cfg: ModelConfig
    rows: dict[str, Row]
    found: Checkpoint
    notes: tuple[str, ...]


def open_model(folder: Path, cfg: ModelConfig) -> Stored:
    """The Hugging Face checkpoint in ``folder``, whose config says ``cfg``.

    Raises:
        OSError, ValueError: as ``open_folder`` and ``check``: a tensor is missing, unknown or misshapen.
    """
    whole = open_folder(folder, whole=False)  # what config.json's model needs is held against its table below
    notes = list(whole.notes)
    entries: dict[str, Entry] = {}
    for e in _one_by_one(whole.values(), cfg.n_routed_experts):
        if e.name in entries:
            raise ValueError(f"{folder}: {e.name} stands there by itself and among fused experts; remove one of them")
        entries[e.name] = e
    if len(entries) > len(whole):
        notes.append(f"{folder}: fused experts (gate_up_proj) are taken apart")
    for pattern, why in NOT_NEEDED.items():
        left = [name for name in entries if re.fullmatch(pattern, name)]
        notes += [f"{folder}: {some(left)} left out: {why}"] if left else []
        entries = _without(entries, left)
    if cfg.tie_word_embeddings and "model.embed_tokens.weight" in entries:
        entries["lm_head.weight"] = entries["model.embed_tokens.weight"]._replace(name="lm_head.weight")
        notes.append(f"{folder}: the head is the embedding (tie_word_embeddings)")
    n_mtp_layers, broken = _mtp(cfg, entries)
    if broken:
        notes.append(f"{folder}: {some(broken)} left out: not the whole MTP layer; the main model does not need it")
        entries = _without(entries, broken)
    if n_mtp_layers < cfg.n_mtp_layers and not broken:
        lacks = "the MTP layer" if not n_mtp_layers else f"{cfg.n_mtp_layers - n_mtp_layers} of the MTP layers"
        notes.append(f"{folder}: without {lacks} that config.json names; the main model does not need it")
    real = replace(cfg, n_mtp_layers=n_mtp_layers)
    table = [row for row in layout(real) if row.hf in entries or not row.copy_of]
    rows = {row.hf: row for row in as_stored(table, {row.hf: row.hf for row in table}, entries)}
    found = Checkpoint(folder, entries.values())
    needed = (row for row in rows.values() if not row.copy_of)
    check(found, {row.hf: (row.shape, row.kind) for row in needed}, rows.keys())
    matrices = [row.hf for row in table if row.kind == "fp8"]
    plain = [name for name in matrices if rows[name].kind != "fp8"]
    if plain and len(plain) == len(matrices):
        notes.append(f"{folder}: config.json has a quantization_config, but no matrix is FP8; read as they are")
        real = replace(real, dtype="bf16", scale_fmt=None)
    elif plain:
        notes.append(f"{folder}: {some(plain)} of {len(matrices)} matrices not in FP8; read as they are")
    return Stored(real, rows, found, tuple(notes))


def _without(entries: dict[str, Entry], names: Iterable[str]) -> dict[str, Entry]:
    left = set(names)
    return {name: e for name, e in entries.items() if name not in left} if left else entries


def as_stored(rows: Iterable[Row], names: Mapping[str, str], found: Mapping[str, Entry]) -> Iterator[Row]:
    """The rows as ``found`` has them: of kind ``bf16`` where a matrix is no FP8, and without its scale then.

    Args:
        names: a row's Hugging Face name -> its name in ``found``.
    """
    for row in rows:
        weight = row.scales or row
        entry = found.get(names[weight.hf])
        if weight.kind != "fp8" or entry is None or entry.dtype not in PLAIN or names[weight.scale().hf] in found:
            yield row
        elif row is weight:
            yield row._replace(kind="bf16")


def _one_by_one(entries: Iterable[Entry], n_experts: int) -> Iterator[Entry]:
    """Fused experts (transformers 5: [E, 2 I, D] and [E, D, I]) as an entry for each matrix: its bytes lie together."""
    for e in entries:
        match = FUSED.fullmatch(e.name)
        parts = ("gate_proj", "up_proj") if match and match[2] == "gate_up_proj" else ("down_proj",)
        if not match or len(e.shape) != 3 or e.shape[0] != n_experts or e.shape[1] % len(parts):
            yield e
            continue
        size = (e.stop - e.start) // (n_experts * len(parts))
        for i in range(n_experts * len(parts)):
            name = f"{match[1]}.{i // len(parts)}.{parts[i % len(parts)]}.weight{match[3]}"
            shape = (e.shape[1] // len(parts), e.shape[2])
            yield Entry(name, e.dtype, shape, e.file, e.start + i * size, e.start + (i + 1) * size)


def _mtp(cfg: ModelConfig, entries: Mapping[str, Entry]) -> tuple[int, list[str]]:
    """How many MTP layers are there as a whole, whatever config.json says, and the tensors of those that are not."""
    behind: dict[int, list[str]] = {}
    for name in entries:
        match = LAYER.fullmatch(name)
        if match and int(match[1]) >= cfg.n_layers:
            behind.setdefault(int(match[1]) - cfg.n_layers, []).append(name)
    n = 0
    while n in behind and _is_whole(cfg, n, entries):
        n += 1
    of_mtp = [
        names
        for layer, names in behind.items()
        if layer >= n and (layer < cfg.n_mtp_layers or any(OF_MTP.match(name.split(".", 3)[3]) for name in names))
    ]
    return n, [name for names in of_mtp for name in names]


def _is_whole(cfg: ModelConfig, layer: int, entries: Mapping[str, Entry]) -> bool:
    rows = list(mtp_layer(cfg, layer))
    stored = as_stored(rows, {row.hf: row.hf for row in rows}, entries)
    return all(row.hf in entries for row in stored if not row.copy_of)
