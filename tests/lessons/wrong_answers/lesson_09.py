"""Answers to lesson 09's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "decode": [
        ("appends to the prompt", "changes the prompt", """
def decode(prefill, step, prompt, choose, ends, most):
    n = len(prompt)
    prompt.append(choose(prefill(prompt)))
    while len(prompt) - n < most and prompt[-1] not in ends:
        prompt.append(choose(step(prompt[-1], len(prompt) - 1)))
    return prompt[n:]
"""),
        ("the prompt once more, token by token", "read once|each new token once", """
def decode(prefill, step, prompt, choose, ends, most):
    scores = prefill(prompt)
    for i, t in enumerate(prompt):
        scores = step(t, i)
    out = [choose(scores)]
    while out[-1] not in ends and len(out) < most:
        out.append(choose(step(out[-1], len(prompt) + len(out) - 1)))
    return out
"""),
        ("off by one: one step too many", "read once|scores nobody reads|does not stop", """
def decode(prefill, step, prompt, choose, ends, most):
    out, scores, pos = [], prefill(prompt), len(prompt)
    for _ in range(most):
        out.append(choose(scores))
        scores = step(out[-1], pos)
        pos += 1
        if out[-1] in ends:
            break
    return out
"""),
        ("the end is cut off", "belongs to the result", """
def decode(prefill, step, prompt, choose, ends, most):
    out, logits = [], prefill(prompt)
    for pos in range(len(prompt), len(prompt) + most):
        nxt = choose(logits)
        if nxt in ends:
            break
        out.append(nxt)
        if len(out) < most:
            logits = step(nxt, pos)
    return out
"""),
        ("positions from 1 of the answer", "the position|behind the prompt|read once", """
def decode(prefill, step, prompt, choose, ends, most):
    out = [choose(prefill(prompt))]
    while len(out) < most and out[-1] not in ends:
        out.append(choose(step(out[-1], len(out))))
    return out
"""),
        ("the prompt comes back, too", "read once", """
def decode(prefill, step, prompt, choose, ends, most):
    ids = prompt + [choose(prefill(prompt))]
    while ids[-1] not in ends and len(ids) - len(prompt) < most:
        ids.append(choose(step(ids[-1], len(ids) - 1)))
    return ids
"""),
        ("the cache is not used", "read again", """
def decode(prefill, step, prompt, choose, ends, most):
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        ids.append(choose(prefill(ids)))
        if ids[-1] in ends:
            break
    return ids[len(prompt):]
"""),
    ],
    "shares": [
        ("leaves out the token that crosses p", "crosses p", """
def shares(scores, temperature, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    p = (scores.float() / temperature).softmax(0)
    if top_k:
        p = p * (p >= p.sort(descending=True).values[min(top_k, len(p)) - 1])
        p = p / p.sum()
    ordered, order = p.sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) <= top_p + 1e-6)
    kept = torch.zeros_like(p).scatter(-1, order, ordered)
    return kept / kept.sum()
"""),
        ("forgets to make the rest sum to 1", "sum to 1", """
