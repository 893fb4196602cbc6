"""The planner against the anchors that everybody quotes, against the tensor table itself, and as a command."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from dsv3.cost import flops, parameters, weight_bytes
from dsv3.engines.table import runners
from dsv3.hubs.catalogue import find_model, models
from dsv3.layout import layout
from dsv3.show.plan import save
from dsv3.sizing.gpus import find_gpu, gpus
from dsv3.sizing.needs import FORMULAS, Split, Workload, activations, auto_split, check_split, decode, table, weights
from dsv3.sizing.planner import Counted, Subject, as_json, count, disk, plan, smallest, subject
from dsv3.sizing.report import text

R1 = subject("DeepSeek-R1")
LITE = subject("V2-Lite")
MULTIPLIED = flops(R1.cfg)


# Counting takes half a second each time: the table once for a precision, each split once.
tensors = cache(lambda precision: (of := table(R1.cfg, precision), disk(R1, precision, of)))


@cache
def counted(split: Split, precision: str) -> Counted:
    condensed, sizes = tensors(precision)
    return Counted(weights(condensed, split), sizes, MULTIPLIED)


def planned(gpu: str, split: Split, precision: str = "fp8", **load):
    return plan(R1, find_gpu(gpu), split, precision, Workload(**load), counted(split, precision))


def on(gpu: str, n: int, precision: str = "fp8", **load):
    return planned(gpu, auto_split(R1.cfg, precision, n), precision, **load)


def in_use(p) -> float:
    """GB of weights, cache and activations on all GPUs."""
    return sum(n.total - n.reserve for n in p.ranks) / 1e9


def test_anchors_of_memory():
    """R1: FP8 about 700 GB, BF16 over 1,300 GB of weights, INT4 about 400 GB and more."""
    assert 680 < in_use(on("H20-96G", 8)) < 720
    assert 1300 < sum(n.weights for n in on("A800", 32, "bf16").ranks) / 1e9 < 1500
    int4 = on("A800", 8, "int4")
    assert in_use(int4) < 400 < sum(n.total for n in int4.ranks) / 1e9 < 450
    assert on("H20-96G", 8).disk["download"] == weight_bytes(R1.cfg, "fp8") == 688_574_839_360


@pytest.mark.parametrize(
    ("gpu", "n", "precision", "fits"),
    [
        ("H20-96G", 8, "fp8", True),
        ("RTX-PRO-6000", 8, "fp8", True),
        ("H100", 8, "fp8", False),
        ("A800", 8, "fp8", False),
        ("H800", 16, "fp8", True),
        ("A100-80G", 16, "bf16", False),
        ("A100-80G", 32, "bf16", True),
        ("A800", 8, "int4", True),
        ("A6000", 8, "fp8", False),
    ],
)
def test_anchors_of_hardware(gpu, n, precision, fits):
    assert on(gpu, n, precision).fits is fits


@pytest.mark.parametrize(
    ("precision", "gpu", "n"),
    [
        ("fp8", "H200", 8),
        ("fp8", "B200", 8),
        ("fp8", "H100", 16),
        ("bf16", "H200", 16),
        ("bf16", "H100", 32),
        ("bf16", "A100-80G", 32),
        ("int8", "A100-80G", 16),
        ("int8", "L40S", 32),
        ("int4", "H100", 8),
        ("int4", "A100-80G", 8),
    ],
)
def test_what_sglang_recommends_fits(precision, gpu, n):
    """SGLang's table for DeepSeek-V3 (docs/basic_usage/deepseek_v3.md)."""
    assert on(gpu, n, precision).fits


