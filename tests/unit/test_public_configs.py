"""dsv3.load against transformers on folders that transformers wrote, for the configs of public models.

Weights are drawn, sizes are shrunk (``public.shrink``), everything is float32. Where the two are known to differ:
transformers ignores ``norm_topk_prob`` of a V2 model (DeepSeek's are False); its V3 router is always ``noaux_tc`` with
sigmoids, its V2 router softmax, whatever the config says; where only one of YaRN's ``mscale`` and ``mscale_all_dim`` is
given it ignores ``mscale``, and DeepSeek's code does not. The norms inside attention have epsilon 1e-6 in all of them.
"""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from oracle import build, relative, tokens
from public import NEIGHBOURS, PUBLIC, V2_5, V3, shrink
from torch import Tensor

from dsv3 import load
from dsv3.cache import Cache
from dsv3.config import FAMILIES, ModelConfig
from dsv3.model import inverse_frequencies, turns
from dsv3.paths import TINY_R1

TOLERANCE = 2e-5  # of the largest logit; up to 1e-5 were measured
CLEAR = 1e-5  # a choice that is won by less, in parts of the winner's score, may turn over in float32
PROMPTS = (1, 60, 126, 190)  # YaRN's original context is 128: the third one's decode steps cross it
STEPS = 5
ROPE = ("qk_rope_head_dim", "rope_scaling", "max_position_embeddings")
FORMS = {  # how it is stored, whether a layer's experts are one tensor, and whose config.json it has
    "published": (torch.bfloat16, False, "as published"),
    "float16": (torch.float16, False, "as published"),
    "transformers": (torch.float32, False, "transformers 5"),
    "fused": (torch.bfloat16, True, "transformers 5"),
}
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # of no shared expert
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]


def oracle(public: dict, fields: dict, seed: int):
    """transformers' model; it has no kimi_k2, and writes into the rope_scaling that it is given."""
    model_type = FAMILIES[public["model_type"]]
    return build(model_type.removeprefix("deepseek_"), deepcopy(fields) | {"model_type": model_type}, seed)


class Draw:
    """A model of transformers, a text, its logits; drawn anew until no choice hangs on a rounding."""

    def __init__(self, public: dict, seed: int):
        self.fields = shrink(public)
        self.has_experts = self.fields["first_k_dense_replace"] < self.fields["num_hidden_layers"]
        self.has_bias = self.has_experts and self.fields["topk_method"] == "noaux_tc"
        self.x = tokens(1, max(PROMPTS) + STEPS, seed)
        for weights in range(seed, seed + 1000, 100):
            self.theirs = oracle(public, self.fields, weights)
            self._make_real()
            self.logits, closest = self._run()
            if closest > CLEAR:
                return
        raise AssertionError("choices in ten draws hang on a rounding")

    def _make_real(self) -> None:
        """Numbers that BF16 and float16 both have; small inputs of norms, as in trained models, so epsilon matters."""
        rank = self.theirs.config.kv_lora_rank
        with torch.no_grad():
            for name, p in [*self.theirs.named_parameters(), *self.theirs.named_buffers()]:
                if name.endswith(("embed_tokens.weight", "q_a_proj.weight")):
                    p *= 0.02
                elif name.endswith("kv_a_proj_with_mqa.weight"):
                    p[:rank] *= 0.02
                if not name.endswith("inv_freq"):
                    p.copy_(p.bfloat16().half())

    @torch.inference_mode()
    def _run(self) -> tuple[Tensor, float]:
        """Logits, and how clearly the closest choice was made: of a group, of an expert, of a token."""
        closest: list[float] = []
        hooks = [
            module.register_forward_hook(lambda m, args, _: closest.append(self._margin(m, args[0])))
            for name, module in self.theirs.named_modules()
            if name.endswith("mlp.gate")
        ]
        logits = self.theirs(self.x).logits
        for hook in hooks:
            hook.remove()
        return logits, min([*closest, gap(logits.flatten(0, 1), 1)])

    def _margin(self, router: torch.nn.Module, x: Tensor) -> float:
        fields = self.fields
        logits = x.flatten(0, -2) @ router.weight.T
        if fields["scoring_func"] == "softmax":
            scores = logits.softmax(-1)
        else:
            scores = logits.sigmoid() + router.e_score_correction_bias
        if fields["topk_method"] == "greedy" or fields["n_group"] == 1:
            return gap(scores, fields["num_experts_per_tok"])
        groups = scores.unflatten(-1, (fields["n_group"], -1))
        best = groups.topk(2 if fields["topk_method"] == "noaux_tc" else 1)[0].sum(-1)
        kept = best.topk(fields["topk_group"])[1].sort()[0]
        inside = groups.take_along_dim(kept.unsqueeze(-1), 1).flatten(1)
        return min(gap(best, fields["topk_group"]), gap(inside, fields["num_experts_per_tok"]))

    def save(self, folder: Path, form: str) -> Path:
        """A checkpoint in one of ``FORMS``, with tiny-r1's tokenizer."""
        dtype, fused, config = FORMS[form]
        deepcopy(self.theirs).to(dtype).save_pretrained(folder, save_original_format=not fused)
        if config == "as published":
            published = {"architectures": [type(self.theirs).__name__], "torch_dtype": "bfloat16", "moe_layer_freq": 1}
            (folder / "config.json").write_text(json.dumps(self.fields | published))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY_R1 / name, folder)
        return folder


