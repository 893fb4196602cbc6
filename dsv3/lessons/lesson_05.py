"""The parts of lesson 05: multi-head latent attention.

Letters as in ``dsv3/model.py``: S new tokens, T all tokens so far, D model width, H heads, C latent rank, R rotary
width, N and P a head's key width without position and value width. A part sees one sequence, and calls no other part:
``transplant_05`` puts them together, so any mix of own and borrowed ones runs.
"""

import math

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def attend(q, k, v, scale):
    """q [S, H, D], k [T, H, D], v [T, H, P] -> [S, H, P].

    The S queries are the last S of the T tokens.
    """
    scores = torch.einsum("shd,thd->hst", q, k).float() * scale
    S, T = scores.shape[1:]
    later = torch.ones(S, T, dtype=torch.bool).triu(T - S + 1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1).to(v.dtype)
    return torch.einsum("hst,thp->shp", weights, v)


def rope(x, positions, frequencies):
    """x [S, H, R], positions [S], frequencies [R / 2] -> [S, H, R], its pairs turned."""
    angle = (positions[:, None] * frequencies)[:, None]  # [S, 1, R / 2]
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


def compress(h, down, weight, eps=1e-6):
    """h [S, D], down [C + R, D], weight [C] -> latent [S, C] and key [S, R].

    The latent is normalised. The key is not, and it is not yet rotated.
    """
    C = len(weight)
    both = h @ down.T
    c, k_pe = both[:, :C], both[:, C:]
    x = c.float()
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return (x * weight.float()).to(h.dtype), k_pe


def expand(c, k_pe, up, heads, N):
    """c [T, C], k_pe [T, R], up [H (N + P), C] -> keys [T, H, N + R] and values [T, H, P]."""
    both = (c @ up.T).unflatten(-1, (heads, -1))  # [T, H, N + P]
    k_nope, v = both[..., :N], both[..., N:]
    shared = k_pe[:, None].expand(-1, heads, -1)
    return torch.cat([k_nope, shared], dim=-1), v


def absorbed(q_nope, q_pe, kept, up, scale):
    """q_nope [S, H, N], q_pe [S, H, R], kept [T, C + R], up [H (N + P), C] -> [S, H, P].

    The S queries are the last S of the T tokens. The T rows are never expanded.
    """
    S, heads, N = q_nope.shape
    T, C = len(kept), up.shape[1]
    c, k_pe = kept[:, :C], kept[:, C:]
    W = up.unflatten(0, (heads, -1))
    W_UK, W_UV = W[:, :N], W[:, N:]  # [H, N, C], [H, P, C]
    q_c = torch.einsum("shn,hnc->shc", q_nope, W_UK)
    scores = torch.einsum("shc,tc->hst", q_c, c) + torch.einsum("shr,tr->hst", q_pe, k_pe)
    later = torch.ones(S, T, dtype=torch.bool).triu(T - S + 1)
    weights = (scores.float() * scale).masked_fill(later, -math.inf).softmax(-1).to(c.dtype)
    mixed = torch.einsum("hst,tc->shc", weights, c)
    return torch.einsum("shc,hpc->shp", mixed, W_UV)


class LatentCache:
    """What one layer keeps of one sequence: a row [C + R] for each position."""

    def __init__(self, width):
        """No rows yet. Each will have `width` numbers."""
        self.rows = torch.empty(0, width)

    def update(self, start, new):
        """Write rows new [S, width] at positions start, start + 1, ...

        Return all rows before start + S.
        """
        end = start + len(new)
        if end > len(self.rows):
            grown = new.new_zeros(max(end, 2 * len(self.rows)), new.shape[1])
            grown[:start] = self.rows[:start]
            self.rows = grown
        self.rows[start:end] = new
        return self.rows[:end]


# --------------------------------------------------------------------------------------------------- the checks


def random(*shape, seed=0, dtype=torch.float32, size=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * size).to(dtype)


def qkv(S, T, H=3, D=10, P=6, dtype=torch.float32, size=1.0):
    return (
        random(S, H, D, dtype=dtype, size=size),
        random(T, H, D, seed=1, dtype=dtype),
        random(T, H, P, seed=2, dtype=dtype),
        0.3,
    )


def turned(S, H, R, at, dtype=torch.float32):
    return random(S, H, R, dtype=dtype), torch.tensor(at), 10.0 ** -torch.arange(0, 2, 4 / R)


