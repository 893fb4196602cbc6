"""The parts of lesson 06: a mixture of experts.

Letters as in ``dsv3/model.py``: n tokens, D model width, I an expert's width, E experts, K experts per token. A part
calls no other part: ``transplant_06`` puts them together, so any mix of own and borrowed ones runs.
"""

import math

import torch

from .inputs_06 import BF16, at_once, dispatched, gates, gradient, ids, picks, random, routed, stars, tested, tokens_of
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def swiglu(x, w1, w2, w3):
    """x [n, D], w1 and w3 [I, D], w2 [D, I] -> [n, D]: one expert."""
    gate, up = x @ w1.T, x @ w3.T
    return (gate * gate.sigmoid() * up) @ w2.T


def affinity(x, weight, bias):
    """x [n, D], weight [E, D], bias [E] -> two float32 tensors [n, E].

    The scores s, for the weights later, and s + bias, to choose by.
    """
    s = (x.float() @ weight.float().T).sigmoid()
    return s, s + bias


def choose(biased, groups, limited, k):
    """biased scores [n, E] -> ids [n, k] of the chosen experts, in any order.

    Groups are runs of E / groups neighbours. The best `limited` of them stay.
    """
    split = biased.unflatten(-1, (groups, -1))  # [n, groups, E / groups]
    best_two = split.topk(2, dim=-1)[0].sum(-1)
    stay = best_two.topk(limited, dim=-1)[1]
    out = torch.ones(split.shape[:2], dtype=torch.bool).scatter_(1, stay, False)
    masked = split.masked_fill(out[..., None], -math.inf).flatten(1)
    return masked.topk(k, dim=-1)[1]


def weigh(s, chosen, scale):
    """scores s [n, E], chosen ids [n, K] -> weights [n, K] that sum to scale."""
    picked = s.gather(-1, chosen)
    return picked / (picked.sum(-1, keepdim=True) + 1e-20) * scale


def mixture(x, weights, chosen, experts):
    """x [n, D], weights and chosen [n, K], experts: E functions [m, D] -> [m, D].

    Return the sum [n, D] in float32. An expert takes all of its tokens in one call.
    """
    y = torch.zeros(x.shape, dtype=torch.float32)
    for e, expert in enumerate(experts):
        token, slot = torch.where(chosen == e)
        if len(token):
            part = expert(x[token]) * weights[token, slot, None]
            y[token] += part.float()
    return y


def bias_step(bias, chosen, gamma):
    """bias [E], a batch's choices [n, K] -> the new bias [E]."""
    load = torch.bincount(chosen.flatten(), minlength=len(bias)).float()
    return bias + gamma * (load.mean() - load).sign()


# --------------------------------------------------------------------------------------------------- the checks

