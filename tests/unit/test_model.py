"""The model against transformers, layer by layer, and against the faults of the public demo."""

from dataclasses import replace

import pytest
import torch
from oracle import CASES, FLOAT, TOLERANCE, draw_config, oracle, our_weights, ours, relative, tokens

from dsv3.cache import Cache
from dsv3.config import ModelConfig
from dsv3.inference.fast import Fast
from dsv3.lab.threads import on_ranks
from dsv3.layout import layout
from dsv3.model import Gate, Linear, Transformer, inverse_frequencies
from dsv3.ranks.parallel import Parallel
from dsv3.runtime import Runtime


@pytest.mark.parametrize(("family", "seed"), CASES)
@torch.inference_mode()
def test_every_layer_and_the_logits_equal_transformers(family, seed):
    theirs, x = oracle(family, seed), tokens(2, 19, seed)
    expected = theirs(x, output_hidden_states=True)
    for attn in ("naive", "absorb"):
        model = ours(theirs, replace(FLOAT, attn=attn))
        outputs = []
        for layer in model.layers:
            layer.register_forward_hook(lambda _, __, y, outputs=outputs: outputs.append(y))
        h = model(x)
        # transformers' last hidden state stands behind the final norm.
        for mine, wanted in zip([*outputs[:-1], h], expected.hidden_states[1:], strict=True):
            assert relative(mine, wanted) < TOLERANCE
        assert relative(model.logits(h), expected.logits) < TOLERANCE


@pytest.mark.parametrize(("family", "seed"), CASES[::4])
@pytest.mark.parametrize("attn", ["naive", "absorb"])
@torch.inference_mode()
def test_prompts_in_chunks_equal_one_shot(family, seed, attn):
    theirs, x = oracle(family, seed), tokens(2, 21, seed)
    expected = theirs(x).logits
    model = ours(theirs, replace(FLOAT, attn=attn))
    for size in (1, 3, 7):
        cache = Cache()
        pieces = [model(x[:, at : at + size], at, cache) for at in range(0, 21, size)]
        assert relative(model.logits(torch.cat(pieces, 1)), expected) < TOLERANCE


@torch.inference_mode()
def test_sequences_of_different_lengths_share_a_batch():
    theirs = oracle("v3", 1)
    model, cache = ours(theirs, FLOAT), Cache()
    lengths, x = torch.tensor([3, 9, 6]), tokens(3, 12)
    model(x[:, :9], 0, cache)  # what stands behind a shorter prompt is padding
    rows = torch.arange(3)
    for _ in range(3):
        h = model(x[rows, lengths].unsqueeze(1), lengths, cache)
        for i, n in enumerate(lengths.tolist()):
            alone = theirs(x[i : i + 1, : n + 1]).logits[0, -1]
            assert relative(model.logits(h[i, 0]), alone) < TOLERANCE
        lengths = lengths + 1


@torch.inference_mode()
def test_logits_do_not_depend_on_the_context_or_the_cache():
    """The demo drops YaRN below 4096 positions (B2); here the config alone decides."""
    seed = next(s for s in range(24) if "rope_scaling" in draw_config("v3", s))
    theirs, x = oracle("v3", seed), tokens(1, 9)
    short, long = (ours(theirs, FLOAT, max_position_embeddings=n) for n in (32, 163840))
    assert torch.equal(short(x), long(x))
    big = Cache()
    long(tokens(1, 500), 0, big)
    assert relative(long(x, 0, big), short(x)) < 1e-6


def test_yarn_factor_one_is_plain_rope():
    plain = inverse_frequencies(ModelConfig(rope_factor=1.0))
    assert torch.allclose(plain, 10000.0 ** -(torch.arange(0, 64, 2) / 64))
    assert not torch.allclose(plain, inverse_frequencies(ModelConfig()))


def gate(**fields) -> Gate:
    cfg = ModelConfig(dim=8, n_routed_experts=8, n_activated_experts=2, **fields)
    g = Gate(cfg, Runtime())
    torch.manual_seed(0)
    g.weight.normal_()
    if g.bias is not None:
        g.bias.zero_()
    return g


def test_a_gate_whose_scores_underflow_stays_finite():
    g = gate(score_func="sigmoid")
    g.weight.fill_(-1000.0)
    weights, _ = g(torch.ones(3, 8))
    assert torch.isfinite(weights).all()
    assert (weights == 0).all()


def test_the_gate_works_in_float32_on_bf16_activations():
    g = gate(score_func="sigmoid")
    x = torch.randn(50, 8).bfloat16()
    weights, experts = g(x)
    assert weights.dtype == torch.float32
    scores = (x.double() @ g.weight.double().T).sigmoid()
    best = scores.topk(2, dim=-1)
    assert torch.equal(experts.sort(-1)[0], best.indices.sort(-1)[0])
    assert torch.allclose(weights.sum(-1), torch.ones(50))


def test_the_group_score_is_the_configs_also_with_a_zero_bias():
    """Two good experts beat one very good one under noaux_tc, and lose under V2's rule (B4)."""
    logits = torch.tensor([[2.0, -9, 1.5, 1.5, -9, -9, -9, -9]])
    picks = {}
    for method in ("noaux_tc", "group_limited_greedy"):
        g = gate(score_func="sigmoid", topk_method=method, n_expert_groups=4, n_limited_groups=1)
        g.weight.copy_(torch.eye(8))
        picks[method] = set(g(logits)[1][0].tolist())
    assert picks == {"noaux_tc": {2, 3}, "group_limited_greedy": {0, 1}}


