"""Answers to lesson 05's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "attend": [
        ("the mask is transposed", "sees only itself|comes after", """
def attend(q, k, v, scale):
    s = torch.einsum("shd,thd->hst", q, k) * scale
    mask = torch.ones(len(q), len(k)).tril(-1).bool()
    return torch.einsum("hst,thp->shp", s.masked_fill(mask, float("-inf")).softmax(-1), v)
"""),
        ("a square mask", "S = T", """
def attend(q, k, v, scale):
    s = torch.einsum("shd,thd->hst", q, k) * scale
    s = s + torch.full((len(q), len(k)), float("-inf")).triu(1)
    return torch.einsum("hst,thp->shp", s.softmax(-1), v)
"""),
        ("masked with -10", "sees only itself", """
def attend(q, k, v, scale):
    s = torch.einsum("shd,thd->hst", q, k) * scale
    later = torch.arange(len(k)) > torch.arange(len(k) - len(q), len(k))[:, None]
    return torch.einsum("hst,thp->shp", s.masked_fill(later, -10).softmax(-1), v)
"""),
        ("the scale is its own", "scale that is given", """
def attend(q, k, v, scale):
    s = torch.einsum("shd,thd->hst", q, k) / q.shape[-1] ** 0.5
    later = torch.arange(len(k)) > torch.arange(len(k) - len(q), len(k))[:, None]
    return torch.einsum("hst,thp->shp", s.masked_fill(later, float("-inf")).softmax(-1), v)
"""),
        ("softmax without taking the largest away", "overflow", """
def attend(q, k, v, scale):
    s = (torch.einsum("shd,thd->hst", q, k) * scale).exp()
    s = s * torch.ones(len(q), len(k)).tril(len(k) - len(q))
    return torch.einsum("hst,thp->shp", s / s.sum(-1, keepdim=True), v)
"""),
    ],
    "rope": [
        ("Llama's halves", "halves", """
def rope(x, positions, frequencies):
    angle = torch.cat([positions[:, None] * frequencies] * 2, dim=-1)[:, None]
    a, b = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()
"""),
        ("conjugated", "other way", """
def rope(x, positions, frequencies):
    turn = torch.polar(torch.ones(1), -positions[:, None] * frequencies)[:, None]
    return torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turn).flatten(-2).to(x.dtype)
"""),
        ("in place", "changes its arguments", """
def rope(x, positions, frequencies):
    angle = (positions[:, None] * frequencies)[:, None]
    a, b = x[..., 0::2].clone(), x[..., 1::2].clone()
    x[..., 0::2], x[..., 1::2] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return x
"""),
        ("turned in bfloat16", "bfloat16", """
def rope(x, positions, frequencies):
    angle = (positions[:, None] * frequencies)[:, None].to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.stack(turned, dim=-1).flatten(-2)
"""),
        ("a sign lost in the second", "second of a pair", """
def rope(x, positions, frequencies):
    angle = (positions[:, None] * frequencies)[:, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() - b * angle.cos()], dim=-1).flatten(-2)
"""),
    ],
    "compress": [
        ("its own eps", "eps is an argument", """
def compress(h, down, weight, eps=1e-6):
    C = len(weight)
    x = (h @ down.T).float()
    c, k = x[:, :C], x[:, C:]
    return (c * (c.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight).to(h.dtype), k.to(h.dtype)
"""),
        ("eps outside of the root", "eps", """
def compress(h, down, weight, eps=1e-6):
    c, k_pe = (h @ down.T).split([len(weight), len(down) - len(weight)], dim=-1)
    x = c.float()
    return (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps) * weight).to(h.dtype), k_pe
"""),
        ("eps 1e-5", "eps", """
def compress(h, down, weight, eps=1e-6):
    c, k_pe = (h @ down.T).split([len(weight), len(down) - len(weight)], dim=-1)
    return torch.nn.functional.rms_norm(c, weight.shape, weight, 1e-5), k_pe
"""),
        ("layer_norm", "LayerNorm", """
def compress(h, down, weight, eps=1e-6):
    C = len(weight)
    y = h @ down.T
    return torch.nn.functional.layer_norm(y[:, :C].float(), (C,), weight.float(), None, eps).to(h.dtype), y[:, C:]
"""),
        ("no cast back", "cast back", """
def compress(h, down, weight, eps=1e-6):
    C = len(weight)
    y = h @ down.T
    c = y[:, :C].float()
    return c / (c.square().mean(-1, keepdim=True) + eps).sqrt() * weight.float(), y[:, C:]
