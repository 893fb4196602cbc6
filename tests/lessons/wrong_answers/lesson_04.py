"""Answers to lesson 04's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "rename": [
        ("replaces the word wherever it stands", "gate_proj|shared expert|router|KeyError|norm|it returns", """
def rename(name, mapping):
    for old, new in {"self_attn": "attn", "mlp": "ffn", "weight_scale_inv": "scale", "e_score_correction_bias": "bias", "model.": ""}.items():
        name = name.replace(old, new)
    for old, (new, dim) in mapping.items():
        if old in name:
            return name.replace(old, new), None if ".experts." in name else dim
    raise KeyError(name)
"""),
        ("the experts are cut, too", "stays whole", """
def rename(name, mapping):
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    name = name.replace("weight_scale_inv", "scale").replace("e_score_correction_bias", "bias")
    *before, key, last = name.split(".")
    new, dim = mapping[key]
    return ".".join(before + [new, last]), dim
"""),
        ("shared experts taken for routed ones", "shared expert", """
def rename(name, mapping):
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    name = name.replace("weight_scale_inv", "scale").replace("e_score_correction_bias", "bias")
    *before, key, last = name.split(".")
    new, dim = mapping[key]
    return ".".join(before + [new, last]), dim if "experts" not in name else None
"""),
        ("the name alone", "returns a str", """
def rename(name, mapping):
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    name = name.replace("weight_scale_inv", "scale").replace("e_score_correction_bias", "bias")
    words = name.split(".")
    words[-2] = mapping[words[-2]][0]
    return ".".join(words)
"""),
    ],
    "share": [
        ("round robin's ends", "halves|it returns", """
def share(n, rank, ranks, unit=1):
    return rank, n - ranks + rank + 1
"""),
        ("equal parts, whatever is left", "left over", """
def share(n, rank, ranks, unit=1):
    mine = n // unit // ranks * unit
    return rank * mine, rank * mine + mine
"""),
        ("the last rank takes the rest", "10 experts", """
def share(n, rank, ranks, unit=1):
    mine = n // unit // ranks * unit
    return rank * mine, n if rank == ranks - 1 else rank * mine + mine
"""),
        ("the first ranks take one more", "10 experts", """
def share(n, rank, ranks, unit=1):
    units = (n + unit - 1) // unit
    each, more = divmod(units, ranks)
    begin = rank * each + min(rank, more)
    return min(n, begin * unit), min(n, (begin + each + (rank < more)) * unit)
"""),
        ("units forgotten", "cut through", """
def share(n, rank, ranks, unit=1):
    return n * rank // ranks, n * (rank + 1) // ranks
"""),
    ],
    "runs": [
        ("numbers, not bytes", "in bytes", """
def runs(shape, itemsize, cut, begin, end):
    columns = shape[1] if len(shape) > 1 else 1
    if cut is None:
        return [(0, shape[0] * columns)]
    if begin >= end:
        return []
    if cut == 0 or end - begin == columns:
        return [(begin * columns, (end - begin) * columns)] if cut == 0 else [(0, shape[0] * columns)]
    return [(i * columns + begin, end - begin) for i in range(shape[0])]
"""),
        ("a run for each row, always", "one run", """
def runs(shape, itemsize, cut, begin, end):
    width = itemsize * (shape[1] if len(shape) == 2 else 1)
    first, last = (begin, end) if cut == 0 else (0, shape[0])
    left, right = (begin * itemsize, end * itemsize) if cut == 1 else (0, width)
    return [(i * width + left, right - left) for i in range(first, last) if right > left]
"""),
        ("columns for rows", "its own run", """
