"""Lesson 10's parts in a file that ``torchrun`` starts, and tiny-r1 on its ranks."""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..lab.jobs import Done, Job
from ..layout import owner, shared_out
from ..llm import LLM, load
from ..model import MLP, Embedding, Linear, MoE
from . import transplant
from .lesson import Parts
from .mine import source_of
from .part import Transplant
from .transplant import plain_model, solved, transplanted

NAMES = ("all_reduce", "column_linear", "row_linear", "gather", "all_to_all")  # that tiny-r1 needs
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

# --------------------------------------------------------------------------------------------------- the file


def program(parts: SimpleNamespace, names: Iterable[str], main: str) -> str:
    """A program's text: the named parts and ``main`` below them, with all that they import at the top."""
    imports, bodies = {"import os", "import torch.distributed as dist"}, []
    for text in [*(source_of(getattr(parts, name)) for name in names), main.strip()]:
        lines = text.splitlines()
        while lines and lines[0].startswith(("import ", "from ")):
            imports.add(lines.pop(0))
        bodies.append("\n".join(lines).strip())
    return "\n\n\n".join(["\n".join(sorted(imports)), *bodies]) + "\n"


def torchrun(file: Path, ranks: int, *arguments: object, seconds: float = 290) -> Done:
    """``torchrun --standalone --nproc-per-node RANKS FILE ARGUMENTS``, to its end; no process is left.

    Raises:
        TimeoutError: it took longer than ``seconds``.
    """
    with Job(file.parent, GLOO_SOCKET_IFNAME=LOOPBACK) as job:
        flags = ("--standalone", "--nproc-per-node", ranks)
        job.start(sys.executable, "-m", "torch.distributed.run", *flags, file.name, *arguments)
        job.until(job.over, seconds)
        return job.done()[0]


# ------------------------------------------------------------------------------------------- tiny-r1, on a rank


