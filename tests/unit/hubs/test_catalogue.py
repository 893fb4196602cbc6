"""Tests of dsv3/hubs/catalogue.py: the table of models, and the names that people type."""

from collections import Counter

import pytest

from dsv3 import quantized
from dsv3.config import FAMILIES as ARCHITECTURES
from dsv3.config import OTHERS
from dsv3.cost import parameters
from dsv3.download import Source, catalogue, extra_bytes, source
from dsv3.hubs.catalogue import FAMILIES, find_model, model_named, models, unknown
from dsv3.sizing.planner import disk, stored_as, subject

NAMES = {  # as people type them, and whose they are
    "R1": "DeepSeek-R1",
    "deepseek-r1": "DeepSeek-R1",
    "DeepSeek R1": "DeepSeek-R1",
    "deepseek_r1": "DeepSeek-R1",
    "deepseek-ai/DeepSeek-R1": "DeepSeek-R1",
    "https://huggingface.co/deepseek-ai/DeepSeek-R1": "DeepSeek-R1",
    "https://huggingface.co/deepseek-ai/DeepSeek-R1/tree/main?x=1": "DeepSeek-R1",
    "modelscope.cn/models/deepseek-ai/DeepSeek-R1": "DeepSeek-R1",
    "R1-0528": "DeepSeek-R1-0528",
    "V3-0324": "DeepSeek-V3-0324",
    "V3.1-Terminus": "DeepSeek-V3.1-Terminus",
    "Prover-V2-671B": "DeepSeek-Prover-V2-671B",
    "V2": "DeepSeek-V2",
    "V2-Chat": "DeepSeek-V2-Chat",
    "v2-chat-0628": "DeepSeek-V2-Chat-0628",
    "V2-Lite": "DeepSeek-V2-Lite",
    "V2-Lite-Chat": "DeepSeek-V2-Lite-Chat",
    "coder-v2-lite-instruct": "DeepSeek-Coder-V2-Lite-Instruct",
    "V3.2": "DeepSeek-V3.2",
    "V4-Flash": "DeepSeek-V4-Flash",
    "R1-Distill-Qwen-7B": "DeepSeek-R1-Distill-Qwen-7B",
    "R1-0528-Qwen3-8B": "DeepSeek-R1-0528-Qwen3-8B",
    "moonshotai/Kimi-K2-Instruct-0905": "Kimi-K2-Instruct-0905",
    "kimi-k2-thinking": "Kimi-K2-Thinking",
    "Moonlight-16B-A3B-Instruct": "Moonlight-16B-A3B-Instruct",
    "ai-sage/GigaChat3.1-10B-A1.8B": "GigaChat3.1-10B-A1.8B",
    "ZhipuAI/GLM-4.7-Flash": "GLM-4.7-Flash",
    "unsloth/DeepSeek-R1-BF16": "DeepSeek-R1-BF16",
    "unsloth/DeepSeek-V3-bf16": "DeepSeek-V3-bf16",
    "opensourcerelease/DeepSeek-V3-bf16": "opensourcerelease/DeepSeek-V3-bf16",
    "nvidia/DeepSeek-R1-FP4": "DeepSeek-R1-NVFP4",
    "cognitivecomputations/DeepSeek-R1-awq": "DeepSeek-R1-AWQ",
}
SHAPES = {  # parameters without MTP, as published: 671 B, 236 B, 15.7 B, 1 T, 16 B
    "R1-0528": 671_026_419_200,
    "V3-0324": 671_026_419_200,
    "Prover-V2-671B": 671_026_419_200,
    "V3.1-Base": 671_026_419_200,
    "unsloth/DeepSeek-R1-0528-BF16": 671_026_419_200,
    "V2.5-1210": 235_741_434_880,
    "Coder-V2-Instruct": 235_741_434_880,
    "Coder-V2-Lite-Base": 15_706_484_224,
    "Kimi-K2-Base": 1_026_408_232_448,
    "Moonlight-16B-A3B": 15_960_110_208,
}


@pytest.mark.parametrize(("typed", "name"), NAMES.items())
def test_the_names_that_people_type(typed, name):
    assert find_model(typed).name == name


@pytest.mark.parametrize(
    "typed",
    ["R2", "", "R", "deepseek-ai", "somebody/DeepSeek-R1", "somebody/R1", "./DeepSeek-R1", "R1-Chat", "V2-Lite-Base",
     "https://example.com/deepseek-ai/DeepSeek-R1", "nvidia/DeepSeek-R1", "R1/", "x" * 100_000],
)  # fmt: skip
def test_another_name_is_not_taken_for_a_known_one(typed):
    assert find_model(typed) is None


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("DeepSeek-R2", "no model 'DeepSeek-R2'; did you mean .*DeepSeek-R1"),
        ("R1-Distil-Qwen-7B", "did you mean DeepSeek-R1-Distill-Qwen-7B"),
        ("Kimi K2", "did you mean Kimi-K2-Instruct or "),
        ("DeepSeek-V4", "did you mean DeepSeek-V4-Flash or DeepSeek-V4-Pro"),
        ("deepseek-r1:671b", "did you mean DeepSeek-R1 or "),
        ("somebody/DeepSeek-V3.1", "did you mean DeepSeek-V3.1"),
        ("qqqqqqqq", "no model 'qqqqqqqq'; known are tiny-r1, DeepSeek-R1, DeepSeek-R1-Zero and .. more"),
        ("\n" + "r1" * 10**6, r"no model '\\nr1r1"),
    ],
)
def test_a_near_miss_gets_a_hint(typed, hint):
    with pytest.raises(ValueError, match=hint) as error:
        model_named(typed)
    assert len(str(error.value)) < 300
    assert str(error.value) == unknown(typed)


