"""Answers to lesson 06's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "swiglu": [
        ("the activation is on w3", "over w1", """
def swiglu(x, w1, w2, w3):
    silu = torch.nn.functional.silu
    return torch.nn.functional.linear(torch.nn.functional.linear(x, w1) * silu(torch.nn.functional.linear(x, w3)), w2)
"""),
        ("torch's GLU", "sigmoid alone", """
def swiglu(x, w1, w2, w3):
    both = torch.cat([x @ w3.mT, x @ w1.mT], dim=1)
    return torch.nn.functional.glu(both, dim=1) @ w2.mT
"""),
        ("an ordinary feed-forward layer", "second product", """
def swiglu(x, w1, w2, w3):
    hidden = torch.nn.functional.silu(x @ w1.T)
    return hidden @ w2.T
"""),
        ("silu after the product", "silu of the gate", """
def swiglu(x, w1, w2, w3):
    return torch.nn.functional.silu((x @ w1.T) * (x @ w3.T)) @ w2.T
"""),
    ],
    "affinity": [
        ("V2's softmax", "softmax", """
def affinity(x, weight, bias):
    p = torch.softmax(torch.nn.functional.linear(x.float(), weight.float()), dim=1)
    return p, p + bias
"""),
        ("the bias goes into the product", "after the sigmoid", """
def affinity(x, weight, bias):
    logits = torch.nn.functional.linear(x.float(), weight.float())
    return torch.sigmoid(logits), torch.sigmoid(logits + bias)
"""),
        ("both are the same tensor, changed in place", "in the weights", """
def affinity(x, weight, bias):
    s = torch.sigmoid(x.float() @ weight.float().t())
    biased = s
    biased += bias
    return s, biased
"""),
        ("in bfloat16", "bfloat16", """
def affinity(x, weight, bias):
    logits = torch.nn.functional.linear(x, weight.to(x.dtype))
    s = 1 / (1 + torch.exp(-logits.float()))
    return s, s + bias
"""),
    ],
    "choose": [
        ("V2's rule", "best one", """
