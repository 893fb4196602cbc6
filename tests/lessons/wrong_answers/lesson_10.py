"""Answers to lesson 10's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "all_reduce": [
        ("only sums neighbours", "three ranks|neighbour", """
def all_reduce(x):
    n, r = dist.get_world_size(), dist.get_rank()
    other = torch.zeros_like(x)
    work = dist.irecv(other, (r - 1) % n)
    dist.isend(x.contiguous(), (r + 1) % n).wait()
    work.wait()
    return x + other
"""),
        ("torch does it", "dist.all_reduce does the work", """
def all_reduce(x):
    y = x.clone().contiguous()
    dist.all_reduce(y)
    return y
"""),
        ("gathered and summed", "dist.all_gather does the work", """
def all_reduce(x):
    every = [torch.empty_like(x.contiguous()) for _ in range(dist.get_world_size())]
    dist.all_gather(every, x.contiguous())
    return sum(every).reshape(x.shape)
"""),
        ("rank 0 has the sum, the others keep their own", "both get the sum", """
def all_reduce(x):
    y = x.clone().contiguous()
    if dist.get_rank():
        dist.send(y, 0)
        return x
    came = torch.empty_like(y)
    for r in range(1, dist.get_world_size()):
        dist.recv(came, r)
        y += came
    return y
"""),
        ("everybody sends first", "waits", """
def all_reduce(x):
    n, r = dist.get_world_size(), dist.get_rank()
    mine, total = x.contiguous(), x.clone().contiguous()
    for other in range(n):
        if other != r:
            dist.send(mine, other)
    for other in range(n):
        if other != r:
            came = torch.empty_like(mine)
            dist.recv(came, other)
            total += came
    return total
"""),
        ("each rank adds in its own order", "same bits", """
def all_reduce(x):
    n, r = dist.get_world_size(), dist.get_rank()
    total = x.clone().contiguous()
    passing = total.clone()
    for _ in range(n - 1):
        came = torch.empty_like(passing)
        out = dist.isend(passing, (r + 1) % n)
        dist.recv(came, (r - 1) % n)
        out.wait()
        total = total + came
        passing = came
    return total
"""),
        ("views of a transposed tensor are sent as they are", "contiguous", """
def all_reduce(x):
    n, r = dist.get_world_size(), dist.get_rank()
    if r:
        dist.send(x, 0)
        y = torch.empty(x.shape, dtype=x.dtype)
        dist.recv(y, 0)
        return y
    total = x
    for other in range(1, n):
        came = torch.empty(x.shape, dtype=x.dtype)
        dist.recv(came, other)
        total = total + came
    for other in range(1, n):
        dist.send(total, other)
    return total
"""),
        ("the average, as in training", "both get the sum", """
def all_reduce(x):
    n, r = dist.get_world_size(), dist.get_rank()
    y = x.clone().contiguous()
    if r == 0:
        for other in range(1, n):
            came = torch.empty_like(y)
            dist.recv(came, other)
            y = y + came
        y = y / n
        for other in range(1, n):
            dist.send(y, other)
    else:
        dist.send(y, 0)
        dist.recv(y, 0)
    return y
"""),
    ],
    "column_linear": [
        ("the whole layer, then cut: nothing is saved", "nothing is saved", """
