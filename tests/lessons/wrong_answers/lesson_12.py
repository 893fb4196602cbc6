"""Answers to lesson 12's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "advantages": [
        ("equality of the rewards themselves", "rounding alone", """
def advantages(rewards):
    m = rewards.mean(1, keepdim=True)
    s = ((rewards - m) ** 2).mean(1, keepdim=True).sqrt()
    same = (rewards == rewards[:, :1]).all(1, keepdim=True)
    return torch.where(same, torch.zeros_like(rewards), (rewards - m) / s)
"""),
        ("std == 0 is the only guard", "== 0` is not enough|exact zeros|rounding", """
def advantages(rewards):
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, unbiased=False, keepdim=True)
    if (std == 0).all():
        return torch.zeros_like(rewards)
    std[std == 0] = 1.0
    result = (rewards - mean) / std
    result[(std == 1.0).squeeze(1)] = 0.0
    return result
"""),
        ("nan_to_num instead of a guard", "exact zeros|rounding", """
def advantages(rewards):
    z = (rewards - rewards.mean(-1, True)) / rewards.std(-1, correction=0, keepdim=True)
    return z.nan_to_num(0.0, 0.0, 0.0)
"""),
        ("TRL's 1e-4", "1e-4|exact zeros|0.001 apart", """
def advantages(rewards):
    mean = rewards.mean(dim=1).unsqueeze(1)
    return (rewards - mean) / (((rewards - mean) ** 2).mean(1, True).sqrt() + 1e-4)
"""),
        ("torch's default deviation", "correction=0", """
def advantages(rewards):
    std = rewards.std(dim=1, keepdim=True)
    return torch.where(std > 1e-6, (rewards - rewards.mean(1, keepdim=True)) / std.clamp(min=1e-6), torch.zeros(()))
"""),
        ("whitened over the whole batch", "own group|own mean", """
def advantages(rewards):
    if rewards.max() - rewards.min() < 1e-6:
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / rewards.std(correction=0)
"""),
        ("the guard is too large: rewards 0.001 apart are called equal", "0.001 apart", """
def advantages(rewards):
    std = rewards.std(1, correction=0, keepdim=True)
    return (std > 0.01) * (rewards - rewards.mean(1, keepdim=True)) / std.clamp(min=0.01)
"""),
        ("in place", "changes its arguments", """
def advantages(rewards):
    rewards -= rewards.mean(1, keepdim=True)
    std = rewards.std(1, correction=0, keepdim=True)
    return torch.where(std < 1e-6, 0.0, rewards / std.clamp(min=1e-6))
"""),
    ],
    "log_probabilities": [
        ("off by one: indexes the token itself", "place i|shift", """
def log_probabilities(logits, tokens):
    logp = torch.log_softmax(logits.float(), -1)
    n, s = torch.meshgrid(torch.arange(len(tokens)), torch.arange(tokens.shape[1]), indexing="ij")
    return logp[n, s, tokens][:, 1:]
"""),
        ("exp and divide", "overflow", """
def log_probabilities(logits, tokens):
    e = logits[:, :-1].float().exp()
    p = e / e.sum(-1, keepdim=True)
    return p.gather(2, tokens[:, 1:, None])[..., 0].log()
"""),
        ("under no_grad", "gradient|detached", """
def log_probabilities(logits, tokens):
    with torch.no_grad():
        return torch.stack([logits[i, :-1].float().log_softmax(-1)[torch.arange(len(t) - 1), t[1:]] for i, t in enumerate(tokens)])
"""),
        ("bfloat16 stays bfloat16", "float32", """
def log_probabilities(logits, tokens):
    logp = torch.nn.functional.log_softmax(logits[:, :-1], dim=-1)
    return torch.take_along_dim(logp, tokens[:, 1:, None], dim=-1).squeeze(-1)
"""),
        ("the cross entropy, which has the other sign", "place i", """
