"""Triton kernels that sort the slots of all tokens by expert and cut each expert's rows into tiles.

S slots = M tokens x A of each; E experts. How many rows an expert has is known on the device alone.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference_step
from .launch import Launch, run
from .reference_step import Slots

FEW = 64  # tokens; one program sorts their slots, those of more are counted first
CHUNK = 128  # slots that a program counts, and then puts in their places


@triton.jit
def store_tiles(tiles_ptr, ends_ptr, e, E, count, ROWS: tl.constexpr, AT_ONCE: tl.constexpr):
    """Of the rows that each expert has, [EXPERTS]: where they end, and the tiles. -> where they begin."""
    end, tiles = tl.cumsum(count, 0), (count + ROWS - 1) // ROWS
    tile = tl.cumsum(tiles, 0) - tiles
    tl.store(ends_ptr + e, end, mask=e < E)
    for first in range(0, tl.max(tiles, 0), AT_ONCE):
        j = first + tl.arange(0, AT_ONCE)[:, None]
        at = tiles_ptr + 1 + (tile[None, :] + j) * 3
        tl.store(at, tl.broadcast_to(e[None, :], at.shape), mask=j < tiles[None, :])
        tl.store(at + 1, (end - count)[None, :] + j * ROWS, mask=j < tiles[None, :])
        tl.store(at + 2, tl.broadcast_to(end[None, :], at.shape), mask=j < tiles[None, :])
    tl.store(tiles_ptr, tl.sum(tiles, 0))
    return end - count


@triton.jit
def load_experts(id_ptr, s, S, E, NONE: tl.constexpr):
    """The expert of each slot, E for another rank's, NONE where there is no slot."""
    e = tl.load(id_ptr + s, mask=s < S, other=0)
    e = tl.where((e < 0) | (e >= E), E, e)
    return tl.where(s < S, e, NONE)


