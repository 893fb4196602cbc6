"""What a GPU run measures of a decode step's kernels: at the 671B model's widths, for one sequence and for many.

Their rival is the torch reference on the same device, which takes five to ten launches and, for the experts, waits for
the device. No FP8 units, no FP8 cases.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from dsv3.config import ModelConfig
from dsv3.kernels import experts, hardware, reference
from dsv3.kernels import triton as kernels
from dsv3.kernels.launch import run

from .gpu_cases import COPY, Call, Case, Work, experts_hit, experts_weights, numbers
from .gpu_cases import cases as single_cases

BATCHES = (1, 32)
POSITIONS, CONTEXT = 4096, 1024
FUSED = {"reference": 3.0}  # an experiment's kernels were 3.3 and 3.7 times torch's operations, at one token
EPS = 1e-6


def cases(cfg: ModelConfig, seen: hardware.Hardware) -> Iterator[Case]:
    """All cases of a run, a decode step's first."""
    for batch in BATCHES:
        yield from (make(cfg, batch, seen.fp8) for make in (add_norm, silu_mul, latent, unfold))
        yield from (make(cfg, batch) for make in (absorb, gate_logits, route, sort_slots, head_logits))
        yield from (experts_gemm(cfg, batch, fp8, seen) for fp8 in ((True, False) if seen.fp8 else (False,)))
    yield from single_cases(cfg, seen)


def both(name: str, *args: object, **options: object) -> Work:
    """A kernel and its reference on the same inputs."""
    return Work({"ours": partial(getattr(kernels, name), *args, **options),
                 "reference": partial(getattr(reference, name), *args, **options)})  # fmt: skip


def case(
    name: str, shape: str, nbytes: int, flops: int, make: Callable[[torch.device], Work], goals: dict[str, float]
) -> Case:
    """A row under the kernel's own name."""
    return Case(name, name, shape, nbytes, flops, goals, make)


