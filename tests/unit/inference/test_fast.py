"""The model laid out for speed: the same function as ``model.py`` and as transformers, in every form it can take."""

from dataclasses import replace

import pytest
import torch
from oracle import CASES, FLOAT, TOLERANCE, oracle, ours, relative, tokens

from dsv3.cache import Cache
from dsv3.config import ModelConfig
from dsv3.inference.fast import Fast
from dsv3.inference.weights import load
from dsv3.kernels import native
from dsv3.model import Transformer, place
from dsv3.runtime import Runtime


@pytest.mark.parametrize(("family", "seed"), CASES[::2])
@torch.inference_mode()
def test_equals_transformers_whole_in_chunks_and_step_by_step(family, seed):
    theirs, x = oracle(family, seed), tokens(3, 15, seed)
    expected = theirs(x).logits
    fast = Fast(ours(theirs, FLOAT))
    assert relative(fast.logits(fast(x)), expected) < TOLERANCE
    for size in (1, 4):
        cache = Cache()
        parts = [fast.logits(fast(x[:, at : at + size], at, cache)) for at in range(0, x.shape[1], size)]
        assert relative(torch.cat(parts, dim=1), expected) < TOLERANCE


@pytest.mark.parametrize(("family", "seed"), CASES[::6])
@pytest.mark.parametrize("new", [1, 3])
@torch.inference_mode()
def test_sequences_of_different_lengths_share_a_batch(family, seed, new):
    theirs, x = oracle(family, seed), tokens(3, 20, seed)
    fast, cache, lengths = Fast(ours(theirs, FLOAT)), Cache(), torch.tensor([4, 9, 6])
    fast(x[:, :9], 0, cache)
    ahead = torch.stack([x[i, n : n + new] for i, n in enumerate(lengths)])
    logits = fast.logits(fast(ahead, lengths, cache))
    for i, n in enumerate(lengths.tolist()):
        alone = theirs(x[i : i + 1, : n + new]).logits[0, -new:]
        assert relative(logits[i], alone) < TOLERANCE


def filled(folder, **run) -> Transformer:
    cfg = ModelConfig.load(folder)
    model = Transformer(cfg, Runtime(**run))
    load(model, folder, cfg)
    return model