def test_the_bias_steers_the_choice_but_not_the_weight():
    g = gate(score_func="sigmoid", norm_topk_prob=False)
    x = torch.randn(1, 8)
    plain = g(x)[1][0].tolist()
    other = next(e for e in range(8) if e not in plain)
    g.bias[other] = 10.0
    weights, experts = g(x)
    assert other in experts[0].tolist()
    scores = (x @ g.weight.T).sigmoid()
    assert torch.equal(weights, scores.gather(-1, experts))


@torch.inference_mode()
def test_a_bf16_model_scores_in_float32():
    model = ours(oracle("v3", 0), Runtime())
    h = model(tokens(1, 5))
    assert h.dtype == torch.bfloat16
    assert model.logits(h).dtype == torch.float32
    assert model.layers[0].attn.wo.weight.dtype == torch.bfloat16


@torch.inference_mode()
def test_the_cache_grows_with_use():
    theirs = oracle("v3", 0)
    model, cache = ours(theirs, FLOAT), Cache()
    assert cache.nbytes == 0
    model(tokens(1, 5), 0, cache)
    small = cache.nbytes
    model(tokens(1, 200), 5, cache)
    assert 0 < small < cache.nbytes
    cfg = model.cfg
    per_token = cfg.n_layers * (cfg.kv_lora_rank + cfg.qk_rope_head_dim) * 4
    assert cache.nbytes <= 2 * 205 * per_token


def slices(weights: dict, model: Transformer, tp: Parallel) -> dict:
    """A rank's weights, cut as the table of tensors says."""
    rows = {row.name: row for row in layout(model.cfg)}
    return {name: weights[name][rows[name].local(tp.rank, tp.size)] for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("size", "heads", "vocab", "inter"), [(2, 4, 128, 64), (4, 4, 128, 64), (3, 6, 127, 95), (6, 6, 130, 4)]
)
@pytest.mark.parametrize("form", ["naive", "absorb", "fast"])
@torch.inference_mode()
def test_ranks_together_equal_one_process(size, heads, vocab, inter, form):
    """Even parts, and uneven ones: 8 experts on 3 ranks, a width of 4 on 6."""
    cfg = ModelConfig(
        vocab_size=vocab, dim=32, inter_dim=inter, moe_inter_dim=16, n_layers=3, n_heads=heads, n_routed_experts=8,
        n_shared_experts=2, n_activated_experts=2, n_expert_groups=4, n_limited_groups=2, score_func="sigmoid",
        q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, n_mtp_layers=1,
    )  # fmt: skip
    run, x = replace(FLOAT, attn="naive" if form == "naive" else "absorb"), tokens(2, 11) % vocab
    torch.manual_seed(1)
    whole = Transformer(cfg, run)
    for p in whole.parameters():
        p.normal_(0, p.shape[-1] ** -0.5)
    weights = dict(whole.named_parameters())

    def rank(tp: Parallel) -> tuple[torch.Tensor, torch.Tensor]:
        model = Transformer(cfg, replace(run, tp=tp))
        model.load_state_dict(slices(weights, model, tp), strict=True)
        model = Fast(model) if form == "fast" else model
        h = model(x[:, :-1])
        return model.logits(h), model.logits(model.predict(h, x[:, 1:]))

    h = whole(x[:, :-1])
    expected = whole.logits(h), whole.logits(whole.predict(h, x[:, 1:]))
    results = on_ranks(size, rank)
    for mine in results:
        assert all(torch.equal(a, b) for a, b in zip(mine, results[0], strict=True))
        assert all(relative(a, b) < 1e-5 for a, b in zip(mine, expected, strict=True))


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="n_heads = 3 does not divide by 2"):
        Transformer(ModelConfig(n_heads=3, n_layers=1, dim=32), replace(FLOAT, tp=Parallel(0, 2)))


@torch.inference_mode()
def test_an_fp8_linear_layer_equals_its_definition():
    """Weights and activations quantised: what is left of exactness is the BF16 rounding of the result."""
    from dsv3.kernels.reference import act_quant, weight_dequant, weight_quant

    cfg = ModelConfig(dtype="fp8")
    layer = Linear(cfg, Runtime(gemm="fp8"), 256, 192)
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert layer.scale.shape == (2, 2)
    w, x = torch.randn(192, 256) * 0.1, torch.randn(5, 256).bfloat16()
    q, s = weight_quant(w)
    layer.weight.copy_(q)
    layer.scale.copy_(s)
    xq, xs = act_quant(x)
    exact = (xq.double() * xs.double().repeat_interleave(128, 1)) @ weight_dequant(q, s, dtype=torch.float64).T
    assert torch.allclose(layer(x).double(), exact, rtol=2**-8, atol=1e-5)
    # Against the unquantised product: E4M3 rounds to 4 significant bits, twice.
    error = (layer(x).double() - x.double() @ w.double().T).norm() / (x.double() @ w.double().T).norm()
    assert 0.005 < error < 0.06


def test_two_models_do_not_share_anything():
    """The demo's globals let a second model change the first."""
    a = Transformer(ModelConfig(n_layers=1, dim=32, scale_fmt="ue8m0"), FLOAT)
    b = Transformer(ModelConfig(n_layers=1, dim=32), Runtime())
    assert (a.layers[0].ffn.w1.scale_fmt, b.layers[0].ffn.w1.scale_fmt) == ("ue8m0", None)
    assert (a.embed.weight.dtype, b.embed.weight.dtype) == (torch.float32, torch.bfloat16)


def test_the_oracle_is_mapped_completely():
    theirs = oracle("v3", 3)
    assert sum(w.numel() for w in our_weights(theirs).values()) == sum(w.numel() for w in theirs.state_dict().values())
