"""FP8 and INT8 in numbers: what a byte means, what rounding loses, and what a scale does about it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.reference import FP8, weight_dequant, weight_quant
from ..model import Linear, Transformer

# Format -> its torch type, and the names of its bits from the left.
FORMATS = {
    "E4M3": (FP8, (1, 4, 3)),
    "E5M2": (torch.float8_e5m2, (1, 5, 2)),
    "INT8": (torch.int8, (1, 7)),
}


def codes(form: str = "E4M3") -> Tensor:
    """[256] float32: what each byte from 0 to 255 means; NaN and infinity where it means that."""
    return torch.arange(256, dtype=torch.uint8).view(FORMATS[form][0]).float()


def finite(form: str = "E4M3") -> list[float]:
    """The format's numbers but NaN and infinity, ascending; 0 once."""
    every = codes(form)
    return every[every.isfinite()].unique().tolist()


def rounded(x: Tensor, form: str = "E4M3") -> Tensor:
    """Each number's nearest in the format, as float32: clamped to the largest, ties to the even code."""
    kind, top = FORMATS[form][0], finite(form)[-1]
    x = x.float().clamp(-top, top)
    return (x.round() if form == "INT8" else x).to(kind).float()


def worst_error(x: Tensor, step: float = 1.0, form: str = "E4M3") -> Tensor:
    """[N]: the largest relative error of rounding ``x`` [N] to ``step`` times the format, among each number's 150
    neighbours."""
    off = (rounded(x / step, form) * step - x).abs() / x
    return torch.nn.functional.max_pool1d(off[None, None], 151, 1, 75)[0, 0]


class Stored(NamedTuple):
    """What becomes of a number that is stored as ``code * scale``.

    Attributes:
        code: the byte, 0 to 255; ``bits`` are its fields: sign, exponent, mantissa.
        value: what the byte means; ``back`` is that times the scale.
        error: of ``back``, relative to the number; NaN for 0.
    """

    code: int
    bits: str
    value: float
    back: float
    error: float


def store(number: float, scale: float = 1.0, form: str = "E4M3") -> Stored:
    """Divide by the scale, clamp, round, and multiply again."""
    kind, fields = FORMATS[form]
    value = rounded(torch.tensor([number], dtype=torch.float32) / scale, form)
    code = int(value.to(kind).view(torch.uint8))
    bits, at, text = f"{code:08b}", 0, []
    for width in fields:
        text.append(bits[at : at + width])
        at += width
    back = float(value) * scale
    return Stored(
        code, " ".join(text), float(value), back, abs(back - number) / abs(number) if number else float("nan")
    )


# ------------------------------------------------------------------------------------------- whole matrices


def through_fp8(w: Tensor, block: int = 128, scale_fmt: str | None = None) -> Tensor:
    """[M, N] float32: a matrix after FP8 with a scale for each ``block`` x ``block``; one large block is the tensor."""
    return weight_dequant(*weight_quant(w, block, scale_fmt), block, torch.float32)


def through_int8(w: Tensor, block: int = 128) -> Tensor:
    """[M, N] float32: the same with INT8, a block's largest number becoming 127."""
    m, n = w.shape
    padded = torch.nn.functional.pad(w.float(), (0, -n % block, 0, -m % block))
    tiles = padded.unflatten(0, (-1, block)).unflatten(2, (-1, block))
    scale = tiles.abs().amax((1, 3), keepdim=True).clamp(min=1e-30) / 127
    return (rounded(tiles / scale, "INT8") * scale).flatten(2, 3).flatten(0, 1)[:m, :n]


def error(back: Tensor, w: Tensor, where: Tensor | None = None) -> float:
    """Root mean square of what changed, relative to that of ``w``; only ``where`` that mask is true, if given."""
    where = torch.ones_like(w, dtype=torch.bool) if where is None else where
    w = w.double()[where]
    return float(((back.double()[where] - w).square().sum() / w.square().sum()).sqrt())


@torch.inference_mode()
def linear_inputs(model: Transformer, tokens: Sequence[int]) -> dict[str, Tensor]:
    """What each ``Linear`` of the model is given for one sequence: its name -> [rows, K] float32."""
    found: dict[str, Tensor] = {}

    def keep(name: str, given: tuple[Tensor, ...]) -> None:
        found[name] = given[0].float().flatten(0, -2)

    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear)]
    hooks = [module.register_forward_pre_hook(lambda _, given, n=name: keep(n, given)) for name, module in linears]
    try:
        model(torch.tensor([list(tokens)]))
    finally:
        for hook in hooks:
            hook.remove()
    return found
