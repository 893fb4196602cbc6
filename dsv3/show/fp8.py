"""FP8 made visible: the numbers that it has, what rounding to them loses, and what a scale does about it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..kernels.reference import FP8, FP8_MAX, weight_dequant, weight_quant
from ..model import Linear, Transformer
from .style import BLUE, COLOURS, GREEN, GREY, HEAT, ORANGE, RED, axes, ipywidgets, png

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

# Format -> its torch type, and the names of its bits from the left.
FORMATS = {
    "E4M3": (FP8, (1, 4, 3)),
    "E5M2": (torch.float8_e5m2, (1, 5, 2)),
    "INT8": (torch.int8, (1, 7)),
}


def codes(form: str = "E4M3") -> Tensor:
    """[256] float32: what each byte from 0 to 255 means; NaN and infinity where it means that."""
    return torch.arange(256, dtype=torch.uint8).view(FORMATS[form][0]).float()


def largest(form: str) -> float:
    """The largest finite number of a format; INT8 is used symmetrically, so 127."""
    every = codes(form)
    return float(every[every.isfinite()].max())


def rounded(x: Tensor, form: str = "E4M3") -> Tensor:
    """Each number's nearest in the format, as float32: clamped to the largest, ties to the even code."""
    kind, top = FORMATS[form][0], largest(form)
    x = x.float().clamp(-top, top)
    return (x.round() if form == "INT8" else x).to(kind).float()


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


# -------------------------------------------------------------------------------------------------- figures


def number_line() -> "Figure":
    """All E4M3 numbers from 0 up: to 448, the first 2, and the smallest, where the steps stop shrinking."""
    every = codes()
    positive = every[:128][every[:128].isfinite()].tolist()
    fig, rows = axes(3, 1, size=(9.0, 4.2))
    for ax, top, what in zip(
        rows, (448, 2, 2**-5), ("all", "up to 2", "up to 1/32; orange: subnormal, evenly spaced"), strict=True
    ):
        shown = [v for v in positive if v <= top]
        for of, colour in ((lambda v: v >= 2**-6, BLUE), (lambda v: v < 2**-6, RED)):
            ax.vlines([v for v in shown if of(v)], 0, 1, color=colour, linewidth=1.3)
        ax.set(xlim=(-0.01 * top, 1.01 * top), yticks=[], title=f"{what}: {len(shown)} numbers, 0 included")
        ax.spines["left"].set_visible(False)
    rows[-1].set_xlabel("value")
    return fig


def precision() -> "Figure":
    """The largest relative error of rounding a number of each size, in E4M3 and INT8, both scaled to end at 448."""
    fig, (ax,) = axes(size=(8.5, 3.8))
    x = torch.logspace(-12, torch.log2(torch.tensor(FP8_MAX)).item(), 6000, base=2)
    for form, step, colour in (("E4M3", 1.0, BLUE), ("INT8", FP8_MAX / 127, ORANGE)):
        off = (rounded(x / step, form) * step - x).abs() / x
        envelope = torch.nn.functional.max_pool1d(off[None, None], 151, 1, 75)[0, 0]
        ax.plot(x, 100 * envelope, color=colour, label=f"{form}, largest number 448")
    ax.axvline(2**-6, color=GREY, linestyle=":", label="smallest normal E4M3, 1/64")
    ax.set(xscale="log", xlabel="size of the number (block's largest: 448)", ylabel="worst relative error, %")
    ax.set(yscale="log", yticks=[1, 10, 100], yticklabels=["1", "10", "100"])
    fig.legend(fontsize=11, loc="outside lower center", ncols=3)
    return fig


