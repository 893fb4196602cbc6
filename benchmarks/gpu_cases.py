"""What a GPU run measures: each kernel at the 671B model's shapes, the bytes and operations it must do, its rivals.

A case makes fresh random inputs on the device and returns the calls to be timed; ``gpu.py`` times them side by side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsv3.compile import linear_shapes
from dsv3.config import BLOCK, ModelConfig
from dsv3.kernels import gemm, hardware, library, mla, reference
from dsv3.kernels import triton as kernels
from dsv3.kernels.launch import run
from dsv3.kernels.reference import FP8

COPY = "copy"  # a goal against this name is a share of the copy's bandwidth; others are speed-ups
Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """One set of inputs, ready to be worked on.

    Attributes:
        calls: ``"ours"`` and the rivals. missing: rivals that this torch does not have, and why.
        tiled: the same work as ours with a given tile.
    """

    calls: dict[str, Call]
    missing: dict[str, str] = field(default_factory=dict)
    tiled: Callable[[Any], Call] | None = None


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        group: rows that are summed up together.
        check: a name of ``gpu_checks.CHECKS``; where that is red, no speed is measured.
        nbytes: read and written at least; for a product of few rows, the weights' alone. flops: 2 per multiply-add.
        goals: a rival's name -> the least ratio.
        make: fresh inputs on the device.
        tiles: the candidates to be tried.
        hosted: rivals that wait for the device and so cannot be captured in a CUDA graph; host time counts.
    """

    group: str
    check: str
    shape: str
    nbytes: int
    flops: int
    goals: dict[str, float]
    make: Callable[[torch.device], Work]
    tiles: tuple[Any, ...] = ()
    hosted: tuple[str, ...] = ()


def cases(cfg: ModelConfig, seen: hardware.Hardware) -> Iterator[Case]:
    """The cases of what all models use, as the hardware's units allow; what has most shapes comes last."""
    shapes = linear_shapes(cfg)
    if seen.fp8:
        for m in (4096, 16384):
            yield act_quant(m, cfg.dim)
    for name in ("ffn.w1", "attn.wkv_a"):
        yield weight_dequant(name, *shapes[name])
    for context, share in ((4096, 0.7), (16384, 0.8)):  # an experiment's kernel in Gluon reached 0.71 and 0.85
        yield mla_decode(cfg, 32, context, share, seen)
    if seen.fp8:
        for m in (4096, 512, 1, 64, 16):
            for name, (n, k) in shapes.items():
                yield fp8_gemm(name, m, n, k, seen)


def numbers(*shape: int, device: torch.device) -> Tensor:
    """Random BF16."""
    return torch.randn(shape, device=device, dtype=torch.bfloat16)


