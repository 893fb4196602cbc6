"""Checks of lesson 07: a block, the parameters of one token, what the MTP layer guesses."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import cost
from ..config import ModelConfig
from ..inference.decode import Model
from ..llm import load
from ..paths import TINY_R1
from ..tiny import data
from ..tiny.tokenizer import conversation
from . import Wrong, exercise

Layer = Callable[[Tensor], Tensor]


# ------------------------------------------------------------------------------------------------------ a block


def _parts(width: int, seed: int) -> tuple[Layer, Layer, Layer, Layer]:
    """attn_norm, attn, ffn_norm and ffn that do not commute; attn mixes tokens, as attention does."""
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(width, width, generator=draw) for _ in range(2))
    gain, lift = 1 + torch.rand(width, generator=draw), 1 + torch.rand(width, generator=draw)
    return (
        lambda x: F.rms_norm(x, (width,), gain),
        lambda x: x.cumsum(1) @ first,
        lambda x: F.rms_norm(x, (width,), lift),
        lambda x: F.silu(x @ second),
    )


@exercise("07", 1)
def check_block(block: Callable[..., Tensor]) -> None:
    for seed, shape in enumerate([(2, 5, 8), (1, 1, 16), (3, 2, 4)]):
        attn_norm, attn, ffn_norm, ffn = _parts(shape[-1], seed)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        before = x.clone()
        found = block(x, attn_norm, attn, ffn_norm, ffn)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            raise Wrong(f"from x {list(shape)} came {_form(found)}; a block leaves the shape as it is")
        if not torch.equal(x, before):
            raise Wrong("your block changes x itself; someone else may still need it: write x = x + ..., not x += ...")
        h = x + attn(attn_norm(x))
        wanted = h + ffn(ffn_norm(h))
        if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-4):
            raise Wrong(f"for x {list(shape)}: {_which(found, x, attn_norm, attn, ffn_norm, ffn)}")


def _form(value: object) -> str:
    return f"{list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _which(found: Tensor, x: Tensor, attn_norm: Layer, attn: Layer, ffn_norm: Layer, ffn: Layer) -> str:
    """The usual mistakes, recognised by their result."""
    h, bare = x + attn(attn_norm(x)), attn(attn_norm(x))
    mistakes = {
        "the feed-forward layer should see the stream after attention, not x": h + ffn(ffn_norm(x)),
        "the second residual is missing: add the stream to what ffn gives": ffn(ffn_norm(h)),
        "the first residual is missing: add x to what attn gives": bare + ffn(ffn_norm(bare)),
        "both residuals are missing": ffn(ffn_norm(bare)),
        "the norms stand behind the sums; they belong in front of attn and ffn, beside the stream": ffn_norm(
            (y := attn_norm(x + attn(x))) + ffn(y)
        ),
        "the norms are missing": (z := x + attn(x)) + ffn(z),
        "what is added must be the stream, not the normed stream": (n := attn_norm(x) + bare) + ffn(ffn_norm(n)),
    }
    for mistake, result in mistakes.items():
        if torch.allclose(found, result, rtol=1e-4, atol=1e-4):
            return mistake
    worst = (found - h - ffn(ffn_norm(h))).abs().max()
    return f"it is off by up to {worst:.3g}; compare with x + attn(attn_norm(x)), then the same with ffn"


# ----------------------------------------------------------------------------------------- parameters of one token


def _configs() -> Iterator[tuple[str, ModelConfig]]:
    for name in ("config_671B.json", "config_236B.json", "config_16B.json"):
        yield name, ModelConfig.load(name)
    yield "tiny-r1", ModelConfig.load(TINY_R1)
    yield (
        "config_671B.json with 16 experts per token",
        replace(ModelConfig.load("config_671B.json"), n_activated_experts=16),
    )


@exercise("07", 2)
def check_activated(activated: Callable[[ModelConfig], float]) -> None:
    for name, cfg in _configs():
        found, wanted = activated(cfg), cost.activated(cfg)["total"]
        if not isinstance(found, int | float):
            raise Wrong(f"{name}: your function gives a {type(found).__name__}, not a number")
        if abs(found - wanted) > 1e-3 * wanted:
            raise Wrong(f"{name}: {found:,.0f}, not {wanted:,}; {_gap(cfg, found - wanted)}")


def _gap(cfg: ModelConfig, gap: float) -> str:
    """What a difference may come from."""
    vocabulary, expert = cfg.vocab_size * cfg.dim, 3 * cfg.dim * cfg.moe_inter_dim
    with_experts = cfg.n_layers - cfg.n_dense_layers
    known = {
        "the embedding is looked up, not multiplied: leave it out": vocabulary,
        "the head is missing": -vocabulary,
        "the shared experts are missing": -with_experts * cfg.n_shared_experts * expert,
        "the routed experts are missing": -with_experts * cfg.n_activated_experts * expert,
        "all routed experts are counted, but a token sees only n_activated_experts of them": with_experts
        * (cfg.n_routed_experts - cfg.n_activated_experts)
        * expert,
        "the dense layers are missing": -cfg.n_dense_layers * 3 * cfg.dim * cfg.inter_dim,
        "the first n_dense_layers have no experts": cfg.n_dense_layers
        * (cfg.n_activated_experts + cfg.n_shared_experts)
        * expert,
        "the gates are missing": -with_experts * cfg.n_routed_experts * cfg.dim,
        "the output matrix wo is missing": -cfg.n_layers * cfg.n_heads * cfg.v_head_dim * cfg.dim,
    }
    for reason, size in known.items():
        if abs(gap - size) <= max(0.002 * abs(size), 1e-3 * expert):
            return reason
    if not cfg.q_lora_rank:
        return "here q_lora_rank is 0, and one matrix wq [n_heads (N + R), dim] stands for wq_a and wq_b"
    return f"{'too many' if gap > 0 else 'missing'}: {abs(gap):,.0f}"


# ------------------------------------------------------------------------------------------------- what MTP guesses


def _examples(encode: Callable[[str], list[int]]) -> Iterator[Tensor]:
    """[B, S] token ids: chains of tiny-r1, batched, cut short, and of the least length."""
    turns = [data.solve(p, q, data.is_chinese(q)) for p, q in data.held_out_set(3)]
    ids = [encode("".join(conversation([turn]))) for turn in turns]
    shortest = min(map(len, ids))
    yield torch.tensor([row[:shortest] for row in ids])
    yield torch.tensor([ids[0][:40]])
    yield torch.tensor([ids[1][:2]])


@exercise("07", 3)
@torch.inference_mode()
def check_guess(guess_after_next: Callable[[Model, Tensor], Tensor]) -> None:
    llm = load(TINY_R1, model="plain", attn="naive", dtype=torch.float32, gemm="bf16", mtp=1)
    model = llm.model
    for tokens in _examples(llm.tokenizer.encode):
        found = guess_after_next(model, tokens)
        b, s = tokens.shape
        if not isinstance(found, Tensor) or found.shape != (b, s - 1):
            raise Wrong(f"from tokens {[b, s]} came {_form(found)}; it must be {[b, s - 1]}: the last has no next")
        h = model(tokens)
        wanted = model.logits(model.predict(h[:, :-1], tokens[:, 1:])).argmax(-1)
        if torch.equal(found, wanted):
            continue
        main = model.logits(h).argmax(-1)
        if torch.equal(found, main[:, :-1]):
            raise Wrong("these are the main model's guesses of token i + 1; send h through model.predict")
        same = model.logits(model.predict(h[:, :-1], tokens[:, :-1])).argmax(-1)
        if torch.equal(found, same):
            raise Wrong("the MTP layer was given token i with h_i; it wants the token after it, i + 1")
        wrong = (found != wanted).nonzero()[0].tolist()
        raise Wrong(f"{(found == wanted).float().mean():.0%} agree for tokens {[b, s]}; the first other one is {wrong}")