def slots_of(cfg: ModelConfig, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The weights and ids [M, A] of an even router, the shared experts behind them."""
    logits = torch.randn(1, batch, cfg.n_routed_experts, device=device)
    return kernels.route(logits, None, cfg.n_activated_experts, shared=cfg.n_shared_experts)


def rotations(cfg: ModelConfig, device: torch.device) -> Tensor:
    """[positions, R / 2, 2] cosines and sines."""
    angle = torch.rand(POSITIONS, cfg.qk_rope_head_dim // 2, device=device)
    return torch.stack([angle.cos(), angle.sin()], -1)


def add_norm(cfg: ModelConfig, batch: int, fp8: bool) -> Case:
    """Behind a layer of experts: their rows weighed, the residual sum, its norm and FP8."""
    d, a = cfg.dim, cfg.n_activated_experts + cfg.n_shared_experts

    def make(device: torch.device) -> Work:
        h, part = numbers(batch, d, device=device), numbers(batch * a, d, device=device)
        share, ids = slots_of(cfg, batch, device)
        slots = kernels.sort_slots(ids, cfg.n_routed_experts + cfg.n_shared_experts).rank, share
        weight = torch.ones(d, device=device)
        return both("add_norm", h, part, weight, EPS, slots=slots, fp8=fp8)

    nbytes = batch * d * (2 + 2 * a + 2 + 2 + fp8)
    return case("add_norm", f"{batch} x {d}, {a} slots", nbytes, 2 * batch * a * d, make, FUSED)


def silu_mul(cfg: ModelConfig, batch: int, fp8: bool) -> Case:
    """An expert's activation, for all slots."""
    rows, x = batch * (cfg.n_activated_experts + cfg.n_shared_experts), cfg.moe_inter_dim

    def make(device: torch.device) -> Work:
        return both("silu_mul", numbers(rows, 2 * x, device=device), fp8)

    return case("silu_mul", f"{rows} x {x}", rows * x * (4 + (1 if fp8 else 2)), 0, make, FUSED)


def latent(cfg: ModelConfig, batch: int, fp8: bool) -> Case:
    """Behind attention's first product."""
    q, c, r = cfg.q_lora_rank, cfg.kv_lora_rank, cfg.qk_rope_head_dim

    def make(device: torch.device) -> Work:
        first, kept = numbers(batch, q + c + r, device=device), numbers(batch, CONTEXT, c + r, device=device)
        at = torch.full((batch,), CONTEXT // 2, device=device)
        norms = torch.ones(c, device=device), EPS, torch.ones(q, device=device)
        return both("latent", first, rotations(cfg, device), at, kept, *norms, fp8)

    return case("latent", f"{batch} x {q + c + r}", batch * (q + c + r) * 4, 0, make, {})


def absorb(cfg: ModelConfig, batch: int) -> Case:
    """The queries times the keys' matrix."""
    h, n, r, c = cfg.n_heads, cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.kv_lora_rank

    def make(device: torch.device) -> Work:
        q, key = numbers(batch, h * (n + r), device=device), numbers(h, c, n, device=device)
        return both("absorb", q, rotations(cfg, device), torch.zeros(batch, dtype=torch.long, device=device), key)

    nbytes = 2 * h * (c * n + batch * (n + 2 * r + c))
    return case("absorb", f"{batch} x {h} heads", nbytes, 2 * batch * h * c * n, make, {})


def unfold(cfg: ModelConfig, batch: int, fp8: bool) -> Case:
    """The parts of attention times the values' matrix."""
    h, p, c, splits = cfg.n_heads, cfg.v_head_dim, cfg.kv_lora_rank, 8

    def make(device: torch.device) -> Work:
        part = torch.randn(batch, h, splits, c, device=device)
        return both("unfold", part, torch.randn(batch, h, splits, device=device), numbers(h, p, c, device=device), fp8)

    nbytes = h * (2 * c * p + batch * (4 * splits * (c + 1) + (1 if fp8 else 2) * p))
    return case("unfold", f"{batch} x {h} heads, {splits} parts", nbytes, 2 * batch * h * c * p, make, {})


def gate_logits(cfg: ModelConfig, batch: int) -> Case:
    """The router's product."""
    d, e = cfg.dim, cfg.n_routed_experts

    def make(device: torch.device) -> Work:
        return both("gate_logits", numbers(batch, d, device=device), numbers(e, d, device=device))

    return case("gate_logits", f"{batch} x {e} x {d}", 2 * (batch + e) * d, 2 * batch * e * d, make, {})


def head_logits(cfg: ModelConfig, batch: int) -> Case:
    """The head, in BF16 with float32 sums."""
    d, v = cfg.dim, cfg.vocab_size

    def make(device: torch.device) -> Work:
        return both("head_logits", numbers(batch, d, device=device), numbers(v, d, device=device))

    return case("head_logits", f"{batch} x {v} x {d}", 2 * v * d, 2 * batch * v * d, make, {COPY: 1.1})


def route(cfg: ModelConfig, batch: int) -> Case:
    """The choice of experts, with groups and bias."""
    e, k, shared = cfg.n_routed_experts, cfg.n_activated_experts, cfg.n_shared_experts

    def make(device: torch.device) -> Work:
        logits, bias = torch.randn(1, batch, e, device=device), torch.randn(e, device=device)
        groups = {"groups": cfg.n_expert_groups, "kept": cfg.n_limited_groups}
        return both("route", logits, bias, k, **groups, scale=cfg.route_scale, shared=shared)

    return case("route", f"{batch} x {e}", 4 * batch * (e + 2 * (k + shared)), 0, make, {})


def sort_slots(cfg: ModelConfig, batch: int) -> Case:
    """The order of the slots, and the tiles."""
    e = cfg.n_routed_experts + cfg.n_shared_experts
    a = cfg.n_activated_experts + cfg.n_shared_experts

    def make(device: torch.device) -> Work:
        return both("sort_slots", slots_of(cfg, batch, device)[1], e)

    return case("sort_slots", f"{batch} x {a} of {e}", 12 * batch * a, 0, make, {})


def experts_gemm(cfg: ModelConfig, batch: int, fp8: bool, seen: hardware.Hardware) -> Case:
    """The two joined matrices of all experts, shared ones included, gathering its tokens."""
    e, n, k = cfg.n_routed_experts + cfg.n_shared_experts, 2 * cfg.moe_inter_dim, cfg.dim
    a = cfg.n_activated_experts + cfg.n_shared_experts

    def make(device: torch.device) -> Work:
        x, (w, scale) = numbers(batch, k, device=device), experts_weights(e, n, k, fp8, device)
        slots = kernels.sort_slots(slots_of(cfg, batch, device)[1], e)
        args = (kernels.act_quant(x) if fp8 else x, w, slots, scale)

        def tiled(tile: experts.Tile) -> Call:
            return lambda: run(experts.plan_experts_gemm(*args, gather=True, tile=tile)[1])

        work = both("experts_gemm", *args, gather=True)
        return Work(work.calls, tiled=tiled)

    kind, itemsize = ("fp8", 1) if fp8 else ("bf16", 2)
    nbytes = (experts_hit(cfg, batch) + cfg.n_shared_experts) * n * k * itemsize
    shape, flops = f"{kind}, {a} of {e} experts, batch {batch}", 2 * batch * a * n * k
    slots = reference.sort_slots(torch.arange(batch * a, dtype=torch.int32).view(batch, a) % e, e)
    tiles = tuple(experts.candidates(slots, seen, itemsize))
    return Case("experts_gemm", f"experts_gemm_{kind}", shape, nbytes, flops, {COPY: 1.1}, make, tiles, ("reference",))
