"""The parts of lesson 04: a checkpoint for N ranks, made by moving bytes.

A part sees names, numbers, bytes or open files; ``transplant_04`` makes a converter of them.
"""

import json
import math

from .inputs_02 import PIECE, Watched
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def rename(name, mapping):
    """A tensor's name in Hugging Face's files -> its name in DeepSeek's, and the dimension to cut.

    mapping: the last word but one -> its new word and the dimension, "q_b_proj": ("wq_b", 0).
    None: not cut. The words in `others` change, too, and "model." at the beginning goes.
    Routed experts stay whole: None.
    """
    others = {"self_attn": "attn", "mlp": "ffn"}
    others |= {"weight_scale_inv": "scale", "e_score_correction_bias": "bias"}
    # yours from here
    words = name.removeprefix("model.").split(".")
    words = [others.get(word, word) for word in words]
    words[-2], dim = mapping[words[-2]]
    return ".".join(words), None if "experts" in words else dim


def share(n, rank, ranks, unit=1):
    """The rank's own of n rows (or columns, or experts): from begin up to end -> (begin, end).

    Only whole units are shared out, as evenly as they divide: a head's rows, or a block of 128.
    The last unit may be shorter. Of U units, rank r has those from r U / N up to (r + 1) U / N,
    both rounded down.
    """
    units = -(-n // unit)
    begin, end = rank * units // ranks * unit, (rank + 1) * units // ranks * unit
    return min(begin, n), min(end, n)


def runs(shape, itemsize, cut, begin, end):
    """The bytes of rows (cut 0) or columns (cut 1) from begin up to end -> [(offset, length), ...].

    shape has one or two sides. The rows lie one after the other; a number has itemsize bytes.
    Offsets count from the tensor's first byte. cut None: all of it.
    Runs that touch are one run. No run is empty.
    """
    line = math.prod(shape[1:]) * itemsize
    if cut is None:
        begin, end = 0, shape[0]
    if begin == end:
        return []
    if cut != 1:
        return [(begin * line, (end - begin) * line)]
    if end - begin == shape[1]:
        return [(0, shape[0] * line)]
    return [(row * line + begin * itemsize, (end - begin) * itemsize) for row in range(shape[0])]


def head(tensors):
    """tensors [(name, dtype, shape, nbytes), ...] -> the first bytes of a safetensors file of them.

    8 bytes, little-endian: N. Then N bytes of JSON: name -> dtype, shape, data_offsets, and before
    them "__metadata__": {"format": "pt"}, which transformers asks for.
    Spaces at its end make N a multiple of 8. The tensors keep their order.
    """
    described: dict = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape, nbytes in tensors:
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def copy(source, start, runs, target):
    """Write the runs [(offset, length), ...] of a tensor, which begins at byte start, to target.

    Both are open files, and target stands where the first run goes. A run may be larger than the
    memory: at most a megabyte at a time. Raise ValueError where source ends inside of a run.
    """
    for offset, length in runs:
        source.seek(start + offset)
        while length:
            piece = source.read(min(length, 1 << 20))
            if not piece:
                raise ValueError(f"the file ends {length} bytes too early")
            target.write(piece)
            length -= len(piece)


# --------------------------------------------------------------------------------------------------- the checks

MAPPING = {
    "embed_tokens": ("embed", 0),
    "q_b_proj": ("wq_b", 0),
    "q_a_layernorm": ("q_norm", None),
    "o_proj": ("wo", 1),
    "gate": ("gate", None),
    "gate_proj": ("w1", 0),
    "down_proj": ("w2", 1),
    "up_proj": ("w3", 0),
    "norm": ("norm", None),
    "input_layernorm": ("attn_norm", None),
}


def named(name):
    return lambda: (name, MAPPING)


def every_rank(answer, given):
    """What all ranks get."""
    n, ranks, *unit = given
    return [answer(n, rank, ranks, *unit) for rank in range(ranks)]


def parsed(answer, given):
    """The header that a file would have, and whether its length is right."""
    data = answer(*given)
    if type(data) is not bytes:
        return data
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])
    described.pop("__metadata__", None)
    for tensor in described.values():
        tensor["shape"] = list(tensor["shape"])
    ends = "N is the JSON's length" if length == len(data) - 8 else f"N is {length}, and {len(data) - 8} bytes follow"
    return list(described), described, ends, "aligned" if len(data) % 8 == 0 else "N is no multiple of 8"