PARTS = [
    Part(
        swiglu, "an expert", 1, 8,
        "Two products of x: one is the gate, one the value. silu(z) is z times sigmoid(z) (`torch.nn.functional.silu`, too). "
        "It goes over the gate, `w1`. Multiply gate and value number by number, and go back to width D with `w2`.",
        (
            Witness("silu of the gate, times the value, then back to width D", lambda: tokens_of(4)),
            Witness("one token, other widths", lambda: tokens_of(1, D=9, width=4)),
            Witness("large numbers: silu goes on where sigmoid stays at 1", lambda: tokens_of(3, size=9.0)),
            Witness("bfloat16 in, bfloat16 out", lambda: tokens_of(5, dtype=BF16)),
        ),
        (
            Fault("gate * gate.sigmoid() * up", "up * up.sigmoid() * gate", "silu belongs over w1's product; yours is over w3's"),
            Fault("gate * gate.sigmoid() * up", "gate.sigmoid() * up", "sigmoid alone is a GLU: silu(z) is z times sigmoid(z)"),
            Fault("gate * gate.sigmoid() * up", "gate * gate.sigmoid()", "the second product (w3) is missing: it is multiplied with the gate"),
            Fault("gate * gate.sigmoid() * up", "gate * gate.sigmoid() + up", "gate and value are MULTIPLIED number by number, not added"),
            Fault("gate * gate.sigmoid() * up", "torch.nn.functional.gelu(gate) * up", "that is GELU: DeepSeek's experts have silu, z times sigmoid(z)"),
            Fault("gate * gate.sigmoid() * up", "gate.relu() * up", "that is ReLU: DeepSeek's experts have silu, z times sigmoid(z)"),
            Fault("gate * gate.sigmoid() * up", "gate * up", "the product of two matrices alone: silu over the gate is missing"),
        ),
    ),
    Part(
        affinity, "the gate's scores", 1, 8,
        "Cast x and weight to float32 before the product. `sigmoid` judges each expert for itself. "
        "The bias comes after it, in the second result only.",
        (
            Witness("each score is the sigmoid of one product: it does not depend on the other experts", lambda: (*random((3, 5), (4, 5)), torch.zeros(4))),
            Witness("the bias is in the second result, and in the second only", lambda: random((6, 8), (5, 8), (5,))),
            Witness("a bias may make a score negative, or larger than 1", lambda: random((6, 8), (7, 8), (7,), size=3.0)),
            Witness("x in bfloat16: product and scores are float32", lambda: (random((9, 64))[0].to(BF16), *random((6, 64), (6,), size=0.3))),
        ),
        (
            Fault("return s, s + bias", "return s + bias, s + bias", "the bias is in the weights, too: it is for choosing only"),
            Fault("return s, s + bias", "return s + bias, s", "the two are swapped: first the scores without bias"),
            Fault("return s, s + bias", "return s, s", "the bias is missing in the second result"),
            Fault(".sigmoid()\n    return s, s + bias", "\n    return s.sigmoid(), (s + bias).sigmoid()", "the bias is added after the sigmoid, not before it"),
            Fault(".sigmoid()", ".softmax(-1)", "that is V2's softmax, in which all experts compete; V3 has a sigmoid for each"),
            Fault("(x.float() @ weight.float().T)", "(x @ weight.to(x.dtype).T).float()", "the product is in bfloat16: cast to float32 before it"),
            Fault("return s, s + bias", "return s.to(x.dtype), (s + bias).to(x.dtype)", "the scores are cast back: they stay in float32"),
            Fault(".sigmoid()", "", "the sigmoid is missing"),
        ),
    ),
    Part(
        choose, "the choice in groups", 3, 15,
        "`biased.unflatten(-1, (groups, -1))` is [n, groups, E / groups]. A group's score is the sum of its best two. "
        "`torch.ones(n, groups, dtype=torch.bool).scatter_(1, stay, False)` marks the groups that are out. Their experts "
        "must lose against every score: what is the smallest number there is?",
        (
            Witness("one good expert does not save its group: a group counts as the sum of its best two", stars, ids),
            Witness("K experts, all from the groups that stay", lambda: picks(50, 16, 4, 2, 4), ids),
            Witness("all scores are negative: nothing changes", lambda: picks(50, 16, 4, 2, 4, shift=-2.0), ids),
            Witness("a bias may be -30: masked experts must still lose", lambda: picks(30, 16, 4, 2, 4, shift=-30.0), ids),
            Witness("R1's sizes: 8 of 256 experts, 4 of 8 groups", lambda: picks(20, 256, 8, 4, 8), ids),
            Witness("one group of four stays, and two experts of it are chosen", lambda: picks(40, 12, 4, 1, 2), ids),
        ),
        (
            Fault("split.topk(2, dim=-1)[0].sum(-1)", "split.amax(-1)", "a group's score is the sum of its best two experts, not its best one (that was V2's rule)"),
            Fault("split.topk(2, dim=-1)[0].sum(-1)", "split.sum(-1)", "a group's score is the sum of its best TWO experts, not of all"),
            Fault("-math.inf", "0.0", "with negative scores a masked expert wins, as 0 is a good score: mask with -inf"),
            Fault("-math.inf", "-10.0", "-10 is an ordinary number: a bias of -30 loses against it. Mask with -inf"),
            Fault("masked.topk", "biased.topk", "the experts are chosen from all groups: mask those that are out"),
            Fault("return masked.topk(k, dim=-1)[1]", "return split.gather(1, stay[..., None].expand(-1, -1, split.shape[-1])).flatten(1).topk(k, dim=-1)[1]", "these are ids among the kept groups' experts: ids must count from the first of ALL experts"),
            Fault("biased.unflatten(-1, (groups, -1))", "biased.unflatten(-1, (-1, groups)).transpose(1, 2)", "a group is a run of neighbours: experts 0, 1, 2, ... of group 0, then those of group 1"),
            Fault("torch.ones(split.shape[:2], dtype=torch.bool).scatter_(1, stay, False)", "torch.zeros(split.shape[:2], dtype=torch.bool).scatter_(1, stay, True)", "the mask is turned round: the groups that STAY are masked"),
            Fault("return masked.topk(k, dim=-1)[1]", "return masked.topk(k, dim=-1)[0]", "these are scores: the ids are asked for (topk gives both)"),
        ),
    ),
    Part(
        weigh, "the weights", 1, 8,
        "`s.gather(-1, chosen)` takes the chosen ones' scores. Divide by their sum, with a tiny number in it: if all "
        "scores are 0, then 0 / 0 would be NaN.",
        (
            Witness("weights are in the order of `chosen`, and sum to scale", lambda: (*routed(6, 8, 3), 2.5)),
            Witness("one expert alone gets the whole scale, whatever its score", lambda: (*routed(5, 7, 1), 1.5)),
            Witness("scores may be tiny, 1e-9: they still sum to scale", lambda: (routed(4, 9, 2)[0] * 1e-9, routed(4, 9, 2)[1], 2.5)),
            Witness("all scores are 0 (underflow): weights are 0, not NaN", lambda: (torch.zeros(3, 6), routed(3, 6, 2)[1], 2.5)),
        ),
        (
            Fault(" / (picked.sum(-1, keepdim=True) + 1e-20)", "", "the weights are not divided by their sum"),
            Fault("picked.sum(-1, keepdim=True)", "s.sum(-1, keepdim=True)", "divide by the sum of the CHOSEN scores, not of all"),
            Fault(" + 1e-20", "", "0 / 0 is NaN where all scores are 0: add a tiny number to the sum"),
            Fault("1e-20", "1e-6", "the tiny number is not tiny: with scores of 1e-9 it decides. Take 1e-20"),
            Fault(" * scale", "", "the weights are not multiplied by scale"),
            Fault("picked / (picked.sum(-1, keepdim=True) + 1e-20)", "picked.softmax(-1)", "that is a softmax over scores: divide them by their sum"),
            Fault("picked.sum(-1, keepdim=True)", "picked.sum(0, keepdim=True)", "the sum is over a token's experts, not over the tokens"),
        ),
    ),
    Part(
        mixture, "dispatch and combine", 2, 12,
        "A loop over experts. `token, slot = torch.where(chosen == e)` says which tokens chose expert e, and at which "
        "place of their K. Take these rows of x (dispatch), call the expert once, multiply by "
        "`weights[token, slot, None]`, and add to the rows of y (combine).",
        (
            Witness("a token's result is the sum of its experts' results, each times its weight", lambda: dispatched(1, 4, 2)),
            Witness("several tokens, experts that nobody chose", lambda: dispatched(6, 9, 3)),
            Witness("experts are not linear: the weight is for the result, not for the input", lambda: dispatched(5, 4, 2, size=3.0)),
            Witness("bfloat16 in: the sum is float32", lambda: dispatched(7, 5, 4, dtype=BF16)),
            Witness("one expert per token", lambda: dispatched(5, 3, 1)),
        ),
        (
            Fault(" * weights[token, slot, None]", "", "the weights are missing"),
            Fault("y[token] += part.float()", "y[token] = part.float()", "a token's experts overwrite each other: add their results"),
            Fault("weights[token, slot, None]", "weights[token, 0, None]", "every expert gets the weight of the token's first: use the slot, too"),
            Fault("expert(x[token]) * weights[token, slot, None]", "expert(x[token] * weights[token, slot, None].to(x.dtype))", "the weight is for the expert's RESULT, not for its input"),
            Fault("torch.where(chosen == e)", "torch.where(chosen[:, :1] == e)", "only a token's first choice counts: all K do"),
            Fault("dtype=torch.float32)", "dtype=x.dtype)", "the sum is in bfloat16: it must be float32"),
            Fault("part.float()", "part.float() / chosen.shape[1]", "it is a sum, not a mean over K"),
        ),
        at_once,
    ),
    Part(
        bias_step, "balance without a loss", 1, 10,
        "`torch.bincount(..., minlength=len(bias))` counts the choices of each expert, also of those that nobody chose. "
        "Of the difference from the mean load only the `.sign()` counts.",
        (
            Witness("more than the mean load: down by gamma; less: up by gamma", lambda: (torch.tensor([0.3, -0.2, 0.0, 0.1]), torch.tensor([[0, 1], [0, 2], [0, 1], [0, 3]]), 0.001)),
            Witness("an even load changes nothing", lambda: (torch.tensor([0.3, -0.2, 0.0, 0.1]), torch.tensor([[0, 1], [2, 3]]), 0.001)),
            Witness("an expert that nobody chose has a load, too: 0. Its bias goes up", lambda: (torch.tensor([0.3, -0.2, 0.0, 0.1, 0.7, 0.2]), torch.tensor([[0, 1], [0, 2], [0, 1], [1, 4]]), 0.5)),
            Witness("the mean need not be a whole number: 2 is less than 2.5", lambda: (torch.tensor([0.3, -0.2, 0.0, 0.1]), torch.tensor([[0, 1], [0, 1], [0, 2], [1, 2], [2, 3]]), 0.25)),
            Witness("a step is gamma, however far the load is from even", lambda: (random((40,))[0], routed(200, 40, 6)[1], 0.02)),
        ),
        (
            Fault("(load.mean() - load)", "(load - load.mean())", "it moves the wrong way: who has too much goes DOWN"),
            Fault(".sign()", "", "a step is gamma or nothing: only the sign of the difference counts"),
            Fault(", minlength=len(bias)", "", "an expert that nobody chose has a load, too: bincount needs minlength"),
            Fault("load.mean() - load", "load.mean().floor() - load", "the even share need not be a whole number: do not round it"),
            Fault("load.mean() - load", "load.median() - load", "compare with the MEAN load, the even share, not with the median"),
            Fault("(load.mean() - load).sign()", "((load.mean() - load).sign() * (load > 0))", "an expert that nobody chose stays where it is: its load is 0, and its bias must go up"),
            Fault("return bias + gamma", "return gamma", "the old bias is lost: it is moved by gamma"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def balance_loss(scores, chosen, alpha):
    """One sequence's scores [T, E] and choices [T, K] -> the loss, a tensor without dimensions."""
    T, E = scores.shape
    f = torch.bincount(chosen.flatten(), minlength=E) * E / (chosen.shape[1] * T)
    P = (scores / scores.sum(-1, keepdim=True)).mean(0)
    return alpha * (f * P).sum()


def router_is_right(gate):
    """Is gate(x [n, 256], weight [16, 256], bias [16]) -> weights [n, 4], ids [n, 4] right?

    True or False. 16 experts in 4 groups; 2 groups stay; 4 are chosen; weights sum to 2.5.
    """
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3000, 256, generator=draw), torch.randn(16, 256, generator=draw) / 16
    bias = torch.randn(16, generator=draw) / 10
    # yours from here
    s = (x @ weight.T).sigmoid()
    split = (s + bias).unflatten(-1, (4, 4))
    stay = split.topk(2, dim=-1)[0].sum(-1).topk(2, dim=-1)[1]
    out = torch.ones(len(x), 4, dtype=torch.bool).scatter_(1, stay, False)
    wanted = split.masked_fill(out[..., None], -math.inf).flatten(1).topk(4, dim=-1)[1].sort(-1)[0]
    weights, ids = gate(x, weight, bias)
    ids, order = ids.sort(-1)
    picked = s.gather(-1, ids)
    same = torch.equal(ids, wanted)
    close = torch.allclose(weights.float().gather(-1, order), picked / picked.sum(-1, keepdim=True) * 2.5, atol=1e-5)
    lowered = torch.equal(gate(x, weight, bias - 2)[1].sort(-1)[0], wanted)
    finite = gate(torch.ones(1, 256), -torch.ones(16, 256), bias)[0].isfinite().all().item()
    return same and close and lowered and finite


TRANSFERS = [
    Part(
        balance_loss, "the loss of a sequence", 2, 10,
        "f counts: how often each expert was chosen, times E / (K T). P: divide each token's scores by their sum FIRST, "
        "then take the mean over tokens. Multiply, and sum over the experts. The gradient flows through P.",
        (
            Witness("an even load with equal scores gives alpha itself", lambda: (torch.full((2, 4), 0.5), torch.tensor([[0, 1], [2, 3]]), 0.0001)),
            Witness("f is E / (K T) times the choices of an expert", lambda: (*routed(7, 16, 4), 0.01)),
            Witness("P is a mean of normalised scores: a token with large scores counts no more than others", lambda: (routed(30, 8, 2)[0] * torch.arange(1, 31)[:, None], routed(30, 8, 2)[1], 0.1)),
            Witness("one expert per token, the last never chosen", lambda: (routed(5, 6, 1)[0], torch.tensor([[0], [2], [2], [1], [4]]), 0.1)),
            Witness("it is a loss: a gradient flows to the scores, through P", lambda: (*routed(6, 8, 2), 0.5), gradient),
        ),
        (
            Fault("(scores / scores.sum(-1, keepdim=True)).mean(0)", "scores.mean(0)", "each token's scores are divided by their sum before the mean over tokens"),
            Fault("(scores / scores.sum(-1, keepdim=True)).mean(0)", "scores.mean(0) / scores.mean(0).sum()", "the order matters: divide each token's scores by their sum FIRST, then take the mean"),
            Fault("(chosen.shape[1] * T)", "T", "K is missing in f = E / (K T) times the count"),
            Fault("(f * P).sum()", "(f * P).mean()", "it is the SUM over experts, not their mean"),
            Fault("(f * P).sum()", "(f * P).sum().detach()", "no gradient flows: the loss must not be detached, nor made a Python number"),
            Fault("return alpha * ", "return ", "alpha is missing"),
            Fault(", minlength=E", "", "an expert that nobody chose has f = 0: bincount needs minlength"),
        ),
    ),
    Part(
        router_is_right, "a test for bugs that shipped", 3, 20,
        "Compute the choice yourself in float32, and compare ids (sorted: their order is free) and weights. Two more "
        "inputs: every bias lowered by 2 must change no choice, and logits of -256 must give finite weights.",
        tuple(Witness(hint, given, tested) for hint, given in gates()),
        (
            Fault("return same and close and lowered and finite", "return True", "a gate with V2's group score passes your test: compare ids and weights with those that you compute yourself"),
            Fault("return same and close and lowered and finite", "return same and close and finite", "masked groups at 0 pass your test: lower every bias by 2, and no choice may change"),
            Fault("return same and close and lowered and finite", "return same and close and lowered", "0 / 0 passes your test: let all scores underflow, and ask for finite weights"),
            Fault("return same and close and lowered and finite", "return finite", "finite weights are not enough, a gate in bfloat16 passes: compare ids and weights with your own"),
            Fault("return same and close and lowered and finite", "return same and lowered and finite", "the weights are not compared: those with the bias in them pass your test"),
            Fault("gate(x, weight, bias)\n    ids, order = ids.sort(-1)", "gate(x, weight, bias)\n    ids, order = ids, torch.arange(4).expand(len(ids), 4)", "a right gate fails your test. The order of a token's experts is free: sort the ids, and the weights with them"),
        ),
    ),
]  # fmt: skip