@contextmanager
def cut(llm: LLM, parts: SimpleNamespace, experts: str = "sum") -> Iterator[None]:
    """tiny-r1's layers, computed by the parts: this rank reads its own share of each matrix.

    Args:
        experts: ``"sum"``: each rank computes its experts for all tokens, and the ranks' results are summed.
            ``"exchange"``: each rank has a share of the tokens, and sends them to the ranks of their experts.
    """
    model, rank, size = plain_model(llm), dist.get_rank(), dist.get_world_size()

    def columns(layer: Linear, x: Tensor) -> Tensor:
        return parts.column_linear(x.flatten(0, -2), layer.weight, rank, size).unflatten(0, x.shape[:-1])

    def rows(layer: Linear, x: Tensor) -> Tensor:
        y = parts.row_linear(x.flatten(0, -2), layer.weight, rank, size, parts.all_reduce)
        return y.unflatten(0, x.shape[:-1])

    def embedding(layer: Embedding, tokens: Tensor) -> Tensor:
        mine = shared_out(len(layer.weight), rank, size)
        here = (tokens >= mine.start) & (tokens < mine.stop)
        known = F.embedding(torch.where(here, tokens, mine.start), layer.weight)
        return parts.all_reduce(torch.where(here[..., None], known, 0))

    def logits(head: Linear, h: Tensor) -> Tensor:
        whole = parts.gather(columns(head, h), len(head.weight))
        dist.broadcast(whole, 0)  # rank 0 decides, as in dsv3: all ranks go on with one token
        return whole

    def moe(layer: MoE, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        weights, chosen = layer.gate(flat)
        routed = {"sum": by_sum, "exchange": by_exchange}[experts]
        return (layer.shared_experts(flat) + routed(parts, layer.experts, flat, weights, chosen)).view_as(x)

    blocks: list[Any] = list(model.layers)
    attention = [block.attn for block in blocks]
    dense = [block.ffn for block in blocks if isinstance(block.ffn, MLP)]
    mixtures = [block.ffn for block in blocks if isinstance(block.ffn, MoE)]
    narrow = [*dense, *(layer.shared_experts for layer in mixtures)]
    heads = [layer.heads for layer in attention]
    with ExitStack() as stack:
        for modules, forward in (
            ([layer for mla in attention for layer in (mla.wq_b, mla.wkv_b)], columns),
            ([layer for mlp in narrow for layer in (mlp.w1, mlp.w3)], columns),
            ([*(mla.wo for mla in attention), *(mlp.w2 for mlp in narrow)], rows),
            (mixtures, moe),
            ([model.embed], embedding),
            ([model.head], logits),
        ):
            stack.enter_context(transplanted(modules, forward))
        try:
            for mla, n in zip(attention, heads, strict=True):
                mla.heads = n // size
            yield
        finally:
            for mla, n in zip(attention, heads, strict=True):
                mla.heads = n


def by_sum(parts: SimpleNamespace, experts: nn.ModuleDict, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """x [n, D] -> [n, D]: this rank's experts for all tokens, and the sum over the ranks."""
    y = torch.zeros_like(x)
    for e in shared_out(len(experts), dist.get_rank(), dist.get_world_size()):
        token, slot = torch.where(chosen == e)
        y.index_add_(0, token, experts[str(e)](x[token]) * weights[token, slot, None])
    return parts.all_reduce(y)


def by_exchange(parts: SimpleNamespace, experts: nn.ModuleDict, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """The same with dispatch and combine: this rank's tokens go to the ranks of their experts, and come back."""
    rank, size, n, tokens = dist.get_rank(), dist.get_world_size(), len(experts), len(x)
    mine = shared_out(tokens, rank, size)
    x, weights, chosen = (t[mine.start : mine.stop] for t in (x, weights, chosen))
    home = torch.tensor([owner(e, n, size) for e in range(n)])[chosen]  # the rank of each chosen expert
    places = [torch.where(home == r) for r in range(size)]
    came = parts.all_to_all([x[token] for token, _ in places])  # dispatch: the tokens, and for which expert
    wanted = parts.all_to_all([chosen[token, slot] for token, slot in places])
    done = [torch.zeros_like(rows) for rows in came]
    for rows, ids, out in zip(came, wanted, done, strict=True):
        for e in ids.unique().tolist():
            out[ids == e] = experts[str(e)](rows[ids == e])
    y = torch.zeros_like(x)
    for (token, slot), back in zip(places, parts.all_to_all(done), strict=True):  # combine
        y.index_add_(0, token, back * weights[token, slot, None])
    return parts.gather(y.T, tokens).T


def blind(llm: LLM) -> None:
    """Every number that belongs to another rank becomes NaN: whoever reads one answers nothing."""
    model, rank, size = plain_model(llm), dist.get_rank(), dist.get_world_size()

    def keep(weight: Tensor, dim: int) -> None:
        mine = shared_out(weight.shape[dim], rank, size)
        weight.narrow(dim, 0, mine.start).fill_(torch.nan)
        weight.narrow(dim, mine.stop, weight.shape[dim] - mine.stop).fill_(torch.nan)

    blocks: list[Any] = list(model.layers)
    for block in blocks:
        ffn = block.ffn
        mlp = ffn.shared_experts if isinstance(ffn, MoE) else ffn
        for layer in (block.attn.wq_b, block.attn.wkv_b, mlp.w1, mlp.w3):
            keep(layer.weight, 0)
        keep(block.attn.wo.weight, 1)
        keep(mlp.w2.weight, 1)
        for name, expert in ffn.experts.items() if isinstance(ffn, MoE) else ():
            if int(name) not in shared_out(len(ffn.experts), rank, size):
                for weight in expert.parameters():
                    weight.fill_(torch.nan)
    keep(model.embed.weight, 0)
    keep(model.head.weight, 0)


def answered(parts: SimpleNamespace, sums: int, runs: str) -> None:
    """On a rank: of ``sums``, how many tiny-r1 answers rightly in each run; rank 0 prints the numbers.

    Args:
        runs: JSON, a list of (a part that gets an error, or "", words of the error's hint, the experts' way).
    """
    torch.set_num_threads(1)
    llm = load("tiny-r1", model="plain", gemm="bf16", attn="naive", dtype=torch.float32)
    blind(llm)
    course = Parts("10")
    for name, words, experts in json.loads(runs):
        wrong = {name: course.faulty(name, words)} if name else {}
        with cut(llm, SimpleNamespace(**vars(parts) | wrong), experts):
            n = solved(llm, sums)
        if dist.get_rank() == 0:
            print(n, flush=True)


# ---------------------------------------------------------------------------------------------------- the jobs

MAIN = """
import sys
from datetime import timedelta
from types import SimpleNamespace
from dsv3.lessons.transplant_10 import answered

dist.init_process_group("gloo", timeout=timedelta(seconds=60))
parts = SimpleNamespace({names})
answered(parts, int(sys.argv[1]), sys.argv[2])
dist.destroy_process_group()
"""


def written(parts: SimpleNamespace, folder: Path) -> Path:
    """The program that answers sums on several ranks, as a file in ``folder``."""
    file = folder / "tiny_r1.py"
    main = MAIN.format(names=", ".join(f"{name}={name}" for name in NAMES))
    file.write_text(program(parts, NAMES, main), encoding="utf-8")
    return file


def scores(file: Path, runs: Iterable[tuple[str, str, str]]) -> list[int]:
    """Sums that a program of ``written`` solves on two ranks, in each run (see ``answered``).

    Raises:
        RuntimeError: it failed; has the first error that a rank wrote.
    """
    done = torchrun(file, 2, transplant.SUMS, json.dumps(list(runs)))
    if done.code:
        told = [line for line in done.err.splitlines() if re.search(r"\w(Error|Exception): ", line)]
        raise RuntimeError((told or ["a rank failed without words"])[0])
    return [int(line) for line in done.out.split()]


def _scored(experts: str) -> Callable[[SimpleNamespace], int]:
    def score(parts: SimpleNamespace) -> int:
        with tempfile.TemporaryDirectory() as folder:
            return scores(written(parts, Path(folder)), [("", "", experts)])[0]

    return score


TRANSPLANTS = [
    Transplant("two processes", _scored("sum"), 20, ("row_linear", "not summed")),
    Transplant("two processes, experts by all-to-all", _scored("exchange"), 20, ("all_to_all", "nothing has arrived")),
]