@pytest.mark.parametrize(("typed", "wanted"), SHAPES.items())
def test_its_shapes(typed, wanted):
    assert parameters(find_model(typed).load_config())["total"] == wanted
    assert subject(typed).cfg.max_seq_len == find_model(typed).context


@pytest.mark.parametrize("model", models(), ids=lambda m: m.name)
def test_each_line_of_the_table(model):
    assert model.family in FAMILIES
    assert model.architecture in ARCHITECTURES | OTHERS
    assert model.source
    assert all(i is None or i.count("/") == 1 for i in (model.huggingface, model.modelscope, *model.aliases))
    assert model.config is None or model.load_config().max_seq_len == model.context
    assert find_model(model.name) == model
    if model.quantization:
        stored = quantized.of(model.quantization)
        assert stored.kind == model.precision


def test_no_name_and_no_id_stands_there_twice():
    for field in ("name", "huggingface", "modelscope"):
        times = Counter(getattr(m, field) for m in models())
        assert [name for name, n in times.items() if name and n > 1] == []


@pytest.mark.parametrize(
    ("typed", "family"),
    [("R1", "r1"), ("R1-0528-AWQ", "r1"), ("V3", "v3"), ("V3-Base", "base"), ("V3.1-Terminus", "v3.1"), ("V2", "base"),
     ("V2.5", "v2"), ("V2-Lite-Chat", "v2"), ("R1-Distill-Qwen-7B", "distill"), ("R1-0528-Qwen3-8B", "distill"),
     ("Kimi-K2-Instruct", "kimi-k2"), ("Kimi-K2-Thinking", "kimi-k2-thinking"), ("Prover-V2-671B", "prover")],
)  # fmt: skip
def test_the_family_of_a_model(typed, family):
    assert find_model(typed).family == family


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("V3.2-Exp", "DeepSeek-V3.2-Exp: model_type is 'deepseek_v32': DeepSeek-V3.2, sparse attention"),
        ("V4-Pro", "DeepSeek-V4-Pro: model_type is 'deepseek_v4': DeepSeek-V4"),
        ("R1-Distill-Qwen-7B", "'qwen2'.*distillations.*its weights take 15.2 GB"),
        ("GLM-4.7-Flash", "'glm4_moe_lite': GLM-4.7-Flash"),
        ("GigaChat3-10B-A1.8B", "its shapes are not known here; dsv3 plan FOLDER"),
        ("DeepSeek-R1-MXFP4", "stored in how many bits is not known here"),
        ("", r"a model's name is empty \(is a variable unset\?\); dsv3 download --list"),
        ("tiny.gguf", "tiny.gguf: a GGUF file; name the model it was made of: dsv3 plan DeepSeek-R1 --ram GB"),
        ("R7", "R7: no such folder or config.json, and no model 'R7'; did you mean "),
    ],
)
def test_what_cannot_be_planned_says_why(typed, why):
    with pytest.raises((ValueError, FileNotFoundError), match=why) as error:
        subject(typed)
    assert len(str(error.value)) < 400
    assert ("istillation" in str(error.value)) == ("Distill" in typed)


def test_plans_of_quantised_uploads_count_what_they_store():
    """Kimi-K2-Thinking: experts in 4 bits and 16 for each 32 weights, each with the shape before packing; the rest in
    BF16, but for the bias of the gate."""
    thinking = subject("Kimi-K2-Thinking")
    parts, cfg = parameters(thinking.cfg), thinking.cfg
    matrices, biases = 3 * 60 * cfg.n_routed_experts, 60 * cfg.n_routed_experts
    wanted = parts["routed"] * 4.5 / 8 + 16 * matrices + 2 * (parts["total"] - parts["routed"]) + 2 * biases
    assert thinking.published == "int4"
    assert disk(thinking, "int4", stored_as(thinking, "int4"))["download"] == wanted
    nvfp4 = subject("R1-0528-NVFP4-v2")
    assert disk(nvfp4, "nvfp4", stored_as(nvfp4, "nvfp4"))["download"] == pytest.approx(413e9, rel=0.002), (
        "published: 413 GB in 524 files"
    )


def test_download_knows_the_same_names():
    assert source("r1-0528", "modelscope") == Source("modelscope", "deepseek-ai/DeepSeek-R1-0528")
    assert source("V4-Flash", "huggingface").model == "deepseek-ai/DeepSeek-V4-Flash", "dsv3 need not run it"
    assert source("https://hf.co/some/Model-1.0/", "huggingface").model == "some/Model-1.0"
    assert source("somebody/DeepSeek-R1", "huggingface").model == "somebody/DeepSeek-R1"
    with pytest.raises(ValueError, match="DeepSeek-R1-W8A8: no id at huggingface is known; --hub modelscope has it"):
        source("R1-W8A8", "huggingface")
    with pytest.raises(ValueError, match="no model 'R9'; did you mean .*, or give an id owner/name"):
        source("R9", "huggingface")
    with pytest.raises(ValueError, match="R1-AWQ is stored in int4, which dsv3 neither casts nor converts"):
        extra_bytes("R1-AWQ", ["cast"])
    assert len(catalogue().splitlines()) == len(models()) + 1
    assert max(map(len, catalogue().splitlines())) < 200
