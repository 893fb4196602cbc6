"""MLA decoding over long contexts on Hopper: when the kernel in Gluon (mla_gluon.py) takes the place of mla.py's.

With 128 heads on an H100 (2026-11-26, Triton 3.6) it takes 13.1 us over a full cache of 1 x 4,096 tokens where mla.py's
takes 17.5, 21.6 and 30.9 over 1 x 16,384, 16.4 and 19.8 over 8 x 1,024, 51.9 and 86.0 over 32 x 2,048: the parts
alone, ``benchmarks/results/h100/mla-hopper.json``. The experiment that it comes from took 88 us and 143 over
32 x 4,096, 291 and 507 over 32 x 16,384. Gluon changes from version to version: the first call tries a small example.
"""

import math
import re
import warnings
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from . import mla, reference
from .hardware import Hardware, hardware_of
from .launch import Launch, run

RUN_ON = ((3, 6),)  # the Triton versions that it has been run with; with 3.7 it was only compiled
HEADS, TOKENS = 64, 64  # of a program, and of its steps
WIDTHS = (512, 64)  # C and R; the kernel is written for DeepSeek's
LEAST = 4096  # tokens in all caches together: over 1 x 2,048 it takes 11.1 us and mla.py's 9.9; between: not measured
REGISTERS = 168  # of a thread; 12 warps have 65,536


def lacking(device: torch.device) -> str | None:
    """Why the kernel is not tried on ``device``; None if it is."""
    name = hardware_of(device).name if device.type == "cuda" else device.type
    if name != "sm_90":
        return f"{name} is not Hopper (sm_90)"
    if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) not in RUN_ON:
        known = ", ".join(".".join(map(str, version)) for version in RUN_ON)
        return f"Triton {triton.__version__}: it has been run with {known} only"
    return None


def suits(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor) -> bool:
    """Whether the kernel can compute it, and was faster where it was measured; by shapes, strides and dtypes alone.

    Measured were 128 heads and one new token a sequence. Over caches that are nearly empty both take the same time.
    """
    return (
        q_c.dtype == torch.bfloat16
        and len(q_c) > 0
        and q_c.shape[1] >= HEADS
        and (c.shape[2], k_pe.shape[2]) == WIDTHS
        and c.shape[0] * c.shape[1] >= LEAST
        and rows_apart(c, k_pe) is not None
    )


