"""Triton's interpreter, told the truth about small floats: ``exact()`` repairs what it gets wrong while kernels run.

Measured with Triton 3.7 and 3.9 on the CPU, against what a GPU and torch compute:

- float32 -> FP8 drops the carry where it rounds across a power of two: 126 becomes 64, not 128; halves go up, not to
  even;
- float32 -> FP8 truncates subnormals (0.0017 becomes 0, not 0.00195) and makes some of numbers below 2^-126;
- float32 -> BF16 (also the cast hidden in ``tl.store``) truncates instead of rounding to nearest even;
- FP8 -> float decodes the NaN codes 0x7f and 0xff as 480;
- ``tl.dot`` of BF16 multiplies the bit patterns as integers, and so does arithmetic between BF16 or FP8 numbers;
- integers become BF16, and BF16 becomes integers, by copying bits.

Left as they are: float8e4b8, float8e5b16 and float8e4b15, which no DeepSeek checkpoint uses, and functions such as
``tl.exp``, which on a GPU refuse BF16 anyway. ``faults()`` measures; ``exact()`` repairs only what it finds broken.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter

from .hardware import OLDEST_TRITON

NEWEST_TRITON = (3, 9)  # the newest minor version that the repair was tested with
_NUMPY = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}
_CODED = ("bf16", "fp8e5", "fp8e4nv")  # floats that numpy lacks: the interpreter holds their bits in integers


def check_import() -> None:
    """Refuse a Triton that was imported to compile.

    Raises:
        ValueError: Triton's own functions, such as ``tl.max``, were made for a GPU, so none can be interpreted; or this
            Triton is too old for this numpy.
    """
    versions = [tuple(map(int, re.findall(r"\d+", module.__version__)[:2])) for module in (triton, np)]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):  # it takes arrays of one number for numbers
        raise ValueError(
            f"Triton {triton.__version__} cannot interpret with numpy {np.__version__}: pip install 'numpy<2.4', or "
            "Triton 3.7 or newer"
        )
    if not isinstance(tl.max, interpreter.InterpretedFunction):
        raise ValueError(
            "TRITON_INTERPRET=1 was set after Triton was imported: set it, then start Python (or restart the kernel)"
        )


def decode(codes: np.ndarray, dtype: tl.dtype) -> np.ndarray:
    """The numbers behind the interpreter's array of ``dtype``, exact, as float64 (integers stay what they are)."""
    if dtype.name not in _CODED:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return codes.astype(np.float64) if dtype.name in _NUMPY else codes
    mantissa, bias = dtype.fp_mantissa_width, dtype.exponent_bias
    bits = codes.astype(np.int64)
    sign = 1 << (dtype.primitive_bitwidth - 1)
    magnitude = bits & (sign - 1)
    exponent, fraction = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
    top = (sign - 1) >> mantissa
    value = np.ldexp(
        (fraction + ((exponent > 0) << mantissa)).astype(np.float64), np.maximum(exponent, 1) - bias - mantissa
    )
    if dtype.name == "fp8e4nv":  # no infinities; only the last code is NaN
        value[magnitude == sign - 1] = np.nan
    else:
        value[(exponent == top) & (fraction == 0)] = np.inf
        value[(exponent == top) & (fraction != 0)] = np.nan
    return np.where(bits & sign, -value, value)


def encode(values: np.ndarray, dtype: tl.dtype, truncate: bool = False) -> np.ndarray:
    """Numbers as the interpreter's array of ``dtype``, rounded once, to nearest even as a GPU does.

    FP8 saturates (cvt.rn.satfinite: also infinity becomes the largest number); BF16 and float16 overflow to infinity.
    """
    if dtype.name in _NUMPY:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(_NUMPY[dtype.name])
    if dtype.name not in _CODED:
        return values.astype(interpreter._get_np_dtype(dtype))
    mantissa, bias = dtype.fp_mantissa_width, dtype.exponent_bias
    sign = 1 << (dtype.primitive_bitwidth - 1)
    top = {"fp8e4nv": 0x7E, "fp8e5": 0x7B, "bf16": 0x7F80}[dtype.name]  # the largest number, or infinity
    values = values.astype(np.float64)
    nan = np.isnan(values)
    finite = np.clip(np.nan_to_num(np.abs(values), nan=0.0), 0, 2.0**200)
    _, exponent = np.frexp(finite)
    # The unit in the last place; below the smallest normal number it stays the subnormals' unit.
    unit = np.maximum(np.where(finite > 0, exponent - 1, -bias), 1 - bias) - mantissa
    steps = (np.trunc if truncate else np.rint)(np.ldexp(finite, -unit)).astype(np.int64)
    # A number is counted from the first of its binade, so a carry runs on into the exponent by itself.
    codes = np.minimum(steps + ((unit + mantissa + bias - 1) << mantissa), top)
    codes[nan] = top + 1 if dtype.name != "fp8e5" else 0x7F
    return np.where(np.signbit(values), codes | sign, codes).astype(interpreter._get_np_dtype(dtype))


