"""The Triton matrix product of a linear layer in FP8, ``fp8_gemm``; ``experts.py`` has that of an MoE layer.

Letters: M tokens, N outputs, K inputs. Weights are [N, K], as ``nn.Linear`` has them.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .hardware import Hardware, hardware_of
from .launch import Launch, run
from .quant import needs_fp8, power_of_two

GROUP_M = 8  # tiles of rows that are walked together, so that their weights stay in the L2 cache


@dataclass(frozen=True)
class Tile:
    """How a product is cut: the output tile of a program, the step along K, and how it is run."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int

    def shared(self, itemsize: int) -> int:
        """Bytes of shared memory for the operands in flight."""
        return self.num_stages * (self.BLOCK_M + self.BLOCK_N) * self.BLOCK_K * itemsize

    def options(self) -> tuple[dict[str, int], int, int]:
        """The kernels' compile-time constants, and with how many warps and stages they run."""
        sizes = {"BLOCK_M": self.BLOCK_M, "BLOCK_N": self.BLOCK_N, "BLOCK_K": self.BLOCK_K, "SWAP": self.BLOCK_M < 64}
        return sizes, self.num_warps, self.num_stages


# By the largest number of rows they serve: candidates, the default first. The bucket depends on the rows of this call
# alone, so ranks that compute the same thing take the same tile and round alike. The order is that of an H100
# (2026-11-26) over matrices of the 671B model: of 4,096 rows, the first took 1,181 us for attn.wo and the second 1,343;
# up to 16 rows the second is 1 to 6 % faster for attn.wo and 8 to 12 % slower for an expert. 32 rows: not measured.
TILES = {
    16: (Tile(16, 64, 128, 4, 4), Tile(16, 128, 128, 4, 4), Tile(16, 32, 128, 4, 5)),
    32: (Tile(32, 64, 128, 4, 4), Tile(32, 128, 128, 4, 4), Tile(32, 64, 128, 4, 3)),
    64: (Tile(64, 64, 128, 4, 4), Tile(64, 128, 128, 4, 4), Tile(64, 64, 128, 4, 3)),
    512: (Tile(64, 128, 128, 4, 4), Tile(128, 128, 128, 8, 4), Tile(64, 128, 128, 4, 3), Tile(64, 64, 128, 4, 3)),
    1 << 31: (Tile(128, 128, 128, 8, 3), Tile(128, 128, 128, 8, 4), Tile(128, 128, 64, 8, 3), Tile(64, 64, 128, 4, 3)),
}