def choose(biased, groups, limited, k):
    n, E = biased.shape
    best = biased.view(n, groups, E // groups).max(dim=-1).values
    keep = torch.zeros_like(best).scatter(1, best.topk(limited).indices, 1).repeat_interleave(E // groups, dim=1)
    return biased.masked_fill(keep == 0, float("-inf")).topk(k).indices
"""),
        ("masked by multiplying", "0 is a good score", """
def choose(biased, groups, limited, k):
    n, E = biased.shape
    best = biased.view(n, groups, -1).topk(2).values.sum(-1)
    keep = torch.zeros_like(best).scatter(1, best.topk(limited).indices, 1).repeat_interleave(E // groups, dim=1)
    return (biased * keep).topk(k).indices
"""),
        ("masked with -10", "-10", """
def choose(biased, groups, limited, k):
    n, E = biased.shape
    best = biased.view(n, groups, -1).topk(2).values.sum(-1)
    keep = torch.zeros_like(best).scatter(1, best.topk(limited).indices, 1).repeat_interleave(E // groups, dim=1)
    return torch.where(keep.bool(), biased, torch.tensor(-10.0)).topk(k).indices
"""),
        ("masked with -1, as sigmoid is positive", "negative|-30|lose", """
def choose(biased, groups, limited, k):
    n, E = biased.shape
    best = biased.view(n, groups, -1).topk(2).values.sum(-1)
    keep = torch.zeros_like(best).scatter(1, best.topk(limited).indices, 1).repeat_interleave(E // groups, dim=1)
    return torch.where(keep.bool(), biased, -torch.ones(())).topk(k).indices
"""),
        ("no groups", "from all groups", """
def choose(biased, groups, limited, k):
    return biased.argsort(dim=-1, descending=True)[:, :k]
"""),
        ("ids inside the kept groups", "first of ALL", """
def choose(biased, groups, limited, k):
    split = biased.view(len(biased), groups, -1)
    kept = split.topk(2)[0].sum(-1).topk(limited)[1]
    rows = torch.stack([split[i, kept[i]].flatten() for i in range(len(biased))])
    return rows.topk(k)[1]
"""),
    ],
    "weigh": [
        ("softmax of the chosen", "softmax", """
def weigh(s, chosen, scale):
    return torch.nn.functional.softmax(torch.gather(s, 1, chosen), dim=1) * scale
"""),
        ("no epsilon", "NaN", """
def weigh(s, chosen, scale):
    w = torch.gather(s, 1, chosen)
    w = w / w.sum(dim=1, keepdim=True)
    return w * scale
"""),
        ("an epsilon as in norms", "tiny", """
def weigh(s, chosen, scale):
    w = torch.stack([row[ids] for row, ids in zip(s, chosen)])
    return scale * w / (w.sum(dim=1, keepdim=True) + 1e-6)
"""),
        ("normalised before choosing", "CHOSEN", """
def weigh(s, chosen, scale):
    p = s / s.sum(dim=1, keepdim=True).clamp_min(1e-20)
    return scale * p.gather(1, chosen)
"""),
        ("sorted", "order of", """
def weigh(s, chosen, scale):
    w = s.gather(1, chosen).sort(dim=1, descending=True).values
    return scale * w / (w.sum(dim=1, keepdim=True) + 1e-20)
"""),
    ],
    "mixture": [
        ("token by token", "at once", """
def mixture(x, weights, chosen, experts):
    rows = []
    for i in range(len(x)):
        row = torch.zeros(x.shape[1])
        for w, e in zip(weights[i], chosen[i].tolist()):
            row = row + w * experts[e](x[i : i + 1])[0].float()
        rows.append(row)
    return torch.stack(rows)
"""),
        ("every expert takes every token", "multiplied", """
def mixture(x, weights, chosen, experts):
    full = torch.zeros(len(x), len(experts)).scatter(1, chosen, weights)
    return sum(full[:, e, None] * expert(x).float() for e, expert in enumerate(experts))
"""),
        ("the weight goes in", "RESULT", """
def mixture(x, weights, chosen, experts):
    out = torch.zeros(len(x), x.shape[1])
    for e in range(len(experts)):
        i, j = (chosen == e).nonzero(as_tuple=True)
        if i.numel():
            out.index_add_(0, i, experts[e](x[i] * weights[i, j].unsqueeze(1).to(x.dtype)).float())
    return out
"""),
        ("only the last of a token's experts stays", "overwrite", """
def mixture(x, weights, chosen, experts):
    out = torch.zeros(len(x), x.shape[1])
    for e in range(len(experts)):
        i, j = (chosen == e).nonzero(as_tuple=True)
        if i.numel():
            out[i] = experts[e](x[i]).float() * weights[i, j].unsqueeze(1)
    return out
"""),
        ("in the input's format", "float32", """
def mixture(x, weights, chosen, experts):
    out = torch.zeros_like(x)
    for e in range(len(experts)):
        i, j = (chosen == e).nonzero(as_tuple=True)
        if i.numel():
            out.index_add_(0, i, (experts[e](x[i]) * weights[i, j].unsqueeze(1)).to(x.dtype))
    return out
"""),
    ],
    "bias_step": [
        ("without minlength", "minlength", """
def bias_step(bias, chosen, gamma):
    n = chosen.flatten().bincount().float()
    return bias + gamma * torch.sign(n.mean() - n)
"""),
        ("the mean of those that were chosen", "nobody chose", """
def bias_step(bias, chosen, gamma):
    n = torch.bincount(chosen.flatten(), minlength=len(bias)).float()
    busy = n > 0
    return torch.where(busy, bias + gamma * torch.sign(n[busy].mean() - n), bias)
"""),
        ("in proportion", "only the sign", """
def bias_step(bias, chosen, gamma):
    n = torch.nn.functional.one_hot(chosen, len(bias)).sum((0, 1)).float()
    return bias - gamma * (n - n.mean())
"""),
        ("rewards the busy", "wrong way", """
def bias_step(bias, chosen, gamma):
    n = torch.nn.functional.one_hot(chosen, len(bias)).sum((0, 1)).float()
    return torch.where(n > n.mean(), bias + gamma, torch.where(n < n.mean(), bias - gamma, bias))
"""),
        ("in place", "changes its arguments", """
def bias_step(bias, chosen, gamma):
    n = torch.nn.functional.one_hot(chosen, len(bias)).sum((0, 1)).float()
    bias += gamma * torch.sign(n.mean() - n)
    return bias
"""),
        ("a whole number for the even share", "whole number", """
def bias_step(bias, chosen, gamma):
    n = torch.bincount(chosen.flatten(), minlength=len(bias))
    even = chosen.numel() // len(bias)
    return bias + gamma * torch.sign(even - n)
"""),
    ],
    "balance_loss": [
        ("a Python number", "no gradient|must not be detached", """
def balance_loss(scores, chosen, alpha):
    T, E = scores.shape
    total = 0.0
    for e in range(E):
        f = E * (chosen == e).sum().item() / (chosen.shape[1] * T)
        total += f * (scores[:, e] / scores.sum(1)).mean().item()
    return torch.tensor(alpha * total)
"""),
        ("the mean first", "FIRST", """
def balance_loss(scores, chosen, alpha):
    T, E = scores.shape
    f = torch.nn.functional.one_hot(chosen, E).sum((0, 1)) * E / chosen.numel()
    mean = scores.mean(0)
    return alpha * torch.dot(f.float(), mean / mean.sum())
"""),
        ("Switch's form, without K", "K is missing", """
def balance_loss(scores, chosen, alpha):
    T, E = scores.shape
    f = torch.nn.functional.one_hot(chosen, E).sum((0, 1)).float() / T
    return alpha * E * torch.dot(f, (scores / scores.sum(1, keepdim=True)).mean(0))
"""),
        ("not normalised", "divided by their sum", """
def balance_loss(scores, chosen, alpha):
    T, E = scores.shape
    f = torch.nn.functional.one_hot(chosen, E).sum((0, 1)).float() * E / chosen.numel()
    return alpha * torch.dot(f, scores.mean(0))
"""),
        ("a softmax of the scores", "f is E|even load|large scores", """
def balance_loss(scores, chosen, alpha):
    T, E = scores.shape
    f = torch.nn.functional.one_hot(chosen, E).sum((0, 1)).float() * E / chosen.numel()
    return alpha * torch.dot(f, scores.softmax(1).mean(0))
"""),
    ],
    "router_is_right": [
        ("always True", "V2's group score passes", """
def router_is_right(gate):
    return True
"""),
        ("only finite", "V2's group score|compare ids", """
def router_is_right(gate):
    return bool(torch.isfinite(gate(torch.randn(50, 256), torch.randn(16, 256), torch.zeros(16))[0]).all())
"""),
        ("only that the weights sum to 2.5", "V2's group score|compare ids", """
def router_is_right(gate):
    w, ids = gate(torch.randn(100, 256), torch.randn(16, 256) / 16, torch.randn(16) / 10)
    return bool(torch.allclose(w.sum(1), torch.full((100,), 2.5)))
"""),
        ("the order must be that of topk", "order of a token's experts is free", """
def router_is_right(gate):
    torch.manual_seed(1)
    x, weight, bias = torch.randn(2000, 256), torch.randn(16, 256) / 16, torch.randn(16) / 10
    s = torch.sigmoid(x @ weight.T)
    g = (s + bias).view(-1, 4, 4)
    keep = torch.zeros(len(x), 4).scatter(1, g.topk(2)[0].sum(-1).topk(2)[1], 1).repeat_interleave(4, dim=1)
    ids = (s + bias).masked_fill(keep == 0, -math.inf).topk(4)[1]
    w = s.gather(1, ids)
    found, theirs = gate(x, weight, bias)
    ok = torch.equal(theirs, ids) and torch.allclose(found, 2.5 * w / w.sum(1, keepdim=True), atol=1e-5)
    same = torch.equal(gate(x, weight, bias - 2)[1], ids)
    return ok and same and bool(gate(torch.ones(1, 256), -torch.ones(16, 256), bias)[0].isfinite().all())
"""),
    ],
}  # fmt: skip

RIGHT = {
    "swiglu": ["""
def swiglu(x, w1, w2, w3):
    linear, silu = torch.nn.functional.linear, torch.nn.functional.silu
    return linear(silu(linear(x, w1)) * linear(x, w3), w2)
"""],
    "choose": ["""
def choose(biased, groups, limited, k):
    n, E = biased.shape
    best = biased.view(n, groups, -1).topk(2).values.sum(-1)
    keep = torch.zeros(n, groups).scatter(1, best.topk(limited).indices, 1.0).repeat_interleave(E // groups, dim=1)
    return biased.masked_fill(keep == 0, float("-inf")).argsort(dim=-1, descending=True)[:, :k]
"""],
    "mixture": ["""
def mixture(x, weights, chosen, experts):
    out = x.new_zeros(x.shape, dtype=torch.float32)
    for e in chosen.unique().tolist():
        i, j = (chosen == e).nonzero(as_tuple=True)
        out = out.index_add(0, i, weights[i, j].unsqueeze(1) * experts[e](x[i]).float())
    return out
"""],
    "bias_step": ["""
def bias_step(bias, chosen, gamma):
    n = torch.nn.functional.one_hot(chosen, len(bias)).sum((0, 1)).float()
    even = chosen.numel() / len(bias)
    return bias + gamma * (n < even) - gamma * (n > even)
"""],
}  # fmt: skip