def faults() -> list[str]:
    """Which of the measured faults the installed interpreter has; empty when it needs no repair."""
    rtne = interpreter._ir.ROUNDING_MODE.RTNE

    def cast(value: float, dtype: tl.dtype) -> int:
        return int(interpreter._convert_float(np.array([value], np.float32), tl.float32, dtype, rtne)[0])

    nan = interpreter._convert_float(np.array([0x7F], np.uint8), tl.float8e4nv, tl.float32, rtne).view(np.float32)[0]
    number = interpreter.TensorHandle(np.array([1 + 3 * 2.0**-8], np.float32), tl.float32)
    one = interpreter.TensorHandle(np.full((1, 1), 0x3F80, np.uint16), tl.bfloat16)
    zero = interpreter.TensorHandle(np.zeros((1, 1), np.float32), tl.float32)
    builder = interpreter.InterpreterBuilder()
    found = {
        "FP8 carry": cast(126.0, tl.float8e4nv) != 0x70,
        "FP8 subnormals": cast(1.75 * 2.0**-9, tl.float8e4nv) != 2,
        "BF16 truncation": builder.create_fp_trunc(number, tl.bfloat16).data[0] != 0x3F82,
        "FP8 NaN": not np.isnan(nan),
        "BF16 dot": builder.create_dot(one, one, zero, None, 0).data[0, 0] != 1,
        "BF16 arithmetic": builder.create_fadd(one, one).data[0, 0] != 0x4000,
    }
    return [name for name, broken in found.items() if broken]


@contextmanager
def exact() -> Iterator[None]:
    """While open, interpreted kernels cast, multiply and add BF16 and FP8 numbers as a GPU does.

    It replaces four functions of the interpreter in this process and puts them back, also after an error; it may be
    nested. An interpreter without faults is left alone.

    Raises:
        ValueError: Triton was imported without ``TRITON_INTERPRET=1``.
        RuntimeError: the interpreter has faults but is built differently, so the repair does not fit it.
    """
    check_import()
    if not faults():
        yield
        return
    saved = _parts()
    builder = interpreter.InterpreterBuilder
    try:
        interpreter._convert_float = _convert_float
        builder.create_dot = _dot(saved["create_dot"])
        builder.binary_op = _binary_op(saved["binary_op"])
        builder.cast_impl = _cast_impl(saved["cast_impl"])
        with np.errstate(all="ignore"):  # a GPU does not warn of NaN and infinity either
            yield
    finally:
        interpreter._convert_float = saved.pop("_convert_float")
        for name, function in saved.items():
            setattr(builder, name, function)


def _parts() -> dict[str, Callable[..., Any]]:
    """The functions to be replaced, once their parameters are what the replacements expect."""
    expected = {
        "_convert_float": ["input", "input_dtype", "output_dtype", "rounding_mode"],
        "create_dot": ["self", "a", "b", "d", "input_precision", "max_num_imprecise_acc"],
        "binary_op": ["self", "lhs", "rhs", "op"],
        "cast_impl": ["self", "src", "dst_type"],
    }
    parts: dict[str, Callable[..., Any]] = {}
    for name, parameters in expected.items():
        owner = interpreter if name == "_convert_float" else interpreter.InterpreterBuilder
        part = getattr(owner, name, None)
        if part is None or list(inspect.signature(part).parameters) != parameters:
            low, high = (".".join(map(str, v)) for v in (OLDEST_TRITON, NEWEST_TRITON))
            raise RuntimeError(
                f"Triton {triton.__version__}: its interpreter is wrong about {', '.join(faults())}, and its {name} is "
                f"not the one that dsv3 repairs; use Triton {low} to {high}"
            )
        parts[name] = part
    return parts


def _convert_float(
    input: np.ndarray,  # noqa: A002 (Triton's own name)
    input_dtype: tl.dtype,
    output_dtype: tl.dtype,
    rounding_mode: Any,
) -> np.ndarray:
    """Bits in, bits out, as the interpreter's function of this name."""
    values = input.view(_NUMPY[input_dtype.name]) if input_dtype.name in _NUMPY else input
    out = encode(decode(values, input_dtype), output_dtype, rounding_mode == interpreter._ir.ROUNDING_MODE.RTZ)
    return out.view(f"uint{output_dtype.primitive_bitwidth}").reshape(input.shape)


def _coded(handle: interpreter.TensorHandle) -> bool:
    return handle.dtype.scalar.name in _CODED


def _cast_impl(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast_impl(self: Any, src: interpreter.TensorHandle, dst_type: tl.dtype) -> interpreter.TensorHandle:
        if not _coded(src) and dst_type.scalar.name not in _CODED:
            return original(self, src, dst_type)
        data = encode(decode(src.data, src.dtype.scalar), dst_type.scalar)
        return interpreter.TensorHandle(data, dst_type.scalar)

    return cast_impl


def _binary_op(original: Callable[..., Any]) -> Callable[..., Any]:
    def binary_op(self: Any, lhs: Any, rhs: Any, op: Callable[..., Any]) -> interpreter.TensorHandle:
        if not _coded(lhs) or op in (np.bitwise_and, np.bitwise_or, np.bitwise_xor):
            return original(self, lhs, rhs, op)
        dtype = lhs.dtype.scalar
        result = op(*(decode(x.data, x.dtype.scalar).astype(np.float32) for x in (lhs, rhs)))
        # A comparison's result is a truth value, whatever type its operands have.
        return interpreter.TensorHandle(result if result.dtype == bool else encode(result, dtype), dtype)

    return binary_op


def _dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        def plain(x: interpreter.TensorHandle) -> interpreter.TensorHandle:
            if not _coded(x):
                return x
            return interpreter.TensorHandle(decode(x.data, x.dtype.scalar).astype(np.float32), tl.float32)

        return original(self, plain(a), plain(b), d, input_precision, max_num_imprecise_acc)

    return create_dot