def gap(scores: Tensor, chosen: int) -> float:
    """The smallest distance in any row between the last one ``chosen`` and the next, in parts of that row's largest."""
    best = scores.sort(-1, descending=True)[0]
    return ((best[:, chosen - 1] - best[:, chosen]) / best.abs().amax(-1)).min().item()


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed {seed}")
def seed(request):
    return request.param


@pytest.fixture(scope="module", params=PUBLIC | NEIGHBOURS)
def draw(request, seed):
    return Draw((PUBLIC | NEIGHBOURS)[request.param], seed)


def in_steps(model, x: Tensor, prompt: int) -> Tensor:
    """The logits of a prompt and of single tokens after it, behind a cache."""
    cache = Cache()
    pieces = [model(x[:, :prompt], 0, cache)]
    pieces += [model(x[:, at : at + 1], at, cache) for at in range(prompt, prompt + STEPS)]
    return model.logits(torch.cat(pieces, 1))


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_logits_equal_transformers(draw, form, tmp_path):
    folder = draw.save(tmp_path / "saved", form)
    for kind in ("plain", "fast"):
        model = load(folder, model=kind, dtype=torch.float32).model
        for prompt in PROMPTS:
            ours, theirs = in_steps(model, draw.x, prompt), draw.logits[:, : prompt + STEPS]
            assert relative(ours, theirs) < TOLERANCE
            assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


# What would the comparison notice? Fields that tell the rows apart, and another value of each.
CHANGES = [
    (V3, {"rope_theta": 50000.0}), (V3, {"routed_scaling_factor": 2.446}), (V3, {"topk_group": 3}),
    (V3, {"num_experts_per_tok": 7}), (V3, {"norm_topk_prob": False}), (V3, {"scoring_func": "softmax"}),
    (V3, {"rms_norm_eps": 1e-5}), (V3, {"n_group": 4}), (V3, {"n_group": 1, "topk_group": 1}),
    (V2_5, {"topk_group": 4}), (V2_5, {"topk_method": "greedy"}), (V2_5, {"norm_topk_prob": True}),
    (V2_5, {"routed_scaling_factor": 1.0}), (V2_5, {"scoring_func": "sigmoid"}),
]  # fmt: skip
YARN_CHANGES = [
    {"factor": 32.0}, {"beta_fast": 1.0}, {"beta_slow": 0.25}, {"mscale_all_dim": 0.707}, {"mscale": 0.707},
    {"original_max_position_embeddings": 32},
]  # fmt: skip
CHANGES += [(V3, {"rope_scaling": shrink(V3)["rope_scaling"] | change}) for change in YARN_CHANGES]
CHANGES += [(V3, {"rope_scaling": None})]


@pytest.fixture(scope="module")
def both():
    return {public["model_type"]: Draw(public, 0) for public in (V3, V2_5)}


@pytest.mark.parametrize(("public", "change"), CHANGES, ids=lambda value: None if "model_type" in value else str(value))
@torch.inference_mode()
def test_another_value_of_a_field_is_noticed(public, change, both, tmp_path):
    drawn = both[public["model_type"]]
    folder = drawn.save(tmp_path / "saved", "published")
    (folder / "config.json").write_text(json.dumps(drawn.fields | change))
    model = load(folder, model="plain", dtype=torch.float32).model
    assert relative(model.logits(model(drawn.x)), drawn.logits) > 10 * TOLERANCE


@pytest.mark.parametrize("name", PUBLIC)
def test_frequencies_equal_transformers_at_full_size(name):
    """With the rotary width and the contexts as published, not shrunk."""
    public = PUBLIC[name]
    args = shrink(public) | {field: public[field] for field in ROPE}
    rotary = oracle(public, args, 0).model.rotary_emb
    cfg = ModelConfig.from_hf(args)
    frequencies = inverse_frequencies(cfg)
    assert len(frequencies) == 32
    torch.testing.assert_close(frequencies, rotary.inv_freq, rtol=1e-6, atol=0)
    length = turns(cfg, frequencies, torch.zeros(1, 1)).abs()
    torch.testing.assert_close(length, torch.full_like(length, rotary.attention_scaling), rtol=1e-6, atol=0)


def test_the_rows_are_different_models():
    """Also after shrinking: no two of them are one test."""
    configs = [ModelConfig.from_hf(shrink(public)) for public in PUBLIC.values()]
    assert len(set(configs)) == len(PUBLIC) >= 10
