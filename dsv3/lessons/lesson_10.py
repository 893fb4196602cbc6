"""The parts of lesson 10: ranks that hold parts of one model, and what goes between them.

A part asks ``torch.distributed`` (here ``dist``) for its rank where it talks, and gets rank and size as numbers where it
only cuts. ``processes`` judges those that talk in 2, 3 and 4 real processes; ``transplant_10`` puts them together.
"""

# isend gives None outside of its group:
# mypy: disable-error-code="union-attr"

import math

import torch
import torch.distributed as dist

from .inputs_10 import (
    as_is,
    by_messages,
    cut,
    letters,
    listed,
    odd,
    only_mine,
    random,
    ranks,
    row,
    same_bits,
    shares,
    summed_as,
    turned,
    with_others,
)
from .part import Fault, Part, Witness
from .processes import together

# ---------------------------------------------------------------------------------------------------- the parts


def all_reduce(x):
    """x, of one shape on all ranks -> the sum over the ranks, the same bits on each of them.

    With messages alone: dist.isend, dist.recv and the like, no collective.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    total = x.clone().flatten()
    pieces = total.tensor_split(size)  # views: writing into a piece writes into total
    for step in range(2 * (size - 1)):
        give, take = pieces[(rank - step) % size], pieces[(rank - step - 1) % size]
        sent = dist.isend(give, (rank + 1) % size)
        came = torch.empty_like(take)
        dist.recv(came, (rank - 1) % size)
        sent.wait()
        take.copy_(take + came if step < size - 1 else came)
    return total.view(x.shape)


def column_linear(x, weight, rank, size):
    """x [n, D], weight [W, D] -> [n, this rank's share of W].

    The share begins at rank * W // size, and ends where the next rank's begins.
    """
    W = len(weight)
    begin, end = rank * W // size, (rank + 1) * W // size
    return x @ weight[begin:end].T


def row_linear(x, weight, rank, size, all_reduce):
    """x [n, this rank's share of W], weight [D, W] -> [n, D], the same on all ranks.

    all_reduce(y) is the sum of y over the ranks.
    """
    W = weight.shape[1]
    begin, end = rank * W // size, (rank + 1) * W // size
    part = x @ weight[:, begin:end].T
    return all_reduce(part.float()).to(x.dtype)


def gather(mine, n):
    """mine [..., this rank's share of n] -> [..., n], all shares in the ranks' order."""
    rank, size = dist.get_rank(), dist.get_world_size()
    lengths = [(r + 1) * n // size - r * n // size for r in range(size)]
    padded = mine.new_zeros(*mine.shape[:-1], max(lengths))  # dist.all_gather wants one shape
    padded[..., : lengths[rank]] = mine
    pieces = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(pieces, padded)
    return torch.cat([piece[..., :length] for piece, length in zip(pieces, lengths, strict=True)], dim=-1)


def all_to_all(pieces):
    """pieces, a list: for each rank the rows [any number, ...] that go there.

    Return the list of the rows that came from each rank.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    counts = torch.tensor([len(piece) for piece in pieces])
    every = [torch.empty_like(counts) for _ in range(size)]
    dist.all_gather(every, counts)  # every[r][s] rows go from rank r to rank s
    came = [pieces[r].new_empty(int(every[r][rank]), *pieces[r].shape[1:]) for r in range(size)]
    came[rank] = pieces[rank]
    others = [r for r in range(size) if r != rank]
    moving = [dist.isend(pieces[r].contiguous(), r) for r in others] + [dist.irecv(came[r], r) for r in others]
    for each in moving:
        each.wait()
    return came


def step_seconds(sent, ranks, latency, bandwidth):
    """sent, a list of (kind, bytes, times) -> seconds of these collectives, one after another.

    An "all_reduce" is a ring: 2 (ranks - 1) messages in a row, each of bytes / ranks.
    An "all_gather" is a ring of ranks - 1 messages, each of all the bytes.
    A "broadcast" is a tree: log2(ranks) messages, rounded up, each of all the bytes.
    A message takes latency seconds, and one second for each bandwidth bytes.
    """
    seconds = 0.0
    for kind, nbytes, times in sent:
        if kind == "all_reduce":
            messages, size = 2 * (ranks - 1), nbytes / ranks
        elif kind == "all_gather":
            messages, size = ranks - 1, nbytes
        else:
            messages, size = math.ceil(math.log2(ranks)), nbytes
        seconds += times * messages * (latency + size / bandwidth)
    return seconds


# --------------------------------------------------------------------------------------------------- the checks


STEP = [("all_reduce", 14_336, 1), ("all_reduce", 28_672, 122), ("all_gather", 32_320, 1), ("broadcast", 8, 1)]

PARTS = [
    Part(
        all_reduce, "the sum over all ranks, by messages", 3, 15,
        "Cut the tensor into `size` pieces: `total.tensor_split(size)`. In each step every rank sends one piece to the "
        "right (`rank + 1`) and receives one from the left. In the first `size - 1` steps it adds what comes: then each "
        "rank has one piece that is the sum of all. In the next `size - 1` steps these finished pieces go round and "
        "replace. In step s rank r sends piece r - s and receives piece r - s - 1. Use `dist.isend` before `dist.recv`: "
        "if all ranks send with `dist.send` first, all wait. Simpler, and right, too: rank 0 receives all and sends the sum.",
        (
            Witness("two ranks: both get the sum of both", lambda: ranks(2, 6), as_is),
            Witness("three ranks: the sum has all three, not the neighbours alone", lambda: ranks(3, 9), as_is),
            Witness("four ranks, and a length that does not divide by four", lambda: ranks(4, 7), as_is),
            Witness("the shape stays", lambda: ranks(2, 3, 5), as_is),
            Witness("fewer numbers than ranks", lambda: ranks(4, 1), as_is),
            Witness("x may be a transposed view: send only contiguous tensors", lambda: turned(3, 4, 5), as_is),
            Witness("all ranks must have the same bits, also where the order of adding matters", odd, same_bits),
            Witness("bfloat16 in, bfloat16 out", lambda: ranks(2, 8, dtype=torch.bfloat16), as_is),
        ),
        (
            Fault("range(2 * (size - 1))", "range(size - 1)", "each rank has the whole sum of one piece only: the finished pieces must go round, too"),
            Fault(
                "    for step in range(2 * (size - 1)):\n        give, take = pieces[(rank - step) % size], pieces[(rank - step - 1) % size]\n",
                "    for step in range(1):\n        give, take = total, total\n",
                "only a neighbour's numbers are added: with two ranks that is the sum, with three it is not",
            ),
            Fault("take + came if step < size - 1 else came", "take + came", "in the second round the finished pieces are added again: there they must replace"),
            Fault("take + came if step < size - 1 else came", "came", "nothing is added: in the first round add what comes"),
            Fault("sent = dist.isend(give, (rank + 1) % size)", "dist.send(give, (rank + 1) % size)", "every rank sends and waits until its neighbour receives, and the neighbour does the same: no rank ever receives. Begin to send (isend), receive, then wait"),
            Fault("total.view(x.shape)", "total", "the shape is lost: give the sum the shape of x"),
            Fault("x.clone().flatten()", "x.clone().flatten().float()", "the sum has another number format than x"),
        ),
        rule=by_messages,
        together=together,
    ),
    Part(
        column_linear, "a layer cut along its outputs", 1, 8,
        "A linear layer with weights [out, in] is `x @ weight.T`. A rank's share is a run of rows of the stored weight: "
        "cut first, then multiply.",
        (
            Witness("rank 0 of 2 has the first half of the outputs", lambda: cut(3, 8, 12, 0, 2)),
            Witness("rank 1 of 2 has the second half", lambda: cut(3, 8, 12, 1, 2)),
            Witness("ranks have runs of outputs, in order", lambda: cut(2, 6, 20, 2, 4)),
            Witness("W need not divide: 10 outputs on 4 ranks are 2, 3, 2, 3", lambda: cut(2, 6, 10, 3, 4)),
            Witness("one rank has all", lambda: cut(2, 6, 10, 0, 1)),
            Witness("bfloat16 in, bfloat16 out", lambda: cut(2, 6, 10, 1, 2, dtype=torch.bfloat16)),
        ),
        (
            Fault("weight[begin:end]", "weight[rank::size]", "every size-th row, like cards that are dealt: the next layer expects runs"),
            Fault("begin, end = rank * W // size, (rank + 1) * W // size", "begin, end = rank * (W // size), (rank + 1) * (W // size)", "what does not divide is lost: begin at rank * W // size"),
            Fault("x @ weight[begin:end].T", "x @ weight.T", "that is the whole layer: use this rank's rows alone"),
            Fault("begin, end = rank * W // size, (rank + 1) * W // size", "begin, end = 0, W // size", "every rank takes rank 0's rows"),
        ),
        rule=only_mine,
    ),
    Part(
        row_linear, "a layer cut along its inputs, and the sum", 2, 10,
        "x is already cut: it has this rank's share of the W inputs. Take the same columns of the stored weight, multiply, "
        "and let all_reduce sum the parts. Sum in float32 (`.float()`), and cast back.",
        (
            Witness("rank 0 of 2: its columns, plus what the others have", lambda: row(3, 8, 12, 0, 2), with_others),
            Witness("rank 1 of 2 takes the second half of the columns", lambda: row(3, 8, 12, 1, 2), with_others),
            Witness("W need not divide: 10 inputs on 4 ranks are 2, 3, 2, 3", lambda: row(2, 5, 10, 3, 4), with_others),
            Witness("all_reduce is called once, with float32", lambda: row(2, 5, 10, 1, 2, dtype=torch.bfloat16), summed_as),
            Witness("bfloat16 in, bfloat16 out", lambda: row(2, 5, 10, 1, 2, dtype=torch.bfloat16), with_others),
        ),
        (
            Fault("all_reduce(part.float()).to(x.dtype)", "part", "the parts are not summed: each rank has only its own part of the sum"),
            Fault("all_reduce(part.float()).to(x.dtype)", "all_reduce(part)", "the parts are summed in the format of x: sum in float32, where less is rounded"),
            Fault("all_reduce(part.float()).to(x.dtype)", "all_reduce(part.float())", "the result must be cast back to the format of x"),
            Fault("all_reduce(part.float()).to(x.dtype)", "(all_reduce(part.float()) / size).to(x.dtype)", "that is the mean: the layer's output is the sum"),
            Fault("begin, end = rank * W // size, (rank + 1) * W // size", "begin, end = rank * (W // size), rank * (W // size) + x.shape[1]", "the columns begin at rank * W // size, also where W does not divide"),
            Fault("weight[:, begin:end]", "weight[:, : end - begin]", "every rank takes rank 0's columns"),
        ),
    ),
    Part(
        gather, "shares side by side", 2, 12,
        "`dist.all_gather(list, x)` fills a list with every rank's x; all must have one shape, so pad to the longest share "
        "and cut again. Share r has `(r + 1) * n // size - r * n // size` numbers.",
        (
            Witness("two ranks: rank 0's share comes first, on both", lambda: shares(2, 6), as_is),
            Witness("three ranks, three different shares", lambda: shares(3, 12, 2), as_is),
            Witness("n does not divide: 7 numbers on 3 ranks are 2, 2, 3", lambda: shares(3, 7), as_is),
            Witness("several rows: shares are joined along the last dimension", lambda: shares(4, 10, 3, 2), as_is),
            Witness("fewer numbers than ranks: some shares are empty", lambda: shares(4, 2, 3), as_is),
        ),
        (
            Fault("[..., :length]", "", "the padding is still there: cut each piece to its own length"),
            Fault("zip(pieces, lengths, strict=True)", "zip(pieces[rank:] + pieces[:rank], lengths, strict=True)", "each rank puts its own share first: the order is that of the ranks"),
            Fault("dim=-1", "dim=0", "shares are joined along the last dimension"),
            Fault("    pieces = [torch.empty_like(padded) for _ in range(size)]\n    dist.all_gather(pieces, padded)\n", "    pieces = [padded] * size\n", "each rank repeats its own share: nothing was sent"),
        ),
        together=together,
    ),
    Part(
        all_to_all, "letters to all, letters from all", 3, 15,
        "A rank does not know how many rows will come. So first all ranks exchange their counts: `dist.all_gather`. Then make "
        "an empty tensor for each sender. Begin all sends and receives (`dist.isend`, `dist.irecv`), then wait for all of them. What "
        "goes to yourself is not sent.",
        (
            Witness("two ranks, two rows to each", lambda: letters([[2, 2], [2, 2]], 3), as_is),
            Witness("different numbers of rows", lambda: letters([[1, 4], [2, 3]], 5), as_is),
            Witness("no rows for a rank: an empty tensor comes", lambda: letters([[0, 3], [0, 0]], 4), as_is),
            Witness("three ranks: what came is in the order of its senders", lambda: letters([[1, 2, 3], [4, 1, 2], [0, 5, 2]], 2), as_is),
            Witness("four ranks", lambda: letters([[1, 2, 3, 4], [2, 3, 4, 1], [3, 4, 1, 2], [4, 1, 2, 3]], 2), as_is),
            Witness("rows may be numbers: [any number] of int64", lambda: letters([[1, 2], [3, 1]], dtype=torch.int64), as_is),
        ),
        (
            Fault("int(every[r][rank])", "int(every[rank][r])", "room is made for as many rows as are sent there: how many come, only the sender knows, so exchange the counts first"),
            Fault("    return came\n", "    return [came[(rank + i) % size] for i in range(size)]\n", "the list is in the order of the senders, rank 0 first, not yourself first"),
            Fault("    came[rank] = pieces[rank]\n", "", "the rows for yourself are lost: they are not sent, but they belong into the list"),
            Fault("    return came\n", "    return pieces\n", "it returns what it was given: nothing has arrived"),
            Fault("    return came\n", "    return torch.cat(came)\n", "give a list with a tensor for each sender: otherwise you cannot tell from which rank a row came"),
        ),
        together=together,
    ),
    Part(
        step_seconds, "what collectives cost in time", 2, 10,
        "For each kind: how many messages one after another, and how large is one of them? Each message costs "
        "latency + size / bandwidth; the collective happens `times` times. `math.ceil(math.log2(ranks))` for the tree.",
        (
            Witness("an all-reduce on 16 ranks is 30 messages, each of a 16th of the bytes", lambda: ([("all_reduce", 1600, 1)], 16, 1.0, 1e3)),
            Witness("one all-reduce on two ranks is two messages, each of half of the bytes", lambda: ([("all_reduce", 1000, 1)], 2, 1.0, 1e3)),
            Witness("an all-gather: ranks - 1 messages of all the bytes", lambda: ([("all_gather", 700, 1)], 8, 0.5, 1e2)),
            Witness("a broadcast is a tree: 3 messages for 5 ranks", lambda: ([("broadcast", 80, 1)], 5, 0.25, 1e2)),
            Witness("each kind counts `times` times", lambda: ([("all_reduce", 900, 7), ("all_gather", 300, 2)], 3, 0.125, 1e3)),
            Witness("a step of DeepSeek-R1 on 16 ranks", lambda: (STEP, 16, 3e-5, 50e9)),
            Witness("one rank sends nothing", lambda: (STEP, 1, 3e-5, 50e9)),
        ),
        (
            Fault("messages * (latency + size / bandwidth)", "(latency + messages * size / bandwidth)", "every message waits, not every collective: a ring's messages follow one another"),
            Fault("2 * (ranks - 1), nbytes / ranks", "2 * (ranks - 1), nbytes", "a message of the ring carries one piece: bytes / ranks"),
            Fault("2 * (ranks - 1), nbytes / ranks", "ranks - 1, nbytes / ranks", "the ring goes round twice: once to add, once to spread"),
            Fault("messages, size = ranks - 1, nbytes\n", "messages, size = ranks - 1, nbytes / ranks\n", "in an all-gather the bytes are one rank's share already: each message carries all of them"),
            Fault("math.ceil(math.log2(ranks))", "(ranks - 1)", "a broadcast is a tree: ranks that have the tensor send it on, so the number doubles with each message"),
            Fault("times * messages", "messages", "the collective happens `times` times"),
            Fault("size / bandwidth", "size * bandwidth", "bytes are divided by bytes per second"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def experts_of(rank, size, experts):
    """The experts that a rank holds, as a range. Each expert is on one rank. Any size must work.

    As in the files, rank r begins at the whole part of r * experts / size.
    """
    begin = rank * experts // size
    end = (rank + 1) * experts // size
    return range(begin, end)


def bytes_per_token(dim, layers, vocabulary, ranks):
    """Bytes that a rank hands to collectives for one token of one sequence.

    The embedding's sum is in BF16, the layers' sums and the logits are in float32, the token
    is an int64. Pieces of the vocabulary travel at the longest one's length. One rank alone
    hands over nothing.
    """
    if ranks == 1:
        return 0
    embedding = 2 * dim
    sums = 2 * layers * 4 * dim
    logits = 4 * -(-vocabulary // ranks)
    return embedding + sums + logits + 8


def doubling(x):
    """x, of one shape on all ranks -> their sum, in log2(size) exchanges; size is 2, 4, ..."""
    rank, size = dist.get_rank(), dist.get_world_size()
    total, distance = x.clone().contiguous(), 1
    while distance < size:
        partner, came = rank ^ distance, torch.empty_like(total)
        sent = dist.isend(total, partner)
        dist.recv(came, partner)
        sent.wait()
        total, distance = total + came, 2 * distance
    return total


TRANSFERS = [
    Part(
        experts_of, "which experts are mine", 1, 10,
        "A rank ends where the next one begins. In the files, rank r begins at the whole part of r * experts / size.",
        (
            Witness("16 experts on 2 ranks: 0 to 7 and 8 to 15", lambda: (2, 16), listed),
            Witness("256 experts on 16 ranks", lambda: (16, 256), listed),
            Witness("256 on 6 ranks: each expert on exactly one, and no rank has two more than another", lambda: (6, 256), listed),
            Witness("16 on 3 ranks: 5, 5 and 6", lambda: (3, 16), listed),
            Witness("more ranks than experts: some have none", lambda: (8, 5), listed),
        ),
        (
            Fault("    begin = rank * experts // size\n    end = (rank + 1) * experts // size\n", "    begin = rank * (experts // size)\n    end = (rank + 1) * (experts // size)\n", "what does not divide is lost: some experts are on no rank"),
            Fault("    begin = rank * experts // size\n    end = (rank + 1) * experts // size\n    return range(begin, end)\n", "    return range(rank, experts, size)\n", "experts are dealt out like cards: a rank's experts must be one run, as in the files"),
            Fault("    begin = rank * experts // size\n    end = (rank + 1) * experts // size\n", "    begin = min(rank * -(-experts // size), experts)\n    end = min((rank + 1) * -(-experts // size), experts)\n", "rounded up, the last rank gets what is left, perhaps much less than the others"),
            Fault("range(begin, end)", "range(begin, end + 1)", "a range ends before its second number: an expert would be on two ranks"),
        ),
    ),
    Part(
        bytes_per_token, "bytes for each token", 2, 10,
        "The lesson's table, with B = S = 1. `-(-a // b)` rounds up.",
        (
            Witness("tiny-r1 on 2 ranks: 8,712 bytes, as the two halves' log says", lambda: (256, 3, 1024, 2)),
            Witness("a vocabulary that does not divide: pieces travel at the longest one's length", lambda: (256, 3, 1024, 3)),
            Witness("DeepSeek-R1 on 16 ranks", lambda: (7168, 61, 129_280, 16)),
            Witness("one rank sends nothing", lambda: (7168, 61, 129_280, 1)),
            Witness("an odd size", lambda: (40, 5, 77, 4)),
        ),
        (
            Fault("2 * layers * 4 * dim", "layers * 4 * dim", "each layer has two sums (attention, feed-forward), both in float32, which is 4 bytes a number"),
            Fault("4 * -(-vocabulary // ranks)", "4 * vocabulary", "a rank hands over its own share of the vocabulary only"),
            Fault("4 * -(-vocabulary // ranks)", "4 * (vocabulary // ranks)", "pieces travel at the longest one's length: round up"),
            Fault("    if ranks == 1:\n        return 0\n", "", "one rank sends nothing"),
            Fault("embedding + sums", "sums", "the embedding is summed, too: each rank has a part of the vocabulary"),
            Fault(" + 8\n", "\n", "the chosen token is told to all: 8 bytes"),
        ),
    ),
    Part(
        doubling, "an all-reduce for small messages", 2, 12,
        "With distance 1, 2, 4, ... each rank exchanges ALL its numbers with the rank whose number differs in one bit: "
        "`rank ^ distance`. After the first exchange pairs have the sum of two, after the second groups have the sum of four.",
        (
            Witness("two ranks: both get the sum of both", lambda: ranks(2, 6), as_is),
            Witness("four ranks: the sum of all four", lambda: ranks(4, 5, 2), as_is),
            Witness("x may be a transposed view", lambda: turned(2, 4, 5), as_is),
            Witness("all ranks must have the same bits", lambda: tuple((random(40, seed=r) * 10.0 ** (2 * r),) for r in range(4)), same_bits),
            Witness("bfloat16 in, bfloat16 out", lambda: ranks(4, 8, dtype=torch.bfloat16), as_is),
        ),
        (
            Fault("while distance < size:", "if distance < size:", "one exchange is enough for two ranks only: four need two"),
            Fault("2 * distance", "distance + 1", "distances are 1, 2, 4: they double"),
            Fault("total + came", "x + came", "x is added to what came: the sum so far is lost"),
            Fault("x.clone().contiguous()", "x", "send only contiguous tensors: x may be a transposed view"),
        ),
        rule=by_messages,
        together=together,
    ),
]  # fmt: skip