def runs(shape, itemsize, cut, begin, end):
    size = itemsize
    for side in shape:
        size *= side
    if cut is None:
        return [(0, size)]
    if begin == end:
        return []
    return [(begin * size // shape[0], (end - begin) * size // shape[0])]
"""),
        ("ends instead of lengths", "offset, length", """
def runs(shape, itemsize, cut, begin, end):
    line = itemsize * math.prod(shape[1:])
    if cut is None:
        begin, end, cut = 0, shape[0], 0
    if begin == end:
        return []
    if cut == 0:
        return [(begin * line, end * line)]
    if (begin, end) == (0, shape[1]):
        return [(0, shape[0] * line)]
    return [(r * line + begin * itemsize, (end - begin) * itemsize) for r in range(shape[0])]
"""),
        ("fails on vectors", "one side|IndexError", """
def runs(shape, itemsize, cut, begin, end):
    rows, columns = shape[0], shape[1]
    if cut is None:
        return [(0, rows * columns * itemsize)]
    if begin == end:
        return []
    if cut == 0:
        return [(begin * columns * itemsize, (end - begin) * columns * itemsize)]
    if end - begin == columns:
        return [(0, rows * columns * itemsize)]
    return [((r * columns + begin) * itemsize, (end - begin) * itemsize) for r in range(rows)]
"""),
    ],
    "head": [
        ("every tensor at zero", "count on", """
def head(tensors):
    table = {"__metadata__": {"format": "pt"}}
    table |= {name: {"dtype": d, "shape": list(s), "data_offsets": [0, size]} for name, d, s, size in tensors}
    text = json.dumps(table)
    while len(text) % 8:
        text += " "
    return len(text).to_bytes(8, "little") + text.encode()
"""),
        ("no padding", "multiple of 8", """
def head(tensors):
    table, end = {}, 0
    for name, d, s, size in tensors:
        table[name] = dict(dtype=d, shape=s, data_offsets=(end, end + size))
        end += size
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text
"""),
        ("offsets from the file's beginning", "begin at 0", """
def head(tensors):
    for begin in range(8, 10_000, 8):
        table, end = {}, begin
        for name, d, s, size in tensors:
            table[name] = dict(dtype=d, shape=s, data_offsets=(end, end + size))
            end += size
        text = json.dumps(table).encode()
        if len(text) + 8 <= begin:
            return (begin - 8).to_bytes(8, "little") + text.ljust(begin - 8)
"""),
        ("zeros for spaces", "JSONDecodeError|begin at 0|multiple|Extra", """
def head(tensors):
    table, end = {}, 0
    for name, d, s, size in tensors:
        table[name] = dict(dtype=d, shape=s, data_offsets=(end, end + size))
        end += size
    text = json.dumps(table).encode()
    text += bytes(-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
"""),
    ],
    "copy": [
        ("the run at once", "read at once", """
def copy(source, start, runs, target):
    for offset, length in runs:
        source.seek(start + offset)
        data = source.read(length)
        while len(data) < length:
            more = source.read(length - len(data))
            if not more:
                raise ValueError("too short")
            data += more
        target.write(data)
"""),
        ("one read for each megabyte", "go on until|less than you asked", """
def copy(source, start, runs, target):
    for offset, length in runs:
        source.seek(start + offset)
        for at in range(0, length, 1 << 20):
            data = source.read(min(1 << 20, length - at))
            if len(data) == 0:
                raise ValueError
            target.write(data)
"""),
        ("a short source passes", "in silence", """
def copy(source, start, runs, target):
    for offset, length in runs:
        source.seek(start + offset)
        while length > 0:
            data = source.read(min(1 << 16, length))
            if data == b"":
                return
            target.write(data)
            length -= len(data)
"""),
        ("the tensor's place forgotten", "add start", """
def copy(source, start, runs, target):
    for at, n in runs:
        source.seek(at)
        while n > 0:
            data = source.read(min(1 << 16, n))
            if not data:
                raise ValueError("short")
            target.write(data)
            n -= len(data)
"""),
        ("seeks in the target, too", "behind what is there|one run", """
def copy(source, start, runs, target):
    target.seek(0)
    for at, n in runs:
        source.seek(start + at)
        while n > 0:
            data = source.read(min(1 << 16, n))
            if not data:
                raise ValueError("short")
            n -= target.write(data)
"""),
    ],
    "possible": [
        ("wq_b alone", "not the first alone", """
def possible(n_heads, widths, fp8, ranks):
    if ranks <= 1:
        return ranks == 1
    return n_heads % ranks == 0 and (not fp8 or (n_heads // ranks) * widths[0] % 128 == 0)
"""),
        ("an even number of heads on each rank", "R1's answer", """
def possible(n_heads, widths, fp8, ranks):
    if ranks <= 1:
        return ranks == 1
    return n_heads % ranks == 0 and (not fp8 or (n_heads // ranks) % 2 == 0)
"""),
        ("powers of two", "BF16 has no blocks|heads must come out whole", """
def possible(n_heads, widths, fp8, ranks):
    return ranks > 0 and ranks & (ranks - 1) == 0 and n_heads % ranks == 0 and all(n_heads // ranks * w % 128 == 0 for w in widths)
"""),
        ("one rank is tested like others", "One rank cuts nothing|one rank cuts nothing", """
def possible(n_heads, widths, fp8, ranks):
    if ranks == 0 or n_heads % ranks:
        return False
    return not fp8 or not any(n_heads // ranks * w % 128 for w in widths)
"""),
    ],
    "joined": [
        ("end to end", "interleave", """
def joined(pieces, rows, cut):
    return b"".join(pieces) if cut is not None else pieces[-1]
"""),
        ("the first piece's width for all", "each piece's own|differ", """
def joined(pieces, rows, cut):
    if cut != 1:
        return b"".join(pieces) if cut == 0 else pieces[0]
    w = len(pieces[0]) // rows
    return b"".join(p[i : i + w] for i in range(0, len(pieces[0]), w) for p in pieces)
"""),
        ("byte by byte", "row by row|interleave", """
def joined(pieces, rows, cut):
    if cut != 1:
        return b"".join(pieces) if cut == 0 else pieces[0]
    return bytes(x for together in zip(*pieces) for x in together)
"""),
    ],
}  # fmt: skip

RIGHT = {
    "rename": ["""
def rename(name, mapping):
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    name = name.replace("weight_scale_inv", "scale").replace("e_score_correction_bias", "bias")
    *before, key, last = name.split(".")
    new, dim = mapping[key]
    return ".".join([*before, new, last]), None if ".experts." in name else dim
"""],
    "head": ["""
def head(tensors):
    table, end = {}, 0
    for name, dtype, shape, size in tensors:
        table[name] = dict(dtype=dtype, shape=tuple(shape), data_offsets=(end, end := end + size))
    text = json.dumps(table)
    text = text.ljust((len(text) + 7) // 8 * 8)
    return len(text).to_bytes(8, "little") + text.encode()
"""],
    "copy": ["""
def copy(source, start, runs, target):
    for at, n in runs:
        source.seek(start + at)
        while n > 0:
            data = source.read(min(4096, n))
            if not data:
                raise ValueError("short")
            n -= target.write(data)
"""],
    "possible": ["""
def possible(n_heads, widths, fp8, ranks):
    if ranks < 1 or n_heads % ranks != 0:
        return False
    blocks = 128 if fp8 and ranks > 1 else 1
    return not any(n_heads // ranks * w % blocks for w in widths)
"""],
}  # fmt: skip