def hidden(S=5, D=12, C=6, R=4, size=1.0, dtype=torch.float32):
    return (
        random(S, D, size=size, dtype=dtype) + 0.5 * size,
        random(C + R, D, seed=1, dtype=dtype),
        1 + random(C, seed=2, dtype=dtype),
    )


def latents(T=7, C=16, R=4, H=3, N=8, P=6, dtype=torch.float32):
    return (
        random(T, C, dtype=dtype),
        random(T, R, seed=1, dtype=dtype),
        random(H * (N + P), C, seed=2, dtype=dtype),
        H,
        N,
    )


def step(S, T, H=3, N=8, R=4, C=16, P=6, dtype=torch.float32, scale=0.2):
    q = random(S, H, N, dtype=dtype), random(S, H, R, seed=1, dtype=dtype)
    return *q, random(T, C + R, seed=2, dtype=dtype), random(H * (N + P), C, seed=3, dtype=dtype), scale


def played(*moves, second=False):
    """Updates of one cache, (start, S) each; all that it returned. Or with a ``second`` cache that is used between."""

    def use(answer, given):
        one, other, found = answer(6), answer(6), []
        for i, (start, S) in enumerate(moves):
            found.append(one.update(start, random(S, 6, seed=i, dtype=given[0])).clone())
            if second:
                other.update(start, random(S, 6, seed=90 + i, dtype=given[0]))
        return tuple(found)

    return use


