"""Every kernel compiled for every GPU that is meant to run it, on this machine, with what the machine code shows."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dsv3.compile import KERNELS, STEP, launches, linear_shapes, machine_code
from dsv3.config import ModelConfig
from dsv3.kernels import hardware, pick

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

CONFIG = ModelConfig.load("config_671B.json")
BF16_ONLY = ("weight_dequant", "mla_decode", *(k for k in STEP if k != "experts_gemm_fp8"))
MULTIPLY = ("mla_decode", "absorb", "unfold", "gate_logits", "experts_gemm_bf16")
# The matrix instruction that each architecture's kernels must use; gfx942 has no assembler for sm_.. names.
FP8_UNITS = {"sm_89": "mma.sync, FP8", "sm_90": "wgmma, FP8", "sm_100": "tcgen05, FP8", "sm_120": "mma.sync, FP8"}
WIDE_UNITS = {"sm_90": "wgmma, 16-bit", "sm_100": "tcgen05, 16-bit", "gfx942": "mfma"}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    """Compiled anew in each run: a cache of the user's would hide a kernel that no longer compiles."""
    before = os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    yield
    if before is None:
        del os.environ["TRITON_CACHE_DIR"]
    else:
        os.environ["TRITON_CACHE_DIR"] = before


def cases():
    for h in hardware.KNOWN:
        for kernel in KERNELS + STEP:
            # An sm_86 runs what an sm_80 does.
            if h.name != "sm_86" and (h.fp8 or kernel in BF16_ONLY):
                # One token, and a prefill: the first and the last tile of the table, or another kernel.
                several = {"unfold": (1, 32), "sort_slots": (32, 4096)}
                for rows in (1, 4096) if "gemm" in kernel else several.get(kernel, (32,)):
                    yield pytest.param(kernel, h, rows, id=f"{h.name}-{kernel}-{rows}")


@pytest.mark.parametrize(("kernel", "target", "rows"), list(cases()))
def test_every_kernel_compiles(kernel, target, rows):
    main, *rest = machine_code(kernel, target.name, rows=rows)
    for one in (main, *rest):
        assert one.target == target.name
        assert one.shared <= target.shared, "more shared memory than a program can have"
        assert 0 < one.registers <= (512 if target.backend == "hip" else 255)
        assert ".entry" in one.assembly or "s_endpgm" in one.assembly
        assert ("EXIT" in one.sass) == (target.backend == "cuda")
        # Attention holds 64 x 512 sums in registers; what it spills is addresses. Nothing else may spill.
        assert one.spills <= (256 if kernel == "mla_decode" else 0)
    if kernel in ("fp8_gemm", "experts_gemm_fp8"):
        assert FP8_UNITS[target.name] in main.uses
    elif kernel in MULTIPLY and main.kernel != "unfold_few_kernel":
        assert WIDE_UNITS.get(target.name, "mma.sync, 16-bit") in main.uses
    else:
        assert main.uses == "no matrix instruction"


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "gfx942"])
@pytest.mark.parametrize("kernel", [k for k in KERNELS + STEP if k not in BF16_ONLY])
def test_fp8_without_units_is_one_clear_line(kernel, target):
    with pytest.raises(ValueError, match=rf"{target}\) has no units for float8_e4m3fn; dequantise") as raised:
        machine_code(kernel, target)
    assert "\n" not in str(raised.value)


def test_attention_for_hopper_is_wgmma_and_tma_and_spills_nothing():
    main, combine = machine_code("mla_hopper")
    assert (main.kernel, main.uses, main.spills) == ("mla_hopper_kernel", "wgmma, 16-bit", 0)
    assert main.num_warps == 12, "two groups of four, and the loader's, which is rounded up to a group"
    assert main.registers * 32 * main.num_warps <= 65536
    assert main.shared <= hardware.named("sm_90").shared
    assert "UTMALDG" in main.sass
    assert "setmaxnreg" in main.assembly
    assert combine.kernel == "mla_combine_kernel"


def test_the_compilers_own_refusal_is_one_line():
    from dsv3.kernels.inspect import compile_for

    (launch,) = launches("act_quant", CONFIG, hardware.named("sm_90"))
    with pytest.raises(
        ValueError, match=r"act_quant_kernel does not compile for sm_80: .*fp8e4nv not supported"
    ) as raised:
        compile_for(launch, hardware.named("sm_80"))
    assert "\n" not in str(raised.value)


def test_a_process_that_interprets_compiles_in_another():
    code = "from dsv3.compile import machine_code; print([c.row() for c in machine_code('fp8_gemm', 'sm_90', rows=1)])"
    interpreting = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=interpreting, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([c.row() for c in machine_code("fp8_gemm", "sm_90", rows=1)])


def test_the_command_line():
    def dsv3(*flags):
        return subprocess.run(
            [sys.executable, "-m", "dsv3", "compile", *flags], capture_output=True, text=True, timeout=120
        )

    done = dsv3("weight_dequant", "--show", "sass")
    assert done.returncode == 0, done.stderr
    assert "EXIT" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("weight_dequant_kernel  sm_90 ")
    (row,) = json.loads(dsv3("weight_dequant", "--target", "sm_80", "--json").stdout)
    assert (row["kernel"], row["target"]) == ("weight_dequant_kernel", "sm_80")
    failed = dsv3("fp8_gemm", "--target", "sm_80")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "has no units for float8_e4m3fn" in failed.stderr
    assert dsv3("fp9_gemm").returncode == 2