def test_the_weights_are_the_tables():
    """Rank by rank, from each row's own slices; 3 ranks share 64 experts and the widths unevenly."""
    cfg = replace(LITE.cfg, n_heads=6, dtype="bf16")
    for tp in (1, 2, 3):
        split = Split(tp=tp, ep=tp)
        wanted = [Counter() for _ in range(tp)]
        for row in layout(cfg):
            for rank in row.holders(tp, cfg.n_routed_experts):
                numel = 1
                for s in row.local(rank, tp):
                    numel *= s.stop - s.start
                wanted[rank][row.part] += numel * 2
        assert weights(table(cfg, "bf16"), split) == wanted
    assert len({w.total() for w in wanted}) > 1, "3 ranks are uneven"


def test_pipeline_and_cut_experts_lose_nothing():
    """However it is split, the routed experts come out whole, and the rest once for each rank that needs it."""
    condensed = tensors("fp8")[0]
    alone = weights(condensed, Split(), mtp=True)[0]
    copies = sum(r.nbytes for r in layout(R1.cfg) if r.copy_of)
    assert alone.total() == weight_bytes(R1.cfg, "fp8") - copies
    for split in (Split(tp=8, ep=8), Split(tp=8, ep=1), Split(tp=16, ep=4, pp=2), Split(tp=1, pp=7, ep=1)):
        parts = weights(condensed, split, mtp=True)
        assert sum(p["routed"] for p in parts) == alone["routed"]
        assert sum(p["embedding"] for p in parts) == alone["embedding"]
        assert sum(p["norm"] for p in parts) == alone["norm"] * split.tp
    assert all("mtp" not in p for p in weights(condensed, Split(tp=8, ep=8)))


def test_int4_is_four_bits_and_a_little():
    routed = parameters(R1.cfg)["routed"]
    assert counted(Split(), "int4").held[0]["routed"] == routed * (4 + 20 / 128) / 8
    assert counted(Split(), "int8").held == counted(Split(), "fp8").held


def test_the_limits_are_the_limits():
    p = on("H20-96G", 8)
    assert on("H20-96G", 8, context=p.largest_context).fits
    assert not on("H20-96G", 8, context=p.largest_context + 1).fits
    assert on("H20-96G", 8, batch=p.largest_batch).fits
    assert not on("H20-96G", 8, batch=p.largest_batch + 1).fits
    assert on("H200", 8).largest_context == R1.cfg.max_seq_len == 163_840
    assert on("H100", 8).largest_context == on("H100", 8).largest_batch == 0


def test_cache_and_activations_by_hand():
    p = on("H20-96G", 8, context=1000, batch=3)
    assert {n.cache for n in p.ranks} == {3 * 1000 * 70_272}
    c, t = R1.cfg, 3000
    experts = t * 8 * (7168 + 3 * 2048)
    attention = t * (1536 + 576) + (t + 1000) * 16 * (192 + 128)
    assert experts > attention > 3 * t * 18432 // 8
    assert activations(c, p.split, p.workload) == 2 * (3 * t * 7168 + experts) + 4 * 3 * 129280
    assert all(name in FORMULAS for name in ("weights", "KV cache", "activations", "reserve", "decoding"))
    staged = planned("H20-96G", Split(tp=8, pp=2, ep=8), context=1000, batch=3)
    assert sum(n.cache for n in staged.ranks) == sum(n.cache for n in p.ranks), "each layer's cache on one stage"


REPORT = """\
DeepSeek-R1 in FP8 on 8 x RTX-4090 (tp 8, pp 1, ep 8), 1 sequence of 4,096 tokens: does NOT fit

weights               85.1 GB on the fullest GPU
  embedding          0.232
  attention            2.2
  dense              0.149
  gate               0.213
  routed              81.8
  shared             0.319
  head               0.232
KV cache             0.288 GB on the fullest GPU
activations            1.0 GB on the fullest GPU
reserve                2.1 GB on the fullest GPU
sum                   88.5 GB of 25.8: 62.8 too much
all GPUs             708.3 GB

largest context  none: not even one token fits
decoding         at most 168 tokens/s in all, communication left out: a step takes 5.95 ms of reading, \
0.05 ms of arithmetic
disk             688.6 GB download + 684.9 GB converted
download         3.8 hours at 50 MB/s
cost             48.00 an hour, 1,152.00 a day, at 6 a GPU and hour

engines
  yes dsv3 generate
  yes SGLang
  yes vLLM
  yes LMDeploy      --backend pytorch
  no  TensorRT-LLM  made for Hopper and Blackwell servers

"""