def column_linear(x, weight, rank, size):
    n = len(weight)
    return (x @ weight.T)[:, rank * n // size : (rank + 1) * n // size]
"""),
        ("chunk, which rounds up", "10 outputs on 4|does not divide", """
def column_linear(x, weight, rank, size):
    return torch.nn.functional.linear(x, weight.chunk(size)[rank])
"""),
        ("cuts the inputs", "first half|raises|shape", """
def column_linear(x, weight, rank, size):
    D = x.shape[1] // size
    s = slice(rank * D, (rank + 1) * D)
    return x[:, s] @ weight[:, s].T
"""),
        ("torch.float32 whatever comes", "cast back", """
def column_linear(x, weight, rank, size):
    rows = torch.arange(len(weight))[rank * len(weight) // size : (rank + 1) * len(weight) // size]
    return x.float() @ weight.float()[rows].T
"""),
    ],
    "row_linear": [
        ("forgets the sum", "not summed", """
def row_linear(x, weight, rank, size, all_reduce):
    n = weight.shape[1]
    return torch.nn.functional.linear(x, weight[:, rank * n // size : (rank + 1) * n // size])
"""),
        ("sums the weights instead", "columns|raises|NaN", """
def row_linear(x, weight, rank, size, all_reduce):
    n = weight.shape[1]
    return x @ all_reduce(weight[:, rank * n // size : (rank + 1) * n // size].float()).T.to(x.dtype)
"""),
        ("pads x with zeros and takes the whole matrix", "NaN", """
def row_linear(x, weight, rank, size, all_reduce):
    n = weight.shape[1]
    full = torch.zeros(len(x), n, dtype=x.dtype)
    full[:, rank * n // size : (rank + 1) * n // size] = x
    return all_reduce((full @ weight.T).float()).to(x.dtype)
"""),
        ("sums twice", "once|plus what the others have", """
def row_linear(x, weight, rank, size, all_reduce):
    n = weight.shape[1]
    y = (x @ weight[:, rank * n // size : (rank + 1) * n // size].T).float()
    return all_reduce(all_reduce(y)).to(x.dtype)
"""),
        ("sums in bfloat16", "float32", """
def row_linear(x, weight, rank, size, all_reduce):
    n = weight.shape[1]
    y = x @ weight[:, rank * n // size : (rank + 1) * n // size].T
    return all_reduce(y.to(torch.bfloat16)).to(x.dtype) if x.dtype == torch.bfloat16 else all_reduce(y)
"""),
    ],
    "gather": [
        ("equal shares only", "different shares|does not divide|raises", """
def gather(mine, n):
    out = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(out, mine)
    return torch.cat(out, dim=-1)
"""),
        ("joined below each other", "last dimension", """
def gather(mine, n):
    r, k = dist.get_rank(), dist.get_world_size()
    cuts = [i * n // k for i in range(k + 1)]
    out = []
    for i in range(k):
        x = mine if i == r else torch.empty(*mine.shape[:-1], cuts[i + 1] - cuts[i])
        dist.broadcast(x, i)
        out.append(x)
    return torch.cat(out)
"""),
        ("only rank 0 has all", "on both", """
def gather(mine, n):
    r, k = dist.get_rank(), dist.get_world_size()
    cuts = [i * n // k for i in range(k + 1)]
    if r:
        dist.send(mine, 0)
        return mine
    out = [mine]
    for i in range(1, k):
        x = torch.empty(*mine.shape[:-1], cuts[i + 1] - cuts[i])
        dist.recv(x, i)
        out.append(x)
    return torch.cat(out, dim=-1)
"""),
    ],
    "all_to_all": [
        ("keeps its own rows", "nothing has arrived", """
def all_to_all(pieces):
    out = [None] * dist.get_world_size()
    dist.all_gather_object(out, pieces)
    return out[dist.get_rank()]
"""),
        ("equal numbers taken for granted", "different numbers|counts", """
def all_to_all(pieces):
    r, k = dist.get_rank(), dist.get_world_size()
    came = [torch.empty_like(p) for p in pieces]
    came[r] = pieces[r].clone()
    jobs = [dist.isend(pieces[i], i) for i in range(k) if i != r] + [dist.irecv(came[i], i) for i in range(k) if i != r]
    [job.wait() for job in jobs]
    return came
"""),
        ("nobody without rows gets a tensor", "no rows|empty", """
def all_to_all(pieces):
    out = [None] * dist.get_world_size()
    dist.all_gather_object(out, pieces)
    return [each[dist.get_rank()] for each in out if len(each[dist.get_rank()])]
"""),
    ],
    "step_seconds": [
        ("one wait for each collective", "every message waits", """
def step_seconds(sent, ranks, latency, bandwidth):
    t = 0.0
    for kind, m, times in sent:
        ring = {"all_reduce": 2 * m * (ranks - 1) / ranks, "all_gather": m * (ranks - 1)}
        tree = m * math.ceil(math.log2(ranks))
        t += times * ((latency if ranks > 1 else 0) + ring.get(kind, tree) / bandwidth)
    return t
"""),
        ("a tree for the all-reduce, too", "30 messages|2 messages|two messages|twice", """
def step_seconds(sent, ranks, latency, bandwidth):
    t = 0.0
    hops = math.ceil(math.log2(ranks))
    for kind, m, times in sent:
        n = ranks - 1 if kind == "all_gather" else hops
        t += times * n * (latency + m / bandwidth)
    return t
"""),
        ("log2 not rounded up", "tree", """
def step_seconds(sent, ranks, latency, bandwidth):
    how = {"all_reduce": (2 * ranks - 2, 1 / ranks), "all_gather": (ranks - 1, 1), "broadcast": (math.log2(ranks), 1)}
    return sum(times * how[k][0] * (latency + m * how[k][1] / bandwidth) for k, m, times in sent)
"""),
    ],
    "experts_of": [
        ("what does not divide is dropped", "on no rank", """
def experts_of(rank, size, experts):
    each = experts // size
    return range(rank * each, (rank + 1) * each)
"""),
        ("dealt out like cards", "like cards", """
def experts_of(rank, size, experts):
    return [e for e in range(experts) if e % size == rank]
"""),
        ("rounded up", "gets what is left", """
def experts_of(rank, size, experts):
    each = -(-experts // size)
    return range(min(rank * each, experts), min((rank + 1) * each, experts))
"""),
        ("the first ranks take one more", "5, 5 and 6|exactly one", """
def experts_of(rank, size, experts):
    each, more = divmod(experts, size)
    begin = rank * each + min(rank, more)
    return range(begin, begin + each + (rank < more))
"""),
    ],
    "bytes_per_token": [
        ("one sum a layer", "two sums", """
def bytes_per_token(dim, layers, vocabulary, ranks):
    if ranks == 1:
        return 0
    return 2 * dim + 4 * dim * layers + 4 * -(-vocabulary // ranks) + 8
"""),
        ("the whole vocabulary from every rank", "own share", """
def bytes_per_token(dim, layers, vocabulary, ranks):
    return 0 if ranks == 1 else 2 * dim + 2 * 4 * dim * layers + 4 * vocabulary + 8
"""),
        ("a rank by itself talks, too", "nobody to talk to|one rank", """
def bytes_per_token(dim, layers, vocabulary, ranks):
    return 2 * dim + 2 * 4 * dim * layers + 4 * -(-vocabulary // ranks) + 8
"""),
        ("rounds the vocabulary down", "round up", """
def bytes_per_token(dim, layers, vocabulary, ranks):
    return (ranks > 1) * (2 * dim + 2 * 4 * dim * layers + 4 * (vocabulary // ranks) + 8)
"""),
    ],
    "doubling": [
        ("one partner only", "four", """
def doubling(x):
    r = dist.get_rank()
    y, came = x.contiguous(), torch.empty_like(x.contiguous())
    out = dist.isend(y, r ^ 1)
    dist.recv(came, r ^ 1)
    out.wait()
    return y + came
"""),
        ("all partners at once, with the first x", "so far is lost|all four", """
def doubling(x):
    r, k = dist.get_rank(), dist.get_world_size()
    y, d = x.clone().contiguous(), 1
    while d < k:
        came = torch.empty_like(y)
        out = dist.isend(x.contiguous(), r ^ d)
        dist.recv(came, r ^ d)
        out.wait()
        y, d = y + came, d << 1
    return y
"""),
        ("torch does it", "dist.all_reduce does the work", """
def doubling(x):
    y = x.clone().contiguous()
    dist.all_reduce(y)
    return y
"""),
    ],
}  # fmt: skip

RIGHT = {
    "all_reduce": ["""
def all_reduce(x):
    y = x.clone().contiguous()
    if dist.get_rank():
        dist.send(y, 0)
        dist.recv(y, 0)
        return y
    for r in range(1, dist.get_world_size()):
        came = torch.empty_like(y)
        dist.recv(came, r)
        y += came
    for r in range(1, dist.get_world_size()):
        dist.send(y, r)
    return y
""", """
def all_reduce(x):
    n, r = dist.get_world_size(), dist.get_rank()
    flat = x.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % n)).reshape(n, -1).clone()
    for round in ("add", "spread"):
        for s in range(n - 1):
            out, into = (r - s + (round == "spread")) % n, (r - s - 1 + (round == "spread")) % n
            came = torch.empty_like(padded[into])
            ops = [dist.P2POp(dist.isend, padded[out].clone(), (r + 1) % n), dist.P2POp(dist.irecv, came, (r - 1) % n)]
            for work in dist.batch_isend_irecv(ops):
                work.wait()
            padded[into] = padded[into] + came if round == "add" else came
    return padded.reshape(-1)[: len(flat)].reshape(x.shape)
"""],
    "gather": ["""
def gather(mine, n):
    r, k = dist.get_rank(), dist.get_world_size()
    cuts = [i * n // k for i in range(k + 1)]
    out = torch.empty(*mine.shape[:-1], n, dtype=mine.dtype)
    for i in range(k):
        x = mine.clone() if i == r else torch.empty(*mine.shape[:-1], cuts[i + 1] - cuts[i], dtype=mine.dtype)
        dist.broadcast(x, i)
        out[..., cuts[i] : cuts[i + 1]] = x
    return out
"""],
    "all_to_all": ["""
def all_to_all(pieces):
    r, k = dist.get_rank(), dist.get_world_size()
    came = [None] * k
    for i in range(k):
        if i == r:
            came[i] = pieces[i]
            continue
        there = torch.zeros(1, dtype=torch.long)
        sent = dist.isend(torch.tensor([len(pieces[i])]), i)
        dist.recv(there, i)
        sent.wait()
        came[i] = pieces[i].new_empty(int(there), *pieces[i].shape[1:])
        sent = dist.isend(pieces[i].contiguous(), i)
        dist.recv(came[i], i)
        sent.wait()
    return came
"""],
    "row_linear": ["""
def row_linear(x, weight, rank, size, all_reduce):
    mine = weight.tensor_split([i * weight.shape[1] // size for i in range(1, size)], dim=1)[rank]
    return all_reduce(torch.nn.functional.linear(x, mine).to(torch.float32)).type_as(x)
"""],
}  # fmt: skip
