"""Which rank holds what of each tensor, and what that weighs."""

import re
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

from ..config import ModelConfig
from ..layout import Row, layout


def way(row: Row) -> str:
    """How a tensor gets to the ranks."""
    if row.expert is not None:
        return "whole experts"
    return {None: "a copy for every rank", 0: "cut by rows", 1: "cut by columns"}[row.cut]


def held(cfg: ModelConfig, ranks: int) -> list[Counter[str]]:
    """Bytes that each rank holds of the main model after a conversion, by ``way``."""
    found: list[Counter[str]] = [Counter() for _ in range(ranks)]
    for row in layout(replace(cfg, n_mtp_layers=0)):
        for rank in row.holders(ranks, cfg.n_routed_experts):
            shape = tuple([part.stop - part.start for part in row.local(rank, ranks)])
            found[rank][way(row)] += row._replace(shape=shape).nbytes
    return found


class Segment(NamedTuple):
    """A piece of a tensor, from ``begin`` to ``end`` (shares of its length, 0 to 1), that ``rank`` holds."""

    rank: int
    begin: float
    end: float


def segments(cfg: ModelConfig, ranks: int) -> dict[str, list[Segment]]:
    """How the tensors of a dense and of a MoE layer, embedding and head are cut: label -> pieces.

    No pieces: every rank holds a copy. All routed experts of the layer are one line.
    """
    wanted = replace(cfg, n_layers=cfg.n_dense_layers + 1, n_mtp_layers=0)
    lines: dict[str, list[Segment]] = {}
    for row in layout(wanted):
        layer = re.match(r"layers\.(\d+)\.(.+)", row.name)
        number = int(layer[1]) if layer else cfg.n_layers
        # Of the dense layers the first's feed-forward part is enough; attention is shown with the MoE layer.
        left_out = number < cfg.n_dense_layers and (number > 0 or "attn" in row.name)
        if row.is_scale or "norm" in row.name or left_out:
            continue
        name = (layer[2] if layer else row.name).removesuffix(".weight")
        if row.expert is not None:
            (rank,) = row.holders(ranks, cfg.n_routed_experts)
            n, name = cfg.n_routed_experts, f"{cfg.n_routed_experts} experts, each whole"
            pieces = [Segment(rank, row.expert / n, (row.expert + 1) / n)] if row.name.endswith("w1.weight") else []
        elif row.cut is None:
            name, pieces = f"{name}: copies", []
        else:
            parts = [row.local(rank, ranks)[row.cut] for rank in range(ranks)]
            n = row.shape[row.cut]
            pieces = [Segment(rank, p.start / n, p.stop / n) for rank, p in enumerate(parts) if p.stop > p.start]
            name = f"{name}: {('rows', 'columns')[row.cut]}"
        lines.setdefault(name, []).extend(pieces)
    return lines
