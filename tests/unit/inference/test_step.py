"""The step of a GPU, on its kernels' references: the same function as ``model.py``, transformers and ``Fast``."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from oracle import CASES, FLOAT, TOLERANCE, oracle, ours, relative, tokens
from public import NEIGHBOURS, PUBLIC, shrink
from torch import Tensor

from dsv3 import llm as g
from dsv3.cache import Cache
from dsv3.config import ModelConfig
from dsv3.inference import step as s
from dsv3.inference.fast import Fast
from dsv3.inference.step import Step
from dsv3.inference.weights import load
from dsv3.kernels import native, reference
from dsv3.lab.threads import on_ranks
from dsv3.model import Transformer
from dsv3.ranks.traffic import step_traffic
from dsv3.runtime import Runtime

BF16 = torch.bfloat16
WHOLE = {"dim": 128, "inter_dim": 128, "moe_inter_dim": 128, "q_lora_rank": 128}  # runs of 128 throughout


def filled(cfg: ModelConfig, run: Runtime = FLOAT, seed: int = 0) -> Transformer:
    """A model of drawn BF16 numbers."""
    model, rng = Transformer(cfg, run), torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=rng)
        x = 1 + 0.1 * x if "norm" in name else 0.1 * x if name.endswith("bias") else x * max(p.shape[-1], 1) ** -0.5
        p.data.copy_(x.to(BF16))
    return model


@pytest.mark.parametrize(("family", "seed"), CASES[1::3])
@torch.inference_mode()
def test_equals_transformers_read_whole_read_in_chunks_and_decoded(family, seed):
    """Behind a prefix, too, and several new tokens at a time, as when guesses are checked."""
    theirs, x = oracle(family, seed), tokens(3, 15, seed)
    step, expected = Step(Fast(ours(theirs, FLOAT))), theirs(x).logits
    assert relative(step.logits(step(x)), expected) < TOLERANCE
    for size in (1, 4):
        for places in (lambda at: at, lambda at: torch.full((3,), at)):
            cache = Cache()
            parts = [step.logits(step(x[:, at : at + size], places(at), cache)) for at in range(0, x.shape[1], size)]
            assert relative(torch.cat(parts, dim=1), expected) < TOLERANCE


@pytest.mark.parametrize(("family", "seed"), CASES[2::6])
@pytest.mark.parametrize("new", [1, 3])
@torch.inference_mode()
def test_sequences_of_different_lengths_share_a_batch(family, seed, new):
    theirs, x = oracle(family, seed), tokens(3, 20, seed)
    step, cache, lengths = Step(Fast(ours(theirs, FLOAT))), Cache(), torch.tensor([4, 9, 6])
    step(x[:, :9], 0, cache)
    ahead = torch.stack([x[i, n : n + new] for i, n in enumerate(lengths)])
    logits = step.logits(step(ahead, lengths, cache))
    for i, n in enumerate(lengths.tolist()):
        alone = theirs(x[i : i + 1, : n + new]).logits[0, -new:]
        assert relative(logits[i], alone) < TOLERANCE


@pytest.mark.parametrize("name", PUBLIC | NEIGHBOURS)
@torch.inference_mode()
def test_public_models_shrunk(name):
    cfg = ModelConfig.from_hf(shrink((PUBLIC | NEIGHBOURS)[name]))
    plain, step = filled(cfg), Step(Fast(filled(cfg)))
    assert step.head.dtype == BF16  # half the bytes: it holds no other numbers
    x, at = tokens(2, 12), torch.tensor([7, 7])
    caches = Cache(), Cache()
    for model, cache in zip((plain, step), caches, strict=True):
        model(x[:, :7], 0, cache)
    expected, found = (model(x[:, 7:10], at, cache) for model, cache in zip((plain, step), caches, strict=True))
    assert relative(found, expected) < TOLERANCE
    assert relative(step.logits(found), plain.logits(expected)) < TOLERANCE
    if cfg.n_mtp_layers:
        h = plain(x[:, :7])
        assert relative(step.predict(h, x[:, 1:8]), plain.predict(h, x[:, 1:8])) < TOLERANCE


def loaded(folder, **run) -> Fast:
    cfg = ModelConfig.load(folder)
    model = Transformer(cfg, Runtime(**run))
    load(model, folder, cfg)
    return Fast(model)


@pytest.mark.parametrize(("gemm", "dtype", "most"), [
    ("bf16", torch.float32, 1e-5), ("fp8", torch.float32, 0.04), ("bf16", BF16, 0.02), ("fp8", BF16, 0.1),
])  # fmt: skip
@pytest.mark.parametrize("decodes", [True, False])
@torch.inference_mode()
def test_fp8_and_bf16_stay_within_their_rounding(gemm, dtype, most, decodes, fp8_folder, monkeypatch):
    """Quantised after other roundings, a number is now and then a step of FP8 away: 2^-3. The middle token counts."""
    monkeypatch.setattr(native, "library", lambda: None)
    fast, step = loaded(fp8_folder, gemm=gemm, dtype=dtype), Step(loaded(fp8_folder, gemm=gemm, dtype=dtype))
    x = tokens(5, 1)
    expected, found = fast(x).float(), step(x, torch.zeros(5, dtype=torch.long) if decodes else 0).float()
    off = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert off.median() < most


@torch.inference_mode()
def test_it_takes_the_weights_and_keeps_one_copy(fp8_folder):
    fast = loaded(fp8_folder, gemm="fp8")
    experts = [mlp for layer in fast.layers[1:] for mlp in layer.ffn.experts.values()]
    nbytes = sum(matrix.weight.nbytes for mlp in experts for matrix in (mlp.up, mlp.down))
    step = Step(fast)
    assert not fast.layers
    ffn = step.layers[1].ffn
    assert len(ffn.up) == 8 + 2  # the two shared experts behind the routed ones
    assert ffn.up.nbytes + ffn.down.nbytes == nbytes * 10 / 8


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["DeepSeek-V3", "DeepSeek-V2-Lite, Coder-V2-Lite", "no shared expert"])
def test_ranks_give_what_one_gives_and_send_what_the_formula_says(ranks, name):
    cfg = replace(ModelConfig.from_hf(shrink((PUBLIC | NEIGHBOURS)[name])), n_mtp_layers=0)
    whole = filled(cfg)
    x, at = tokens(2, 9), torch.tensor([5, 5])
    expected = Step(Fast(filled(cfg)))(x[:, :6], 0)[:, 5:]

    def part(tp):
        mine = Transformer(cfg, replace(FLOAT, tp=tp))
        for (_, p), cut in zip(mine.named_parameters(), cuts(whole, mine, tp), strict=True):
            p.data.copy_(cut)
        step, cache = Step(Fast(mine)), Cache()
        step(x[:, :5], 0, cache)
        before = tp.traffic.copy()
        h = step(x[:, 5:6], at, cache)
        tp.broadcast(step.logits(h[:, -1]).argmax(-1))
        return h, tp.traffic - before

    for h, sent in on_ranks(ranks, part):
        assert relative(h, expected) < TOLERANCE
        assert sent == step_traffic(cfg, ranks, batch=2, itemsize=4)


def cuts(whole: Transformer, mine: Transformer, tp) -> list[Tensor]:
    """A rank's parameters, by the shapes that it has."""
    found, all_of_them = [], dict(whole.named_parameters())
    for name, p in mine.named_parameters():
        x = all_of_them[name]
        for dim in range(x.dim()):
            if x.shape[dim] != p.shape[dim]:
                if ".shared_experts.w" in name or name.startswith("head") or name.startswith("embed"):
                    x = x.index_select(dim, torch.tensor(list(tp.mine(x.shape[dim]))))
                else:
                    x = x.chunk(tp.size, dim)[tp.rank]
        found.append(x)
    return found