def rows_apart(c: Tensor, k_pe: Tensor) -> int | None:
    """How many rows after a sequence's first the next one's first is; None where TMA cannot read the two caches.

    TMA reads tiles of a matrix: each cache must be one, [rows, width], in which the sequences lie equally far apart.
    Its rows may be parts of longer ones, as those of ``kept.split(...)`` are, that begin at multiples of 16 bytes.
    """
    apart = set()
    for x in (c, k_pe):
        sequence, row, column = x.stride()
        if column != 1 or row < x.shape[2] or row * x.itemsize % 16 or x.data_ptr() % 16:
            return None
        if len(x) > 1 and sequence % row:
            return None
        apart.add(sequence // row if len(x) > 1 else x.shape[1])
    return apart.pop() if len(apart) == 1 else None


@cache
def works(device: torch.device) -> bool:
    """Whether the kernel runs on ``device`` and is right there: tried once, on a small example.

    Not while a CUDA graph is being captured, where nothing can be compared: a step is called before it is captured
    (``inference/graph.py``), and where it was not, mla.py's kernel stays.
    """
    if lacking(device):
        return False
    try:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a CUDA graph was being captured at its first use")
        q_c, q_pe, c, k_pe, lengths = (x.to(device) for x in example())
        out, launches = plan_mla_decode(q_c, q_pe, c, k_pe, lengths, 0.04)
        run(launches)
        off = (out.cpu().float() - reference.mla_decode(*example(), 0.04).float()).abs().max().item()
        if not off < 0.02:  # weights and result are rounded to BF16, which moves it by 2^-9 of the largest latent, 5
            raise RuntimeError(f"its result on a small example is off by {off:.3g}")
    except Exception as error:  # whatever this Triton makes of Gluon, the other kernel is there
        why = " ".join(str(error).split())
        warnings.warn(f"attention for Hopper is not used on {device}, but mla.py's: {why:.200}", stacklevel=2)
        return False
    return True


def example() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, caches and lengths of 2 sequences with 2 new tokens each, on the CPU; NaN stands behind the first's end.

    100 heads fill no block, and one token sees nothing.
    """
    draw = torch.Generator().manual_seed(0)
    shapes = (4, 100, WIDTHS[0]), (4, 100, WIDTHS[1]), (2, 300, sum(WIDTHS))
    q_c, q_pe, kept = (torch.randn(shape, generator=draw).bfloat16() for shape in shapes)
    kept[0, 131:] = math.nan
    c, k_pe = kept.split(WIDTHS, dim=-1)
    return q_c, q_pe, c, k_pe, torch.tensor([130, 131, 0, 300], dtype=torch.int32)


def plan_mla_parts(
    q_c: Tensor,
    q_pe: Tensor,
    c: Tensor,
    k_pe: Tensor,
    lengths: Tensor,
    softmax_scale: float,
    hardware: Hardware | None = None,
) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """As ``mla.plan_mla_parts``, with the kernel for Hopper; any number of heads and tokens from 1 on.

    Raises:
        ValueError: shapes or dtypes do not fit, or TMA cannot read the caches.
        ImportError, AttributeError: this Triton has no Gluon, or another.
    """
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from .mla_gluon import mla_hopper_kernel

    reference.check_mla(q_c, q_pe, c, k_pe, lengths)
    (m, h, rank), r, (b, t, _) = q_c.shape, q_pe.shape[2], c.shape
    rows = rows_apart(c, k_pe)
    if (rank, r) != WIDTHS or q_c.dtype != torch.bfloat16 or rows is None or not min(m, h, t):
        raise ValueError(
            f"mla_hopper: q_c is {q_c.dtype} {list(q_c.shape)}, c {list(c.shape)} with strides {list(c.stride())}, "
            f"k_pe {list(k_pe.shape)} with {list(k_pe.stride())}; it takes torch.bfloat16, the widths {WIDTHS} and "
            "rows at multiples of 16 bytes, the sequences equally far apart"
        )
    hardware = hardware or hardware_of(q_c.device)
    blocks = triton.cdiv(h, HEADS)
    splits = mla.n_splits(m * blocks, t, TOKENS, hardware)

    def described(x: Tensor, height: int, width: int, stride: int) -> TensorDescriptor:
        """What the kernel's copies read: tiles of 64 rows of a matrix; rows beyond its last are zeros."""
        layout = gl.NVMMASharedLayout.get_default_for([TOKENS, width], gl.bfloat16)
        return TensorDescriptor(x, [height, width], [stride, 1], [TOKENS, width], layout)

    part = torch.empty(m, h, splits, rank, dtype=torch.float32, device=q_c.device)
    lse = torch.empty(m, h, splits, dtype=torch.float32, device=q_c.device)
    args: dict[str, Any] = {
        "q_c_desc": described(q_c.contiguous(), m * h, rank, rank),
        "q_pe_desc": described(q_pe.contiguous(), m * h, r, r),
        "c_desc": described(c, (b - 1) * rows + t, rank, c.stride(1)),
        "k_pe_desc": described(k_pe, (b - 1) * rows + t, r, k_pe.stride(1)),
    }
    args |= {"lengths_ptr": lengths.contiguous(), "part_ptr": part, "lse_ptr": lse}
    args |= {"scale_log2e": softmax_scale * math.log2(math.e), "H": h, "T": t, "splits": splits}
    args |= {"per": m // b, "rows": rows}
    launch = Launch(mla_hopper_kernel, (splits, blocks, m), args, registers=REGISTERS)
    return (part, lse), [launch]


def plan_mla_decode(
    q_c: Tensor,
    q_pe: Tensor,
    c: Tensor,
    k_pe: Tensor,
    lengths: Tensor,
    softmax_scale: float,
    hardware: Hardware | None = None,
) -> tuple[Tensor, list[Launch]]:
    """As ``mla.plan_mla_decode``, with the kernel for Hopper. Errors as ``plan_mla_parts``."""
    parts, launches = plan_mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale, hardware)
    out, combine = mla.plan_combine(*parts, q_c)
    return out, [*launches, combine]


def chosen(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor) -> bool:
    """Whether this kernel computes it: depends on shapes, strides, dtypes and the device alone.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    reference.check_mla(q_c, q_pe, c, k_pe, lengths)
    return q_c.is_cuda and suits(q_c, q_pe, c, k_pe) and works(q_c.device)


def mla_parts(
    q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float
) -> tuple[Tensor, Tensor]:
    """``mla.mla_parts``, over long caches on Hopper by its own kernel; arguments, results, errors as there."""
    if not chosen(q_c, q_pe, c, k_pe, lengths):
        return mla.mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    out, launches = plan_mla_parts(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    run(launches)
    return out


def mla_decode(q_c: Tensor, q_pe: Tensor, c: Tensor, k_pe: Tensor, lengths: Tensor, softmax_scale: float) -> Tensor:
    """``mla.mla_decode``, over long caches on Hopper by its own kernel; arguments, results, errors as there."""
    if not chosen(q_c, q_pe, c, k_pe, lengths):
        return mla.mla_decode(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    out, launches = plan_mla_decode(q_c, q_pe, c, k_pe, lengths, softmax_scale)
    run(launches)
    return out
