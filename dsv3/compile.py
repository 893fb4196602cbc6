"""A kernel's machine code for a named GPU, without one: registers, spills, shared memory, matrix instructions, SASS.

The kernels are compiled at the true shapes of a model; its tensors are on ``meta`` and take no memory.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .config import BLOCK, ModelConfig
from .layout import layout

if TYPE_CHECKING:
    import torch

    from .kernels.hardware import Hardware
    from .kernels.inspect import Compiled
    from .kernels.launch import Launch

KERNELS = ("act_quant", "weight_dequant", "fp8_gemm", "mla_decode")
STEP = (  # of a decode step; those that can quantise do, where there are FP8 units
    *("add_norm", "silu_mul", "latent", "absorb", "unfold", "gate_logits", "route", "sort_slots"),
    *("experts_gemm_fp8", "experts_gemm_bf16"),
)
HOPPER = ("mla_hopper",)  # what one architecture alone runs: mla_decode over long contexts, in Gluon
ALL = KERNELS + STEP + HOPPER


def linear_shapes(cfg: ModelConfig) -> dict[str, tuple[int, int]]:
    """[N, K] of each different FP8 matrix, under the name of the first tensor that has it: ``attn.wq_a``."""
    # A dense layer and one with experts stand for all.
    two = replace(cfg, dtype="fp8", n_layers=2, n_dense_layers=min(cfg.n_dense_layers, 1), n_mtp_layers=0)
    shapes: dict[tuple[int, ...], str] = {}
    for row in layout(two):
        if row.kind == "fp8":
            shapes.setdefault(row.shape, row.name.split(".", 2)[2].removesuffix(".weight"))
    return {name: (shape[0], shape[1]) for shape, name in shapes.items()}


def meta(*shape: int, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
    """A tensor without memory, in BF16 by default."""
    import torch

    return torch.empty(shape, dtype=dtype or torch.bfloat16, device="meta")


def weight(*shape: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """An FP8 weight [..., N, K] and its scales."""
    import torch

    scales = (*shape[:-2], -(-shape[-2] // BLOCK), shape[-1] // BLOCK)
    return meta(*shape, dtype=torch.float8_e4m3fn), meta(*scales, dtype=torch.float32)


def tokens(n: int, k: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Quantised activations [n, k] and their scales."""
    import torch

    return meta(n, k, dtype=torch.float8_e4m3fn), meta(n, k // BLOCK, dtype=torch.float32)


def launches(
    kernel: str, cfg: ModelConfig, hardware: "Hardware", rows: int = 64, context: int = 4096
) -> "list[Launch]":
    """The launches of one kernel of ``ALL``, at the model's shapes.

    Args:
        rows: tokens computed together. context: tokens in the cache of each.

    Raises:
        ValueError: no such kernel, hardware without FP8 units for an FP8 product, or a kernel that is not for it.
    """

    from .kernels import gemm, quant

    n, k = linear_shapes(cfg)["attn.wq_a" if cfg.q_lora_rank else "attn.wq"]
    fp8 = weight(n, k)

    plans: dict[str, Callable[[], list[Launch]]] = {
        "act_quant": lambda: quant.plan_act_quant(meta(rows, k), BLOCK, cfg.scale_fmt, hardware=hardware)[1],
        "weight_dequant": lambda: quant.plan_weight_dequant(*fp8, hardware=hardware)[1],
        "fp8_gemm": lambda: gemm.plan_fp8_gemm(*tokens(rows, k), *fp8, hardware=hardware)[1],
        "mla_decode": lambda: attention(cfg, hardware, rows, context)[1],
        "mla_hopper": lambda: hopper(cfg, hardware, rows, context),
    }
    plans |= step(cfg, hardware, rows, context)
    if kernel not in plans:
        raise ValueError(f"unknown kernel {kernel!r}; there are {', '.join(ALL)}")
    return plans[kernel]()


def attention(
    cfg: ModelConfig, hardware: "Hardware", rows: int, context: int
) -> "tuple[tuple[torch.Tensor, torch.Tensor], list[Launch]]":
    """``mla_decode``'s parts, and its launches."""
    from .kernels import mla

    given = queries_and_cache(cfg, rows, context)
    parts = mla.plan_mla_parts(*given, 1.0, hardware=hardware)[0]
    return parts, mla.plan_mla_decode(*given, 1.0, hardware=hardware)[1]


def hopper(cfg: ModelConfig, hardware: "Hardware", rows: int, context: int) -> "list[Launch]":
    """The launches of ``mla_decode`` by the kernel for Hopper."""
    from .kernels import mla_hopper

    if hardware.name != "sm_90":
        raise ValueError(f"mla_hopper is for sm_90 alone; on {hardware.name} attention is mla_decode")
    try:
        return mla_hopper.plan_mla_decode(*queries_and_cache(cfg, rows, context), 1.0, hardware=hardware)[1]
    except (ImportError, AttributeError) as error:
        raise ValueError(f"this Triton has no Gluon, or another, in which mla_hopper is written: {error}") from error


def queries_and_cache(
    cfg: ModelConfig, rows: int, context: int
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]":
    """What attention reads: q_c, q_pe, c, k_pe and lengths, one new token a sequence."""
    import torch

    widths = cfg.kv_lora_rank, cfg.qk_rope_head_dim
    q_c, q_pe = (meta(rows, cfg.n_heads, width) for width in widths)
    c, k_pe = (meta(rows, context, width) for width in widths)
    return q_c, q_pe, c, k_pe, meta(rows, dtype=torch.int32)


def step(cfg: ModelConfig, hardware: "Hardware", rows: int, context: int) -> "dict[str, Callable[[], list[Launch]]]":
    """The plans of ``STEP``."""
    import torch

    from .kernels import experts, fused, heads, sorting

    dim, heads_, rank, rotary = cfg.dim, cfg.n_heads, cfg.kv_lora_rank, cfg.qk_rope_head_dim
    routed, everyone = cfg.n_routed_experts, cfg.n_routed_experts + cfg.n_shared_experts
    ids = meta(rows, cfg.n_activated_experts + cfg.n_shared_experts, dtype=torch.int32)
    at, turns = meta(rows, dtype=torch.int32), meta(context, rotary // 2, 2, dtype=torch.float32)
    quantises: dict[str, Any] = {"fp8": hardware.fp8, "scale_fmt": cfg.scale_fmt, "hardware": hardware}

    def norm() -> "list[Launch]":
        slots = ids, meta(*ids.shape, dtype=torch.float32)
        part = meta(ids.numel(), dim)
        return fused.plan_add_norm(meta(rows, dim), part, meta(dim), 1e-6, slots=slots, **quantises)[1]

    def latent() -> "list[Launch]":
        query = cfg.q_lora_rank or heads_ * cfg.qk_head_dim
        q_norm = meta(query) if cfg.q_lora_rank else None
        first, kept = meta(rows, query + rank + rotary), meta(rows, context, rank + rotary)
        return fused.plan_latent(first, turns, at, kept, meta(rank), 1e-6, q_norm, **quantises)[1]

    def routing() -> "list[Launch]":
        bias = meta(routed, dtype=torch.float32) if cfg.route_bias else None
        groups = {"groups": cfg.n_expert_groups, "kept": cfg.n_limited_groups} if cfg.grouped else {}
        rule: dict[str, Any] = {"softmax": cfg.score_func == "softmax", "normalise": cfg.norm_topk_prob, **groups}
        logits = meta(-(-dim // experts.CUT), rows, routed, dtype=torch.float32)
        return experts.plan_route(logits, bias, cfg.n_activated_experts, shared=cfg.n_shared_experts, **rule)[1]

    def gathered(in_fp8: bool) -> "list[Launch]":
        slots = sorting.plan_sort_slots(ids, everyone)[0]
        up = everyone, 2 * cfg.moe_inter_dim, dim
        w, w_scale = weight(*up) if in_fp8 else (meta(*up), None)
        x = tokens(rows, dim) if in_fp8 else meta(rows, dim)
        return experts.plan_experts_gemm(x, w, slots, w_scale, gather=True, hardware=hardware)[1]

    query, key = meta(rows, heads_ * cfg.qk_head_dim), meta(heads_, rank, cfg.qk_nope_head_dim)
    value = meta(heads_, cfg.v_head_dim, rank)
    return {
        "add_norm": norm,
        "silu_mul": lambda: fused.plan_silu_mul(meta(rows, 2 * cfg.moe_inter_dim), **quantises)[1],
        "latent": latent,
        "absorb": lambda: heads.plan_absorb(query, turns, at, key)[1],
        "unfold": lambda: heads.plan_unfold(*attention(cfg, hardware, rows, context)[0], value, **quantises)[1],
        "gate_logits": lambda: experts.plan_gate_logits(meta(rows, dim), meta(routed, dim))[1],
        "route": routing,
        "sort_slots": lambda: sorting.plan_sort_slots(ids, everyone)[1],
        "experts_gemm_fp8": lambda: gathered(True),
        "experts_gemm_bf16": lambda: gathered(False),
    }


def machine_code(
    kernel: str, target: str = "sm_90", rows: int = 64, context: int = 4096, config: str = "config_671B.json"
) -> "list[Compiled]":
    """What each launch of a kernel becomes on ``target``; also from a process that interprets kernels.

    Raises:
        ValueError: an unknown kernel or target, or one that does not go with the other.
        ImportError: Triton cannot be used here; says why.
    """
    from .kernels import why_no_triton

    if lacking := why_no_triton():
        raise ImportError(f"cannot compile kernels: {lacking}")
    from .kernels import hardware
    from .kernels.inspect import Compiled, compile_for

    where = hardware.named(target)
    made = launches(kernel, ModelConfig.load(config), where, rows, context)
    if not any(launch.interpreted for launch in made):
        return [compile_for(launch, where) for launch in made]
    # Under TRITON_INTERPRET=1 nothing compiles in this process.
    flags = ["--target", target, "--rows", str(rows), "--context", str(context), "--config", config, "--json"]
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "dsv3.compile", kernel, *flags]
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1].partition("error: ")[2])
    return [Compiled(**row) for row in json.loads(done.stdout)]


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dsv3 compile", description=__doc__)
    parser.add_argument("kernel", choices=ALL)
    parser.add_argument("--target", default="sm_90", help="sm_80, sm_86, sm_89, sm_90, sm_100, sm_120 or gfx942")
    parser.add_argument("--rows", type=int, default=64, help="tokens computed together")
    parser.add_argument("--context", type=int, default=4096, help="tokens in the cache of each")
    parser.add_argument("--config", default="config_671B.json", help="whose shapes")
    parser.add_argument("--show", choices=("assembly", "sass"), help="print PTX (or AMDGCN), or SASS")
    parser.add_argument("--json", action="store_true", help="everything, as one document")
    args = parser.parse_args(argv)
    made = machine_code(args.kernel, args.target, args.rows, args.context, args.config)
    if args.json:
        print(json.dumps([asdict(one) for one in made]))
        return
    for one in made:
        if args.show:
            print(getattr(one, args.show))
        print(
            f"{one.kernel:22} {one.target:7} {one.num_warps} warps  {one.registers:3} registers  "
            f"{one.spills} B spilled  {one.shared:,} B shared  {one.uses}"
        )


if __name__ == "__main__":
    from .cli import run

    run(main)