def shares(scores, temperature, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    z = scores.float() / temperature
    if top_k and top_k < len(z):
        z[z < z.sort(descending=True).values[top_k - 1]] = -math.inf
    ordered, order = z.softmax(0).sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return torch.zeros_like(z).scatter(-1, order, ordered)
"""),
        ("stays in sorted order", "sorted order|in their places", """
def shares(scores, temperature, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    z = scores.float() / temperature
    if top_k and top_k < len(z):
        z[z < z.sort(descending=True).values[top_k - 1]] = -math.inf
    p = z.softmax(0)
    if top_p == 1:
        return p
    ordered, _ = p.sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return ordered / ordered.sum()
"""),
        ("min-p", "min-p", """
def shares(scores, temperature, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    z = scores.float() / temperature
    if top_k and top_k < len(z):
        z[z < z.sort(descending=True).values[top_k - 1]] = -math.inf
    p = z.softmax(0)
    if top_p < 1:
        p = p * (p >= top_p * p.max())
    return p / p.sum()
"""),
        ("top-p before top-k", "what top-k LEFT", """
def shares(scores, temperature, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    p = (scores.float() / temperature).softmax(0)
    if top_p < 1:
        ordered, order = p.sort(descending=True)
        ordered = ordered * (ordered.cumsum(-1) - ordered < top_p)
        p = torch.zeros_like(p).scatter(-1, order, ordered)
    if top_k and top_k < len(p):
        best = p.topk(top_k)
        p = torch.zeros_like(p).scatter(0, best.indices, best.values)
    return p / p.sum()
"""),
        ("a small temperature for 0, as the demo", "temperature 0", """
def shares(scores, temperature, top_k=0, top_p=1.0):
    z = scores.float() / max(temperature, 1.0)
    if top_k and top_k < len(z):
        z[z < z.sort(descending=True).values[top_k - 1]] = -math.inf
    return z.softmax(0)
"""),
    ],
    "draw": [
        ("greedy", "each one with its probability|as often", """
def draw(probabilities, generator):
    return probabilities.topk(1).indices.item()
"""),
        ("multinomial without the generator", "torch's own generator", """
def draw(probabilities, generator):
    return torch.multinomial(probabilities.float(), 1).item()
"""),
        ("a tensor", "an id is an int", """
def draw(probabilities, generator):
    return torch.multinomial(probabilities.float(), 1, generator=generator)
"""),
        ("the noise is normal, not Gumbel's", "as often", """
def draw(probabilities, generator):
    noise = torch.randn(len(probabilities), generator=generator)
    return (probabilities.float().log() + noise).argmax().item()
"""),
        ("exponential noise is multiplied", "all of the probability|probability 0|as often", """
def draw(probabilities, generator):
    noise = torch.empty(len(probabilities)).exponential_(generator=generator)
    return (probabilities * noise).argmax().item()
"""),
        ("single probabilities, not their sums", "all of the probability|as often|raises", """
def draw(probabilities, generator):
    u = torch.rand(1, generator=generator).item()
    return next((token for token, p in enumerate(probabilities.tolist()) if u < p), 0)
"""),
    ],
    "remember": [
        ("the public demo: everything goes back", "whole completion", """
def remember(messages, completion):
    return [*messages, {"role": "assistant", "content": completion.strip()}]
"""),
        ("a thought that was cut off is an answer", "taken for an answer", """
def remember(messages, completion):
    answer = completion.split("</think>", 1)[-1].strip()
    return [*messages, {"role": "assistant", "content": answer}] if answer else messages[:-1]
"""),
        ("the question that was never answered stays", "question without an answer stays", """
def remember(messages, completion):
    if "</think>" not in completion:
        return list(messages)
    answer = completion.split("</think>", 1)[1].strip()
    return [*messages, {"role": "assistant", "content": answer}] if answer else list(messages)
"""),
        ("the last mark", "last </think>", """
def remember(messages, completion):
    if "</think>" not in completion:
        return messages[:-1]
    answer = completion.split("</think>")[-1].strip()
    return [*messages, {"role": "assistant", "content": answer}] if answer else messages[:-1]
"""),
        ("no answer: the list is emptied", "earlier turns are lost: only the last", """
def remember(messages, completion):
    if (answer := completion.partition("</think>")[2].strip()):
        return messages + [{"role": "assistant", "content": answer}]
    return []
"""),
        ("only the last question stays", "all of them stay", """
def remember(messages, completion):
    if (answer := completion.partition("</think>")[2].strip()):
        return [messages[-1], dict(role="assistant", content=answer)]
    return messages[:-1]
"""),
        ("in place", "changes its arguments", """
def remember(messages, completion):
    answer = completion.partition("</think>")[2].strip()
    if answer:
        messages.append({"role": "assistant", "content": answer})
    else:
        messages.pop()
    return messages
"""),
    ],
    "decode_batch": [
        ("the last column", "after the padding|own last token", """
def decode_batch(prefill, step, prompts, choose, ends, most):
    pad = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    at = torch.tensor([len(p) for p in prompts])
    scores, out = prefill(pad)[:, pad.shape[1] - 1], [[] for p in prompts]
    while True:
        ids = choose(scores)
        for o, t in zip(out, ids):
            if not (o and o[-1] in ends):
                o += [t]
        if max(map(len, out)) == most or all(o[-1] in ends for o in out):
            return out
        scores = step(torch.tensor(ids), at)
        at = at + 1
"""),
        ("one position for all", "own positions|longest", """
def decode_batch(prefill, step, prompts, choose, ends, most):
    pad = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    at = torch.tensor([len(p) for p in prompts])
    scores, out = prefill(pad)[range(len(prompts)), at - 1], [[] for p in prompts]
    for n in range(most):
        ids = choose(scores)
        for o, t in zip(out, ids):
            if not (o and o[-1] in ends):
                o += [t]
        if n == most - 1 or all(o[-1] in ends for o in out):
            break
        scores = step(torch.tensor(ids), torch.full((len(prompts),), pad.shape[1] + n))
    return out
"""),
        ("answers go on after their end, and are not cut", "after its end|ends early", """
def decode_batch(prefill, step, prompts, choose, ends, most):
    pad = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    at = torch.tensor([len(p) for p in prompts])
    ids = choose(prefill(pad)[range(len(prompts)), at - 1])
    out = [[t] for t in ids]
    while len(out[0]) < most and not all(ends & set(o) for o in out):
        ids = choose(step(torch.tensor(ids), at))
        at = at + 1
        for o, t in zip(out, ids):
            o.append(t)
    return out
"""),
        ("stops with the first", "first answer ends", """
def decode_batch(prefill, step, prompts, choose, ends, most):
    pad = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    at = torch.tensor([len(p) for p in prompts])
    ids = choose(prefill(pad)[range(len(prompts)), at - 1])
    out = [[t] for t in ids]
    while len(out[0]) < most and not ends & set(ids):
        ids = choose(step(torch.tensor(ids), at))
        at = at + 1
        for o, t in zip(out, ids):
            o.append(t)
    return out
"""),
        ("padded on the left", "on the left", """
def decode_batch(prefill, step, prompts, choose, ends, most):
    longest = max(len(p) for p in prompts)
    at = torch.tensor([len(p) for p in prompts])
    ids = choose(prefill(torch.tensor([[0] * (longest - len(p)) + p for p in prompts]))[range(len(prompts)), at - 1])
    out = [[t] for t in ids]
    for n in range(1, most):
        if all(o[-1] in ends for o in out):
            break
        ids = choose(step(torch.tensor(ids), at + n - 1))
        for o, t in zip(out, ids):
            if o[-1] not in ends:
                o.append(t)
    return out
"""),
    ],
    "accept": [
        ("counts guesses after a wrong one", "after a wrong|void|does not count", """
def accept(scores, guesses):
    likeliest = scores.argmax(-1).tolist()
    return [g for g, t in zip(guesses, likeliest) if g == t] + [likeliest[-1]]
"""),
        ("gives away the token after the last right guess", "given away|one token more", """
def accept(scores, guesses):
    likeliest = scores.argmax(-1).tolist()
    kept = []
    for guess, token in zip(guesses, likeliest):
        kept.append(token)
        if guess != token:
            return kept
    return kept or likeliest[:1]
"""),
        ("believes every guess", "believes every guess", """
def accept(scores, guesses):
    return guesses + [int(scores[len(guesses)].argmax())]
"""),
        ("compares with the scores after the guess", "one token more|model's own|right guess", """
def accept(scores, guesses):
    best = scores.argmax(-1).tolist()
    n = 0
    while n < len(guesses) and guesses[n] == best[n + 1]:
        n += 1
    return guesses[:n] + [best[n]]
"""),
        ("tensors in the list", "an id is an int", """
def accept(scores, guesses):
    best, out = scores.argmax(-1), []
    for i in range(len(best)):
        out.append(best[i])
        if i < len(guesses) and best[i] != guesses[i]:
            break
    return out
"""),
    ],
    "lookup": [
        ("stops before place 0", "goes down to 0", """
def lookup(tokens, n, count):
    key = tokens[-n:]
    for i in range(len(tokens) - n - 1, 0, -1):
        if tokens[i:i+n] == key: return tokens[i+n:i+n+count]
    return []
"""),
        ("places must not overlap", "may overlap", """
def lookup(tokens, n, count):
    key = tokens[-n:]
    for i in range(len(tokens) - 2*n, -1, -1):
        if tokens[i:i+n] == key: return tokens[i+n:i+n+count]
    return []
"""),
        ("the first place", "latest one", """
def lookup(tokens, n, count):
    for i in range(len(tokens) - n):
        if tokens[i : i + n] == tokens[len(tokens) - n :]:
            return tokens[i + n :][:count]
    return []
"""),
        ("the end finds itself", "end itself", """
def lookup(tokens, n, count):
    for i in reversed(range(len(tokens))):
        if tokens[i : i + n] == tokens[-n:]:
            return tokens[i + n : i + n + count]
    return []
"""),
        ("None if nothing is found", "nothing found", """
def lookup(tokens, n, count):
    for i in range(len(tokens) - n - 1, -1, -1):
        if tokens[i : i + n] == tokens[-n:]:
            return tokens[i + n : i + n + count]
"""),
    ],
    "accept_sampled": [
        ("keeps every guess", "every guess is kept", """
def accept_sampled(p, q, guess, generator):
    return guess
"""),
        ("torch's own generator", "generator: pass", """
def accept_sampled(p, q, guess, generator):
    if torch.rand(1).item() * q[guess].item() < p[guess].item(): return guess
    return torch.multinomial((p - q).clamp(min=0), 1).item()
"""),
        ("the guess is kept with p alone", "p.guess. / q|each guess is kept", """
def accept_sampled(p, q, guess, generator):
    u = torch.rand((), generator=generator)
    if u <= p[guess]:
        return guess
    left = torch.relu(p - q)
    return torch.multinomial(left / left.sum() if left.sum() else p, 1, generator=generator).item()
"""),
        ("redraws from p", "draws from p", """
def accept_sampled(p, q, guess, generator):
    keep = min(1.0, float(p[guess] / q[guess]))
    if torch.rand((), generator=generator) < keep:
        return guess
    return torch.multinomial(p, 1, generator=generator).item()
"""),
        ("redraws from p without the guess", "distributed as p|too sure", """
def accept_sampled(p, q, guess, generator):
    keep = min(1.0, float(p[guess] / q[guess]))
    if torch.rand((), generator=generator) < keep:
        return guess
    rest = p.clone()
    rest[guess] = 0
    return torch.multinomial(rest, 1, generator=generator).item()
"""),
        ("ignores the guess", "not looked at", """
def accept_sampled(p, q, guess, generator):
    return torch.multinomial(p, 1, generator=generator).item()
"""),
    ],
    "serving": [
        ("the cache is not read", "reads the whole cache", """
def serving(memory, bandwidth, weights, read, per_token, context):
    n = max(math.floor((memory - weights) / (per_token * context)), 0)
    t = read(n) / bandwidth
    return (n, t, n / t) if n else (0, 0.0, 0.0)
"""),
        ("a fraction of a conversation", "whole conversations", """
def serving(memory, bandwidth, weights, read, per_token, context):
    n = (memory - weights) / (per_token * context)
    if n < 1:
        return 0, 0.0, 0.0
    t = (read(n) + n * per_token * context) / bandwidth
    return n, t, n / t
"""),
        ("weights for each conversation", "read once", """
def serving(memory, bandwidth, weights, read, per_token, context):
    n = max(math.floor((memory - weights) / (per_token * context)), 0)
    t = n * (read(n) + per_token * context) / bandwidth
    return (n, t, n / t) if n else (0, 0.0, 0.0)
"""),
    ],
}  # fmt: skip

RIGHT = {
    "decode": [
        """
def decode(prefill, step, prompt, choose, ends, most):
    out = [choose(prefill(prompt))]
    for position in range(len(prompt), len(prompt) + most - 1):
        if out[-1] in ends:
            break
        out.append(choose(step(out[-1], position)))
    return out
"""
    ],
    "shares": [
        """
def shares(scores, temperature, top_k=0, top_p=1.0):
    scores = scores.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    z = scores / temperature
    if 0 < top_k < len(z):
        keep = torch.zeros(len(z), dtype=torch.bool)
        keep[z.topk(top_k).indices] = True
        z = z.masked_fill(~keep, -torch.inf)
    p = z.softmax(0)
    order = p.argsort(descending=True, stable=True)
    s = p[order]
    before = s.cumsum(0) - s
    s[before >= top_p] = 0
    out = torch.zeros_like(p)
    out[order] = s
    return out / out.sum()
""",
        """
def shares(scores, temperature, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).float()
    values, order = (scores.float() / temperature).sort(descending=True)
    if top_k:
        values[top_k:] = -math.inf
    ordered = values.softmax(0)
    ordered[torch.cat([torch.zeros(1), ordered.cumsum(0)[:-1]]) >= top_p] = 0
    result = torch.empty_like(ordered)
    result[order] = ordered / ordered.sum()
    return result
""",
    ],
    "draw": [
        """
def draw(probabilities, generator):
    return torch.multinomial(probabilities.float(), 1, generator=generator).item()
""",
        """
def draw(probabilities, generator):
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax().item()
""",
        """
def draw(probabilities, generator):
    u = torch.rand(len(probabilities), generator=generator)
    return int((probabilities.float().log() - (-u.log()).log()).argmax())
""",
    ],
    "decode_batch": [
        """
def decode_batch(prefill, step, prompts, choose, ends, most):
    pad = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    at = torch.tensor([len(p) for p in prompts])
    ids = choose(prefill(pad)[range(len(prompts)), at - 1])
    out = [[t] for t in ids]
    for n in range(most - 1):
        if all(o[-1] in ends for o in out):
            break
        ids = choose(step(torch.tensor(ids), at + n))
        for o, t in zip(out, ids):
            if o[-1] not in ends:
                o.append(t)
    return out
"""
    ],
    "accept": [
        """
def accept(scores, guesses):
    best, n = scores.argmax(-1).tolist(), 0
    while n < len(guesses) and guesses[n] == best[n]:
        n += 1
    return best[: n + 1]
"""
    ],
    "accept_sampled": [
        """
def accept_sampled(p, q, guess, generator):
    if torch.rand((), generator=generator).item() < min(1.0, float(p[guess] / q[guess])):
        return guess
    left = torch.relu(p - q)
    return torch.multinomial(left / left.sum(), 1, generator=generator).item()
"""
    ],
}