class Shapes(TorchFunctionMode):
    """Watches the shapes of all results."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self.seen = getattr(self, "seen", []) + [tuple(each.shape)]
        return result


def not_expanded(answer):
    T, N, P = 23, 8, 6
    with Shapes() as shapes, torch.no_grad():
        answer(*step(1, T, N=N, P=P))
    if any(T in shape and {N, P, N + P, 3 * (N + P)} & set(shape) for shape in shapes.seen):
        return f"the numbers are right, but the cache is expanded: {T} tokens of width {N} or {P} appear on the way"
    return ""


BF16, F64 = torch.bfloat16, torch.float64

PARTS = [
    Part(
        attend, "causal attention", 2, 12,
        'Scores: `torch.einsum("shd,thd->hst", q, k)`. Query number i is token number T - S + i: it may see that token '
        "and those before. `masked_fill` with -inf, then softmax over the last dimension, in float32.",
        (
            Witness("the first token sees only itself, so its result is v[0]", lambda: qkv(4, 4)),
            Witness("one new token sees all T tokens", lambda: qkv(1, 7)),
            Witness("the S queries are the LAST S of the T tokens", lambda: qkv(3, 7)),
            Witness("large scores must not overflow", lambda: qkv(4, 5, size=100)),
            Witness("bfloat16 in, bfloat16 out", lambda: qkv(3, 7, dtype=BF16)),
            Witness("float64 in, float64 out", lambda: qkv(2, 3, dtype=F64, size=1e-3)),
        ),
        (
            Fault("scores.masked_fill(later, -math.inf)", "scores", "a token sees tokens that come after it: the causal mask is missing"),
            Fault(".triu(T - S + 1)", ".triu(1)", "the mask is right only if S = T: query i is token T - S + i, so with a cache the first keys are visible, too"),
            Fault(".triu(T - S + 1)", ".triu(T - S)", "a token must see itself, too: the mask is one too narrow"),
            Fault(" * scale", "", "the scores are not multiplied by scale before the softmax"),
            Fault(" * scale", " / q.shape[-1] ** 0.5", "use the scale that is given, not 1 / sqrt(D): YaRN's factor is in it"),
            Fault(".softmax(-1)", ".softmax(-2)", "the softmax must run over the keys (T), not over the queries"),
            Fault(".softmax(-1)", ".softmax(0)", "the softmax must run over the keys (T), not over the heads"),
            Fault("-math.inf", "0.0", "masked scores are set to 0, and 0 is an ordinary score: use -inf"),
        ),
    ),
    Part(
        rope, "rotary positions", 2, 12,
        "The first members of all pairs are `x[..., 0::2]`, the second `x[..., 1::2]`. The angles are [S, R / 2]; give "
        "them a dimension for the heads. `torch.stack(..., dim=-1).flatten(-2)` puts the pairs together again.",
        (
            Witness("at position 0 nothing turns, so the result is x", lambda: turned(1, 2, 8, [0])),
            Witness("(1, 0) turned by t * frequency is (cos, sin)", lambda: (torch.tensor([1.0, 0.0]).repeat(3, 1, 4), torch.tensor([1, 2, 3]), 10.0 ** -torch.arange(4))),
            Witness("each pair of neighbours has its own frequency", lambda: turned(5, 3, 8, [0, 1, 2, 17, 300])),
            Witness("positions may begin anywhere", lambda: turned(3, 1, 12, [40, 41, 42])),
            Witness("bfloat16 in, bfloat16 out, turned in float32", lambda: turned(3, 2, 8, [500, 1001, 4003], BF16)),
        ),
        (
            Fault("a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()", "a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()", "it turns the other way: the first of a pair becomes a cos - b sin, the second a sin + b cos"),
            Fault("a * angle.cos() - b", "a * angle.cos() + b", "a sign is lost: the first of a pair becomes a cos MINUS b sin; turning never changes a length"),
            Fault("a * angle.sin() + b", "a * angle.sin() - b", "a sign is lost: the second of a pair becomes a sin PLUS b cos"),
            Fault("x[..., 0::2].float(), x[..., 1::2].float()", "*x.float().chunk(2, -1),", "the pairs are halves, not neighbours: x0 turns with x1, x2 with x3"),
            Fault(
                "x[..., 0::2].float(), x[..., 1::2].float()\n    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]\n    return torch.stack(turned, dim=-1).flatten(-2)",
                "x.float().chunk(2, -1)\n    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]\n    return torch.cat(turned, dim=-1)",
                "the pairs are halves, as in Llama's code, not neighbours: x0 turns with x1, x2 with x3",
            ),
            Fault("torch.stack(turned, dim=-1).flatten(-2)", "torch.cat(turned, dim=-1)", "the order is lost: the pairs must stand where they stood (stack, not cat)"),
            Fault("positions[:, None] * frequencies", "torch.arange(len(x))[:, None] * frequencies", "it counts from 0 instead of using the positions"),
            Fault(".to(x.dtype)", "", "the result is float32 for bfloat16 input: cast back"),
            Fault("positions[:, None] * frequencies", "positions[:, None] * frequencies[:1]", "all pairs turn with the first frequency: each has its own"),
        ),
    ),
    Part(
        compress, "down-projection and its norm", 2, 12,
        "One product gives both, split after C numbers. RMSNorm is x / sqrt(mean(x squared) + eps) * weight over the "
        "last dimension: no mean is taken away. Compute the norm in float32, and cast back.",
        (
            Witness("h [S, D] times down transposed, split after C = len(weight)", lambda: (*hidden()[:2], torch.ones(6))),
            Witness("the norm has a weight", hidden),
            Witness("eps stands inside the root", lambda: hidden(size=2e-4)),
            Witness("bfloat16 in, bfloat16 out", lambda: hidden(dtype=BF16)),
            Witness("another width", lambda: hidden(S=1, D=9, C=5, R=8)),
        ),
        (
            Fault("(x * weight.float())", "x", "the norm's weight is missing"),
            Fault("    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)\n", "", "the latent is not normalised"),
            Fault("x = c.float()", "x = c.float() - c.float().mean(-1, keepdim=True)", "RMSNorm takes no mean away; that is LayerNorm"),
            Fault("x.pow(2).mean(-1, keepdim=True)", "both.float().pow(2).mean(-1, keepdim=True)", "the norm covers the C latent numbers only, without the R of the key"),
            Fault("x.pow(2).mean", "x.pow(2).sum", "the norm divides by the root of the MEAN of the squares, not of their sum"),
            Fault(" + eps", "", "eps is missing: with small numbers it shows"),
            Fault(").to(h.dtype), k_pe", "), k_pe", "the latent is float32 for bfloat16 input: cast back"),
            Fault("both[:, :C], both[:, C:]", "both[:, -C:], both[:, :-C]", "the latent comes first, then the key: split after C numbers"),
            Fault(", k_pe\n", ", k_pe / k_pe.pow(2).mean(-1, keepdim=True).sqrt()\n", "the key is normalised, too: only the latent is"),
        ),
    ),
    Part(
        expand, "up-projection", 2, 10,
        "After the product, `unflatten(-1, (heads, -1))` separates the heads; each has N key numbers, then P value "
        "numbers. The rotated key is one for all heads: `k_pe[:, None].expand(-1, heads, -1)`.",
        (
            Witness("each head has its N key rows, then its P value rows", latents),
            Witness("one token, one head", lambda: latents(T=1, H=1)),
            Witness("N, P and R differ", lambda: latents(T=5, H=4, N=3, P=9, R=2)),
            Witness("bfloat16 in, bfloat16 out", lambda: latents(dtype=BF16)),
        ),
        (
            Fault("both[..., :N], both[..., N:]", "both[..., -N:], both[..., :-N]", "keys and values are swapped: a head's first N rows make its key"),
            Fault("both[..., :N], both[..., N:]", "both.chunk(2, -1)", "N and P may differ: split after N numbers, not in the middle"),
            Fault("k_pe[:, None].expand(-1, heads, -1)", "torch.cat([k_pe[:, None], k_pe.new_zeros(len(c), heads - 1, k_pe.shape[1])], 1)", "the rotated key is one for ALL heads, not for the first alone"),
            Fault("[k_nope, shared]", "[shared, k_nope]", "the rotated key comes after the N numbers, as in the query"),
            Fault(
                "    both = (c @ up.T).unflatten(-1, (heads, -1))  # [T, H, N + P]\n    k_nope, v = both[..., :N], both[..., N:]\n",
                "    both = c @ up.T\n    k_nope, v = (x.unflatten(-1, (heads, -1)) for x in (both[:, : heads * N], both[:, heads * N :]))\n",
                "the rows of `up` go head by head: N key rows and P value rows of head 0, then those of head 1",
            ),
            Fault(".unflatten(-1, (heads, -1))", ".unflatten(-1, (-1, heads)).transpose(1, 2)", "the heads are the outer dimension: unflatten to (heads, -1)"),
        ),
    ),
    Part(
        absorbed, "the absorbed step", 3, 15,
        "`up.unflatten(0, (heads, -1))` is [H, N + P, C]: a head's first N rows are W_UK, the rest W_UV. Multiply the "
        "query with W_UK: [S, H, C]. Its scores with the latents, plus those of q_pe with the rotated keys, are the "
        "scores. Mix the latents with the weights, and multiply with W_UV last.",
        (
            Witness("one new token, as when decoding", lambda: step(1, 7)),
            Witness("a single token attends to itself: the result is W_UV c", lambda: step(1, 1)),
            Witness("several new tokens after others: query i is token T - S + i", lambda: step(3, 7)),
            Witness("N, P, R and C differ", lambda: step(2, 5, H=4, N=3, R=2, C=5, P=9, scale=0.7)),
            Witness("bfloat16 in, bfloat16 out", lambda: step(2, 5, dtype=BF16)),
        ),
        (
            Fault(' + torch.einsum("shr,tr->hst", q_pe, k_pe)', "", "the rotated part is missing: a score is q_c times latent PLUS q_pe times rotated key"),
            Fault("scores.float() * scale", "scores.float()", "the scores are not multiplied by scale before the softmax"),
            Fault('q_c, c) + torch.einsum("shr,tr->hst", q_pe, k_pe)', 'q_c, c) + torch.einsum("shr,tr->hst", q_pe, k_pe) / scale', "only one part of the score is scaled: scale the sum"),
            Fault("W[:, :N], W[:, N:]", "W[:, -N:], W[:, :-N]", "W_UK and W_UV are swapped: a head's first N rows make its key"),
            Fault(".masked_fill(later, -math.inf)", "", "a token sees tokens that come after it: the causal mask is missing"),
            Fault(".triu(T - S + 1)", ".triu(1)", "the mask is right only if S = T: query i is token T - S + i"),
            Fault("kept[:, :C], kept[:, C:]", "kept[:, -C:], kept[:, :-C]", "the row is latent first, then rotated key"),
            Fault(
                "    W = up.unflatten(0, (heads, -1))\n    W_UK, W_UV = W[:, :N], W[:, N:]  # [H, N, C], [H, P, C]\n",
                "    W_UK, W_UV = (x.unflatten(0, (heads, -1)) for x in (up[: heads * N], up[heads * N :]))\n",
                "the rows of `up` go head by head: N key rows and P value rows of head 0, then those of head 1",
            ),
        ),
        not_expanded,
    ),
    Part(
        LatentCache, "the cache of latents", 2, 12,
        "Keep one tensor. `torch.cat([self.rows[:start], new])` is a right answer, and copies everything for every "
        "token; a tensor that doubles when it is full does not. Take the number format from `new`.",
        (
            Witness("the first update returns what it was given", lambda: (torch.float32,), played((0, 5))),
            Witness("a token after a prompt: all rows come back", lambda: (torch.float32,), played((0, 5), (5, 1), (6, 1))),
            Witness("each layer and each sequence has its own cache: two must not share rows", lambda: (torch.float32,), played((0, 5), (5, 1), second=True)),
            Witness("going back: rows at and after start are replaced", lambda: (torch.float32,), played((0, 8), (4, 2), (6, 1))),
            Witness("a long answer, token by token", lambda: (torch.float32,), played((0, 3), *((i, 1) for i in range(3, 40)))),
            Witness("bfloat16 in, bfloat16 out", lambda: (BF16,), played((0, 3), (3, 1))),
        ),
        (
            Fault("return self.rows[:end]", "return self.rows", "it returns rows after the last position: only those before start + S are asked for"),
            Fault("return self.rows[:end]", "return new", "it returns the new rows alone: attention wants all rows so far"),
            Fault(
                "        end = start + len(new)\n        if end > len(self.rows):\n            grown = new.new_zeros(max(end, 2 * len(self.rows)), new.shape[1])\n            grown[:start] = self.rows[:start]\n            self.rows = grown\n        self.rows[start:end] = new\n        return self.rows[:end]\n",
                "        self.rows = torch.cat([self.rows.to(new.dtype), new])\n        return self.rows\n",
                "it appends and ignores start: after going back (a rejected draft, a padded prompt) old rows stay",
            ),
            Fault("grown[:start] = self.rows[:start]", "pass", "the old rows are lost when the tensor grows"),
            Fault("self.rows[start:end] = new", "self.rows[: len(new)] = new", "it writes at position 0 instead of at start"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def merge(o1, l1, o2, l2):
    """Results o [H, P] and logsumexp of the scores l [H] of two halves -> over all keys [H, P]."""
    most = torch.maximum(l1, l2)
    w1, w2 = (l1 - most).exp(), (l2 - most).exp()
    return (w1[:, None] * o1 + w2[:, None] * o2) / (w1 + w2)[:, None]


def to_halves(weight, heads, R):
    """weight [H (N + R), C] -> each head's last R rows in the order of halves."""
    W = weight.unflatten(0, (heads, -1)).clone()
    rotated = weight.unflatten(0, (heads, -1))[:, -R:]
    W[:, -R:] = torch.cat([rotated[:, 0::2], rotated[:, 1::2]], dim=1)
    return W.flatten(0, 1)


