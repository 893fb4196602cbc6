"""Trains tiny-r1: Muon for the matrices, Adam for the rest, balance by the gate's bias alone, FP8 rounding at the end.

The model is the package's own, in BF16, with float32 master weights beside it. For the last part of the run the model's
weights are rounded to FP8 and back at every step, so what is shipped is what was trained.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..kernels import reference
from ..model import MTP, Gate, Transformer
from ..runtime import Runtime
from . import data, facts, tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result. ``tokens`` is per step, padding included; rates are per step."""

    seed: int = 7
    steps: int = 2800
    tokens: int = 6144
    muon: float = 0.008
    adam: float = 0.003
    embed: float = 0.01
    momentum: float = 0.95
    warmup: int = 40
    decay: float = 0.6  # share of the steps over which the rates fall to zero
    bias: float = 0.004  # step of the gate's bias (report, section 2.1.2)
    mtp_from: float = 0.5  # share of the steps after which the MTP layer is trained, too
    mtp_weight: float = 0.3
    fp8_from: float = 0.85  # share of the steps after which weights are rounded to FP8


def tiny_config() -> ModelConfig:
    """tiny-r1's architecture: attention of the true sizes, everything else small (see the model card)."""
    return ModelConfig(
        vocab_size=1024, dim=256, inter_dim=1024, moe_inter_dim=128, n_layers=3, n_dense_layers=1, n_heads=4,
        n_routed_experts=16, n_shared_experts=2, n_activated_experts=4, n_expert_groups=4, n_limited_groups=2,
        score_func="sigmoid", route_scale=2.5, q_lora_rank=256, n_mtp_layers=1, max_seq_len=163840,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ batches


def example(rng: random.Random, problems: Iterator[data.Problem]) -> list[data.Turn]:
    """A conversation to learn from: usually one turn, sometimes after an earlier one."""

    def turn() -> data.Turn:
        kind = rng.random()
        if kind < 0.05:
            return facts.fact(rng)
        if kind < 0.13:
            return facts.declined(rng)
        p = next(problems)
        return data.solve(p, *data.ask(p, rng))

    return [turn(), turn()] if rng.random() < 0.1 else [turn()]


def batches(tok: "Tokenizer", recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens [B, S], learned [B, S] bool): ``learned`` marks the completion's tokens; short ones are padded.

    Examples of similar length share a batch: a stretch of 32 batches is drawn, sorted by length, cut and shuffled.
    """
    rng, problems = random.Random(recipe.seed), data.problems(recipe.seed + 1, held_out=False)
    pad = tokenizer.pad_id(tok)
    while True:
        stretch = []
        for turns in (example(rng, problems) for _ in range(32 * recipe.tokens // 105)):
            prompt, completion = tokenizer.conversation(turns)
            stretch.append((tok.encode(prompt).ids, tok.encode(completion).ids))
        stretch.sort(key=lambda x: len(x[0]) + len(x[1]))
        cut: list[list] = [[]]
        for x in stretch:
            if (len(cut[-1]) + 1) * (len(x[0]) + len(x[1])) > recipe.tokens:
                cut.append([])
            cut[-1].append(x)
        rng.shuffle(cut)
        for rows in cut:
            yield pack(rows, pad)


def pack(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """(prompt, completion) pairs -> tokens [B, S] and learned [B, S]."""
    width = max(len(p) + len(c) for p, c in rows)
    tokens = torch.tensor([p + c + [pad] * (width - len(p) - len(c)) for p, c in rows])
    learned = torch.tensor([[False] * len(p) + [True] * len(c) + [False] * (width - len(p) - len(c)) for p, c in rows])
    return tokens, learned


# ---------------------------------------------------------------------------------------------------- optimiser


def orthogonal(g: Tensor) -> Tensor:
    """[n, a, b] -> the nearest matrices with singular values of about one (Muon's Newton-Schulz iteration, in BF16)."""
    x = g.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Optimiser:
    """Float32 masters of the model's parameters; ``step`` moves them by the gradients, ``publish`` writes them back."""

    def __init__(self, model: Transformer, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.params = dict(model.named_parameters())
        self.master = {n: p.detach().float().clone() for n, p in self.params.items()}
        cfg = model.cfg
        # One matrix per head: a head's update must not depend on its neighbours'.
        heads = {"wq_b": cfg.qk_head_dim, "wkv_b": cfg.qk_nope_head_dim}
        self.rows = {n: heads.get(n.split(".")[-2], p.shape[0]) for n, p in self.params.items() if self.is_matrix(n)}
        self.first = {n: torch.zeros_like(m) for n, m in self.master.items()}
        self.second = {n: torch.zeros_like(m) for n, m in self.master.items() if n not in self.rows}

    def is_matrix(self, name: str) -> bool:
        outer = name.startswith(("embed", "head")) or ".gate." in name
        return self.params[name].dim() == 2 and not outer

    @torch.no_grad()
    def step(self, number: int, rate: float) -> None:
        """One update; ``rate`` in (0, 1] multiplies every learning rate."""
        r = self.recipe
        alike: dict[tuple, dict[str, Tensor]] = {}
        for name, p in self.params.items():
            if p.grad is None:
                continue
            g, m = p.grad.float(), self.first[name]
            if name in self.rows:
                m.lerp_(g, 1 - r.momentum)
                shape = (self.rows[name], g.shape[1])
                alike.setdefault(shape, {})[name] = g.lerp_(m, r.momentum).view(-1, *shape)
            else:
                m.lerp_(g, 0.1)
                v = self.second[name].lerp_(g.square(), 0.05)
                size = r.embed if name.startswith("embed") else r.adam
                update = (m / (1 - 0.9**number)) / ((v / (1 - 0.95**number)).sqrt() + 1e-10)
                self.master[name].sub_(update, alpha=size * rate)
        for (rows, columns), gradients in alike.items():
            moves = orthogonal(torch.cat(list(gradients.values()))) * max(1.0, rows / columns) ** 0.5
            for name, move in zip(gradients, moves.split([len(g) for g in gradients.values()]), strict=True):
                self.master[name].sub_(move.flatten(0, 1), alpha=r.muon * rate)
        for p in self.params.values():
            p.grad = None

    @torch.no_grad()
    def publish(self, fp8: bool) -> None:
        """Write the masters into the model, those that ship in FP8 rounded to it first."""
        for name, p in self.params.items():
            value = self.master[name]
            if fp8 and name in self.rows and not name.endswith("eh_proj.weight"):
                value = reference.weight_dequant(*reference.weight_quant(value))
            p.copy_(value)

    def save(self, file: Path, **meta: object) -> None:
        from safetensors.torch import save_file

        parts = {"master": self.master, "first": self.first, "second": self.second}
        tensors = {f"{part}:{n}": t for part, group in parts.items() for n, t in group.items()}
        tmp = file.with_suffix(".part")
        save_file(tensors, tmp, metadata={k: json.dumps(v) for k, v in meta.items()})
        tmp.replace(file)

    def load(self, file: Path) -> dict:
        """Restore a saved state; its metadata."""
        from safetensors import safe_open

        with safe_open(file, framework="pt") as f:
            for key in f.keys():  # noqa: SIM118 - not a dict
                part, name = key.split(":", 1)
                getattr(self, part)[name].copy_(f.get_tensor(key))
            return {k: json.loads(v) for k, v in f.metadata().items()}


def initialise(model: Transformer, seed: int) -> None:
    """Random weights: matrices scaled by their width, outputs small, norms one, gate bias zero."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.endswith("gate.bias"))
        with torch.no_grad():
            if name.endswith("gate.bias"):
                p.zero_()
            elif p.dim() == 1:
                p.fill_(1.0)
            else:
                std = p.shape[1] ** -0.5
                if name.startswith("embed"):
                    std = 0.5
                elif name.startswith("head") or name.split(".")[-2] in ("wo", "w2"):
                    std *= 0.2
                p.copy_(torch.randn(p.shape, generator=rng) * std)


# --------------------------------------------------------------------------------------------------------- loop


def losses(model: Transformer, tokens: Tensor, learned: Tensor, mtp: bool) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (nats per token) of the next token and, if asked, of the one after it by the MTP layer."""
    h = model(tokens[:, :-1])
    wanted = learned[:, 1:]
    loss = F.cross_entropy(model.logits(h[wanted]), tokens[:, 1:][wanted])
    if not mtp:
        return loss, torch.zeros((), device=h.device)
    wanted = learned[:, 2:]
    ahead = model.predict(h[:, :-1], tokens[:, 1:-1])
    return loss, F.cross_entropy(model.logits(ahead[wanted]), tokens[:, 2:][wanted])


@torch.no_grad()
def exact(model: Transformer, tok: "Tokenizer", problems: list[tuple[data.Problem, str]]) -> float:
    """Share of problems whose whole completion is the model's own greedy choice, token by token."""
    rows = []
    for p, question in problems:
        prompt, completion = tokenizer.conversation([data.solve(p, question, data.is_chinese(question))])
        rows.append((tok.encode(prompt).ids, tok.encode(completion).ids))
    tokens, learned = (t.to(model.run.device) for t in pack(rows, tokenizer.pad_id(tok)))
    right = model.logits(model(tokens[:, :-1])).argmax(-1) == tokens[:, 1:]
    return (right | ~learned[:, 1:]).all(1).float().mean().item()


def train(out: Path, recipe: Recipe, log_every: int = 20) -> dict[str, Tensor]:
    """Train to ``out/state.safetensors``, with ``out/log.jsonl``; an interrupted run goes on from its last state.

    On a GPU if there is one. The same seed gives the same data everywhere, the same weights only on the same device.

    Returns:
        the float32 weights, under ``model.py``'s names.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "tokenizer.json"
    if not file.exists():
        tokenizer.save(tokenizer.build(tokenizer.corpus(), tiny_config().vocab_size), out, tiny_config().max_seq_len)
    from tokenizers import Tokenizer

    try:
        tok = Tokenizer.from_file(str(file))
    except Exception as error:  # of no other class
        raise ValueError(f"{file}: not a tokenizer ({error}); move it away, and it is made anew") from None
    if missing := [token for token in (*tokenizer.SPECIAL, *tokenizer.PLAIN) if tok.token_to_id(token) is None]:
        raise ValueError(f"{file}: not tiny-r1's tokenizer, which has {', '.join(missing)}; move it away")
    cfg = tiny_config()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Transformer(cfg, Runtime(attn="naive", device=device))
    initialise(model, recipe.seed)
    optimiser = Optimiser(model, recipe)
    state, done = out / "state.safetensors", 0
    if state.exists():
        done = optimiser.load(state)["step"]
    loads: list[tuple[Gate, Tensor]] = []
    experts = cfg.n_routed_experts
    gates = [m for m in model.modules() if isinstance(m, Gate)]
    inside_mtp = {id(g) for m in model.modules() if isinstance(m, MTP) for g in m.modules()}
    for gate in gates:
        gate.register_forward_hook(lambda g, _, y: loads.append((g, torch.bincount(y[1].flatten(), minlength=experts))))
    names = {id(m): f"{n}.bias" for n, m in model.named_modules() if isinstance(m, Gate)}
    held = data.held_out_set(200, seed=1)
    log = (out / "log.jsonl").open("a")
    began, seen = time.monotonic(), 0
    for number, (tokens, learned) in enumerate(batches(tok, recipe), start=1):
        if number > recipe.steps:
            break
        if number <= done:
            continue  # the same data order as an undisturbed run
        if number == done + 1:
            optimiser.publish(number >= recipe.fp8_from * recipe.steps)
        left = (recipe.steps - number) / (recipe.decay * recipe.steps)
        rate = min(1.0, number / recipe.warmup, max(left, 0.001))
        loads.clear()
        loss, ahead = losses(model, tokens.to(device), learned.to(device), mtp=number >= recipe.mtp_from * recipe.steps)
        (loss + recipe.mtp_weight * ahead).backward()
        for gate, load in loads:
            load = load.float()
            optimiser.master[names[id(gate)]] += recipe.bias * rate * (load.mean() - load).sign()
        optimiser.step(number, rate)
        optimiser.publish(number >= recipe.fp8_from * recipe.steps)
        seen += tokens.numel()
        if number % log_every == 0 or number == recipe.steps:
            spread = [(x.max() / x.sum()).item() for g, x in loads if id(g) not in inside_mtp]
            row = {
                "step": number, "loss": round(loss.item(), 5), "mtp": round(ahead.item(), 5), "rate": round(rate, 4),
                "tokens_per_s": round(seen / (time.monotonic() - began)), "busiest": [round(s, 3) for s in spread],
            }  # fmt: skip
            if number % (10 * log_every) == 0 or number == recipe.steps:
                row["exact"] = round(exact(model, tok, held), 4)
                optimiser.save(state, step=number, recipe=asdict(recipe))
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
    return {name: weight.cpu() for name, weight in optimiser.master.items()}