@triton.jit
def sort_kernel(
    id_ptr, order_ptr, rank_ptr, tiles_ptr, ends_ptr, S, E,
    ROWS: tl.constexpr, EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """The only program: each slot counts those before it."""
    s, e = tl.arange(0, SLOTS), tl.arange(0, EXPERTS)
    mine = load_experts(id_ptr, s, S, E, EXPERTS)
    count, rank = tl.zeros([EXPERTS], tl.int32), tl.zeros([SLOTS], tl.int32)
    for first in range(0, S, TOGETHER):
        o = first + tl.arange(0, TOGETHER)
        other = load_experts(id_ptr, o, S, E, EXPERTS)
        count += tl.sum(((other[None, :] == e[:, None]) & (e < E)[:, None]).to(tl.int32), 1)
        before = (other[None, :] < mine[:, None]) | ((other[None, :] == mine[:, None]) & (o[None, :] < s[:, None]))
        rank += tl.sum(before.to(tl.int32), 1)
    tl.store(order_ptr + rank, s, mask=s < S)
    tl.store(rank_ptr + s, tl.where(mine < E, rank, -1), mask=s < S)
    store_tiles(tiles_ptr, ends_ptr, e, E, count, ROWS, 1)


@triton.jit
def count_kernel(
    id_ptr, count_ptr, S, E, EXPERTS: tl.constexpr, CHUNK: tl.constexpr, TOGETHER: tl.constexpr
):  # fmt: skip
    """Each program: how many of CHUNK slots each expert has, and, as number E, the other ranks."""
    chunk, e = tl.program_id(0), tl.arange(0, EXPERTS)
    count = tl.zeros([EXPERTS], tl.int32)
    for first in range(0, CHUNK, TOGETHER):
        mine = load_experts(id_ptr, chunk * CHUNK + first + tl.arange(0, TOGETHER), S, E, EXPERTS)
        count += tl.sum((mine[None, :] == e[:, None]).to(tl.int32), 1)
    tl.store(count_ptr + chunk * EXPERTS + e, count)


@triton.jit
def scan_kernel(
    count_ptr, tiles_ptr, ends_ptr, chunks, E, ROWS: tl.constexpr, EXPERTS: tl.constexpr, TOGETHER: tl.constexpr
):
    """The only program: the counts become the rows at which each chunk's slots of each expert begin; and the tiles."""
    e, c = tl.arange(0, EXPERTS), tl.arange(0, TOGETHER)
    count = tl.zeros([EXPERTS], tl.int32)
    for first in range(0, chunks, TOGETHER):
        at = count_ptr + (first + c)[:, None] * EXPERTS + e[None, :]
        count += tl.sum(tl.load(at, mask=(first + c < chunks)[:, None], other=0), 0)
    begin = store_tiles(tiles_ptr, ends_ptr, e, E, tl.where(e < E, count, 0), ROWS, TOGETHER)
    for first in range(0, chunks, TOGETHER):
        at = count_ptr + (first + c)[:, None] * EXPERTS + e[None, :]
        some = tl.load(at, mask=(first + c < chunks)[:, None], other=0)
        tl.store(at, begin[None, :] + tl.cumsum(some, 0) - some, mask=(first + c < chunks)[:, None])
        begin += tl.sum(some, 0)


@triton.jit
def place_kernel(
    id_ptr, count_ptr, order_ptr, rank_ptr, S, E, EXPERTS: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """Each program: CHUNK slots go where those of their expert begin, behind the chunk's earlier ones."""
    chunk, i = tl.program_id(0), tl.arange(0, CHUNK)
    s = chunk * CHUNK + i
    mine = load_experts(id_ptr, s, S, E, EXPERTS)
    rank = tl.load(count_ptr + chunk * EXPERTS + mine, mask=s < S, other=0)
    rank += tl.sum(((mine[None, :] == mine[:, None]) & (i[None, :] < i[:, None])).to(tl.int32), 1)
    tl.store(order_ptr + rank, s, mask=s < S)
    tl.store(rank_ptr + s, tl.where(mine < E, rank, -1), mask=s < S)


def plan_sort_slots(ids: Tensor, experts: int) -> tuple[Slots, list[Launch]]:
    """What ``sort_slots`` returns, still to be filled, and the launches that fill it."""
    (m, a), s, ids = ids.shape, ids.numel(), ids.contiguous()
    rows = reference_step.tile_rows(s, experts)
    sizes = (s,), (m, a), (1 + 3 * (s // rows + min(experts, s)),), (experts,)
    order, rank, tiles, ends = (torch.empty(size, dtype=torch.int32, device=ids.device) for size in sizes)
    out = Slots(order, rank, tiles, ends, rows)
    slots, known = triton.next_power_of_2(s), {"S": s, "E": experts, "EXPERTS": triton.next_power_of_2(experts + 1)}
    placed: dict[str, Any] = {"id_ptr": ids, "order_ptr": order, "rank_ptr": rank}
    cut: dict[str, Any] = {"tiles_ptr": tiles, "ends_ptr": ends, "ROWS": rows}
    if m <= FEW:
        args = placed | cut | known | {"SLOTS": slots, "TOGETHER": min(32, slots)}
        return out, [Launch(sort_kernel, (1,), args, num_warps=4 if s < 64 else 16)]
    chunks = triton.cdiv(s, CHUNK)
    count = torch.empty(chunks, known["EXPERTS"], dtype=torch.int32, device=ids.device)
    scan = {"count_ptr": count, **cut, "chunks": chunks, "E": experts, "EXPERTS": known["EXPERTS"], "TOGETHER": 16}
    return out, [
        Launch(
            count_kernel, (chunks,), {"id_ptr": ids, "count_ptr": count, **known, "CHUNK": CHUNK, "TOGETHER": 32}, 8
        ),
        Launch(scan_kernel, (1,), scan, 16),
        Launch(place_kernel, (chunks,), placed | {"count_ptr": count, **known, "CHUNK": CHUNK}, 8),
    ]


def sort_slots(ids: Tensor, experts: int) -> Slots:
    """``reference.sort_slots`` in one launch for up to 64 tokens, in three for more."""
    if not len(ids):
        return reference_step.sort_slots(ids, experts)
    out, launches = plan_sort_slots(ids, experts)
    run(launches)
    return out