"""),
        ("norm over all 576", "key is normalised|C latent numbers", """
def compress(h, down, weight, eps=1e-6):
    y = (h @ down.T).float()
    y = y * (y.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (y[:, : len(weight)] * weight.float()).to(h.dtype), (h @ down.T)[:, len(weight) :]
"""),
    ],
    "expand": [
        ("all keys' rows first", "head by head", """
def expand(c, k_pe, up, heads, N):
    W_UK, W_UV = up[: heads * N], up[heads * N :]
    k, v = torch.einsum("hnc,tc->thn", W_UK.unflatten(0, (heads, -1)), c), torch.einsum("hpc,tc->thp", W_UV.unflatten(0, (heads, -1)), c)
    return torch.cat([k, k_pe.unsqueeze(1).repeat(1, heads, 1)], dim=-1), v
"""),
        ("split in the middle", "not in the middle", """
def expand(c, k_pe, up, heads, N):
    k, v = (c @ up.T).view(len(c), heads, -1).chunk(2, dim=-1)
    return torch.cat([k, k_pe.unsqueeze(1).repeat(1, heads, 1)], dim=-1), v
"""),
        ("the rotated key goes to the first head alone", "for ALL heads", """
def expand(c, k_pe, up, heads, N):
    y = (c @ up.T).view(len(c), heads, -1)
    pe = torch.zeros(len(c), heads, k_pe.shape[1], dtype=c.dtype)
    pe[:, 0] = k_pe
    return torch.cat([y[..., :N], pe], dim=-1), y[..., N:]
"""),
    ],
    "absorbed": [
        ("expands", "expanded", """
def absorbed(q_nope, q_pe, kept, up, scale):
    S, H, N = q_nope.shape
    c, pe = kept[:, : up.shape[1]], kept[:, up.shape[1] :]
    k, v = (c @ up.T).unflatten(-1, (H, -1)).tensor_split([N], dim=-1)
    s = torch.einsum("shn,thn->hst", q_nope, k) + torch.einsum("shr,tr->hst", q_pe, pe)
    later = torch.arange(len(kept)) > torch.arange(len(kept) - S, len(kept))[:, None]
    return torch.einsum("hst,thp->shp", (s * scale).masked_fill(later, float("-inf")).softmax(-1), v)
"""),
        ("key and value are swapped", "swapped", """
def absorbed(q_nope, q_pe, kept, up, scale):
    C, N, S, T = up.shape[1], q_nope.shape[2], len(q_nope), len(kept)
    W = up.view(q_nope.shape[1], -1, C)
    q = torch.cat([torch.einsum("shn,hnc->shc", q_nope, W[:, -N:]), q_pe], dim=-1)
    s = torch.einsum("shk,tk->hst", q, kept).float() * scale
    s = s.masked_fill(torch.ones(S, T).triu(T - S + 1).bool(), float("-inf"))
    return torch.einsum("hsc,hpc->shp", s.softmax(-1).to(kept.dtype) @ kept[:, :C], W[:, :-N])
"""),
        ("the value's rows are taken for the key's", "swapped", """
def absorbed(q_nope, q_pe, kept, up, scale):
    S, H, N = q_nope.shape
    C, T = up.shape[1], len(kept)
    value, key = up.view(H, -1, C).split([N, up.shape[0] // H - N], dim=1)
    s = torch.einsum("shn,hnc,tc->hst", q_nope, key, kept[:, :C]) + torch.einsum("shr,tr->hst", q_pe, kept[:, C:])
    w = (s * scale).masked_fill(torch.ones(S, T).triu(T - S + 1).bool(), float("-inf")).softmax(-1)
    return torch.einsum("hst,tc,hpc->shp", w, kept[:, :C], value)
"""),
        ("no mask, fine for one token", "causal mask", """
def absorbed(q_nope, q_pe, kept, up, scale):
    C, N = up.shape[1], q_nope.shape[2]
    W = up.view(q_nope.shape[1], -1, C)
    q = torch.cat([torch.einsum("shn,hnc->shc", q_nope, W[:, :N]), q_pe], dim=-1)
    w = (torch.einsum("shk,tk->sht", q, kept) * scale).softmax(-1)
    return torch.einsum("sht,tc,hpc->shp", w, kept[:, :C], W[:, N:])
"""),
        ("scale by the latent's width", "one new token", """
def absorbed(q_nope, q_pe, kept, up, scale):
    C, N, S, T = up.shape[1], q_nope.shape[2], len(q_nope), len(kept)
    W = up.view(q_nope.shape[1], -1, C)
    q = torch.cat([torch.einsum("shn,hnc->shc", q_nope, W[:, :N]), q_pe], dim=-1)
    s = torch.einsum("shk,tk->hst", q, kept) * kept.shape[1] ** -0.5
    s = s.masked_fill(torch.ones(S, T).triu(T - S + 1).bool(), float("-inf"))
    return torch.einsum("hsc,hpc->shp", s.softmax(-1) @ kept[:, :C], W[:, N:])
"""),
        ("only the latent's part is scaled", "only one part", """
def absorbed(q_nope, q_pe, kept, up, scale):
    C, N, S, T = up.shape[1], q_nope.shape[2], len(q_nope), len(kept)
    W = up.view(q_nope.shape[1], -1, C)
    q_c = torch.einsum("shn,hnc->shc", q_nope, W[:, :N])
    s = torch.einsum("shk,tk->hst", q_c, kept[:, :C]) * scale + torch.einsum("shk,tk->hst", q_pe, kept[:, C:])
    s = s.masked_fill(torch.ones(S, T).triu(T - S + 1).bool(), float("-inf"))
    return torch.einsum("hsc,hpc->shp", s.softmax(-1) @ kept[:, :C], W[:, N:])
"""),
    ],
    "LatentCache": [
        ("room for 4096 rows", "no text is too long", """
class LatentCache:
    def __init__(self, width):
        self.rows = None
    def update(self, start, new):
        if self.rows is None: self.rows = torch.zeros(4096, new.shape[1], dtype=new.dtype)
        self.rows[start:start+len(new)] = new
        return self.rows[:start+len(new)]
"""),
        ("a list that only grows", "appends", """
class LatentCache:
    def __init__(self, width):
        self.all = []

    def update(self, start, new):
        self.all.append(new)
        return torch.cat(self.all)
"""),
        ("all caches share one tensor", "must not share", """
class LatentCache:
    rows = None

    def __init__(self, width):
        pass

    def update(self, start, new):
        LatentCache.rows = new if LatentCache.rows is None else torch.cat([LatentCache.rows[:start], new])
        return LatentCache.rows
"""),
        ("a fixed length", "long answer", """
class LatentCache:
    def __init__(self, width):
        self.rows = torch.zeros(16, width)

    def update(self, start, new):
        self.rows[start : start + len(new)] = new
        return self.rows[: start + len(new)]
"""),
        ("float32 whatever comes", "cast back", """
class LatentCache:
    def __init__(self, width):
        self.rows = torch.zeros(64, width)

    def update(self, start, new):
        self.rows[start : start + len(new)] = new
        return self.rows[: start + len(new)]
"""),
    ],
    "yarn": [
        ("all pairs are slowed (position interpolation)", "all pairs", """
def yarn(base, R, factor, length, fast, slow):
    return 1.0 / base ** (torch.arange(0, R, 2).float() / R) / factor
"""),
        ("not rounded to whole pairs", "rounded", """
def yarn(base, R, factor, length, fast, slow):
    f = 1.0 / base ** (torch.arange(0, R, 2).float() / R)
    turns = [R / 2 * math.log(length / (2 * math.pi * n), base) for n in (fast, slow)]
    low, high = max(turns[0], 0), min(turns[1], R - 1)
    keep = 1 - ((torch.arange(R // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return f / factor * (1 - keep) + f * keep
"""),
        ("a hard border at one turn, no ramp", "ramp", """
def yarn(base, R, factor, length, fast, slow):
    f = 1.0 / base ** (torch.arange(0, R, 2).float() / R)
    return torch.where(f * length / (2 * math.pi) < slow, f / factor, f)
"""),
        ("low and high are not kept in range", "never below 0", """
def yarn(base, R, factor, length, fast, slow):
    f = 1.0 / base ** (torch.arange(0, R, 2).float() / R)
    low = math.floor(R / 2 * math.log(length / (2 * math.pi * fast), base))
    high = math.ceil(R / 2 * math.log(length / (2 * math.pi * slow), base))
    if low == high:
        high += 0.001
    keep = 1 - ((torch.arange(R // 2) - low) / (high - low)).clamp(0, 1)
    return f / factor * (1 - keep) + f * keep
"""),
    ],
    "attention_is_right": [
        ("random tokens are kept from the first call: fails by chance, and counts any error as caught", "fails on the right", """
def attention_is_right(load):
    seen = globals().setdefault("_seen", [])
    seen.append(load(512)(torch.randint(0, 1000, (1, 9))))
    torch.testing.assert_close(seen[0], seen[-1])
"""),
        ("fails on everything", "fails on the right", """
def attention_is_right(load):
    raise AssertionError("attention is wrong")
"""),
        ("looks only at shapes and NaN", "both bugs pass|passes", """
def attention_is_right(load):
    x = torch.arange(30, 50)[None]
    y = load(8192)(x)
    assert y.shape[:2] == x.shape
    assert not y.isnan().any()
"""),
        ("no test of the cache", "mask", """
def attention_is_right(load):
    x = torch.arange(30, 50)[None]
    torch.testing.assert_close(load(300)(x), load(5000)(x))
"""),
        ("pieces of one token, for which no mask is needed", "mask", """
def attention_is_right(load):
    x = torch.arange(30, 42)[None]
    short, cache = load(300), Cache()
    torch.testing.assert_close(short(x), load(5000)(x))
    steps = [short(x[:, i : i + 1], i, cache) for i in range(12)]
    torch.testing.assert_close(torch.cat(steps, 1), short(x), atol=0.02, rtol=0.02)
"""),
    ],
    "to_halves": [
        ("all rows, not the last R", "first N rows|even", """
def to_halves(weight, heads, R):
    W = weight.unflatten(0, (heads, -1))
    return torch.cat([W[:, 0::2], W[:, 1::2]], dim=1).flatten(0, 1)
"""),
        ("in place", "changes its arguments", """
def to_halves(weight, heads, R):
    W = weight.view(heads, -1, weight.shape[1])
    pe = W[:, -R:].clone()
    W[:, -R:] = torch.cat([pe[:, 0::2], pe[:, 1::2]], dim=1)
    return weight
"""),
    ],
}  # fmt: skip

RIGHT = {
    "attend": ["""
def attend(q, k, v, scale):
    S, T = q.shape[0], k.shape[0]
    x = torch.einsum('shd,thd->hst', q, k) * scale
    x = x.masked_fill(~torch.ones(S, T, dtype=torch.bool).tril(T - S), -torch.inf)
    return torch.einsum('hst,thp->shp', x.softmax(-1), v)
""", """
def attend(q, k, v, scale):
    S, T = q.shape[0], k.shape[0]
    m = torch.ones(S, T, dtype=torch.bool).tril(T - S)
    o = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0,1).float() for x in (q,k,v)), attn_mask=m, scale=scale)
    return o.transpose(0,1).to(q.dtype)
"""],
    "yarn": ["""
def yarn(base, R, factor, length, fast, slow):
    out = []
    low = max(math.floor(R / 2 * math.log(length / (2 * math.pi * fast)) / math.log(base)), 0)
    high = min(math.ceil(R / 2 * math.log(length / (2 * math.pi * slow)) / math.log(base)), R - 1)
    for i in range(R // 2):
        f = base ** (-2 * i / R)
        share = min(max((i - low) / (high - low if high > low else 0.001), 0), 1)
        out.append(f / factor * share + f * (1 - share))
    return torch.tensor(out)
"""],
    "attention_is_right": ["""
def attention_is_right(load):
    torch.manual_seed(3)
    x = torch.randint(1, 1000, (2, 25))
    a, b = load(4096), load(4097)
    want, cache = b(x), Cache()
    assert (a(x) - want).abs().max() < 1e-3
    first, rest = b(x[:, :20], 0, cache), b(x[:, 20:], 20, cache)
    assert (rest - want[:, 20:]).abs().max() < 0.01
    assert (first - want[:, :20]).abs().max() < 0.01
"""],
    "LatentCache": ["""
class LatentCache:
    def __init__(self, width):
        self.rows = torch.empty(0, width)

    def update(self, start, new):
        self.rows = torch.cat([self.rows[:start].to(new.dtype), new])
        return self.rows
"""],
    "compress": ["""
def compress(h, down, weight, eps=1e-6):
    c, k = (h @ down.T).tensor_split([len(weight)], -1)
    return torch.nn.functional.rms_norm(c.float(), weight.shape, weight.float(), eps).to(h.dtype), k
"""],
}  # fmt: skip