def test_the_report_as_people_read_it():
    p = on("RTX-4090", 8)
    said = text(p, runners(p.gpu, p.precision), rate=50, price=6)
    assert said.split("how it is counted")[0] == REPORT


def test_decode_bounds_by_hand():
    """One sequence on one GPU: everything but the embedding and 248 of 256 experts is read once."""
    gpu, one = find_gpu("H20-96G"), Split()
    held = counted(one, "fp8").held
    read = held[0].total() - held[0]["embedding"] - held[0]["routed"] * 248 / 256 + 4096 * 70_272
    bound = decode(R1.cfg, held, 10**12, gpu, "fp8", one, Workload())
    assert bound.memory_s == pytest.approx(read / 4e12)
    assert bound.tokens_per_s == pytest.approx(1 / bound.memory_s)
    busy = decode(R1.cfg, held, 10**15, gpu, "fp8", one, Workload(batch=64))
    assert busy.tokens_per_s == pytest.approx(64 / busy.compute_s), "now the arithmetic takes longer"
    pro = find_gpu("RTX-PRO-6000")
    assert decode(R1.cfg, held, 10**12, pro, "bf16", one, Workload()).compute_s is None, (
        "its BF16 rate is not published"
    )


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (Split(tp=3, ep=3), "counts that work"),
        (Split(tp=8, ep=3), "must divide tp = 8"),
        (Split(pp=99), "n_layers = 61"),
        (Split(tp=32, ep=1), "--ep 32"),
    ],
)
def test_splits_that_cannot_be(split, says):
    with pytest.raises(ValueError, match=says):
        check_split(R1.cfg, "fp8", split)


def test_auto_split():
    assert auto_split(R1.cfg, "fp8", 16) == Split(tp=16, ep=16)
    assert auto_split(R1.cfg, "fp8", 32) == Split(tp=16, pp=2, ep=16), "32 would cut FP8 blocks unevenly"
    assert auto_split(R1.cfg, "bf16", 32) == Split(tp=32, ep=32)
    assert auto_split(R1.cfg, "fp8", 12) == Split(tp=4, pp=3, ep=4)
    with pytest.raises(ValueError, match="more than the model has layers"):
        auto_split(LITE.cfg, "bf16", 29)


