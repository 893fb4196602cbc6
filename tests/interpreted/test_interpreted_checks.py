"""The checks that a GPU run starts with pass in the interpreter, and a wrong kernel does not pass them."""

import pytest
import torch

from benchmarks import gpu_checks, gpu_step_checks
from benchmarks.gpu_checks import CHECKS
from dsv3.kernels import hardware, quant

CPU = torch.device("cpu")


# Two take 6.5 GB of memory, and minutes; what is written in Gluon cannot be interpreted.
NOT_HERE = ("beyond_32_bits", "tiny_r1", "mla_hopper_kernel")


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in NOT_HERE])
def test_check_passes(name):
    torch.manual_seed(0)
    CHECKS[name](CPU)


STEP = ("add_norm", "silu_mul", "latent", "absorb", "unfold", "mla_parts", "gate_logits", "route", "sort_slots")
ALL = ("act_quant", "fp8_gemm", "mla_decode")


@pytest.mark.parametrize("name", [*ALL, *STEP, "experts_gemm_bf16", "experts_gemm_fp8"])
def test_check_fails_where_one_element_is_wrong(name, monkeypatch):
    right = gpu_checks.poisoned

    def wrong(plan):
        outputs = right(plan)
        last = outputs[0].view(-1)[-1:]
        last.copy_(last + 1 if last.dtype == torch.int32 else (last.float() * 1.25 + 0.5).to(last.dtype))
        return outputs

    for module in (gpu_checks, gpu_step_checks):
        monkeypatch.setattr(module, "poisoned", wrong)
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        CHECKS[name](CPU)


def test_an_unwritten_output_is_seen():
    x = torch.randn(64, 128)
    out, (launch,) = quant.plan_act_quant(x)
    half = quant.Launch(launch.kernel, (launch.grid[0] - 1,), launch.args)
    q, _ = gpu_checks.poisoned((out, [half]))
    assert q.float()[-1].isnan().all()
    with pytest.raises(AssertionError, match="NaN against a number"):
        gpu_checks.same(q, quant.act_quant(x)[0])


def test_checks_without_units(monkeypatch):
    monkeypatch.setattr(hardware, "hardware_of", lambda device: hardware.named("sm_80"))
    assert gpu_checks.lacking("act_quant", CPU) == "sm_80 has no FP8 units"
    assert gpu_checks.lacking("weight_dequant", CPU) is None
    assert gpu_checks.lacking("mla_hopper_kernel", CPU) == "cpu is not Hopper (sm_90)"
    gpu_checks.weight_dequant(CPU)
