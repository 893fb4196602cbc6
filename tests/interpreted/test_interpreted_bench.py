"""The benchmark's cases at small sizes, on the CPU: every call runs, and rivals compute what ours does."""

from dataclasses import replace

import pytest
import torch

from benchmarks import gpu_cases, gpu_step_cases
from benchmarks.gpu_judge import tensors
from dsv3.config import ModelConfig
from dsv3.kernels.hardware import H100

CPU = torch.device("cpu")
SMALL = replace(
    ModelConfig.load("config_671B.json"), dim=256, n_heads=4, moe_inter_dim=128, n_routed_experts=8, n_expert_groups=2,
    n_limited_groups=2, n_activated_experts=2,
)  # fmt: skip
CASES = [
    gpu_cases.act_quant(5, 256),
    gpu_cases.weight_dequant("attn.wkv_a", 576, 256),
    gpu_cases.fp8_gemm("attn.wo", 3, 192, 256, H100),
    gpu_cases.fp8_gemm("attn.wo", 100, 192, 256, H100),
    gpu_cases.mla_decode(SMALL, 2, 70, 0.5, H100),
    *(make(SMALL, 3, True) for make in (gpu_step_cases.add_norm, gpu_step_cases.silu_mul)),
    *(make(SMALL, 3, fp8) for make in (gpu_step_cases.latent, gpu_step_cases.unfold) for fp8 in (True, False)),
    *(make(SMALL, 3) for make in (gpu_step_cases.absorb, gpu_step_cases.gate_logits)),
    *(make(SMALL, 3) for make in (gpu_step_cases.route, gpu_step_cases.sort_slots)),
    gpu_step_cases.head_logits(replace(SMALL, vocab_size=300), 3),
    *(gpu_step_cases.experts_gemm(SMALL, 3, fp8, H100) for fp8 in (True, False)),
]


def defined(case, out):
    """What a result says: the router's parts as their sum, of the tiles those that there are."""
    found = list(tensors(out))
    if case.group == "gate_logits":
        return [found[0].sum(0)]
    if case.group == "sort_slots":
        found[2] = found[2][: 1 + 3 * int(found[2][0])]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.group} {c.shape}")
def test_every_call_runs(case):
    torch.manual_seed(0)
    work = case.make(CPU)
    results = {name: call() for name, call in work.calls.items()}
    assert set(case.goals) <= {gpu_cases.COPY} | set(results) | set(work.missing)
    assert set(case.hosted) <= set(results)
    for tile in case.tiles:
        work.tiled(tile)()
    if "reference" in results:
        for ours, theirs in zip(*(defined(case, results[name]) for name in ("ours", "reference")), strict=True):
            step = 2.0 ** (-3 if ours.dtype == torch.float8_e4m3fn else -6)
            assert (ours.float() - theirs.float()).abs().max() <= theirs.float().abs().max() * step