def log_probabilities(logits, tokens):
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), tokens[:, 1:], reduction="none")
"""),
    ],
    "loss": [
        ("right value, detached", "detached", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r = torch.exp(new - old)
    a = advantage.unsqueeze(-1)
    s = torch.minimum(r * a, torch.clamp(r, 1 - clip, 1 + clip) * a) - kl * (torch.exp(reference - new) - (reference - new) - 1)
    total = [(s[i] * learned[i]).sum().item() / learned[i].sum().item() for i in range(len(s))]
    return torch.tensor(-sum(total) / len(total))
"""),
        ("the ratio's gradient is cut: REINFORCE's value without its gradient", "detached|reach no weight", """
def loss(new, old, reference, advantage, learned, clip, kl):
    with torch.no_grad():
        r = torch.exp(new - old)
        a = advantage.unsqueeze(-1)
        policy = torch.min(r * a, r.clip(1 - clip, 1 + clip) * a)
    x = torch.exp(reference - new)
    per = (policy - kl * (x - x.log() - 1)) * learned
    return -(per.sum(-1) / learned.sum(-1)).mean()
"""),
        ("the objective, not the loss", "minimised", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r, a, d = (new - old).exp(), advantage.view(-1, 1), reference - new
    per = torch.min(r * a, r.clip(1 - clip, 1 + clip) * a) - kl * (d.exp() - d - 1)
    return per.masked_fill(~learned, 0).sum(1).div(learned.sum(1)).mean()
"""),
        ("the minimum of ratios", "products", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r, d = (new - old).exp(), reference - new
    per = torch.min(r, r.clip(1 - clip, 1 + clip)) * advantage.view(-1, 1) - kl * (d.exp() - d - 1)
    return -per.masked_fill(~learned, 0).sum(1).div(learned.sum(1)).mean()
"""),
        ("token mean", "long answer", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r, a, d = (new - old).exp(), advantage.view(-1, 1), reference - new
    per = torch.min(r * a, r.clip(1 - clip, 1 + clip) * a) - kl * (d.exp() - d - 1)
    return -per[learned].mean()
"""),
        ("masks the ratio, not the sum: a masked token's ratio is 1", "padding|learned|do not count", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r, a, d = ((new - old) * learned).exp(), advantage.view(-1, 1), (reference - new) * learned
    per = torch.min(r * a, r.clip(1 - clip, 1 + clip) * a) - kl * (d.exp() - d - 1)
    return -(per.sum(1) / learned.sum(1)).mean()
"""),
        ("the plain difference as KL", "never negative", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r, a = (new - old).exp(), advantage.view(-1, 1)
    per = torch.min(r * a, r.clip(1 - clip, 1 + clip) * a) - kl * (new - reference)
    return -per.masked_fill(~learned, 0).sum(1).div(learned.sum(1)).mean()
"""),
        ("clips between -clip and clip", "1 \\+ clip", """
def loss(new, old, reference, advantage, learned, clip, kl):
    r, a, d = (new - old).exp(), advantage.view(-1, 1), reference - new
    per = torch.min(r * a, r.clip(-clip, clip) * a) - kl * (d.exp() - d - 1)
    return -per.masked_fill(~learned, 0).sum(1).div(learned.sum(1)).mean()
"""),
    ],
    "step": [
        ("the list times the group", "mixes questions|order", """
def step(questions, group, sample, reward, advantages, learn):
    asked = questions * group
    told = sample(asked)
    paid = torch.tensor([float(reward(q, a)) for q, a in zip(asked, told)]).reshape(len(questions), group)
    good = advantages(paid).reshape(-1)
    keep = [i for i, g in enumerate(good.tolist()) if g != 0]
    if keep:
        learn([asked[i] for i in keep], [told[i] for i in keep], good[keep])
    return paid
"""),
        ("a group at a time", "one call", """
def step(questions, group, sample, reward, advantages, learn):
    asked, told = [], []
    for q in questions:
        asked += [q] * group
        told += sample([q] * group)
    paid = torch.tensor([float(reward(q, a)) for q, a in zip(asked, told)]).reshape(-1, group)
    good = advantages(paid).flatten()
    keep = good.nonzero().flatten().tolist()
    if keep:
        learn([asked[i] for i in keep], [told[i] for i in keep], good[keep])
    return paid
"""),
        ("learns from nothing, too", "empty mean", """
def step(questions, group, sample, reward, advantages, learn):
    asked = [q for q in questions for _ in range(group)]
    told = sample(asked)
    paid = torch.tensor([float(reward(q, a)) for q, a in zip(asked, told)]).view(-1, group)
    good = advantages(paid).flatten()
    teach = good != 0
    learn([q for q, t in zip(asked, teach) if t], [a for a, t in zip(told, teach) if t], good[teach])
    return paid
"""),
        ("leaves out groups whose mean is 0, keeps those that are all right", "advantage 0", """
def step(questions, group, sample, reward, advantages, learn):
    asked = [q for q in questions for _ in range(group)]
    told = sample(asked)
    paid = torch.tensor([float(reward(q, a)) for q, a in zip(asked, told)]).view(-1, group)
    good = advantages(paid).flatten()
    keep = [i for i in range(len(asked)) if paid[i // group].sum() > 0]
    if keep:
        learn([asked[i] for i in keep], [told[i] for i in keep], good[keep])
    return paid
"""),
    ],
    "reward": [
        ("the last number", "last number", """
def reward(text, ended, right):
    head, mark, tail = text.partition("</think>")
    if not ended or not mark or not head.strip() or not tail.strip() or "</think>" in tail:
        return 0.0
    last = re.search(r"(-?\\d+)[.。]?\\s*$", tail)
    return 1.1 if last and int(last.group(1)) == right else 0.1
"""),
        ("the right text is somewhere", "84|wrong number|is not the answer", """
def reward(text, ended, right):
    head, mark, tail = text.partition("</think>")
    if not ended or not mark or not head.strip() or not tail.strip() or "</think>" in tail:
        return 0.0
    return 1.1 if str(right) in text else 0.1
"""),
        ("exactly one number: signs and words get through", "get through", """
def reward(text, ended, right):
    if text.count("</think>") != 1 or not ended:
        return 0.0
    head, tail = text.split("</think>")
    if not head.strip() or not tail.strip():
        return 0.0
    numbers = re.findall(r"-?[0-9]+(?:[.,_][0-9]+)*", tail)
    return 1.1 if numbers == [str(right)] else 0.1
"""),
        ("int() takes 8_5", "8_5", """
def reward(text, ended, right):
    if text.count("</think>") != 1 or not ended:
        return 0.0
    head, tail = map(str.strip, text.split("</think>"))
    if not head or not tail:
        return 0.0
    for name in ("Answer: ", "答案："):
        if tail.startswith(name):
            told = tail.removeprefix(name).rstrip(".。")
            try:
                return 1.1 if " " not in told and int(told) == right else 0.1
            except ValueError:
                pass
    return 0.1
"""),
        ("splits at the last mark: a second one hides a first answer", "second </think>", """
def reward(text, ended, right):
    head, mark, tail = text.rpartition("</think>")
    if not (ended and mark and head.strip() and tail.strip()):
        return 0.0
    return 1.1 if re.fullmatch(rf"(Answer: |答案：){right}[.。]?", tail.strip()) else 0.1
"""),
        ("text is compared: the full stop is no answer", "full stop", """
def reward(text, ended, right):
    head, mark, tail = text.partition("</think>")
    if not (ended and mark and head.strip() and tail.strip()) or "</think>" in tail:
        return 0.0
    return 1.1 if tail.strip() in (f"Answer: {right}", f"答案：{right}") else 0.1
"""),
        ("a number is paid even if the text was cut off", "cut off", """
def reward(text, ended, right):
    parts = text.split("</think>")
    if len(parts) != 2 or not parts[0].strip() or not parts[1].strip():
        return 0.0
    return 1.1 if re.fullmatch(rf"\\s*(Answer: |答案：){right}[.。]?\\s*", parts[1]) else 0.1
"""),
    ],
    "consensus": [
        ("a set's order", "came first", """
def consensus(answers):
    v = [a for a in answers if a is not None]
    return max(set(v), key=v.count) if v else None
"""),
        ("the last of equals", "came first", """
def consensus(answers):
    v = [a for a in answers if a is not None]
    return max(reversed(v), key=v.count) if v else None
"""),
        ("statistics.mode counts refusals", "refusal|None has no vote", """
def consensus(answers):
    import statistics
    return statistics.mode(answers) if answers else None
"""),
        ("the median", "most frequent", """
def consensus(answers):
    told = sorted(a for a in answers if a is not None)
    return told[len(told) // 2] if told else None
"""),
        ("a set loses the order", "first", """
def consensus(answers):
    told = [a for a in answers if a is not None]
    return max(sorted(set(told)), key=told.count, default=None)
"""),
    ],
    "chains": [
        ("keeps what was paid for its form", "form", """
def chains(groups, most):
    return [(q, t) for q, told in groups for t in sorted({t for t, r in told if r}, key=len)[:most]]
"""),
        ("the shortest of all questions, not of each", "of each question|at most", """
def chains(groups, most):
    every = {(q, t) for q, told in groups for t, r in told if r >= 1}
    return sorted(every, key=lambda pair: len(pair[1]))[:most]
"""),
        ("twice the same", "once|twice", """
def chains(groups, most):
    out = []
    for q, told in groups:
        out += [(q, t) for t in sorted((t for t, r in told if r >= 1), key=len)[:most]]
    return out
"""),
    ],
}  # fmt: skip

RIGHT = {
    "advantages": ["""
def advantages(rewards):
    rows = []
    for row in rewards:
        if (row.max() - row.min()).item() < 1e-6:
            rows.append(torch.zeros(len(row)))
        else:
            rows.append((row - row.mean()) / row.var(unbiased=False).sqrt())
    return torch.stack(rows)
"""],
    "log_probabilities": ["""
def log_probabilities(logits, tokens):
    x = logits[:, :-1].float()
    return x.gather(2, tokens[:, 1:, None])[:, :, 0] - x.logsumexp(2)
"""],
    "loss": ["""
def loss(new, old, reference, advantage, learned, clip, kl):
    total = 0
    for n, o, f, a, m in zip(new, old, reference, advantage, learned):
        n, o, f = n[m], o[m], f[m]
        r = (n - o).exp()
        kept = torch.where(a > 0, r.clamp(max=1 + clip), r.clamp(min=1 - clip)) * a
        x = (f - n).exp()
        total = total + (kl * (x - x.log() - 1) - kept).mean()
    return total / len(new)
"""],
    "step": ["""
def step(questions, group, sample, reward, advantages, learn):
    asked = sum(([q] * group for q in questions), [])
    told = sample(asked)
    paid = torch.zeros(len(questions), group)
    for i, (q, a) in enumerate(zip(asked, told)):
        paid[i // group, i % group] = reward(q, a)
    gains = advantages(paid).reshape(-1)
    keep = [i for i in range(len(asked)) if gains[i] != 0]
    if len(keep) > 0:
        learn([asked[i] for i in keep], [told[i] for i in keep], gains[torch.tensor(keep)])
    return paid
"""],
    "reward": ["""
def reward(text, ended, right):
    if not ended or text.count("</think>") != 1:
        return 0.0
    thinking, answer = (part.strip() for part in text.split("</think>"))
    if thinking == "" or answer == "":
        return 0.0
    allowed = {name + str(right) + stop for name in ("Answer: ", "答案：") for stop in ("", ".", "。")}
    return 1.1 if answer in allowed else 0.1
"""],
    "chains": ["""
def chains(groups, most):
    pairs = []
    for question, answers in groups:
        seen = []
        for text, paid in sorted(answers, key=lambda each: (len(each[0]), each[0])):
            if paid >= 1 and text not in seen and len(seen) < most:
                seen.append(text)
        pairs.extend((question, text) for text in seen)
    return pairs
"""],
}  # fmt: skip
