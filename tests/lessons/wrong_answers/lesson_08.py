"""Answers to lesson 08's stubs as learners write them, independent of the errors that its module knows."""

_LAUNCHED = """
def launched(kernel, a, b):
    rows, width = a.size()
    y = {out}
    kernel[{grid}](a, b, y, width, {strides}, BLOCK=256, num_warps=4)
    return y
"""
_QUANT = """
@triton.jit
def quant(x_ptr, q_ptr, scale_ptr, BLOCK: tl.constexpr):
    pid = tl.program_id(axis=0)
    offs = pid * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs).to(tl.float32)
    amax = {amax}
    s = {scale}
    tl.store(q_ptr + offs, {q})
    tl.store(scale_ptr + pid, s)
"""
_DEQUANT = """
@triton.jit
def dequant(w_ptr, scale_ptr, out_ptr, M, N, BLOCK: tl.constexpr):
    i, j = tl.program_id(0), tl.program_id(1)
    rows = i * BLOCK + tl.arange(0, BLOCK)[:, None]
    columns = j * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = {inside}
    w = tl.load(w_ptr + rows * {stride} + columns, mask=inside)
    s = tl.load(scale_ptr + {scale})
    tl.store(out_ptr + rows * {stride} + columns, {value}, mask=inside)
"""
_GEMM = """
@triton.jit
def gemm(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, y_ptr, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner, nk = tl.arange(0, BLOCK), {steps}
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(nk):
        kk = step * BLOCK + inner
        a = tl.load(a_ptr + m[:, None] * K + kk[None, :], mask=m[:, None] < M, other=0.0)
        b = tl.load({b}, mask=n[None, :] < N, other=0.0)
        sa = tl.load(a_scale_ptr + {sa}, mask=m < M, other=0.0)
        sb = tl.load(b_scale_ptr + {sb}, mask=n < N, other=0.0)
        {add}
    where = m[:, None] * N + n[None, :]
    tl.store(y_ptr + where, total.to(y_ptr.dtype.element_ty), mask={mask})
"""
_MASK = "(m[:, None] < M) & (n[None, :] < N)"
_B = "b_ptr + n[None, :] * K + kk[:, None]"
_GOOD = {"steps": "K // BLOCK", "b": _B, "sa": "m * nk + step", "sb": "n // BLOCK * nk + step", "mask": _MASK}
_GOOD["add"] = "total += tl.dot(a, b) * sa[:, None] * sb[None, :]"
_PIECE = """
@triton.jit
def piece(
    q_ptr, cache_ptr, length_ptr, out_ptr, lse_ptr, scale, H, pieces,
    C: tl.constexpr, R: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_T: tl.constexpr,
):
    m, p = tl.program_id(0), tl.program_id(1)
    heads, latent, rotary = tl.arange(0, BLOCK_H), tl.arange(0, C), tl.arange(0, R)
    real, row = (heads < H)[:, None], (m * H + heads)[:, None] * (C + R)
    q_c = tl.load(q_ptr + row + latent[None, :], mask=real, other=0.0)
    q_pe = tl.load(q_ptr + row + C + rotary[None, :], mask=real, other=0.0)
    length = tl.load(length_ptr + m)
    per = tl.cdiv(length, pieces * BLOCK_T) * BLOCK_T
    end = tl.minimum(per * (p + 1), length)
    best = tl.full([BLOCK_H], {least}, tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    mixed = tl.zeros([BLOCK_H, C], tl.float32)
    for start in range(per * p, end, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        rows = cache_ptr + t[:, None] * (C + R)
        c = tl.load(rows + latent[None, :], mask=(t < end)[:, None], other=0.0)
        pe = tl.load(rows + {pe} + rotary[None, :], mask=(t < end)[:, None], other=0.0)
        s = tl.dot(q_c, tl.trans(c)) + tl.dot(q_pe, tl.trans(pe))
        s = tl.where((t < end)[None, :], s * scale, {masked})
        new = tl.maximum(best, tl.max(s, 1))
        w = tl.exp(s - new[:, None])
        alpha = tl.exp({alpha})
        total = total * alpha + tl.sum(w, 1)
        mixed = mixed * alpha[:, None] + tl.dot({w}, c)
        best = new
    at = (m * pieces + p) * H + heads
    none = total == 0
    lse = tl.where(none, float("-inf"), best + tl.log(tl.where(none, 1.0, total)))
    tl.store(out_ptr + at[:, None] * C + latent[None, :], mixed / tl.where(none, 1.0, total)[:, None], mask={real})
    tl.store(lse_ptr + at, lse, mask=heads < H)
"""
_FINE = {"least": 'float("-inf")', "pe": "C", "masked": 'float("-inf")', "alpha": "best - new", "w": "w.to(c.dtype)"}
_FINE["real"] = "real"
_MERGE = """
@triton.jit
def merge(out_ptr, lse_ptr, y_ptr, H, pieces, C: tl.constexpr, PIECES: tl.constexpr):
    m, h = tl.program_id(0), tl.program_id(1)
    latent = tl.arange(0, C)
    best = float("-inf")
    total = 0.0
    y = tl.zeros([C], tl.float32)
    for p in range({pieces}):
        at = (m * pieces + p) * H + h
        lse = tl.load(lse_ptr + at)
        new = tl.maximum(best, lse)
        old, w = {weights}
        y = y * old + tl.load(out_ptr + at * C + latent) * w
        total = total * old + w
        best = new
    tl.store(y_ptr + {at} * C + latent, ({result}).to(y_ptr.dtype.element_ty))
"""
_TESTED = """
def act_quant_is_right(act_quant):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 256, generator=generator)
    {body}
"""

