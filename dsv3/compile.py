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
from typing import TYPE_CHECKING

from .config import BLOCK, ModelConfig
from .layout import layout

if TYPE_CHECKING:
    import torch

    from .kernels.hardware import Hardware
    from .kernels.inspect import Compiled
    from .kernels.launch import Launch

KERNELS = ("act_quant", "weight_dequant", "fp8_gemm", "mla_decode", "grouped_gemm_fp8", "grouped_gemm_bf16")


def linear_shapes(cfg: ModelConfig) -> dict[str, tuple[int, int]]:
    """[N, K] of each different FP8 matrix, under the name of the first tensor that has it: ``attn.wq_a``."""
    # A dense layer and one with experts stand for all.
    two = replace(cfg, dtype="fp8", n_layers=2, n_dense_layers=min(cfg.n_dense_layers, 1), n_mtp_layers=0)
    shapes: dict[tuple[int, ...], str] = {}
    for row in layout(two):
        if row.kind == "fp8":
            shapes.setdefault(row.shape, row.name.split(".", 2)[2].removesuffix(".weight"))
    return {name: (shape[0], shape[1]) for shape, name in shapes.items()}


def launches(
    kernel: str, cfg: ModelConfig, hardware: "Hardware", rows: int = 64, context: int = 4096
) -> "list[Launch]":
    """The launches of one kernel, of ``KERNELS``, at the model's shapes.

    Args:
        rows: tokens computed together. context: tokens in the cache of each.

    Raises:
        ValueError: no such kernel, or hardware without FP8 units for an FP8 product.
    """
    import torch

    from .kernels import gemm, mla, quant

    def meta(*shape: int, dtype: "torch.dtype" = torch.bfloat16) -> "torch.Tensor":
        return torch.empty(shape, dtype=dtype, device="meta")

    def fp8(*shape: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """A weight [..., N, K] and its scales."""
        scales = (*shape[:-2], -(-shape[-2] // BLOCK), shape[-1] // BLOCK)
        return meta(*shape, dtype=torch.float8_e4m3fn), meta(*scales, dtype=torch.float32)

    def tokens(n: int, k: int) -> "tuple[torch.Tensor, torch.Tensor]":
        return meta(n, k, dtype=torch.float8_e4m3fn), meta(n, k // BLOCK, dtype=torch.float32)

    n, k = linear_shapes(cfg)["attn.wq_a" if cfg.q_lora_rank else "attn.wq"]
    experts, width, copies = cfg.n_routed_experts, cfg.moe_inter_dim, rows * cfg.n_activated_experts
    heads, rank, rotary = cfg.n_heads, cfg.kv_lora_rank, cfg.qk_rope_head_dim

    def grouped(in_fp8: bool) -> "list[Launch]":
        offsets = meta(experts + 1, dtype=torch.int32)
        x, x_scale = tokens(copies, k) if in_fp8 else (meta(copies, k), None)
        w, w_scale = fp8(experts, width, k) if in_fp8 else (meta(experts, width, k), None)
        return gemm.plan_grouped_gemm(x, w, offsets, x_scale, w_scale, hardware=hardware)[1]

    def attention() -> "list[Launch]":
        q = meta(rows, heads, rank), meta(rows, heads, rotary)
        cache = meta(rows, context, rank), meta(rows, context, rotary), meta(rows, dtype=torch.int32)
        return mla.plan_mla_decode(*q, *cache, 1.0, hardware=hardware)[1]

    plans: dict[str, Callable[[], list[Launch]]] = {
        "act_quant": lambda: quant.plan_act_quant(meta(rows, k), BLOCK, cfg.scale_fmt, hardware=hardware)[1],
        "weight_dequant": lambda: quant.plan_weight_dequant(*fp8(n, k), hardware=hardware)[1],
        "fp8_gemm": lambda: gemm.plan_fp8_gemm(*tokens(rows, k), *fp8(n, k), hardware=hardware)[1],
        "mla_decode": attention,
        "grouped_gemm_fp8": lambda: grouped(True),
        "grouped_gemm_bf16": lambda: grouped(False),
    }
    if kernel not in plans:
        raise ValueError(f"unknown kernel {kernel!r}; there are {', '.join(KERNELS)}")
    return plans[kernel]()


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
    parser.add_argument("kernel", choices=KERNELS)
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
