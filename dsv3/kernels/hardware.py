"""What each GPU can do with small floats: the one table that ``pick``, the tile choices and the compiler tests read."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

OLDEST_TRITON = (3, 6)  # the oldest that the kernels were compiled and interpreted with
FP8_UNITS = (8, 9)  # the first CUDA compute capability that multiplies FP8: Ada, then Hopper and Blackwell


@dataclass(frozen=True)
class Hardware:
    """A GPU architecture as a kernel's launcher sees it.

    Attributes:
        name: ``sm_90``, or ``gfx942``.
        chips: products that people rent.
        sms: streaming multiprocessors (AMD: compute units) of the first chip named.
        shared: bytes of shared memory that one program can have (CUDA programming guide, technical specifications).
        mma: the instruction that multiplies matrices.
    """

    name: str
    chips: str
    sms: int
    shared: int
    mma: str

    @property
    def backend(self) -> str:
        """Triton's name for the compiler: ``"cuda"`` or ``"hip"``."""
        return "cuda" if self.name.startswith("sm_") else "hip"

    @property
    def fp8(self) -> bool:
        """Whether it multiplies float8_e4m3fn, the format of DeepSeek's checkpoints."""
        # MI300's FP8 units take the "fnuz" variant, whose exponent is biased by one more.
        number = self.name.removeprefix("sm_")
        return number.isdecimal() and (int(number[:-1]), int(number[-1])) >= FP8_UNITS

    @property
    def gemm(self) -> Literal["fp8", "bf16"]:
        """How FP8 weights are multiplied here: as they are, or after a dequantisation."""
        return "fp8" if self.fp8 else "bf16"


KNOWN = (
    Hardware("sm_80", "A100, A800, A30", 108, 166_912, "mma.sync"),
    Hardware("sm_86", "A10, A40, RTX 30 series", 72, 101_376, "mma.sync"),
    Hardware("sm_89", "L4, L20, L40S, RTX 40 series", 58, 101_376, "mma.sync"),
    Hardware("sm_90", "H100, H200, H800, H20", 132, 232_448, "wgmma"),
    Hardware("sm_100", "B200, GB200", 148, 232_448, "tcgen05"),
    Hardware("sm_120", "RTX 5090, RTX PRO 6000", 170, 101_376, "mma.sync"),
    Hardware("gfx942", "MI300X, MI325X", 304, 65_536, "mfma"),
)


def named(name: str) -> Hardware:
    """The known hardware of that name.

    Raises:
        ValueError: unknown, listing the known ones.
    """
    for hardware in KNOWN:
        if hardware.name == name:
            return hardware
    raise ValueError(f"unknown target {name!r}; known are {', '.join(h.name for h in KNOWN)}")


H100 = named("sm_90")


def hardware_of(device: "torch.device") -> Hardware:
    """The hardware behind a CUDA device; for any other (interpreter, ``meta``) that of an H100, to have its tiles."""
    if device.type != "cuda":
        return H100
    import torch

    seen = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        name = seen.gcnArchName.split(":")[0]
        return replace(named("gfx942"), name=name, chips=seen.name, sms=seen.multi_processor_count)
    major, minor = torch.cuda.get_device_capability(device)
    name = f"sm_{major}{minor}"
    # A newer chip of a known generation is taken for that; an unknown one may have as little as an sm_86.
    known = next((h for h in KNOWN if h.name == name or h.name == f"sm_{major}0" and major > 8), named("sm_86"))
    shared = getattr(seen, "shared_memory_per_block_optin", known.shared)  # older torch does not say
    return Hardware(name, seen.name, seen.multi_processor_count, shared, known.mma)