class Target(Watched):
    """Where the bytes go; 0xEE lies there already."""

    def writable(self):
        return True

    def write(self, piece, /):
        self.data = self.data[: self.at] + bytes(piece) + self.data[self.at + len(piece) :]
        self.at += len(piece)
        return len(piece)


class Slow(Watched):
    """A file whose reads give less than was asked for, as a network's do."""

    def readinto(self, buffer, /):
        return super().readinto(memoryview(buffer)[:11])


def moved(answer, given):
    """What is written, and in which pieces it was read."""
    source, start, which, target = given
    found = answer(source, start, list(which), target)
    how = "at once" if source.most > PIECE // 2 else "in pieces"
    return found, target.data, f"read {how}"


def between(*which, start=5, kind=Watched, size=300, at=3):
    """A source, the runs, and a target in which ``at`` bytes stand already."""
    target = Target(b"\xee" * at)
    target.at = at
    return kind(bytes(i % 251 for i in range(size))), start, which, target


LARGE = 5_000_000

PARTS = [
    Part(
        rename, "names and cuts", 2, 12,
        'Split the name at the dots. Look each word up in `others`: `others.get(word, word)`. The last word but one is in '
        '`mapping`. A routed expert\'s name has the word "experts", a shared one\'s "shared_experts".',
        (
            Witness("self_attn becomes attn, q_b_proj becomes wq_b", named("model.layers.3.self_attn.q_b_proj.weight")),
            Witness("a scale is cut as its weight is", named("model.layers.3.self_attn.o_proj.weight_scale_inv")),
            Witness("lm_head or the embedding stand in no layer", named("model.embed_tokens.weight")),
            Witness("gate is the router, gate_proj a matrix of an expert", named("model.layers.4.mlp.gate.weight")),
            Witness("the router's bias has a long name", named("model.layers.4.mlp.gate.e_score_correction_bias")),
            Witness("a routed expert is not cut", named("model.layers.4.mlp.experts.17.down_proj.weight")),
            Witness("the shared expert is cut", named("model.layers.4.mlp.shared_experts.gate_proj.weight")),
            Witness("norm is a word of its own, not a piece of others", named("model.layers.4.input_layernorm.weight")),
            Witness("the last norm", named("model.norm.weight")),
            Witness("a word that the mapping lacks is an error: KeyError", named("model.layers.61.eh_proj.weight")),
        ),
        (
            Fault('None if "experts" in words else dim', "dim", "a routed expert stays whole: its dimension is None"),
            Fault('"experts" in words', '"experts" in name', "the shared expert is cut; only the word `experts` alone means routed ones"),
            Fault("words = [others.get(word, word) for word in words]", "words = [*(others.get(word, word) for word in words[:-1]), words[-1]]", "the last word changes, too: weight_scale_inv and e_score_correction_bias"),
            Fault('name.removeprefix("model.")', "name", 'DeepSeek\'s names have no "model." at their beginning'),
            Fault("    words = [others.get(word, word) for word in words]\n", "", "the words in `others` do not change"),
            Fault("mapping[words[-2]]", "mapping.get(words[-2], (words[-2], None))", "an unknown word must be an error: a tensor under a name that nobody knows is lost in silence"),
        ),
    ),
    Part(
        share, "what a rank gets", 2, 10,
        "Count the units first, rounded up. Multiply before you divide: `rank * units // ranks`. Then go back to rows, and "
        "cut off what lies beyond n.",
        (
            Witness("768 rows on 2 ranks: halves", lambda: (768, 2), every_rank),
            Witness("256 experts on 16 ranks: runs of 16 that follow each other", lambda: (256, 16), every_rank),
            Witness("10 experts on 4 ranks: every expert on just one, none left over", lambda: (10, 4), every_rank),
            Witness("3 experts on 8 ranks: some ranks get nothing", lambda: (3, 8), every_rank),
            Witness("2,048 rows in blocks of 128 on 32 ranks: no block is cut through", lambda: (2048, 32, 128), every_rank),
            Witness("3 heads of 192 rows on 2 ranks", lambda: (576, 2, 192), every_rank),
            Witness("the last block is not full: 576 rows in blocks of 128", lambda: (576, 3, 128), every_rank),
        ),
        (
            Fault("rank * units // ranks * unit, (rank + 1) * units // ranks * unit", "units // ranks * rank * unit, units // ranks * (rank + 1) * unit", "what is left over belongs to no rank: multiply before you divide"),
            Fault("rank * units // ranks * unit, (rank + 1) * units // ranks * unit", "rank * n // ranks, (rank + 1) * n // ranks", "a unit is cut through: share out whole units, then count rows"),
            Fault("rank * units // ranks * unit, (rank + 1) * units // ranks * unit", "rank * -(-units // ranks) * unit, (rank + 1) * -(-units // ranks) * unit", "rounded up, the first ranks take too much and the last get nothing: round rank * units / ranks down"),
            Fault("units = -(-n // unit)", "units = n // unit", "the last unit may be shorter, and it counts: round the number of units up"),
            Fault("return min(begin, n), min(end, n)", "return begin, end", "the last unit may be shorter: end at n"),
            Fault("return min(begin, n), min(end, n)", "return min(begin, n), min(end, n) - min(begin, n)", "the second number is where the share ends, not how long it is"),
        ),
    ),
    Part(
        runs, "which bytes", 2, 12,
        "A row has `shape[1] * itemsize` bytes, with one side `itemsize`. Rows that follow each other lie together. "
        "Columns do not: each row has its own run, unless you take all of them.",
        (
            Witness("rows 2 to 4 of a [6, 5] matrix of bytes lie together", lambda: ((6, 5), 1, 0, 2, 4)),
            Witness("columns 1 to 3 of a [3, 5] matrix: a run in each row", lambda: ((3, 5), 1, 1, 1, 3)),
            Witness("numbers of 2 bytes: offsets and lengths are in bytes", lambda: ((3, 8), 2, 1, 4, 8)),
            Witness("rows of numbers of 4 bytes", lambda: ((4, 3), 4, 0, 1, 4)),
            Witness("cut None: the whole tensor, whatever begin and end say", lambda: ((4, 3), 2, None, 0, 0)),
            Witness("a vector has one side", lambda: ((7,), 2, None, 0, 7)),
            Witness("a part of a vector", lambda: ((8,), 4, 0, 2, 6)),
            Witness("all columns: the runs touch, so they are one", lambda: ((5, 6), 2, 1, 0, 6)),
            Witness("an empty share has no run", lambda: ((4, 6), 2, 1, 3, 3)),
            Witness("an empty share of rows has no run", lambda: ((4, 6), 2, 0, 4, 4)),
        ),
        (
            Fault("line = math.prod(shape[1:]) * itemsize", "line = math.prod(shape[1:])", "offsets and lengths are in bytes: a row has columns * itemsize of them"),
            Fault("if cut != 1:", "if True:", "columns are not rows: every row has its own run"),
            Fault("row * line + begin * itemsize, (end - begin) * itemsize", "row * line + begin, end - begin", "columns are counted in numbers, runs in bytes: multiply by itemsize"),
            Fault("    if end - begin == shape[1]:\n        return [(0, shape[0] * line)]\n", "", "with all columns the runs touch: make them one"),
            Fault("    if begin == end:\n        return []\n", "", "an empty share has no run: return an empty list"),
            Fault("    if cut is None:\n        begin, end = 0, shape[0]\n", "", "cut None means the whole tensor"),
            Fault("[(begin * line, (end - begin) * line)]", "[(row * line, line) for row in range(begin, end)]", "rows that follow each other are one run"),
            Fault("[(begin * line, (end - begin) * line)]", "[(begin * line, end * line)]", "a run is (offset, length), not (begin, end)"),
        ),
    ),
    Part(
        head, "a rank's file begins", 2, 12,
        "Count `at` up by nbytes: a tensor's data_offsets are `[at, at + nbytes]`, from the end of the header. "
        '`json.dumps(...).encode()` is bytes. `-len(text) % 8` spaces are missing. Then `len(text).to_bytes(8, "little")`.',
        (
            Witness("one tensor: data_offsets begin at 0", lambda: ([("a", "BF16", (3,), 6)],), parsed),
            Witness("each tensor begins where the one before ends", lambda: ([("b", "F8_E4M3", (4, 5), 20), ("a", "F32", (1, 1), 4), ("norm.weight", "BF16", (7,), 14)],), parsed),
            Witness("the file's order is kept", lambda: ([("z", "BF16", (2,), 4), ("y", "BF16", (2,), 4), ("x", "BF16", (2,), 4)],), parsed),
            Witness("an empty part has 0 bytes", lambda: ([("a", "BF16", (0, 3), 0), ("b", "BF16", (1, 3), 6)],), parsed),
            Witness("N is a multiple of 8 for every length of a name", lambda: ([("a" * 13, "BF16", (3,), 6)],), parsed),
            Witness("no tensors", lambda: ([],), parsed),
        ),
        (
            Fault("        at += nbytes\n", "", "every tensor begins at 0: count on"),
            Fault("[at, at + nbytes]", "[at, nbytes]", "the second number is where a tensor ends, counted from the header's end"),
            Fault('    text += b" " * (-len(text) % 8)\n', "", "N must be a multiple of 8: add spaces"),
            Fault('.to_bytes(8, "little")', '.to_bytes(8, "big")', "the length is little-endian"),
            Fault("in tensors:", "in sorted(tensors):", "the order of the tensors is the file's: do not sort them"),
            Fault("len(text).to_bytes", "(len(text) + 8).to_bytes", "N is the length of the JSON alone, without its own 8 bytes"),
        ),
    ),
    Part(
        copy, "moving bytes", 2, 12,
        "`source.seek(start + offset)`, then read `min(length, 1 << 20)` until the run is done. `read` may give less than "
        "you asked for, and gives nothing at the end of a file.",
        (
            Witness("one run", lambda: between((10, 20)), moved),
            Witness("offsets count from the tensor's first byte", lambda: between((0, 4), start=100), moved),
            Witness("several runs, one after the other, after what is there", lambda: between((0, 3), (50, 3), (20, 8)), moved),
            Witness("no run: nothing is written", lambda: between(), moved),
            Witness("read may give less than you asked for", lambda: between((10, 60), (100, 5), kind=Slow), moved),
            Witness("a source that ends inside of a run: ValueError", lambda: between((280, 40)), moved),
            Witness("a run of 5 MB is moved in pieces", lambda: between((0, LARGE), size=LARGE + 9), moved),
        ),
        (
            Fault("source.seek(start + offset)", "source.seek(offset)", "offsets count from the tensor's first byte: add start"),
            Fault("        source.seek(start + offset)\n", "", "each run begins elsewhere: seek before you read"),
            Fault("min(length, 1 << 20)", "length", "the run is read at once: 4 GB would have to fit into memory"),
            Fault("            if not piece:\n                raise ValueError(f\"the file ends {length} bytes too early\")\n", "            if not piece:\n                break\n", "where the source ends too early the tensor would be shorter, in silence: raise ValueError"),
            Fault("        while length:\n", "        for _ in range(-(-length // (1 << 20))):\n", "read may give less than you asked for: go on until the whole run is there"),
            Fault("source.read(min(length, 1 << 20))", "source.read(1 << 20)", "it reads beyond the run: ask for no more than what is left of it"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def possible(n_heads, widths, fp8, ranks):
    """Whether `ranks` ranks can share n_heads heads, each with whole ones.

    widths: the rows or columns that a head has in each matrix that is cut. In FP8, with more than
    one rank, a rank's part of each matrix must be a multiple of 128: a block has one scale.
    """
    if ranks < 1 or n_heads % ranks:
        return False
    if ranks == 1 or not fp8:
        return True
    return all(n_heads // ranks * width % 128 == 0 for width in widths)


def joined(pieces, rows, cut):
    """pieces: each rank's bytes of one tensor of so many rows -> the whole tensor's bytes.

    cut 0: by rows, 1: by columns, None: every rank has it all. Pieces may differ in size.
    """
    if cut is None:
        return pieces[0]
    if cut == 0:
        return b"".join(pieces)
    widths = [len(piece) // rows for piece in pieces]
    both = list(zip(pieces, widths, strict=True))
    return b"".join(piece[i * w : (i + 1) * w] for i in range(rows) for piece, w in both)


R1 = (192, 256, 128)  # rows of wq_b and wkv_b, columns of wo, for each head


def table(n_heads, widths, fp8):
    return lambda: (n_heads, widths, fp8)


def every_count(answer, given):
    """The numbers of ranks that are said to work."""
    return [(ranks, answer(*given, ranks)) for ranks in range(given[0] + 2)]


TRANSFERS = [
    Part(
        possible, "how many ranks", 2, 10,
        "With `n_heads // ranks` heads on a rank, each of the products with a width must be a multiple of 128. One rank "
        "cuts nothing, so it always works.",
        (
            Witness("BF16 has no blocks: heads must come out whole", table(12, R1, False), every_count),
            Witness("R1's widths in FP8", table(128, R1, True), every_count),
            Witness("tiny-r1 in FP8: 4 ranks would cut a block of wq_b", table(4, R1, True), every_count),
            Witness("one rank cuts nothing, even where nothing is a multiple of 128", table(3, (100, 60), True), every_count),
            Witness("every width counts, not the first alone", table(16, (128, 256, 96), True), every_count),
            Witness("the numbers of heads need not be even or powers of two: 45 heads of 128", table(45, (128, 256), True), every_count),
            Witness("heads of 80 and 48: eight on a rank", table(32, (80, 48), True), every_count),
        ),
        (
            Fault("all(n_heads // ranks * width % 128 == 0 for width in widths)", "n_heads // ranks * widths[0] % 128 == 0", "every matrix counts, not the first alone"),
            Fault("all(n_heads // ranks * width % 128 == 0 for width in widths)", "n_heads // ranks % 2 == 0", "an even number of heads is R1's answer; compute with the widths that are given"),
            Fault("ranks == 1 or not fp8", "not fp8", "one rank cuts nothing, so it always works"),
            Fault("ranks == 1 or not fp8", "ranks == 1", "BF16 has no blocks: there, whole heads are enough"),
            Fault("if ranks < 1 or n_heads % ranks:", "if ranks < 1:", "heads must come out whole: their number divides by ranks"),
            Fault("for width in widths", "for width in [sum(widths)]", "each matrix has blocks of its own: test each width, not their sum"),
        ),
    ),
    Part(
        joined, "ranks' files back to one tensor", 2, 10,
        "By rows the pieces stand one after the other. By columns, the whole tensor's first row is the first row of each "
        "piece: `len(piece) // rows` bytes each.",
        (
            Witness("by rows: one after the other", lambda: ([b"abcdef", b"ghij"], 5, 0)),
            Witness("by columns: row by row from each rank", lambda: ([b"abgh", b"cdij", b"efkl"], 2, 1)),
            Witness("a copy on every rank is one tensor", lambda: ([b"abcd", b"abcd"], 2, None)),
            Witness("pieces of different width", lambda: ([b"adg", b"bcefhi"], 3, 1)),
            Witness("a rank without a column", lambda: ([b"abcd", b""], 2, 1)),
        ),
        (
            Fault("    widths = [len(piece) // rows for piece in pieces]\n    both = list(zip(pieces, widths, strict=True))\n    return b\"\".join(piece[i * w : (i + 1) * w] for i in range(rows) for piece, w in both)\n", "    return b\"\".join(pieces)\n", "columns of the ranks interleave: take a row from each piece, then the next row"),
            Fault("    if cut == 0:\n        return b\"\".join(pieces)\n", "    if cut == 0:\n        return b\"\".join(pieces[::-1])\n", "rank 0 has the first rows: keep the order of the ranks"),
            Fault("[len(piece) // rows for piece in pieces]", "[len(pieces[0]) // rows] * len(pieces)", "pieces may differ in width: take each piece's own"),
            Fault("    if cut is None:\n        return pieces[0]\n", "", "a copy is there once for every rank: take one"),
        ),
    ),
]  # fmt: skip
