"""The parts of lesson 03: FP8 numbers, block scales, and the cast of a checkpoint.

A part sees numbers, one matrix or a dictionary of names, and calls no other part: ``transplant_03`` puts them together.
A block is 128 x 128 numbers of a weight, a group 1 x 128 numbers of an activation.
"""

import math

import torch

from .inputs_03 import codes, matrix, random, scales, tokens
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def decode(code):
    """What the byte `code`, 0 to 255, means in E4M3, as a float."""
    sign = -1.0 if code >> 7 else 1.0
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def encode(x):
    """The E4M3 byte, 0 to 255, whose number is nearest to the float x.

    Half-way between two numbers, the byte that is even. Beyond 448, that of 448.
    -0.0 keeps its sign. NaN stays NaN.
    """
    sign = 128 if math.copysign(1, x) < 0 else 0
    if math.isnan(x):
        return sign + 127
    size = min(abs(x), 448.0)
    exponent = max(math.frexp(size)[1] - 1, -6) if size else -6  # 2^exponent <= size, for a normal number
    steps = round(size / 2.0 ** (exponent - 3))  # 8 to 16 of them, fewer for a subnormal number
    return sign + (exponent + 6) * 8 + steps


def quantise(w):
    """w [M, N] -> codes [M, N] float8_e4m3fn, scales [ceil(M / 128), ceil(N / 128)] float32.

    A block's largest number becomes 448. The last blocks may be smaller.
    A block of zeros gets scale 1.
    """
    M, N = w.shape
    padded = torch.nn.functional.pad(w.float(), (0, -N % 128, 0, -M % 128))
    largest = padded.unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).abs().amax((1, 3))
    scale = torch.where(largest == 0, 1.0, largest / 448)
    spread = scale.repeat_interleave(128, 0)[:M].repeat_interleave(128, 1)[:, :N]
    return (w.float() / spread).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def quantise_groups(x):
    """x [S, K] -> codes [S, K] float8_e4m3fn, scales [S, K / 128] float32.

    Each 128 neighbours of a token share a scale. A group of zeros gets scale 1.
    """
    groups = x.float().unflatten(1, (-1, 128))
    largest = groups.abs().amax(-1)
    scale = torch.where(largest == 0, 1.0, largest / 448)
    codes = (groups / scale[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes.flatten(1), scale


def dequantise(q, scale):
    """q [M, N], scale [ceil(M / 128), ceil(N / 128)] float32 -> [M, N] bfloat16.

    q is float8_e4m3fn, or holds the same numbers as float32.
    """
    M, N = q.shape
    spread = scale.repeat_interleave(128, 0)[:M].repeat_interleave(128, 1)[:, :N]
    return (q.float() * spread).to(torch.bfloat16)


def pair(where, dtypes):
    """What a cast does, from a checkpoint's index alone, before the first byte is written.

    where: name -> file. dtypes: name -> "F8_E4M3", "BF16" or "F32".
    Returns two dictionaries: name of each FP8 weight -> name of its scale, and the new index,
    name -> file, without scales. Raises ValueError that names a weight without a scale.
    """
    scale_of = {name: f"{name}_scale_inv" for name in where if dtypes[name] == "F8_E4M3"}
    missing = [name for name, scale in scale_of.items() if scale not in where]
    if missing:
        raise ValueError(f"no scale for {', '.join(missing)}")
    scales = set(scale_of.values())
    return scale_of, {name: file for name, file in where.items() if name not in scales}


# --------------------------------------------------------------------------------------------------- the checks


def numbered(answer, given):
    """An answer for a list of arguments, one at a time."""
    return [answer(x) for x in given[0]]


def decoded(answer, given):
    """Floats, NaN as text: it is unequal to itself."""
    return ["NaN" if x != x else float(x) for x in numbered(answer, given)]


def twice_q(answer, given):
    """Codes as bytes, so that one step of FP8 is a difference; and scales."""
    q, scale = answer(*given)
    return str(q.dtype), q.view(torch.uint8) if q.element_size() == 1 else q, scale


def message(answer, given):
    """An error's kind, and whether it names the weight."""
    try:
        return answer(*given)
    except ValueError as error:
        return f"ValueError that names {[name for name in given[0] if name in str(error)]}"


def index(missing="", other=False, apart="a"):
    names = {
        "model.embed_tokens.weight": ("a", "BF16"),
        "model.layers.0.q_proj.weight": ("a", "F8_E4M3"),
        "model.layers.0.q_proj.weight_scale_inv": (apart, "F32"),
        "model.layers.0.gate.bias": ("b", "F32"),
        "model.layers.1.q_proj.weight": ("b", "F8_E4M3"),
        "model.layers.1.q_proj.weight_scale_inv": ("b", "F32"),
        "lm_head.weight": ("b", "BF16"),
    }
    if other:
        names |= {"model.norm.weight": ("c", "F32"), "model.ln_scale_inv": ("c", "F32")}
    names = {name: each for name, each in names.items() if name != missing}
    return {name: file for name, (file, _) in names.items()}, {name: dtype for name, (_, dtype) in names.items()}


NAN = [0x7F, 0xFF]
SUB = [*range(8), *range(128, 136)]
TOP = [code + sign for code in range(0x78, 0x7F) for sign in (0, 128)]
NORMAL = [code for code in range(256) if code not in (*NAN, *SUB, *TOP)]
SPREAD = "repeat_interleave(128, 0)[:M].repeat_interleave(128, 1)[:, :N]"

PARTS = [
    Part(
        decode, "an E4M3 byte's number", 1, 10,
        "`code >> 7` is the sign, `code >> 3 & 15` the exponent, `code & 7` the mantissa. Three cases: NaN, subnormal, "
        "normal.",
        (
            Witness("exponent e means 2^(e - 7), and the mantissa counts eighths on top of 1", lambda: ([0x38, 0x2A, 0x40, 0x09],), decoded),
            Witness("the first bit is the sign", lambda: ([0xB8, 0xAA],), decoded),
            Witness("exponent 0 is subnormal: no leading 1, and the exponent is -6, as for 1", lambda: (SUB,), decoded),
            Witness("exponent 15 is an ordinary one in E4M3: there is no infinity, and 0x7e is 448", lambda: (TOP,), decoded),
            Witness("seven ones after the sign mean NaN", lambda: (NAN,), decoded),
            Witness("all other bytes", lambda: (NORMAL,), decoded),
        ),
        (
            Fault("exponent - 7", "exponent - 8", "exponent e means 2^(e - 7): the bias is 7, not 8"),
            Fault("    if exponent == 0:\n        return sign * mantissa / 8 * 2.0**-6\n", "", "exponent 0 is subnormal: no leading 1"),
            Fault("mantissa / 8 * 2.0**-6", "mantissa / 8 * 2.0**-7", "subnormal numbers have exponent -6, as for exponent 1, not -7"),
            Fault("if exponent == 15 and mantissa == 7:\n        return math.nan", "if exponent == 15:\n        return math.nan if mantissa else sign * math.inf", "exponent 15 is ordinary in E4M3: only mantissa 7 is NaN, and nothing is infinite"),
            Fault("    if exponent == 15 and mantissa == 7:\n        return math.nan\n", "", "0x7f and 0xff are NaN, not 480"),
            Fault("sign = -1.0 if code >> 7 else 1.0", "sign = 1.0", "the sign is lost"),
            Fault("exponent, mantissa = code >> 3 & 15, code & 7", "exponent, mantissa = code >> 2 & 31, code & 3", "that is E5M2: here four bits are the exponent, three the mantissa"),
        ),
    ),
    Part(
        encode, "a number's E4M3 byte", 3, 15,
        "`math.frexp(size)[1] - 1` is the exponent k with 2^k <= size. Steps there are 2^(k - 3); below 2^-6 they stay "
        "2^-9. Python's `round` goes to the even one half-way. Count the steps: 8 to 15 make an exponent, and 16 carries "
        "into the next by itself.",
        (
            Witness("numbers that E4M3 has", lambda: ([1.0, 0.3125, 4.0, 448.0, 0.015625],), numbered),
            Witness("the first bit is the sign, also of zero", lambda: ([-1.0, -0.3125, 0.0, -0.0],), numbered),
            Witness("between two numbers, the nearer one", lambda: ([0.3, 1.06, 1.07, 300.0, -21.0, 0.11],), numbered),
            Witness("rounding up may carry into the next exponent: 1.99 becomes 2", lambda: ([1.99, 0.248, 127.0, 15.7, 0.3],), numbered),
            Witness("half-way, the even byte", lambda: ([1.0625, 1.1875, 17.0, 19.0, 232.0, 216.0, 0.3],), numbered),
            Witness("below 2^-6 the steps stay 2^-9", lambda: ([0.0137, 0.004, 0.00098, 0.0009, 2.0**-9, 0.0155, 1e-30],), numbered),
            Witness("beyond 448 the byte of 448, and no NaN", lambda: ([449.0, 500.0, -1e6, math.inf],), numbered),
            Witness("NaN stays NaN", lambda: ([math.nan],), numbered),
        ),
        (
            Fault("min(abs(x), 448.0)", "abs(x)", "numbers beyond 448 must become 448: clamp first"),
            Fault("round(size / 2.0 ** (exponent - 3))", "int(size / 2.0 ** (exponent - 3))", "it cuts off instead of rounding to the nearest"),
            Fault("round(size / 2.0 ** (exponent - 3))", "math.floor(size / 2.0 ** (exponent - 3) + 0.5)", "half-way goes to the even byte, not always up"),
            Fault("max(math.frexp(size)[1] - 1, -6)", "math.frexp(size)[1] - 1", "below 2^-6 the exponent stays -6: subnormal numbers have even steps"),
            Fault("if math.copysign(1, x) < 0", "if x < 0", "-0.0 has a sign, too: its byte is 128"),
            Fault("sign = 128 if math.copysign(1, x) < 0 else 0", "sign = 0", "the sign is lost"),
            Fault("sign + (exponent + 6) * 8 + steps", "sign + (exponent + 7) * 8 + steps % 8", "a carry is lost: 1.99 rounds to 16 steps, which is the next exponent"),
        ),
    ),
    Part(
        quantise, "block quantisation", 3, 15,
        "Pad with zeros to whole blocks: `torch.nn.functional.pad(w, (0, -N % 128, 0, -M % 128))`. Then "
        "`unflatten(0, (-1, 128)).unflatten(2, (-1, 128))` is [blocks, 128, blocks, 128]. `repeat_interleave` spreads "
        "the scales; cut off what is too much.",
        (
            Witness("one block: its largest number becomes 448", lambda: (matrix(128, 128),), twice_q),
            Witness("each 128 x 128 block has its own scale", lambda: (matrix(256, 384),), twice_q),
            Witness("the last blocks may be smaller: 576 rows have 5 scales", lambda: (matrix(576, 130),), twice_q),
            Witness("192 rows are a block of 128 and one of 64, not two of 96", lambda: (matrix(192, 128),), twice_q),
            Witness("the largest number may be a negative one", lambda: (-matrix(128, 256).abs(),), twice_q),
            Witness("a block of zeros gets scale 1, and no NaN", lambda: (matrix(256, 128) * (torch.arange(256)[:, None] >= 128),), twice_q),
            Witness("bfloat16 in: divide in float32", lambda: (matrix(130, 140).bfloat16(),), twice_q),
        ),
        (
            Fault("largest / 448", "largest / 240", "a block's largest number becomes 448, E4M3's largest"),
            Fault("torch.where(largest == 0, 1.0, largest / 448)", "largest / 448", "a block of zeros has scale 0: 0 / 0 is NaN. Give it scale 1"),
            Fault(".abs().amax((1, 3))", ".amax((1, 3))", "the largest SIZE counts: take abs first"),
            Fault(".abs().amax((1, 3))", ".abs().amax((1, 3)).max() * torch.ones(-(-M // 128), -(-N // 128))", "one scale for the whole matrix: each block has its own"),
            Fault("w.float() / spread", "w.float() * spread", "divide by the scale: dequantising multiplies"),
            Fault("(w.float() / spread).clamp(-448, 448).to(torch.float8_e4m3fn)", "(w.float() / spread).round().clamp(-448, 448).to(torch.float8_e4m3fn)", "no rounding to whole numbers: the cast itself rounds to E4M3"),
            Fault("largest / 448)", "1 / (largest / 448))", "the scale is what the codes are MULTIPLIED by, although the files call it scale_inv"),
            Fault("(w.float() / spread)", "(w / spread.to(w.dtype))", "divide in float32: rounded to bfloat16 first, the codes differ"),
        ),
    ),
    Part(
        quantise_groups, "activations, 1 x 128", 2, 10,
        "`x.unflatten(1, (-1, 128))` is [S, K / 128, 128]. The largest number of the last dimension makes the scale. "
        "`flatten(1)` puts the groups together again.",
        (
            Witness("a token's 128 numbers share a scale", lambda: (tokens(1, 128),), twice_q),
            Witness("each token and each group has its own", lambda: (tokens(5, 384),), twice_q),
            Witness("an outlier spoils its own group only", lambda: (tokens(3, 256, outlier=1e4),), twice_q),
            Witness("a group of zeros gets scale 1, and no NaN", lambda: (tokens(4, 256) * (torch.arange(256) >= 128),), twice_q),
            Witness("bfloat16 in: divide in float32", lambda: (tokens(6, 256).bfloat16(),), twice_q),
        ),
        (
            Fault(".amax(-1)", ".amax((0, -1), keepdim=True)[..., 0].expand(len(x), -1)", "all tokens share a scale: each token has its own, it is known when the token is computed"),
            Fault("groups.abs()", "groups", "the largest SIZE counts: take abs first"),
            Fault("torch.where(largest == 0, 1.0, largest / 448)", "largest / 448", "a group of zeros has scale 0: 0 / 0 is NaN. Give it scale 1"),
            Fault("largest / 448)", "1 / (largest / 448))", "the scale is what the codes are MULTIPLIED by"),
            Fault("groups.abs().amax(-1)", "x.float().abs().amax(1, keepdim=True).expand(-1, x.shape[1] // 128)", "one scale for a whole token: each 128 neighbours have their own"),
            Fault("groups / scale[..., None]", "groups.bfloat16() / scale[..., None].bfloat16()", "divide in float32: rounded to bfloat16 first, the codes differ"),
        ),
    ),
    Part(
        dequantise, "the cast of one matrix", 2, 10,
        "`scale.repeat_interleave(128, 0)` gives every row its scale; cut off what is too much. The same for columns. "
        "Multiply in float32, and round once, at the end.",
        (
            Witness("one block: every code times the scale", lambda: (codes(128, 128), scales(128, 128))),
            Witness("rows 0 to 127 belong to scale row 0, 128 to 255 to row 1", lambda: (codes(256, 384), scales(256, 384))),
            Witness("192 rows are a block of 128 and one of 64: never take the block's size from the shapes", lambda: (codes(192, 128), scales(192, 128))),
            Witness("576 rows have 5 scales, the last for half a block", lambda: (codes(576, 130), scales(576, 130))),
            Witness("multiply in float32, and round once", lambda: (codes(128, 128), scales(128, 128)), lambda answer, given: answer(*given).view(torch.int16)),
            Witness("codes may come as float32 numbers", lambda: (codes(130, 1).float(), scales(130, 1))),
        ),
        (
            Fault("q.float() * spread", "q.float() / spread", "the scale is multiplied, not divided by, although the files call it scale_inv"),
            Fault("(q.float() * spread).to(torch.bfloat16)", "q.to(torch.bfloat16) * spread.to(torch.bfloat16)", "multiply in float32 and round once: here the scale is rounded first"),
            Fault(SPREAD, "repeat_interleave(-(-M // len(scale)), 0)[:M].repeat_interleave(-(-N // scale.shape[1]), 1)[:, :N]", "the block is 128 x 128, whatever the shapes: 192 rows are not two blocks of 96"),
            Fault(SPREAD, "repeat(128, 1)[:M].repeat(1, 128)[:, :N]", "neighbouring rows share a scale: repeat_interleave, not repeat"),
            Fault(SPREAD, "max()", "one scale for the whole matrix: each block has its own"),
            Fault(".to(torch.bfloat16)", "", "the result is bfloat16"),
        ),
    ),
    Part(
        pair, "the plan of a cast", 2, 10,
        "A weight's scale has its name and `_scale_inv` after it, and may lie in another file. Look for what is missing "
        "before you return anything. A tensor is a scale only if an FP8 weight is its owner.",
        (
            Witness("each FP8 weight has its scale, BF16 tensors have none", index),
            Witness("a scale may lie in another file than its weight", lambda: index(apart="b")),
            Witness("a missing scale is a ValueError that names the weight", lambda: index("model.layers.1.q_proj.weight_scale_inv"), message),
            Witness("only a scale of an FP8 weight leaves the index", lambda: index(other=True)),
            Witness("a checkpoint without FP8 stays as it is", lambda: ({"a.weight": "x"}, {"a.weight": "BF16"})),
        ),
        (
            Fault("    if missing:\n        raise ValueError(f\"no scale for {', '.join(missing)}\")\n", "", "a missing scale passes: that is how FP8 tensors came into BF16 files. Raise ValueError"),
            Fault("no scale for {', '.join(missing)}", "a scale is missing", "the error does not name the weight"),
            Fault("if name not in scales", "", "scales must leave the index: they are in no BF16 file"),
            Fault("if name not in scales", 'if not name.endswith("_scale_inv")', "only the scale of an FP8 weight leaves: another tensor may end in _scale_inv"),
            Fault('if dtypes[name] == "F8_E4M3"', 'if dtypes[name] != "F32"', "BF16 tensors have no scale"),
            Fault('f"{name}_scale_inv"', 'f"{name}.scale"', "the scale of a weight is called weight_scale_inv"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def requantise(w, scale):
    """w [M, N] bfloat16, scale [ceil(M / 128), ceil(N / 128)] -> codes [M, N] float8_e4m3fn."""
    M, N = w.shape
    spread = scale.repeat_interleave(128, 0)[:M].repeat_interleave(128, 1)[:, :N]
    return (w.float() / spread).clamp(-448, 448).to(torch.float8_e4m3fn)


def power_of_two(scale):
    """scale float32, positive -> float32, the smallest power of two that is not smaller."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())


def bytes_of(answer, given):
    q = answer(*given)
    return str(q.dtype), q.view(torch.uint8) if q.element_size() == 1 else q


EXACT = [2.0**k for k in (-126, -40, -7, -1, 0, 1, 9)]


def bits(answer, given):
    found = answer(*given)
    return str(found.dtype), found.view(torch.int32) if found.element_size() == 4 else found


TRANSFERS = [
    Part(
        requantise, "the way back, bit for bit", 2, 10,
        "As in `quantise`, but the scales are given: spread them, divide, clamp, cast.",
        (
            Witness("one block", lambda: (matrix(128, 128).bfloat16(), scales(128, 128)), bytes_of),
            Witness("ragged blocks", lambda: (matrix(576, 130).bfloat16(), scales(576, 130)), bytes_of),
            Witness("192 rows are a block of 128 and one of 64", lambda: (matrix(192, 256).bfloat16(), scales(192, 256)), bytes_of),
            Witness("a number may have grown past 448 scales: clamp", lambda: (900 * scales(128, 128).expand(128, 128).bfloat16(), scales(128, 128)), lambda answer, given: answer(*given).float()),
        ),
        (
            Fault("w.float() / spread", "w.float() * spread", "divide by the scale: dequantising multiplied"),
            Fault("(w.float() / spread)", "(w / spread.to(w.dtype))", "divide in float32: a scale that is rounded to bfloat16 gives other codes"),
            Fault(SPREAD, "repeat_interleave(-(-M // len(scale)), 0)[:M].repeat_interleave(-(-N // scale.shape[1]), 1)[:, :N]", "the block is 128 x 128, whatever the shapes"),
            Fault("scale.repeat_interleave", "(w.float().abs().max() / 448 * torch.ones_like(scale)).repeat_interleave", "use the scales that are given: new ones give other bytes"),
        ),
    ),
    Part(
        power_of_two, "ue8m0: up to a power of two", 3, 10,
        "`torch.frexp` splits a number exactly into a mantissa from 0.5 up to (not including) 1, and an exponent. For a "
        "power of two the mantissa is 0.5. `torch.ldexp` puts them together again.",
        (
            Witness("a power of two stays", lambda: (torch.tensor(EXACT),), bits),
            Witness("the next float32 above a power of two goes up: a logarithm in float32 does not see it", lambda: (torch.nextafter(torch.tensor(EXACT), torch.tensor(math.inf)),), bits),
            Witness("the next float32 below a power of two goes up to it", lambda: (torch.nextafter(torch.tensor(EXACT[1:]), torch.tensor(0.0)),), bits),
            Witness("always up: rounded down, the block's largest number would pass 448", lambda: ((random(200) * 8).exp2(),), bits),
        ),
        (
            Fault("exponent - (mantissa == 0.5).int()", "exponent", "what is a power of two already must stay"),
            Fault("exponent - (mantissa == 0.5).int()", "exponent - 1", "it goes down: rounded down, the block's largest number would pass 448"),
            Fault("    mantissa, exponent = torch.frexp(scale)\n    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())", "    return scale.log2().ceil().exp2()", "a logarithm in float32 rounds: just above a power of two it gives that power itself"),
            Fault("exponent - (mantissa == 0.5).int()", "exponent - (mantissa < 0.75).int()", "always up, not to the nearest"),
        ),
    ),
]  # fmt: skip