def halves(size=1.0, shift=0.0):
    return (
        random(3, 6),
        random(3, seed=1, size=size) + shift,
        random(3, 6, seed=2),
        random(3, seed=3, size=size) + shift,
    )


TRANSFERS = [
    Part(
        merge, "two halves of a cache into one result", 2, 10,
        "Each half has divided by its own sum, exp(l). Weigh the halves by these sums. Take the larger l away first: "
        "exp(1000) overflows, and a half that nobody may see has l = -inf.",
        (
            Witness("both halves count with exp(l), divided by the sum of both", halves),
            Witness("l may be 1000: take the larger one away before exp", lambda: halves(shift=1000.0)),
            Witness("very different halves: the one with the larger l wins", lambda: halves(size=50.0)),
            Witness("an empty half has l = -inf, and counts nothing", lambda: (*halves()[:3], torch.full((3,), -math.inf))),
        ),
        (
            Fault("(l1 - most).exp(), (l2 - most).exp()", "l1.exp(), l2.exp()", "exp overflows: take the larger of l1 and l2 away first"),
            Fault("(l1 - most).exp(), (l2 - most).exp()", "torch.ones_like(l1), torch.ones_like(l2)", "a plain mean: a half counts with its share exp(l)"),
            Fault("(l1 - most).exp(), (l2 - most).exp()", "l1, l2", "weights are exp(l), not l"),
            Fault(" / (w1 + w2)[:, None]", "", "the weights must sum to 1: divide by w1 + w2"),
        ),
    ),
    Part(
        to_halves, "a checkpoint for code that pairs halves", 2, 10,
        "A product's rows are its outputs: reordering rows reorders what comes out. Within the last R rows of each head, "
        "take the even ones, then the odd ones.",
        (
            Witness("each head's first N rows stay, its last R rows become even ones, then odd ones", lambda: (random(3 * 10, 5), 3, 4)),
            Witness("one head", lambda: (random(8, 5), 1, 8)),
            Witness("R = 8 of 11", lambda: (random(4 * 11, 5), 4, 8)),
        ),
        (
            Fault("[rotated[:, 0::2], rotated[:, 1::2]]", "[rotated[:, 1::2], rotated[:, 0::2]]", "even rows come first, then odd ones"),
            Fault("[rotated[:, 0::2], rotated[:, 1::2]]", "[rotated.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)]", "that is the way back, from halves to neighbours"),
        ),
    ),
]  # fmt: skip