def test_what_there_is_not_is_named():
    with pytest.raises(ValueError, match="unknown target 'sm_70'; known are sm_80"):
        machine_code("fp8_gemm", "sm_70")
    with pytest.raises(ValueError, match="unknown kernel 'fp9_gemm'; there are act_quant"):
        machine_code("fp9_gemm")
    with pytest.raises(FileNotFoundError, match=r"none.json"):
        machine_code("fp8_gemm", config="none.json")


def test_shapes_are_those_of_the_671b_model():
    assert linear_shapes(CONFIG) == {
        "attn.wq_a": (1536, 7168),
        "attn.wq_b": (24576, 1536),
        "attn.wkv_a": (576, 7168),
        "attn.wkv_b": (32768, 512),
        "attn.wo": (7168, 16384),
        "ffn.w1": (18432, 7168),
        "ffn.w2": (7168, 18432),
        "ffn.experts.0.w1": (2048, 7168),
        "ffn.experts.0.w2": (7168, 2048),
    }


def test_which_have_fp8_units():
    assert {h.name for h in hardware.KNOWN if h.fp8} == {"sm_89", "sm_90", "sm_100", "sm_120"}


class Gpu:
    """What torch says of a GPU."""

    def __init__(self, name, capability, hip=None):
        self.name, self.capability, self.gcnArchName = name, capability, "gfx942:sramecc+"
        self.multi_processor_count, self.shared_memory_per_block_optin, self.hip = 108, 166_912, hip


# What torch reports of a GPU is all that is replaced here; the choice itself is the real one.
@pytest.mark.parametrize(
    ("gpu", "triton", "compiler", "expected"),
    [
        (Gpu("NVIDIA H100", (9, 0)), True, True, ("triton", "fp8", "NVIDIA H100 (sm_90) has FP8 units")),
        (Gpu("NVIDIA L20", (8, 9)), True, True, ("triton", "fp8", "weights stay FP8; kernels: Triton")),
        (Gpu("NVIDIA B300", (10, 3)), True, True, ("triton", "fp8", "(sm_103)")),
        (Gpu("NVIDIA A100", (8, 0)), True, True, ("triton", "bf16", "dequantised once, at loading; kernels: Triton")),
        (
            Gpu("MI300X", (9, 4), "6.4"),
            True,
            True,
            ("triton", "bf16", "MI300X (gfx942) has no units for DeepSeek's FP8"),
        ),
        (Gpu("NVIDIA H100", (9, 0)), False, True, ("reference", "fp8", "for Triton is not installed: pip install")),
        (Gpu("NVIDIA H100", (9, 0)), True, False, ("reference", "fp8", "finds no C compiler: install gcc")),
    ],
    ids=lambda x: x.name if isinstance(x, Gpu) else None,
)
def test_pick(gpu, triton, compiler, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu.capability)
    monkeypatch.setattr(torch.version, "hip", gpu.hip)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if compiler else None)
    if not triton:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choice = pick(torch.device("cuda", 0))
    kernels, gemm, words = expected
    assert choice.kernels.__name__ == f"dsv3.kernels.{kernels}"
    assert choice.gemm == gemm
    assert words in choice.why


def test_an_old_triton_is_named(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.2.0")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="Triton 3.2.0 is older than 3.6"):
        pick(torch.device("cpu"))


def test_a_gpu_kernel_on_cpu_tensors_says_what_to_do():
    from dsv3.kernels import triton as kernels

    with pytest.raises(ValueError, match="act_quant_kernel: its tensors are on cpu, and Triton needs a GPU"):
        kernels.act_quant(torch.zeros(1, 128))


def test_a_compiled_kernel_cannot_be_watched_and_says_so():
    from dsv3.kernels.trace import run_program

    (launch,) = launches("weight_dequant", CONFIG, hardware.H100)
    with pytest.raises(ValueError, match="weight_dequant_kernel is compiled: set TRITON_INTERPRET=1 before Python"):
        run_program(launch)


WITHOUT = """
import sys
for name in ("triton.experimental.gluon", "triton.experimental.gluon.language"):
    sys.modules[name] = None  # an import of it fails
from dsv3.compile import machine_code
from dsv3.kernels import triton
print(triton.mla_parts.__module__)
try:
    machine_code("mla_hopper")
except ValueError as error:
    print(error)
"""
INTERPRETED = """
import torch
from dsv3.kernels import mla_gluon, mla_hopper, reference, triton
args = (torch.randn(2, 64, 512), torch.randn(2, 64, 64), torch.randn(1, 50, 512), torch.randn(1, 50, 64))
lengths = torch.tensor([50, 30])
print(torch.allclose(triton.mla_decode(*args, lengths, 0.04), reference.mla_decode(*args, lengths, 0.04), atol=1e-5))
"""


@pytest.mark.parametrize(
    ("code", "flags", "expected"),
    [
        (
            WITHOUT,
            {},
            ["dsv3.kernels.mla_hopper", "this Triton has no Gluon, or another, in which mla_hopper is written: "],
        ),
        (INTERPRETED, {"TRITON_INTERPRET": "1"}, ["True"]),
    ],
    ids=["without Gluon", "interpreted"],
)
def test_the_other_kernels_need_no_gluon(code, flags, expected):
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))