def drift(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


@pytest.mark.parametrize("gemm", ["bf16", "w8a16", "fp8"])
@pytest.mark.parametrize("native_too", [True, False])
@torch.inference_mode()
def test_bf16_and_fp8_layers_stay_within_their_rounding(gemm, native_too, fp8_folder, monkeypatch):
    """A block of each kind, fed with the same input: what differs is the rounding to BF16, 2^-9 an operation.

    Where activations are quantised, such a difference now and then becomes a step of FP8, 2^-3; and where a token's
    experts were nearly a tie, it has others. So the middle token counts.
    """
    if not native_too:
        monkeypatch.setattr(native, "library", lambda: None)
    slow, fast = filled(fp8_folder, gemm=gemm), Fast(filled(fp8_folder, gemm=gemm))
    assert all(layer.attn.wo.native == (native_too and gemm != "fp8") for layer in fast.layers)
    x = torch.randn(1, 5, slow.cfg.dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    for n in (5, 1):  # with both ways through the experts
        here = fast.place(torch.zeros(1, n, dtype=torch.long), 0, None)
        there = place(slow.cfg, slow.frequencies, torch.zeros(1, n, dtype=torch.long), 0, None)
        for mine, theirs in zip(fast.layers, slow.layers, strict=True):
            a, b = mine(x[0, :n], here).float(), theirs(x[:, :n], there)[0].float()
            rows = (a - b).norm(dim=-1) / b.norm(dim=-1)
            assert rows.median() < (0.03 if gemm == "fp8" else 0.01)


PLAIN = {
    "q_lora_rank": 0,
    "score_func": "softmax",
    "topk_method": "greedy",
    "n_expert_groups": 1,
    "n_limited_groups": 1,
}
GROUPED = {"q_lora_rank": 32, "score_func": "softmax", "topk_method": "group_limited_greedy", "norm_topk_prob": False}
SHAPES = {  # of all families, small; V3 with widths that are no whole steps of the C functions
    "V3": {"q_lora_rank": 40, "n_heads": 3, "qk_nope_head_dim": 20, "qk_rope_head_dim": 6, "kv_lora_rank": 36},
    "V2 Lite": PLAIN,
    "V2": GROUPED,
}


def random_model(family: str) -> Transformer:
    sizes = {
        "vocab_size": 64, "dim": 72, "inter_dim": 96, "moe_inter_dim": 24, "n_layers": 2, "n_dense_layers": 1,
        "n_routed_experts": 12, "n_expert_groups": 3, "n_limited_groups": 2, "n_activated_experts": 4,
        "n_shared_experts": 2, "n_heads": 2, "n_mtp_layers": 0, "dtype": "bf16",
    }  # fmt: skip
    cfg = replace(ModelConfig.load("config_671B.json"), **sizes | SHAPES[family])
    model = Transformer(cfg, Runtime())
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.copy_((torch.randn(p.shape, generator=g) * p.shape[-1] ** -0.5).bfloat16())
    return model


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("n", [1, 3, 8])
@torch.inference_mode()
def test_c_routes_and_asks_as_torch_does(family, n):
    model = random_model(family)
    gate = model.layers[1].ffn.gate
    fast = Fast(model)
    for seed in range(10):
        x = torch.randn(n, model.cfg.dim, generator=torch.Generator().manual_seed(seed)).bfloat16()
        here = fast.place(torch.zeros(1, n, dtype=torch.long), seed, Cache())
        attn, moe = fast.layers[1].attn, fast.layers[1].ffn
        for mine, theirs in zip(attn.few(x, here.turns), attn.ask(x, here), strict=True):
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            assert drift(mine, theirs) < 2**-8
        weights, chosen = moe.all.native(x)
        their_weights, theirs = gate(x)
        assert chosen.tolist() == [[12, *row] for row in theirs.tolist()]
        assert torch.allclose(weights, torch.cat([torch.ones(n, 1), their_weights], dim=1), rtol=1e-5)


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
@torch.inference_mode()
def test_a_router_that_sees_nan_stays_inside_its_experts():
    fast = Fast(random_model("V3"))
    weights, chosen = fast.layers[1].ffn.all.native(torch.full((2, 72), torch.nan).bfloat16())
    assert all(len(set(row)) == 5 and 0 <= min(row) <= max(row) == 12 for row in chosen.tolist())
    assert weights[:, 1:].isnan().all()


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
@pytest.mark.parametrize("stored_in_bf16", [True, False])
@torch.inference_mode()
def test_the_head_is_halved_where_that_loses_nothing(stored_in_bf16, bf16_folder):
    slow = filled(bf16_folder)
    if not stored_in_bf16:
        slow.head.weight[-1, -1] = 1 + 2**-8  # a single number of one bit too many
    weight = slow.head.weight.double()
    fast = Fast(slow)
    assert fast.head.weight.dtype == (torch.bfloat16 if stored_in_bf16 else torch.float32)
    for shape in ((), (3,), (2, 7)):
        h = torch.randn(*shape, slow.cfg.dim).bfloat16()
        logits, exact = fast.logits(h), h.double() @ weight.T
        assert (logits.dtype, logits.shape) == (torch.float32, (*shape, slow.cfg.vocab_size))
        assert ((logits - exact).abs() <= h.shape[-1] * 2**-24 * (h.double().abs() @ weight.T.abs())).all()


@torch.inference_mode()
def test_it_takes_the_weights_and_keeps_one_copy(bf16_folder):
    model = filled(bf16_folder)
    total = sum(p.nbytes for name, p in model.named_parameters() if "norm" not in name and "gate" not in name)
    head = model.head.weight.nbytes
    fast = Fast(model)
    total -= head - fast.head.weight.nbytes
    left = {name for name, p in model.named_parameters() if p is not None}
    assert all("norm" in n or "gate" in n or "embed" in n for n in left)
    stores = [t.untyped_storage() for t in _tensors(fast, set()) if t.dim() >= 2]
    held = {store.data_ptr(): store.nbytes() for store in stores}
    assert total <= sum(held.values()) <= 1.1 * total


def _tensors(thing: object, seen: set[int]):
    """Every tensor that can be reached from ``thing``."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, torch.nn.Module):
        yield from thing.parameters()
    elif isinstance(thing, dict | list | tuple):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(value, seen)
    elif type(thing).__module__.startswith("dsv3") and hasattr(thing, "__dict__"):
        yield from _tensors(vars(thing), seen)
