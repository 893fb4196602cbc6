"""A kernel's machine code without a GPU: compile a ``Launch`` for a named architecture and read what came out.

Triton brings its own assembler and disassembler; only running needs a device.
"""

import contextlib
import io
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from .hardware import Hardware
from .launch import Launch

_TYPES = {
    torch.float8_e4m3fn: "fp8e4nv",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}
# Matrix instructions by what they are called in SASS (NVIDIA) or in assembly (AMD).
_MATRIX = {
    "QGMMA": "wgmma, FP8",
    "HGMMA": "wgmma, 16-bit",
    "UTCQMMA": "tcgen05, FP8",
    "UTCHMMA": "tcgen05, 16-bit",
    "QMMA": "mma.sync, FP8",
    "OMMA": "mma.sync, block-scaled",
    "HMMA": "mma.sync, 16-bit",
    "v_mfma": "mfma",
}


@dataclass(frozen=True)
class Compiled:
    """What a kernel became on one architecture.

    Attributes:
        assembly: PTX (NVIDIA) or AMDGCN, as text.
        sass: NVIDIA's machine code as text; empty for AMD.
        registers: per thread. spills: bytes per thread that did not fit into them. shared: bytes per program.
        matrix: the matrix instructions found and how often, e.g. ``{"QGMMA": 8}``; their meaning is ``uses``.
    """

    kernel: str
    target: str
    num_warps: int
    num_stages: int
    registers: int
    spills: int
    shared: int
    matrix: dict[str, int]
    assembly: str
    sass: str

    @property
    def uses(self) -> str:
        """The matrix instructions in words: ``wgmma, FP8``."""
        return "; ".join(_MATRIX[name] for name in self.matrix) or "no matrix instruction"

    def row(self) -> dict[str, Any]:
        """The figures without the code, for a table."""
        names = ("kernel", "target", "num_warps", "num_stages", "registers", "spills", "shared")
        return {name: getattr(self, name) for name in names} | {"uses": self.uses}


def compile_for(launch: Launch, hardware: Hardware) -> Compiled:
    """Compile for ``hardware``, on any machine; its arguments may be ``meta`` tensors, which take no memory.

    Raises:
        ValueError: the architecture cannot run this kernel (sm_80 and FP8), in the compiler's own words; or Triton was
            imported under ``TRITON_INTERPRET=1``, where kernels are not compiled.
    """
    if launch.interpreted:
        raise ValueError(f"{launch.name}: under TRITON_INTERPRET=1 nothing is compiled; start Python without it")
    cuda = hardware.backend == "cuda"
    target = GPUTarget("cuda", int(hardware.name[3:]), 32) if cuda else GPUTarget("hip", hardware.name, 64)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # on an error Triton prints the whole assembly
            made = triton.compile(source(launch), target=target, options=launch.options)
    except Exception as error:  # what Triton raises for an unfit target differs by its version
        cause = str(error).strip().splitlines()
        raise ValueError(
            f"{launch.name} does not compile for {hardware.name}: {cause[-1] if cause else error!r}"
        ) from error
    assembly = made.asm["ptx" if cuda else "amdgcn"]
    sass, usage = _disassemble(made.asm["cubin"]) if cuda else ("", assembly)
    patterns = {"registers": r"REG:(\d+)", "spills": r"STACK:(\d+)"}
    if not cuda:
        patterns = {"registers": r"\.vgpr_count:\s+(\d+)", "spills": r"\.private_segment_fixed_size:\s+(\d+)"}
    figures = {name: int(re.findall(pattern, usage)[0]) for name, pattern in patterns.items()}
    code = sass if cuda else assembly
    found = {name: len(re.findall(rf"\b{name}", code)) for name in _MATRIX}
    return Compiled(
        kernel=launch.name,
        target=hardware.name,
        shared=made.metadata.shared,
        matrix={name: count for name, count in found.items() if count},
        assembly=assembly,
        sass=sass,
        num_warps=made.metadata.num_warps,
        num_stages=launch.num_stages,
        **figures,
    )


def source(launch: Launch) -> ASTSource:
    """The kernel with its arguments' types, as a launch would specialise it: pointers and strides that divide by 16."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.args[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and special):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = f"*{_TYPES[value.dtype]}"
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and special:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:  # what TMA copies from
            signature[parameter.name] = mangle_type(value)
    if not launch.kernel.is_gluon():
        return ASTSource(launch.kernel, signature, constants, attributes)
    from triton.experimental.gluon._runtime import GluonASTSource

    return GluonASTSource(launch.kernel, signature, constants, attributes)


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """SASS, and the line with registers and stack."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        runs = [[tool, flag, str(file)] for flag in ("-sass", "--dump-resource-usage")]
        sass, usage = (subprocess.run(r, capture_output=True, text=True, check=True).stdout for r in runs)
    # The hexadecimal encodings beside each instruction only hide it.
    lines = [re.sub(r"\s*/\* 0x[0-9a-f]+ \*/\s*", "", line).rstrip() for line in sass.splitlines()]
    return "\n".join(line for line in lines if line.strip()), usage