def by_hand(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    new, total = q.shape[1], k.shape[1]
    scores = torch.einsum("bshd,bthd->bhst", q, k) * scale
    later = torch.arange(total) > torch.arange(total - new, total).unsqueeze(1)
    return torch.einsum("bhst,bthp->bshp", scores.masked_fill(later, -math.inf).softmax(-1), v)


@pytest.mark.parametrize(("new", "total"), [(1, 1), (5, 5), (128, 128), (129, 129), (3, 9), (1, 40)])
@pytest.mark.parametrize(("width", "values"), [(24, 16), (16, 24), (16, 16)])
def test_attention_of_prompts_by_hand(new, total, width, values):
    q, k, v = (torch.randn(2, n, 3, d) for n, d in ((new, width), (total, width), (total, values)))
    assert torch.allclose(s.causal(q, k, v, 0.3), by_hand(q, k, v, 0.3), atol=1e-5)


def test_as_many_sequences_are_unfolded_as_fit(monkeypatch):
    step = Step(Fast(filled(ModelConfig.from_hf(shrink(PUBLIC["DeepSeek-V3"])))))
    x, batches, attend = tokens(5, 8), [], s.causal
    expected = step(x)
    monkeypatch.setattr(s, "causal", lambda q, *rest: batches.append(len(q)) or attend(q, *rest))
    monkeypatch.setattr(s, "UNFOLDED", 17)
    assert torch.allclose(step(x), expected, atol=1e-5)
    assert batches == [2, 2, 1] * len(step.layers)
    monkeypatch.setattr(s, "UNFOLDED", 1)
    assert torch.allclose(step(x), expected, atol=1e-5)


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch has no grouped_mm before 2.10")
@pytest.mark.parametrize("first", [0, 3])
def test_torchs_grouped_product_is_ours(first):
    """Also where a rank has experts 3 to 7 of 8, and one of them no token."""
    rng = torch.Generator().manual_seed(first)
    x, w = (torch.randn(*shape, generator=rng).to(BF16) for shape in ((40, 32), (8 - first, 16, 32)))
    scores = torch.randn(40, 8, generator=rng)
    scores[:, 5] = -math.inf
    ids = scores.topk(3)[1].int() - first
    slots = reference.sort_slots(ids, len(w))
    ours, theirs = reference.experts_gemm(x, w, slots, gather=True), s.grouped_mm(x, w, slots, gather=True)
    there = slots.rank[slots.rank >= 0].long()
    assert torch.allclose(ours[there].float(), theirs[there].float(), atol=0.05, rtol=2.0**-7)
    again = s.grouped_mm(x[slots.order // 3], w, slots, gather=False)
    assert torch.equal(again[there], theirs[there])
    assert not s.has_grouped_mm(x, w)  # on a CPU it is a loop


def test_numbers_that_bf16_has_are_kept_in_bf16():
    x = torch.randn(5000, 3)
    assert s.narrow(x) is x
    assert torch.equal(s.narrow(x.to(BF16).float()), x.to(BF16))
    assert torch.equal(s.narrow(x.to(BF16)), x.to(BF16))


@pytest.mark.parametrize(("changes", "run", "why"), [
    ({}, {}, None),
    ({}, {"kernels": None}, None),
    ({**WHOLE, "dtype": "fp8"}, {"gemm": "w8a16"}, "w8a16 dequantises each matrix"),
    ({**WHOLE, "dtype": "fp8"}, {"gemm": "fp8"}, None),
    ({**WHOLE, "dtype": "fp8", "moe_inter_dim": 192}, {"gemm": "fp8"}, "FP8 blocks do not line up"),
    ({}, {"device": torch.device("cuda")}, "Triton's kernels are not there"),
    ({}, {"device": torch.device("cuda"), "kernels": None}, "BF16, not for torch.float32"),
])  # fmt: skip
def test_what_it_cannot_compute_is_said(changes, run, why):
    other = type(reference)("other")  # stands for another module than the reference
    small = {"vocab_size": 64, "dim": 32, "inter_dim": 32, "moe_inter_dim": 32, "n_layers": 2, "n_heads": 2}
    small |= {"n_routed_experts": 4, "n_activated_experts": 2, "kv_lora_rank": 16, "qk_rope_head_dim": 16} | changes
    run = run | ({"kernels": other} if "kernels" in run else {})
    on_a_gpu = run.pop("device", None)
    fast = Fast(Transformer(ModelConfig(**small), Runtime(dtype=torch.float32, **run)))
    if on_a_gpu:
        fast.run = replace(fast.run, device=on_a_gpu)
    found = s.lacking(fast)
    assert found is None if why is None else why in found


def test_on_a_cpu_fast_decodes():
    assert isinstance(g.load("tiny-r1", device="cpu").model, Fast)