def candidates(rows: int, hardware: Hardware, itemsize: int, block: int = 128) -> list[Tile]:
    """The tiles to try for so many rows, those that fit into shared memory, cut to the scale block; never empty.

    A step along K is BLOCK_K bytes of each operand's row.
    """
    bucket = next(limit for limit in TILES if rows <= limit)
    cut = [
        Tile(t.BLOCK_M, min(t.BLOCK_N, block), min(t.BLOCK_K, block) // itemsize, t.num_warps, t.num_stages)
        for t in TILES[bucket]
    ]
    fitting = [t for t in cut if t.shared(itemsize) <= hardware.shared]
    return list(dict.fromkeys(fitting)) or [Tile(16, 32, 32, 4, 2)]


def n_parts(m: int, n: int, k: int, tile: Tile, hardware: Hardware) -> int:
    """Into how many parts K is cut, so that few rows still keep all multiprocessors reading weights.

    Two programs per multiprocessor; no part shorter than four steps; and writing and reading the float32 parts must
    move fewer bytes than the FP8 operands do.
    """
    wanted = 2 * hardware.sms // max(1, triton.cdiv(m, tile.BLOCK_M) * triton.cdiv(n, tile.BLOCK_N))
    cheap = (m + n) * k // max(1, 8 * m * n)
    return max(1, min(wanted, k // tile.BLOCK_K // 4, cheap, 16))


@triton.jit
def scaled_dot(x, w, scale, SWAP: tl.constexpr):
    """x [BLOCK_M, BLOCK_K] times w [BLOCK_K, BLOCK_N] times each row's scale; transposed if SWAP.

    wgmma takes 64 rows or more: where there are fewer tokens, the weights' rows take their place.
    """
    if SWAP:
        product = tl.dot(tl.trans(w), tl.trans(x)) * scale[None, :]
    else:
        product = tl.dot(x, w) * scale[:, None]
    return product


@triton.jit
def fp8_gemm_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, out_ptr, M, N, K, parts,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr,
    GROUP_M: tl.constexpr, SWAP: tl.constexpr,
):  # fmt: skip
    """Each program: one output tile, over one of ``parts`` of K. ``BLOCK`` is the scales' block, 128."""
    m_tiles, n_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    tile, part = tl.program_id(0), tl.program_id(1)
    # GROUP_M rows of tiles, column by column.
    first_m = tile // (GROUP_M * n_tiles) * GROUP_M
    height = tl.minimum(m_tiles - first_m, GROUP_M)
    tile_m = first_m + tile % (GROUP_M * n_tiles) % height
    tile_n = tile % (GROUP_M * n_tiles) // height
    row0, column0 = tile_m.to(tl.int64) * BLOCK_M, tile_n.to(tl.int64) * BLOCK_N
    inner = tl.arange(0, BLOCK_K)
    # Rows beyond the edge read the last one again: cheaper than a mask in the loop, and never stored. Only the tile's
    # first element needs 64 bits; offsets inside it in 32 spare registers.
    a_row = tl.minimum(tl.arange(0, BLOCK_M), (M - 1 - row0).to(tl.int32))
    b_row = tl.minimum(tl.arange(0, BLOCK_N), (N - 1 - column0).to(tl.int32))
    a_tile = a_ptr + row0 * K + (a_row[:, None] * K + inner[None, :])
    b_tile = b_ptr + column0 * K + (b_row[None, :] * K + inner[:, None])
    a_scales = a_scale_ptr + row0 * (K // BLOCK) + a_row * (K // BLOCK)
    b_scales = b_scale_ptr + column0 // BLOCK * (K // BLOCK)
    steps = K // BLOCK_K
    acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAP else [BLOCK_M, BLOCK_N], tl.float32)
    for step in range(steps * part // parts, steps * (part + 1) // parts):
        k = step * BLOCK_K
        scale = tl.load(a_scales + k // BLOCK) * tl.load(b_scales + k // BLOCK)
        # Hopper's FP8 units add with about 14 bits: their sum is moved to float32 here, every BLOCK_K of K.
        acc += scaled_dot(tl.load(a_tile + k), tl.load(b_tile + k), scale, SWAP)
    if SWAP:
        acc = tl.trans(acc)
    rows, columns = row0 + tl.arange(0, BLOCK_M), column0 + tl.arange(0, BLOCK_N)
    at = (part.to(tl.int64) * M + rows[:, None]) * N + columns[None, :]
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def add_parts_kernel(parts_ptr, out_ptr, size, parts, BLOCK: tl.constexpr):
    """Each program: BLOCK numbers of the output, the sum of the float32 parts in a fixed order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    pointers = parts_ptr + at
    for _ in range(parts):
        total += tl.load(pointers, mask=at < size, other=0.0)
        pointers += size
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)


def plan_fp8_gemm(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    block: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    hardware: Hardware | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, list[Launch]]:
    """What ``fp8_gemm`` returns, still to be filled, and the launches that fill it; ``tile`` overrides the table's."""
    hardware = hardware or hardware_of(a.device)
    check_operands(a, a_scale, b, b_scale, block, "fp8_gemm")
    needs_fp8(hardware, "fp8_gemm")
    (n, k), m = b.shape, a.shape[:-1].numel()
    tile = tile or candidates(m, hardware, a.itemsize, block)[0]
    out = torch.empty(*a.shape[:-1], n, dtype=dtype, device=a.device)
    m_tiles, n_tiles = triton.cdiv(m, tile.BLOCK_M), triton.cdiv(n, tile.BLOCK_N)
    parts = n_parts(m, n, k, tile, hardware)
    sums = out if parts == 1 else torch.empty(parts, m, n, dtype=torch.float32, device=a.device)
    args: dict[str, Any] = {"a_ptr": a.contiguous(), "a_scale_ptr": a_scale.float().contiguous()}
    args |= {"b_ptr": b.contiguous(), "b_scale_ptr": b_scale.float().contiguous(), "out_ptr": sums}
    sizes, warps, stages = tile.options()
    args |= {"M": m, "N": n, "K": k, "parts": parts, "BLOCK": block, "GROUP_M": GROUP_M, **sizes}
    launches = [Launch(fp8_gemm_kernel, (m_tiles * n_tiles, parts), args, warps, stages)]
    if parts > 1:
        adding = {"parts_ptr": sums, "out_ptr": out, "size": m * n, "parts": parts, "BLOCK": 1024}
        launches.append(Launch(add_parts_kernel, (triton.cdiv(m * n, 1024),), adding))
    return out, launches


def check_operands(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, block: int, what: str) -> None:
    """Refuse operands of an FP8 product that do not fit together.

    Raises:
        ValueError: their shapes or dtypes, or ``block`` is no power of two.
    """
    power_of_two(block, f"{what}: block =", 32)
    if a.dtype != reference.FP8 or b.dtype != reference.FP8:
        raise ValueError(f"{what}: a is {a.dtype} and b is {b.dtype}; both must be {reference.FP8}")
    n, k = b.shape[-2:]
    if a.shape[-1] != k or k % block:
        raise ValueError(f"{what}: a has K = {a.shape[-1]} and b has K = {k}; both must be one multiple of {block}")
    wanted = {"a_scale": (a_scale, (*a.shape[:-1], k // block))}
    wanted["b_scale"] = (b_scale, (*b.shape[:-2], triton.cdiv(n, block), k // block))
    for name, (scale, shape) in wanted.items():
        if tuple(scale.shape) != tuple(shape):
            raise ValueError(f"{what}: {name} is {list(scale.shape)}; it must be {list(shape)}")


def fp8_gemm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """``(a * a_scale) @ (b * b_scale).T`` with float32 accumulation; the scales are applied per ``block`` of K.

    Few rows (M <= 64 on most shapes) are cut along K, too, and the parts are added in a fixed order: the same call
    gives the same bits.

    Args:
        a: [..., K] float8_e4m3fn with a_scale: [..., K / block] float32, as ``act_quant`` returns them.
        b: [N, K] float8_e4m3fn with b_scale: [ceil(N / block), K / block] float32; N may be ragged.
        dtype: of the result, rounded to once.

    Returns:
        [..., N] in ``dtype``; the reference's up to the order of float32 summation.

    Raises:
        ValueError: shapes, dtypes or the block do not fit, or the GPU has no FP8 units.

    Source: technical report, section 3.3.2 (fine-grained quantisation, increased accumulation precision).
    """
    out, launches = plan_fp8_gemm(a, a_scale, b, b_scale, block, dtype)
    run(launches)
    return out