def weights(n: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A random FP8 matrix and its scales, as a checkpoint has them."""
    scale = torch.rand(-(-n // BLOCK), -(-k // BLOCK), device=device) * 1e-3
    return numbers(n, k, device=device).mul_(100).clamp_(-448, 448).to(FP8), scale


def act_quant(m: int, k: int) -> Case:
    """BF16 in, FP8 and a float32 per 128 out."""

    def make(device: torch.device) -> Work:
        return Work({"ours": partial(kernels.act_quant, numbers(m, k, device=device))})

    nbytes = m * k * 3 + m * k // BLOCK * 4
    return Case("act_quant", "act_quant", f"{m} x {k}", nbytes, 0, {COPY: 0.85}, make)


def weight_dequant(name: str, n: int, k: int) -> Case:
    """FP8 in, BF16 out, a float32 per 128x128."""

    def make(device: torch.device) -> Work:
        return Work({"ours": partial(kernels.weight_dequant, *weights(n, k, device))})

    nbytes = n * k * 3 + -(-n // BLOCK) * -(-k // BLOCK) * 4
    return Case("weight_dequant", "weight_dequant", f"{name} {n} x {k}", nbytes, 0, {COPY: 0.85}, make)


def scaled_mm(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Call:
    """PyTorch's own product with the same block scales (cuBLAS on Hopper, CUDA 12.9 and later).

    Raises:
        RuntimeError, ValueError, NotImplementedError, TypeError: it does not have them here.
    """
    call = partial(library.scaled_mm, a, a_scale, b, b_scale)
    triton = gemm.fp8_gemm(a, a_scale, b, b_scale).float()
    error = (call().float() - triton).abs().max() / triton.abs().max()
    if not error < 0.02:
        raise RuntimeError(f"its result differs from Triton's by {error:.1%} of the largest number")
    return call


def fp8_gemm(name: str, m: int, n: int, k: int, seen: hardware.Hardware) -> Case:
    """A linear layer of the model, by what is chosen for it. Few rows: reading the weights is the work; many: the rest.

    ``triton``: our own kernel, where the library may have been chosen.
    """
    few = m <= 64

    def make(device: torch.device) -> Work:
        a, a_scale = kernels.act_quant(numbers(m, k, device=device), columns=not few)
        args = (a, a_scale, *weights(n, k, device))
        rows = (a, a_scale.contiguous(), *args[2:])
        calls: dict[str, Call] = {"ours": partial(kernels.fp8_gemm, *args)}
        calls["bf16"] = partial(torch.nn.functional.linear, numbers(m, k, device=device), args[2].to(torch.bfloat16))
        missing = {}
        if not few:
            calls["triton"] = partial(gemm.fp8_gemm, *rows)
            try:
                calls["scaled_mm"] = scaled_mm(*args)
            except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
                missing["scaled_mm"] = str(error).strip().splitlines()[0]
        return Work(calls, missing, lambda tile: lambda: run(gemm.plan_fp8_gemm(*rows, tile=tile)[1]))

    group = "fp8_gemm, M <= 64" if few else "fp8_gemm, M >= 512"
    goals = {COPY: 0.75} if few else {"scaled_mm": 0.98, "bf16": 1.4}
    nbytes = n * k if few else (m + n) * k + 2 * m * n
    tiles = tuple(gemm.candidates(m, seen, 1)) if name in ("attn.wo", "ffn.experts.0.w1") else ()
    return Case(
        group,
        "fp8_gemm" if few else "chosen_fp8_gemm",
        f"{name} {m} x {n} x {k}",
        nbytes,
        2 * m * n * k,
        goals,
        make,
        tiles,
    )


def mla_decode(cfg: ModelConfig, batch: int, context: int, share: float, seen: hardware.Hardware) -> Case:
    """One step of decoding with full caches; the bytes are the cache's, ``share`` of the copy's speed the goal.

    ``triton``: the kernel for every GPU, where that for Hopper may have been chosen.
    """
    h, rank, r = cfg.n_heads, cfg.kv_lora_rank, cfg.qk_rope_head_dim

    def make(device: torch.device) -> Work:
        q = numbers(batch, h, rank, device=device), numbers(batch, h, r, device=device)
        cache = numbers(batch, context, rank, device=device), numbers(batch, context, r, device=device)
        lengths = torch.full((batch,), context, dtype=torch.int32, device=device)
        args = (*q, *cache, lengths, cfg.qk_head_dim**-0.5)
        calls = {"ours": partial(kernels.mla_decode, *args), "triton": partial(mla.mla_decode, *args)}
        calls["reference"] = partial(reference.mla_decode, *args)
        return Work(calls, tiled=lambda tile: lambda: run(mla.plan_mla_decode(*args, tile=tile)[1]))

    tokens, goals = batch * context, {COPY: share, "reference": 5.0}
    shape, flops = f"{batch} x {context}, {h} heads", 2 * tokens * h * (2 * rank + r)
    tiles = tuple(mla.candidates(h, 2, seen))
    return Case("mla_decode", "chosen_mla_decode", shape, tokens * (rank + r) * 2, flops, goals, make, tiles)


def experts_weights(e: int, n: int, k: int, fp8: bool, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """[E, n, k] and, in FP8, their scales; one expert's numbers, turned: 256 times fewer to draw."""
    one, scale = weights(n, k, device)
    w = torch.empty(e, n, k, dtype=FP8 if fp8 else torch.bfloat16, device=device)
    for i in range(e):
        w[i].view(-1).copy_(one.view(torch.int8).roll(i, 0).view(FP8).view(-1))
    return w, scale.expand(e, -1, -1).contiguous() if fp8 else None


def experts_hit(cfg: ModelConfig, batch: int) -> int:
    """How many routed experts an even router sends a token to: each is missed by one with 1 - used / all."""
    experts = cfg.n_routed_experts
    return round(experts * (1 - (1 - cfg.n_activated_experts / experts) ** batch))


def copy_call(device: torch.device, nbytes: int = 1 << 30) -> tuple[Call, int]:
    """A device-to-device copy far larger than any cache -> the call, and the bytes it reads and writes."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    return partial(torch.empty_like(source).copy_, source), 2 * nbytes
