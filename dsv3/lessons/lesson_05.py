"""The parts of lesson 05: multi-head latent attention.

Letters as in ``dsv3/model.py``: S new tokens, T all tokens so far, D model width, H heads, C latent rank, R rotary
width, N and P a head's key width without position and value width. A part sees one sequence, and calls no other part:
``transplant_05`` puts them together, so any mix of own and borrowed ones runs.
"""

import math

import torch

from ..cache import Cache
from ..lab.mutants import ATTENTION
from .bugs import tried
from .inputs_05 import hidden, latents, not_expanded, played, qkv, random, rounded, small, step, turned
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
            Witness("float64 in, float64 out", lambda: qkv(2, 3, dtype=F64, size=1e-3), rounded),
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
            Witness("eps is an argument, 1e-6 only where none is given", lambda: (*hidden(), 0.5)),
        ),
        (
            Fault("(x * weight.float())", "x", "the norm's weight is missing"),
            Fault("    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)\n", "", "the latent is not normalised"),
            Fault("x = c.float()", "x = c.float() - c.float().mean(-1, keepdim=True)", "RMSNorm takes no mean away; that is LayerNorm"),
            Fault("x.pow(2).mean(-1, keepdim=True)", "both.float().pow(2).mean(-1, keepdim=True)", "the norm covers the C latent numbers only, without the R of the key"),
            Fault("x.pow(2).mean", "x.pow(2).sum", "the norm divides by the root of the MEAN of the squares, not of their sum"),
            Fault(" + eps", "", "eps is missing: with small numbers it shows"),
            Fault(" + eps", " + 1e-6", "eps is an argument: use the one that is given"),
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
            Witness("N and P are the same here: which rows make the key?", lambda: step(2, 5, N=6, P=6)),
            Witness("bfloat16 in, bfloat16 out", lambda: step(2, 5, dtype=BF16)),
        ),
        (
            Fault(' + torch.einsum("shr,tr->hst", q_pe, k_pe)', "", "the rotated part is missing: a score is q_c times latent PLUS q_pe times rotated key"),
            Fault("scores.float() * scale", "scores.float()", "the scores are not multiplied by scale before the softmax"),
            Fault('q_c, c) + torch.einsum("shr,tr->hst", q_pe, k_pe)', 'q_c, c) + torch.einsum("shr,tr->hst", q_pe, k_pe) / scale', "only one part of the score is scaled: scale the sum"),
            Fault("W[:, :N], W[:, N:]", "W[:, -N:], W[:, :-N]", "W_UK and W_UV are swapped: a head's first N rows make its key, the P rows after them its value"),
            Fault("W[:, :N], W[:, N:]", "W[:, N:], W[:, :N]", "W_UK and W_UV are swapped: a head's first N rows make its key, not its value"),
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
            Witness("no text is too long: the cache grows", lambda: (torch.float32,), played((0, 17_000), (17_000, 1))),
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


def yarn(base, R, factor, length, fast, slow):
    """-> frequencies [R / 2] for a text that is `factor` times as long as `length` tokens.

    A pair that turns at least `fast` times in `length` tokens stays.
    One that turns less than `slow` times is slowed.
    """
    plain = base ** -(torch.arange(0, R, 2) / R)
    low, high = (R * math.log(length / (2 * math.pi * n)) / (2 * math.log(base)) for n in (fast, slow))
    low, high = max(math.floor(low), 0), min(math.ceil(high), R - 1)
    ramp = ((torch.arange(R // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain * (1 - ramp) + plain / factor * ramp


def to_halves(weight, heads, R):
    """weight [H (N + R), C] -> each head's last R rows in the order of halves."""
    W = weight.unflatten(0, (heads, -1)).clone()
    rotated = weight.unflatten(0, (heads, -1))[:, -R:]
    W[:, -R:] = torch.cat([rotated[:, 0::2], rotated[:, 1::2]], dim=1)
    return W.flatten(0, 1)


def attention_is_right(load):
    """Raise AssertionError if attention is wrong.

    load(max_seq_len) gives a model.
    model(tokens [1, S], start, cache) gives its hidden states [1, S, D].
    """
    tokens = torch.arange(40, 60)[None]
    short, long = load(512), load(8192)
    whole = short(tokens)
    assert torch.allclose(long(tokens), whole), "the room for the cache changes the answer"
    cache = Cache()
    pieces = [short(tokens[:, :7], 0, cache), short(tokens[:, 7:], 7, cache)]
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-2, rtol=1e-2), "two pieces"


def slowed(answer, given):
    return answer(*given).log()  # each pair counts alike, slow ones too


YARN, SQUARE = ATTENTION

TRANSFERS = [
    Part(
        yarn, "YaRN's frequencies", 3, 12,
        "`plain = base ** -(torch.arange(0, R, 2) / R)`. Compute i(fast), round it down: `low`. Compute i(slow), round it "
        "up: `high`. The ramp is `(i - low) / (high - low)`, clamped to 0 ... 1. Where it is 0 the pair stays, where it "
        "is 1 the pair is divided by `factor`.",
        (
            Witness("with factor 1 nothing is slowed: base ** -(2 i / R)", lambda: (10_000.0, 64, 1.0, 4096, 32, 1), slowed),
            Witness("DeepSeek-R1's own: 11 pairs stay, 9 are slowed 40 times", lambda: (10_000.0, 64, 40.0, 4096, 32, 1), slowed),
            Witness("another base, width and factor", lambda: (500_000.0, 48, 7.0, 8192, 16, 2), slowed),
            Witness("low is never below 0, and high never above R - 1", lambda: (10_000.0, 16, 4.0, 200, 32, 0.00001), slowed),
            Witness("low and high may be equal: then the ramp is a step", lambda: (10_000.0, 32, 40.0, 6434.0, 1.024, 1.024), slowed),
        ),
        (
            Fault("plain / factor * ramp", "plain * factor * ramp", "slow pairs get SLOWER: divide by factor"),
            Fault("plain * (1 - ramp) + plain / factor * ramp", "plain * ramp + plain / factor * (1 - ramp)", "the wrong pairs are slowed: fast ones, the first, stay as they are"),
            Fault(".clamp(0, 1)", "", "the ramp must be clamped to 0 ... 1: outside of it pairs stay, or are slowed by factor"),
            Fault("math.floor(low), 0), min(math.ceil(high)", "low, 0), min(high", "low is rounded down and high up, as DeepSeek's code does"),
            Fault("(2 * math.pi * n)", "n", "a turn is 2 pi: the pair that turns n times has 2 pi n radians in `length` tokens"),
            Fault("for n in (fast, slow)", "for n in (slow, fast)", "between the two borders lies a ramp, not a step: low comes from `fast`, high from `slow`"),
            Fault("(1 - ramp) + plain / factor * ramp", "0 + plain / factor", "all pairs are slowed: fast ones must stay, they tell neighbours apart"),
            Fault("torch.arange(0, R, 2) / R", "torch.arange(0, R, 2) / (R // 2)", "the exponent of pair i is 2 i / R"),
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
            Witness("bfloat16 in, bfloat16 out", lambda: (random(2 * 9, 3, dtype=BF16), 2, 6)),
        ),
        (
            Fault("[rotated[:, 0::2], rotated[:, 1::2]]", "[rotated[:, 1::2], rotated[:, 0::2]]", "even rows come first, then odd ones"),
            Fault("[rotated[:, 0::2], rotated[:, 1::2]]", "[rotated.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)]", "that is the way back, from halves to neighbours"),
            Fault("weight.unflatten(0, (heads, -1))[:, -R:]", "weight.unflatten(0, (heads, -1))[:, :R]", "the rotated rows are each head's LAST R"),
            Fault("    return W.flatten(0, 1)", "    return W.transpose(0, 1).flatten(0, 1)", "the rows must stay head by head"),
        ),
    ),
    Part(
        attention_is_right, "a test for bugs that shipped", 3, 15,
        "One model with two values of `max_seq_len` below and above 4,096, the same tokens: the hidden states must be "
        "equal. Then one prompt, at once, and in two pieces with a `Cache`. No random tokens without a seed, and a "
        "tolerance that accepts rounding, but not a bug.",
        (
            Witness("your test must pass on the right model, and fail if YaRN depends on the room for the cache", lambda: (small(1),), tried(YARN)),
            Witness("your test must pass on the right model, and fail if the mask is S x S", lambda: (small(1),), tried(SQUARE)),
            Witness("the same with another model: YaRN", lambda: (small(2, 80),), tried(YARN)),
            Witness("the same with another model: the mask", lambda: (small(2, 80),), tried(SQUARE)),
        ),
        (
            Fault("load(8192)", "load(1024)", "the bug with YaRN passes: compare a model with room for less than 4,096 tokens with one for more, at a tolerance that a bug exceeds"),
            Fault("[short(tokens[:, :7], 0, cache), short(tokens[:, 7:], 7, cache)]", "[short(tokens[:, :7]), short(tokens, 0, cache)[:, 7:]]", "the bug with the mask passes: the second piece must come with the cache of the first, and be compared"),
            Fault("whole = short(tokens)\n", "whole = short(tokens)\n    return\n", "both bugs pass: compare numbers, and assert"),
            Fault("atol=1e-2, rtol=1e-2", "atol=0, rtol=0", "it fails on the right model: two ways to compute the same differ by rounding, so give a tolerance"),
        ),
    ),
]  # fmt: skip