WRONG = {
    "launched": [
        ("a grid of one axis", "grid|one tile|several values|axes", _LAUNCHED.format(
            out="torch.empty_like(a)", grid="(rows * triton.cdiv(width, 256),)",
            strides="a.stride(0), b.stride(0), y.stride(0)")),
        ("distances in bytes", "leaves a_ptr", _LAUNCHED.format(
            out="torch.empty_like(a)", grid="(rows, triton.cdiv(width, 256))",
            strides="a.stride(0) * a.itemsize, b.stride(0) * b.itemsize, y.stride(0) * y.itemsize")),
        ("the distance of two columns", "leaves|N apart|tile|rows|stride", _LAUNCHED.format(
            out="torch.empty_like(a)", grid="(rows, -(-width // 256))", strides="a.stride(1), b.stride(1), y.stride(1)")),
        ("the kernel is called, not launched", "not callable", """
def launched(kernel, a, b):
    y = torch.empty_like(a)
    kernel(a, b, y, a.shape[1], a.stride(0), b.stride(0), y.stride(0), 256)
    return y
"""),
    ],
    "quant": [
        ("a floor under the maximum", "floor of 1e-4", _QUANT.format(
            amax="tl.maximum(tl.max(tl.abs(x)), 1e-4)", scale="amax / 448.", q="(x / s).to(q_ptr.dtype.element_ty)")),
        ("0 / 0", "run of zeros", _QUANT.format(
            amax="tl.max(tl.abs(x))", scale="amax / 448.", q="(x / s).to(tl.float8e4nv)")),
        ("the sign counts", "without its sign", _QUANT.format(
            amax="tl.max(x, axis=0)", scale="tl.where(amax == 0, 1.0, amax / 448.)", q="(x / s).to(tl.float8e4nv)")),
        ("448 belongs to the other side", "448", _QUANT.format(
            amax="tl.max(tl.abs(x))", scale="tl.where(amax == 0, 1.0, 448.0 / amax)", q="(x * s).to(tl.float8e4nv)")),
        ("no decorator", "write @triton.jit above it", _QUANT.format(
            amax="tl.max(tl.abs(x))", scale="tl.where(amax == 0, 1.0, amax / 448.)", q="(x / s).to(tl.float8e4nv)"
        ).replace("@triton.jit\n", "")),
        ("a loop without an end", "stopped after", """
@triton.jit
def quant(x_ptr, q_ptr, scale_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    while i < 10:
        i = i * 1
"""),
    ],
    "dequant": [
        ("right unless N is ragged", "tl.cdiv rounds up", _DEQUANT.format(
            inside="(rows < M) & (columns < N)", stride="N", scale="i * (N // BLOCK) + j", value="w.to(tl.float32) * s")),
        ("rows M apart", "rows of a", _DEQUANT.format(
            inside="(rows < M) & (columns < N)", stride="M", scale="i * tl.cdiv(N, BLOCK) + j", value="w.to(tl.float32) * s")),
        ("no mask for rows", "rows < M, too", _DEQUANT.format(
            inside="columns < N", stride="N", scale="i * tl.cdiv(N, BLOCK) + j", value="w.to(tl.float32) * s")),
        ("always BF16", "type of out", _DEQUANT.format(
            inside="(rows < M) & (columns < N)", stride="N", scale="i * tl.cdiv(N, BLOCK) + j",
            value="(w.to(tl.float32) * s).to(tl.bfloat16)")),
    ],
    "gemm": [
        ("rescaled after the loop", "rescale before you add", _GEMM.format(**_GOOD | {
            "add": "total += tl.dot(a, b)"}).replace("    where =", "    total = total * sa[:, None] * sb[None, :]\n    where =")),
        ("b is not transposed", "leaves b_ptr|codes|block of K|scales", _GEMM.format(**_GOOD | {
            "b": "b_ptr + n[None, :] + kk[:, None] * N"})),
        ("steps without the last", "last block of K", _GEMM.format(**_GOOD | {"steps": "(K - 1) // BLOCK"})),
        ("the neighbour's scale", "scale", _GEMM.format(**_GOOD | {"sb": "n // BLOCK * nk + (step + 1) % nk"})),
        ("b's scales by tile", "BLOCK rows of b|leaves b_scale_ptr", _GEMM.format(**_GOOD | {"sb": "tl.program_id(1) * nk + step + n * 0"})),
        ("no mask at the end", "leaves y", _GEMM.format(**_GOOD | {"mask": "m[:, None] < M"})),
        ("in BF16 before the product", "scale", _GEMM.format(**_GOOD | {
            "add": "total += tl.dot((a.to(tl.float32) * sa[:, None]).to(tl.bfloat16), (b.to(tl.float32) * sb[None, :]).to(tl.bfloat16))"})),
    ],
    "piece": [
        ("best begins at 0", "far below 0", _PIECE.format(**_FINE | {"least": "0.0"})),
        ("masked with 0", "score 0", _PIECE.format(**_FINE | {"masked": "0.0"})),
        ("the shrinking is upside down", "shrink|overflow|NaN", _PIECE.format(**_FINE | {"alpha": "new - best"})),
        ("the rotated key is read from the latent", "rotated|the logsumexp its score", _PIECE.format(**_FINE | {"pe": "0"})),
        ("heads that do not exist are stored", "leaves out_ptr|each piece", _PIECE.format(**_FINE | {"real": "heads[:, None] < BLOCK_H"})),
    ],
    "merge": [
        ("the last piece is left out", "piece", _MERGE.format(
            pieces="pieces - 1", weights="tl.exp(best - new), tl.exp(lse - new)", at="(m * H + h)", result="y / total")),
        ("not divided", "divide by their sum|add up to 1", _MERGE.format(
            pieces="pieces", weights="tl.exp(best - new), tl.exp(lse - new)", at="(m * H + h)", result="y")),
        ("a mean", "mean", _MERGE.format(pieces="pieces", weights="1.0, 1.0", at="(m * H + h)", result="y / total")),
        ("pieces that do not exist are read", "leaves|own pieces|power of two", _MERGE.format(
            pieces="PIECES", weights="tl.exp(best - new), tl.exp(lse - new)", at="(m * H + h)", result="y / total")),
    ],
    "swiglu_quant": [
        ("silu of the sum", "silu", """
@triton.jit
def swiglu_quant(a_ptr, b_ptr, q_ptr, scale_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    i, j = tl.program_id(0), tl.program_id(1)
    columns = j * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i * a_stride + columns).to(tl.float32)
    b = tl.load(b_ptr + i * b_stride + columns).to(tl.float32)
    x = (a / (1 + tl.exp(-b)) * b).to(tl.bfloat16).to(tl.float32)
    s = tl.max(tl.abs(x), 0) / 448.0
    s = tl.where(s == 0, 1.0, s)
    tl.store(q_ptr + i * N + columns, (x / s).to(tl.float8e4nv))
    tl.store(scale_ptr + i * tl.cdiv(N, BLOCK) + j, s)
"""),
    ],
    "matvec": [
        ("one scale for the whole sum", "rescale before you add", """
@triton.jit
def matvec(x_ptr, w_ptr, scale_ptr, y_ptr, N, K, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    rows, inner = i * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(K // BLOCK):
        x = tl.load(x_ptr + k * BLOCK + inner).to(tl.float32)
        w = tl.load(w_ptr + rows[:, None] * K + k * BLOCK + inner[None, :], mask=(rows < N)[:, None], other=0.0)
        scale = tl.load(scale_ptr + i * (K // BLOCK) + k)
        acc += tl.sum(w.to(tl.float32) * x[None, :], 1)
    tl.store(y_ptr + rows, acc * scale, mask=rows < N)
"""),
    ],
    "act_quant_is_right": [
        ("nothing is tested", "not caught", "def act_quant_is_right(act_quant):\n    pass\n"),
        ("powers of two alone", "carry", _TESTED.format(
            body='assert (torch.frexp(act_quant(x, 128, "ue8m0")[1]).mantissa == 0.5).all()')),
        ("as if FP8 lost nothing", "right act_quant passes|right act_quant fails", _TESTED.format(
            body="q, s = act_quant(x, 128, None)\n    assert (q.float() * s.repeat_interleave(128, 1) == x).all()")),
        ("fails by chance", "passes, each time|should fail", """
def act_quant_is_right(act_quant):
    act_quant.called = getattr(act_quant, "called", 0) + 1
    assert act_quant.called % 2
"""),
    ],
}  # fmt: skip

RIGHT = {
    "launched": [_LAUNCHED.format(out="torch.empty((rows, width), dtype=a.dtype)",
                                  grid="lambda given: (rows, -(-width // given['BLOCK']))",
                                  strides="a.stride(0), b.stride(0), y.stride(0)")],
    "gemm": [_GEMM.format(**_GOOD)],
    "piece": [_PIECE.format(**_FINE)],
    "merge": [_MERGE.format(pieces="pieces", weights="tl.exp(best - new), tl.exp(lse - new)", at="(m * H + h)", result="y / total")],
    "dequant": [_DEQUANT.format(inside="(rows < M) & (columns < N)", stride="N", scale="i * tl.cdiv(N, BLOCK) + j",
                                value="w.to(tl.float32) * s")],
}  # fmt: skip
