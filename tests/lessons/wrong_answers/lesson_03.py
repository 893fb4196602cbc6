"""Answers to lesson 03's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "decode": [
        ("knows no subnormal numbers and no NaN", "subnormal", """
def decode(code):
    sign = -1 if code & 0x80 else 1
    return sign * (1 + (code & 7) / 8) * 2.0 ** ((code >> 3 & 15) - 7)
"""),
        ("IEEE's rule: the highest exponent is infinity and NaN", "infini", """
def decode(code):
    sign, e, m = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    if e == 15:
        return float("nan") if m else sign * float("inf")
    return sign * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
"""),
        ("subnormal numbers one binade too small", "-6", """
def decode(code):
    sign, e, m = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    return sign * (m / 8 * 2.0**-7 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
"""),
        ("reads the byte as a whole number", "eighths", """
def decode(code):
    return float(code - 256 if code > 127 else code)
"""),
    ],
    "encode": [
        ("searches the nearest, and ties go to the smaller", "half-way", """
def encode(x):
    if x != x:
        return 127
    def value(c):
        e, m = c >> 3, c & 7
        return m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
    best = min(range(127), key=lambda c: (abs(value(c) - min(abs(x), 448)), c))
    return best + (128 if math.copysign(1, x) < 0 else 0)
"""),
        ("NaN beyond 448, as old torch", "beyond 448|become 448", """
def encode(x):
    sign = 128 if math.copysign(1, x) < 0 else 0
    if x != x or abs(x) >= 464:
        return sign + 127
    k = max(math.floor(math.log2(abs(x))), -6) if x else -6
    return min(sign + (k + 6) * 8 + round(abs(x) / 2.0 ** (k - 3)), sign + 126)
"""),
        ("mantissa rounded alone: the carry is lost", "carr", """
def encode(x):
    sign = 128 if math.copysign(1, x) < 0 else 0
    if math.isnan(x):
        return sign | 127
    a = min(abs(x), 448)
    if a < 2**-6:
        return sign | round(a * 512)
    k = math.floor(math.log2(a))
    return sign | (k + 7) << 3 | min(round((a / 2**k - 1) * 8), 7)
"""),
        ("subnormal numbers become zero", "below|even steps", """
def encode(x):
    sign = 128 if math.copysign(1, x) < 0 else 0
    if math.isnan(x):
        return sign | 127
    a = min(abs(x), 448)
    if a < 2**-6:
        return sign
    k = math.floor(math.log2(a))
    return sign + (k + 6) * 8 + round(a / 2.0 ** (k - 3))
"""),
    ],
    "quantise": [
        ("blocks from the shapes: two of 96 rows", "192|576|not two", """
def quantise(w):
    rows, cols = -(-w.shape[0] // 128), -(-w.shape[1] // 128)
    h, b = -(-w.shape[0] // rows), -(-w.shape[1] // cols)
    q, s = torch.empty(w.shape, dtype=torch.float8_e4m3fn), torch.ones(rows, cols)
    for i in range(rows):
        for j in range(cols):
            block = w[i * h : (i + 1) * h, j * b : (j + 1) * b].float()
            s[i, j] = block.abs().max() / 448 if block.any() else 1
            q[i * h : (i + 1) * h, j * b : (j + 1) * b] = (block / s[i, j]).clamp(-448, 448).to(q.dtype)
    return q, s
"""),
        ("a row has its own scale", "block", """
def quantise(w):
    s = w.float().abs().amax(1, keepdim=True) / 448
    return (w.float() / s).to(torch.float8_e4m3fn), s
"""),
        ("epsilon instead of a scale of 1 for zeros", "zeros", """
def quantise(w):
    M, N = w.shape
    s = torch.ones(-(-M // 128), -(-N // 128))
    q = torch.zeros(M, N, dtype=torch.float8_e4m3fn)
    for i in range(0, M, 128):
        for j in range(0, N, 128):
            block = w[i : i + 128, j : j + 128].float()
            s[i // 128, j // 128] = block.abs().max().clamp(min=1e-12) / 448
            q[i : i + 128, j : j + 128] = (block / s[i // 128, j // 128]).to(q.dtype)
    return q, s
"""),
        ("forgets the ragged rest", "576|smaller", """
def quantise(w):
    M, N = w.shape
    s = torch.ones(M // 128, N // 128)
    q = torch.zeros(M, N, dtype=torch.float8_e4m3fn)
    for i in range(M // 128):
        for j in range(N // 128):
            at = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            s[i, j] = w[at].float().abs().max() / 448 if w[at].any() else 1
            q[at] = (w[at].float() / s[i, j]).to(q.dtype)
    return q, s
"""),
    ],
    "quantise_groups": [
        ("a scale for each token alone", "128 neighbours|each group", """
def quantise_groups(x):
    s = x.float().abs().amax(1, keepdim=True).div(448)
    return x.float().div(s).to(torch.float8_e4m3fn), s.repeat(1, x.shape[1] // 128)
"""),
        ("blocks of 128 x 128, as for weights", "each token", """
def quantise_groups(x):
    g = x.float().view(len(x), -1, 128)
    s = g.abs().amax((0, 2)).div(448).expand(len(x), -1)
    s = torch.where(s == 0, 1.0, s)
    return (g / s.unsqueeze(-1)).to(torch.float8_e4m3fn).view(x.shape), s
"""),
        ("the demo's smallest largest number, 1e-4, as the scale of zeros", "zeros", """
def quantise_groups(x):
    g = x.float().view(len(x), -1, 128)
    s = g.abs().amax(-1).clamp(min=1e-4) / 448
    return (g / s.unsqueeze(-1)).to(torch.float8_e4m3fn).view(x.shape), s
"""),
    ],
    "dequantise": [
        ("the block size from the shapes, as a loader did", "whatever the shapes|from the shapes", """
def dequantise(q, scale):
    rows, columns = -(-q.shape[0] // scale.shape[0]), -(-q.shape[1] // scale.shape[1])
    spread = scale.repeat_interleave(rows, 0)[: q.shape[0]].repeat_interleave(columns, 1)[:, : q.shape[1]]
    return (q.float() * spread).to(torch.bfloat16)
"""),
        ("rounds the scale first", "round once", """
def dequantise(q, scale):
    spread = scale.repeat_interleave(128, 0)[: q.shape[0]].repeat_interleave(128, 1)[:, : q.shape[1]]
    return q.to(torch.bfloat16) * spread.to(torch.bfloat16)
"""),
        ("takes the name scale_inv at its word: divides", "not divided", """
def dequantise(q, scale):
    out = torch.empty(q.shape, dtype=torch.bfloat16)
    for i in range(0, q.shape[0], 128):
        for j in range(0, q.shape[1], 128):
            out[i : i + 128, j : j + 128] = q[i : i + 128, j : j + 128].float() / scale[i // 128, j // 128]
    return out
"""),
        ("multiplies by the inverse, which is one rounding more than a division", "not divided", """
def dequantise(q, scale):
    inverse = (1 / scale).repeat_interleave(128, 0)[: q.shape[0]].repeat_interleave(128, 1)[:, : q.shape[1]]
    return (q.float() * inverse).bfloat16()
"""),
        ("forgets the last, ragged rows", "block of 128 and one of 64|shape", """
def dequantise(q, scale):
    whole = q.shape[0] // 128 * 128 or q.shape[0]
    spread = scale.repeat_interleave(128, 0)[:whole].repeat_interleave(128, 1)[:, : q.shape[1]]
    return (q[:whole].float() * spread).to(torch.bfloat16)
"""),
        ("one scale for all", "each block|row 1", """
def dequantise(q, scale):
    return (q.float() * scale[0, 0]).to(torch.bfloat16)
"""),
    ],
    "pair": [
        ("a warning, and the FP8 tensor goes on, as in the public script", "missing scale", """
def pair(where, dtypes):
    pairs = {}
    for name in where:
        if dtypes[name] == "F8_E4M3":
            if name + "_scale_inv" in where:
                pairs[name] = name + "_scale_inv"
    return pairs, {n: f for n, f in where.items() if n not in pairs.values()}
"""),
        ("a KeyError", "names the weight", """
def pair(where, dtypes):
    pairs = {}
    for name in where:
        if dtypes[name] == "F8_E4M3":
            where[name + "_scale_inv"]
            pairs[name] = name + "_scale_inv"
    return pairs, {n: f for n, f in where.items() if n not in pairs.values()}
"""),
        ("looks for the scale in the weight's own file", "another file", """
def pair(where, dtypes):
    pairs = {}
    for name, file in where.items():
        if dtypes[name] == "F8_E4M3":
            if where.get(name + "_scale_inv") != file:
                raise ValueError(name)
            pairs[name] = name + "_scale_inv"
    return pairs, {n: f for n, f in where.items() if n not in pairs.values()}
"""),
        ("all float32 tensors are taken for scales", "leaves|FP8 weight", """
def pair(where, dtypes):
    pairs = {n: n + "_scale_inv" for n in where if dtypes[n] == "F8_E4M3"}
    for n, s in pairs.items():
        if s not in where:
            raise ValueError(n)
    return pairs, {n: f for n, f in where.items() if dtypes[n] != "F32"}
"""),
    ],
    "requantise": [
        ("new scales", "given|one block", """
def requantise(w, scale):
    q = torch.zeros(w.shape, dtype=torch.float8_e4m3fn)
    for i in range(0, w.shape[0], 128):
        for j in range(0, w.shape[1], 128):
            b = w[i : i + 128, j : j + 128].float()
            q[i : i + 128, j : j + 128] = (b / (b.abs().max() / 448)).clamp(-448, 448).to(q.dtype)
    return q
"""),
        ("divides in bfloat16", "float32", """
def requantise(w, scale):
    s = scale.bfloat16().repeat_interleave(128, 0)[: w.shape[0]].repeat_interleave(128, 1)[:, : w.shape[1]]
    return (w / s).clamp(-448, 448).to(torch.float8_e4m3fn)
"""),
    ],
    "power_of_two": [
        ("a logarithm in float32", "logarithm", """
def power_of_two(scale):
    return 2.0 ** torch.ceil(torch.log2(scale))
"""),
        ("to the nearest, not up", "always up|goes up", """
def power_of_two(scale):
    return scale.log2().round().exp2()
"""),
        ("also lifts what is a power of two already", "stay", """
def power_of_two(scale):
    return torch.ldexp(torch.ones_like(scale), torch.frexp(scale).exponent)
"""),
        ("down: only the exponent's bits are kept", "down|goes up|above", """
def power_of_two(scale):
    return (scale.view(torch.int32) & 0x7F800000).view(torch.float32)
"""),
    ],
}  # fmt: skip

RIGHT = {
    "encode": ["""
def encode(x):
    return int(torch.tensor(x).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8))
"""],
    "quantise": ["""
def quantise(w):
    rows, cols = math.ceil(w.shape[0] / 128), math.ceil(w.shape[1] / 128)
    q, s = torch.zeros(w.shape, dtype=torch.float8_e4m3fn), torch.ones(rows, cols)
    for i in range(rows):
        for j in range(cols):
            at = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            block = w[at].float()
            if block.any():
                s[i, j] = block.abs().max() / 448
            q[at] = (block / s[i, j]).clamp(-448, 448).to(q.dtype)
    return q, s
"""],
    "dequantise": ["""
def dequantise(q, scale):
    i, j = torch.arange(q.shape[0]) // 128, torch.arange(q.shape[1]) // 128
    return (q.to(torch.float32) * scale[i][:, j]).bfloat16()
"""],
    "power_of_two": ["""
def power_of_two(scale):
    return ((scale.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)
"""],
}  # fmt: skip
