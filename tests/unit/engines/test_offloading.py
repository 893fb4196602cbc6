"""The engines that keep experts in RAM: commands, what is refused, and how a GGUF file talks."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dsv3.engines import checks, ktransformers, llamacpp, speech
from dsv3.engines.options import Serve
from dsv3.engines.table import ENGINES, OFFLOADING, find
from dsv3.paths import TINY_R1
from tests.unit.checkpoint.test_gguf import STRING, UINT32, made, text
from tests.unit.engines.test_checks import machine, says

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "engines"
FILE = Serve(model="/data/it's R1-00002-of-00009.gguf", family="r1", context=16384)
CASES = {
    "offload.llamacpp.one": (llamacpp.build, replace(FILE, cpu_moe=57, threads=32, numa=2)),
    "offload.llamacpp.cpu": (llamacpp.build, replace(FILE, cpu=True, family="v3")),
    "offload.llamacpp.key": (llamacpp.build, replace(FILE, host="0.0.0.0", api_key_env="DSV3_API_KEY")),
    "offload.llamacpp.package": (
        llamacpp.build_package,
        replace(FILE, cpu=True, threads=32, numa=2, python="v/python"),
    ),
    "offload.llamacpp.package.key": (
        llamacpp.build_package,
        replace(FILE, cpu=True, context=None, host="0.0.0.0", api_key_env="DSV3_API_KEY"),
    ),
    "offload.ktransformers.one": (ktransformers.build, Serve(model="/data/R1", family="r1", threads=58, numa=2)),
}
WEIGHTS = (("token_embd.weight", (256, 2), 12, 0), ("blk.3.ffn_up_exps.weight", (256, 4, 2), 12, 288))


@pytest.fixture
def file(tmp_path):
    """A whole file with R1's chat template."""
    template = json.loads((TINY_R1 / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    values = [("general.architecture", STRING, text("deepseek2")), ("tokenizer.chat_template", STRING, text(template))]
    (tmp_path / "it.gguf").write_bytes(made(values, WEIGHTS, 288 + 1152))
    return tmp_path / "it.gguf"


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    build, serve = CASES[case]
    said = build(serve).text()
    assert said == (GOLDEN / f"{case}.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_every_flag_has_its_reason(case):
    build, serve = CASES[case]
    flags = build(serve).flags
    assert all(flag.why and flag.source for flag in flags)
    assert len({flag.words[0] for flag in flags}) == len(flags)


@pytest.mark.parametrize("engine", [*OFFLOADING, llamacpp.PACKAGE], ids=lambda e: e.title)
def test_the_key_stands_in_no_command_and_the_server_is_not_open(engine):
    built = engine.build(Serve(model="M", host="0.0.0.0", api_key_env="K", threads=2))
    assert built.environment({"K": "secret"})[built.key[0]] == "secret"
    assert "secret" not in built.text()
    assert "127.0.0.1" in engine.build(Serve(model="M", threads=2)).line()


def test_the_packages_server_listens_where_it_was_told_to():
    """It reads HOST and PORT from the environment before its flags."""
    env = llamacpp.build_package(Serve(model="M", cpu=True)).environment({"HOST": "0.0.0.0", "PORT": "1"})
    assert (env["HOST"], env["PORT"]) == ("127.0.0.1", "8000")


def test_what_the_packages_server_cannot(file):
    def refused(**fields):
        serve = Serve(model=str(file), **fields)
        return checks.of_arguments(llamacpp.PACKAGE, serve)

    assert refused(cpu=True) == []
    assert says(refused(), "keeps no experts in RAM beside a card: say --cpu, or build llama-server")
    assert says(refused(cpu=True, cpu_moe=2), "no such flag; llama-server has")
    assert says(refused(cpu=True, mtp=1), "the MTP layer is not in a GGUF file")


def refused(engine, model, **fields):
    return checks.of_arguments(find(engine), Serve(model=str(model), **fields))


def test_a_file_is_for_llama_cpp_and_a_folder_is_not(file):
    assert refused("llamacpp", file) == []
    for engine in (*ENGINES, ktransformers.ENGINE):
        assert says(refused(engine.name, file, threads=2), "reads Hugging Face folders; --engine llamacpp")


def test_a_folder_is_told_in_one_line_how_it_becomes_a_file(tmp_path):
    folder = tmp_path / "my model"
    shutil.copytree(TINY_R1, folder)
    (line,) = refused("llamacpp", folder)
    assert line.endswith(f"dsv3 gguf '{folder}' --llama-cpp DIR --outfile FILE.gguf")


def test_what_is_no_file_or_no_gguf_file(file, tmp_path):
    for model in ("moonshotai/Kimi-K2-Thinking", "deepseek-ai/DeepSeek-R1", "R1-Q4_K_M"):
        (line,) = refused("llamacpp", model)
        assert line.startswith(f"{model}: no file here, and llama.cpp reads GGUF files: fetch one, and give its path")
    (tmp_path / "README.md").write_text("# R1")
    for engine in ("llamacpp", "vllm"):
        assert refused(engine, tmp_path / "README.md") == [f"{tmp_path / 'README.md'}: not a GGUF file"]
    blob = file.rename(tmp_path / "sha256-0")
    assert refused("llamacpp", blob) == []
    assert speech.of(str(blob)).family == "r1"


def test_ktransformers_takes_fp8_and_one_line_says_what_it_does_not_take(tmp_path):
    assert refused("ktransformers", TINY_R1, threads=4) == []
    folder = tmp_path / "awq"
    shutil.copytree(TINY_R1, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    for file in folder.glob("model*"):
        file.unlink()
    (line,) = refused("ktransformers", folder, threads=4)
    assert line == "awq is stored as AWQ, which KTransformers does not read; --engine: sglang, vllm, ascend"


def test_ktransformers_has_the_parsers_of_sglang():
    serve = Serve(model="deepseek-ai/DeepSeek-R1", threads=60)
    heard = speech.of(serve.model)
    assert not says(list(speech.notes(ktransformers.ENGINE, serve, heard)), "has no reasoning parser")
    assert "--reasoning-parser deepseek-r1" in ktransformers.build(speech.told(serve, heard)).text()


def test_a_file_that_is_not_whole_or_no_model(file, tmp_path):
    file.rename(tmp_path / "it-00001-of-00002.gguf")
    assert says(refused("llamacpp", tmp_path / "it-00001-of-00002.gguf"), "1 are not there: it-00002-of-00002.gguf")
    (tmp_path / "vision.gguf").write_bytes(made([("general.architecture", STRING, text("clip"))]))
    assert says(refused("llamacpp", tmp_path / "vision.gguf"), "no language model (clip, model)")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "it-00001-of-00002.gguf").read_bytes()[:-1])
    assert says(refused("llamacpp", tmp_path / "cut.gguf"), "its tensors need")
    assert refused("llamacpp", tmp_path / "none.gguf") == [f"{tmp_path / 'none.gguf'}: no such file"]


@pytest.mark.parametrize(
    ("engine", "fields", "words"),
    [
        ("llamacpp", {"tp": 2}, "takes all cards that it sees"),
        ("llamacpp", {"tp": 2, "cpu": True}, "with --cpu there is no card to share out over"),
        ("llamacpp", {"mtp": 1}, "the MTP layer is not in a GGUF file"),
        ("llamacpp", {"fp8_kv_cache": True}, "no FP8 cache"),
        ("llamacpp", {"quantization": "awq"}, "another one is another file"),
        ("llamacpp", {"remote_code": True}, "runs no Python"),
        ("llamacpp", {"cpu": True, "cpu_moe": 3}, "everything is in RAM"),
        ("ktransformers", {}, "--threads: say how many"),
        ("ktransformers", {"threads": 2, "pp": 2}, "for one machine"),
        ("ktransformers", {"threads": 2, "mtp": 1}, "not looked up"),
        ("ktransformers", {"threads": 2, "cpu_moe": 2}, "llama.cpp's"),
        ("vllm", {"threads": 2}, "for experts in RAM, which vLLM does not keep there"),
        ("sglang", {"numa": 2}, "for experts in RAM"),
    ],
)
def test_options_that_an_engine_does_not_have(engine, fields, words):
    assert says(refused(engine, "owner/name", **fields), words)


@pytest.mark.parametrize("fields", [{"threads": 0}, {"numa": 0}, {"cpu_moe": -1}])
def test_numbers_that_cannot_be(fields):
    with pytest.raises(ValueError, match="must be"):
        Serve(model="M", **fields)


def test_a_machine_without_room_or_instructions(file, tmp_path):
    for name in ("here", "amd", "xeon"):
        (tmp_path / name).mkdir()
    m = machine(tmp_path / "here")
    serve = Serve(model=str(file))
    found = list(llamacpp.here(serve, checks.look(serve.model), m))
    assert says(found, "no NVIDIA GPU here (nvidia-smi lists none): --cpu keeps everything")
    big = checks.look(serve.model)
    big = replace(big, gguf=big.gguf._replace(nbytes=10**15))
    found = list(llamacpp.here(replace(serve, cpu=True), big, m))
    assert says(found, "of RAM: weights would be read from the disk for every token")
    assert says(list(ktransformers.here(serve, big, machine(tmp_path / "amd", flags="avx2"))), "AVX512, which this CPU")
    assert not list(ktransformers.here(serve, big, machine(tmp_path / "xeon", flags="avx512f")))


def uint32(name, value):
    return (f"deepseek2.{name}", UINT32, value.to_bytes(4, "little"))


R1_CACHE = {
    "context_length": 163840,
    "block_count": 61,
    "attention.key_length_mla": 192,
    "attention.kv_lora_rank": 512,
    "rope.dimension_count": 64,
    "attention.head_count_kv": 1,
    "attention.key_length": 576,
    "attention.value_length": 512,
}


def test_the_context_that_a_file_has_and_the_memory_that_it_takes(file, tmp_path):
    values = [("general.architecture", STRING, text("deepseek2")), *(uint32(*item) for item in R1_CACHE.items())]
    file.write_bytes(made(values, WEIGHTS, 288 + 1152))
    serve = Serve(model=str(file), cpu=True)
    assert refused("llamacpp", file, cpu=True, context=163840) == []
    (line,) = refused("llamacpp", file, cpu=True, context=163841)
    assert line == "--context 163841: it.gguf has 163840 (deepseek2.context_length)"
    found = checks.look(str(file)).gguf
    assert llamacpp.token_bytes(found) == 70_272  # 61 layers of 512 + 64 numbers of 2 bytes
    old = found._replace(values={**found.values, "deepseek2.attention.head_count_kv": 128})
    del old.values["deepseek2.attention.key_length_mla"]
    assert llamacpp.token_bytes(old) == 61 * 128 * (576 + 512) * 2
    assert llamacpp.token_bytes(found._replace(values={"general.architecture": "llama"})) == 0
    m = machine(tmp_path)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: {8_000_000} kB\n")  # 8.192 GB
    (line,) = llamacpp.here(serve, checks.look(serve.model), m)
    assert "it.gguf has 11.5 GB with the cache of 163840 tokens, 11.5 GB, and this machine 8 GB of RAM" in line
    most = int(line.split("--context ")[1].split()[0])
    assert most == (8_192_000_000 - 4_000_000_000 - found.nbytes) // 70_272
    assert list(llamacpp.here(replace(serve, context=most), checks.look(serve.model), m)) == []
    assert list(llamacpp.here(replace(serve, context=most + 1), checks.look(serve.model), m)) != []


def test_the_cache_is_on_the_card(file, tmp_path):
    values = [("general.architecture", STRING, text("deepseek2")), *(uint32(*item) for item in R1_CACHE.items())]
    file.write_bytes(made(values, WEIGHTS, 288 + 1152))
    m = machine(tmp_path, [("NVIDIA T1, 8192", "7.5")])
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 64000000 kB\n")
    served = checks.look(str(file))
    (line,) = llamacpp.here(Serve(model=str(file)), served, m)
    assert line.startswith("11.5 GB beside the routed experts with the cache of 163840 tokens, 11.5 GB, and the cards")
    most = int(line.split("--context ")[1].split()[0])
    assert list(llamacpp.here(Serve(model=str(file), context=most), served, m)) == []
    assert list(llamacpp.here(Serve(model=str(file), context=most + 1), served, m)) != []


def test_how_a_file_talks_is_told_by_its_template(file, tmp_path):
    assert speech.of(str(file)).family == "r1"
    serve, heard = Serve(model=str(file)), speech.of(str(file))
    assert not list(speech.notes(llamacpp.ENGINE, serve, heard))
    assert says(list(speech.notes(llamacpp.PACKAGE, serve, heard)), "a thought stands in the answer, up to </think>")
    (tmp_path / "plain.gguf").write_bytes(made([("general.architecture", STRING, text("llama"))], WEIGHTS, 288 + 1152))
    assert speech.of(str(tmp_path / "plain.gguf")).why == "the file has no chat template"


def test_one_version_of_the_package_is_built_installed_and_checked():
    version = re.escape(llamacpp.PACKAGE_VERSION)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^LLAMACPP_VERSION := (.*)$", makefile, re.M) == [llamacpp.PACKAGE_VERSION]
    assert len(re.findall(version, makefile)) == 1
    for page in ("ENGINES.md", "ENGINES.zh.md"):
        assert f"{llamacpp.PACKAGE.install[1]}\n" in (ROOT / page).read_text(encoding="utf-8")


def test_the_page_has_what_was_measured():
    receipt = json.loads((ROOT / "benchmarks" / "results" / "llamacpp.json").read_text())
    page = (ROOT / "ENGINES.md").read_text(encoding="utf-8")
    assert f"llama-cpp-python {receipt['llama_cpp_python']}, {receipt['cores']} cores, {receipt['date']}" in page
    for row in receipt["rows"]:
        tensors = ", ".join(f"{n} {kind}" for kind, n in sorted(row.get("tensors", {}).items(), key=lambda t: -t[1]))
        size = f"{row['mb']:.1f} MB" if "mb" in row else "-"
        assert row["same_prompts"] == row["n"] >= 500
        cells = (row["tool"], row["weights"], size, tensors or "-", row["right"], row["same_answers"])
        assert f"| {' | '.join(map(str, cells))} |" in page