def test_what_do_i_need():
    found = {p.gpu.name: p.split.gpus for p in smallest(R1, gpus())}
    assert found["H20-96G"] == found["RTX-PRO-6000-96G"] == 8
    assert found["H100-80G"] == found["A800-80G"] == 16
    assert {p.gpu.name: p.split.gpus for p in smallest(LITE, [find_gpu("4090")])} == {"RTX-4090": 2}
    for p in smallest(R1, [find_gpu("H20-96G"), find_gpu("L20")], workload=Workload(batch=8)):
        assert not on(p.gpu.name, p.split.gpus // 2, batch=8).fits


def test_counting_once_changes_nothing():
    gpu, split = find_gpu("H20-96G"), Split(tp=8, ep=8)
    assert counted(split, "fp8") == count(R1, split)
    assert planned("H20-96G", split, context=99) == plan(R1, gpu, split, workload=Workload(context=99))


def test_engines():
    def runs(gpu: str, precision: str, pipeline: bool = False) -> set[str]:
        return {e.name for e in runners(find_gpu(gpu), precision, pipeline) if e.runs}

    assert runs("A800", "fp8") == {"SGLang", "vLLM"}, "weight-only"
    assert runs("A800", "bf16") == {"dsv3 generate", "SGLang", "vLLM", "LMDeploy"}
    assert "TensorRT-LLM" in runs("H20-96G", "fp8")
    assert runs("H20-96G", "int4") == {"SGLang", "vLLM"}
    assert "dsv3 generate" not in runs("H100", "fp8", pipeline=True)


def test_the_list_of_gpus():
    listed = gpus()
    assert len({g.name for g in listed}) == len(listed)
    for g in listed:
        assert "http" in g.source
        assert (g.fp8_tflops is not None) == g.fp8_units, "a rate where there are units, and nowhere else"
        named = [int(part[:-1]) for part in g.name.split("-") if part[:-1].isdigit() and part[-1] == "G"]
        assert not named or 0.93 < g.memory_mib / 1024 / named[0] < 1.03
    assert find_gpu("nvidia geforce rtx 4090") == find_gpu("4090")
    assert find_gpu("H20 96GB").name == "H20-96G"
    with pytest.raises(ValueError, match="several sizes: H20-96G, H20-141G"):
        find_gpu("H20")
    with pytest.raises(ValueError, match="in the list: RTX-3090"):
        find_gpu("TPU")


def test_the_catalogue():
    asked = ["R1", "R1-Zero", "V3", "V3.1", "V3-Base", "V2-Lite-Chat", "tiny-r1"]
    asked += [f"R1-Distill-{d}" for d in ("Qwen-1.5B", "Qwen-7B", "Qwen-14B", "Qwen-32B", "Llama-8B", "Llama-70B")]
    for name in asked:
        model = find_model(name)
        assert model.nbytes > 0
        assert (model.modelscope is None) == (name == "tiny-r1") == (model.huggingface is None)
        assert model.runs == ("engine" if "Distill" in name else "dsv3 generate")
    assert find_model("deepseek-ai/DeepSeek-R1") == find_model("r1") == find_model("DeepSeek-R1")
    assert find_model("R2") is None
    assert find_model("V2-Lite").nbytes == 31_412_968_448, "the published index's total_size"
    assert find_model("V3.1").load_config().scale_fmt == "ue8m0"
    assert all(m.source for m in models())


def test_as_json_is_complete():
    p = on("H20-96G", 8)
    told = json.loads(json.dumps(as_json(p, runners(p.gpu, p.precision), rate=100, price=2.5)))
    assert told["ranks"][0]["total"] == p.ranks[0].total
    assert told["fits"] is True
    assert told["gpu"]["name"] == "H20-96G"
    assert told["download_seconds"] == pytest.approx(6885.7, abs=0.1)
    assert (told["cost_per_hour"], told["cost_per_day"]) == (20.0, 480.0)
    assert told["engines"][0] == {"name": "dsv3 generate", "runs": True, "note": ""}
    assert told["free"] == p.gpu.nbytes - p.ranks[0].total


def test_a_model_without_experts_or_mtp():
    dense = replace(LITE.cfg, n_dense_layers=LITE.cfg.n_layers)
    p = plan(Subject("dense", dense, "bf16"), find_gpu("4090"), Split(tp=2, ep=2))
    assert p.fits
    assert p.parts.get("routed", 0) == 0


@pytest.mark.parametrize("name", ["r1.pgf", "r1.doc", "r1", "r1.ps", "r1.svgz"])
def test_no_other_pictures_than_those_that_the_help_names(name, tmp_path):
    with pytest.raises(ValueError, match="known: png, svg, pdf"):
        save(on("H20-96G", 8), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_picture_replaces_only_a_picture(kind, tmp_path):
    file = tmp_path / f"r1.{kind}"
    for _ in range(2):
        save(on("H20-96G", 8), file)
        assert file.stat().st_size > 1000
    file.write_text("my notes")
    with pytest.raises(FileExistsError, match="no earlier result"):
        save(on("H20-96G", 8), file)
    assert file.read_text() == "my notes"
    assert list(tmp_path.iterdir()) == [file]