def lines(x: Sequence[float], of: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> "Figure":
    """Relative errors against ``x``, both logarithmic; a name that ends in "block" is drawn solid, others dashed."""
    fig, (ax,) = axes(size=(8.5, 3.8))
    for i, (name, y) in enumerate(of.items()):
        style = "-" if name.endswith("block") else "--"
        ax.plot(x, [100 * v for v in y], style, marker="o", color=COLOURS[i // 2], label=name)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set(yticks=[1, 10, 100], yticklabels=["1", "10", "100"])
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def group_scales(x: Tensor, group: int = 128) -> "Figure":
    """The largest number of every group of activations [S, K], as a share of the tensor's: a row for each group."""
    peaks = x.float().unflatten(-1, (-1, group)).abs().amax(-1)
    fig, (ax,) = axes(size=(9.0, 3.2))
    drawn = ax.imshow((peaks / peaks.max()).clamp(min=1e-9).log2().T.numpy(), cmap=HEAT, aspect="auto", vmax=0)
    ax.set(xlabel="token", ylabel=f"group of {group}")
    fig.colorbar(drawn, label="log2 of its largest number\n(0: the tensor's)", fraction=0.04)
    return fig


def scores(of: Mapping[str, float], control: str) -> "Figure":
    """Percent of sums solved, a bar each; the negative ``control`` in another colour."""
    fig, (ax,) = axes(size=(8.5, 0.5 * len(of) + 1.2))
    names = list(of)
    ax.barh(names, [of[n] for n in names], color=[RED if n == control else GREEN for n in names])
    for row, name in enumerate(names):
        ax.text(of[name] + 1, row, f"{of[name]:.0f} %", va="center", fontsize=11)
    ax.set(xlim=(0, 112), xlabel="held-out sums solved to the last token, %")
    ax.invert_yaxis()
    return fig


def shrinking(
    factors: Sequence[float], without: Sequence[float], at: Sequence[float], scaled: Sequence[float], base: float
) -> "Figure":
    """Percent of sums solved against the factor that shrank the weights: ``without`` a scale, ``scaled``, and BF16."""
    fig, (ax,) = axes(size=(8.5, 3.4))
    ax.axhline(base, color=GREY, linestyle=":", label="BF16, unchanged")
    ax.plot(at, scaled, marker="o", color=GREEN, label="FP8, a scale for each block")
    ax.plot(factors, without, marker="o", color=RED, label="FP8, every scale 1 (control)")
    ax.set(xscale="log", xlabel="weights divided by", ylabel="sums solved, %", ylim=(-4, 108))
    ax.set_xticks(factors, [f"{f:,}" for f in factors])
    ax.minorticks_off()
    fig.legend(fontsize=11, loc="outside right upper")
    return fig


def neighbours(number: float, scale: float, form: str) -> "Figure":
    """A number among the format's numbers around it, all times ``scale``."""
    fig, (ax,) = axes(size=(8.5, 1.9))
    every = codes(form)
    every = every[every.isfinite()].unique() * scale
    at = int(torch.searchsorted(every, torch.tensor(float(number))))
    near = every[max(0, at - 6) : at + 6].tolist()
    ax.vlines(near, 0, 1, color=BLUE, linewidth=2, label=f"{form} x scale")
    ax.plot([number], [0.5], "o", color=RED, markersize=9, label="the number")
    ax.plot([store(number, scale, form).back], [0.5], "o", color=GREEN, markersize=9, label="what is stored")
    ax.set(yticks=[], xlabel="value")
    ax.spines["left"].set_visible(False)
    fig.legend(fontsize=11, loc="outside upper center", ncols=3)
    return fig


def explorer(number: float = 0.3, exponent: int = 0, form: str = "E4M3") -> "VBox":
    """What becomes of a number in a format with a scale. Its ``children`` are the row of choices, text and picture.

    Args:
        exponent: of the scale, a power of two to begin with.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    widgets = ipywidgets()
    choices = (
        widgets.FloatText(value=number, description="number", step=0.1),
        widgets.FloatLogSlider(value=2.0**exponent, base=2, min=-20, max=10, step=0.25, description="scale"),
        widgets.Dropdown(options=list(FORMATS), value=form, description="format"),
    )
    answer, picture = widgets.HTML(), widgets.Image(format="png")

    def show(_: object = None) -> None:
        number, scale, form = (choice.value for choice in choices)
        found = store(number, scale, form)
        over = abs(number / scale) > largest(form)
        text = (
            f"{number:g} / {scale:.6g} = {number / scale:.6g}\n"
            f"code   0x{found.code:02x}  {found.bits}   means {found.value:g}\n"
            f"back   {found.value:g} x {scale:.6g} = {found.back:.6g}\n"
            f"error  {found.error:.2%}{f', clamped: the largest is {largest(form):g}' if over else ''}"
        )
        answer.value, picture.value = f"<pre>{escape(text)}</pre>", png(neighbours(number, scale, form))

    for choice in choices:
        choice.observe(show, names="value")
    show()
    return widgets.VBox([widgets.HBox(choices), answer, picture])
