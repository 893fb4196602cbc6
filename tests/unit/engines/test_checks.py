"""What dsv3 serve refuses, each with its line."""

import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv3 import serve as verb
from dsv3.convert import convert
from dsv3.engines import checks, vllm
from dsv3.engines.checkpoints import look
from dsv3.engines.options import Serve
from dsv3.engines.table import ENGINES, find
from dsv3.lab.jobs import free_port
from dsv3.paths import TINY_R1
from dsv3.sizing.gpus import find_gpu
from dsv3.sizing.machine import Machine

R1 = "deepseek-ai/DeepSeek-R1"


def refused(engine: str, gpu: str | None = None, **fields: object) -> list[str]:
    serve = Serve(**{"model": R1} | fields)
    found = vllm.CPU_ENGINE if serve.cpu else find(engine)
    return checks.of_arguments(found, serve, find_gpu(gpu) if gpu else None)


@pytest.mark.parametrize(
    ("engine", "gpu", "fields", "words"),
    [
        ("sglang", "H100", {"tp": 8}, r"DeepSeek-R1 does not fit 8 x H100-80G in FP8: 9\d\.\d of 85.5 GB"),
        ("vllm", "H100", {"tp": 8}, "does not fit 8 x H100-80G .*; dsv3 plan .* shows what is enough"),
        (
            "vllm",
            "H20-96G",
            {"tp": 8, "context": 163840},
            r"does not fit .* of 163840 tokens; say --context \d+ or less",
        ),
        ("lmdeploy", "A100-80G", {"tp": 16}, "LMDeploy on A100-80G with FP8 weights: no FP8 for this model"),
        ("trtllm", "A100-80G", {"tp": 16}, "TensorRT-LLM on A100-80G with FP8 weights: made for Hopper and Blackwell"),
        ("sglang", None, {"tp": 48}, "--tp 48: DeepSeek-R1 has 128 attention heads"),
        ("sglang", None, {"tp": 32}, "moe_intermediate_size = 2048: --tp 32 cuts through FP8 blocks of 128"),
        ("vllm", None, {"tp": 32}, "width of the shared experts = 2048: --tp 32 cuts through FP8 blocks"),
        ("vllm", None, {"pp": 62}, "--pp 62: DeepSeek-R1 has 61 layers"),
        ("vllm", None, {"context": 200_000}, "--context 200000: DeepSeek-R1 has 163840"),
        ("vllm", None, {"model": "deepseek-ai/DeepSeek-V2", "mtp": 1}, "--mtp: DeepSeek-V2 has no MTP layer"),
        ("sglang", None, {"quantization": "fp8"}, "--quantization fp8: config.json says so already"),
        ("vllm", None, {"quantization": "awq_marlin"}, "awq_marlin: the weights are FP8; 4-bit weights are another"),
        ("vllm", None, {"dp": 3, "tp": 2, "nnodes": 2, "master_addr": "a"}, "--dp 3 does not divide by --nnodes 2"),
        ("sglang", None, {"dp": 2}, "--dp: SGLang's data parallelism is of whole copies"),
        ("lmdeploy", None, {"pp": 2}, "--pp: LMDeploy has no pipeline stages"),
        ("lmdeploy", None, {"dp": 2}, "--dp: LMDeploy's data parallelism needs a proxy"),
        ("lmdeploy", None, {"model": "a/b", "tp": 6}, "--tp 6: LMDeploy takes powers of two"),
        ("lmdeploy", None, {"fp8_kv_cache": True}, "--fp8-kv-cache: LMDeploy's table says no"),
        ("lmdeploy", None, {"model": "a/b", "quantization": "awq"}, "LMDeploy's table says no to 4-bit weights"),
        ("trtllm", None, {"host": "0.0.0.0", "api_key_env": "K"}, "trtllm-serve has no API key"),
        ("trtllm", None, {"dp": 2}, "--dp: attention of TensorRT-LLM"),
        ("trtllm", None, {"model": "a/b", "quantization": "awq"}, "NVFP4 or W4AFP8 only"),
        ("ascend", None, {"tp": 16}, "DeepSeek-R1 has FP8 weights, which Ascend NPUs cannot load"),
        ("ascend", None, {"model": "a/b", "fp8_kv_cache": True}, "--fp8-kv-cache: Ascend A2 and A3 have no FP8"),
        ("vllm", None, {"cpu": True, "pp": 2}, "--pp: pipeline stages crash in vLLM's CPU build"),
        ("vllm", None, {"cpu": True, "dp": 2}, "vLLM's CPU build was tried on one machine only"),
        ("vllm", None, {"cpu": True, "fp8_kv_cache": True}, "vLLM's CPU build caches in the model's own type"),
    ],
)
def test_refused(engine, gpu, fields, words):
    found = refused(engine, gpu, **fields)
    assert any(re.search(words, line) for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("engine", "gpu", "fields"),
    [
        ("sglang", "H200", {"tp": 8, "mtp": 1}),
        ("vllm", "H200", {"tp": 8, "fp8_kv_cache": True}),
        ("vllm", "A100-80G", {"tp": 8, "pp": 2, "nnodes": 2, "master_addr": "a"}),  # Marlin
        ("lmdeploy", "H200", {"tp": 8}),
        ("trtllm", "B200", {"tp": 8}),
        ("ascend", None, {"model": "vllm-ascend/DeepSeek-R1-W8A8", "tp": 4, "dp": 4}),
        ("vllm", None, {"model": "someone/DeepSeek-R1-AWQ", "quantization": "awq_marlin", "tp": 8}),
    ],
)
def test_let_through(engine, gpu, fields):
    assert refused(engine, gpu, **fields) == []


def test_fp8_kv_cache_makes_room():
    """As many tokens as fit with a cache of 2 bytes, and one more: only half the bytes let that in."""
    said = refused("vllm", "H20-96G", tp=8, context=163840)
    most = int(said[0].split("--context ")[1].split()[0])
    assert refused("vllm", "H20-96G", tp=8, context=most) == []
    assert refused("vllm", "H20-96G", tp=8, context=most + 1) != []
    assert refused("vllm", "H20-96G", tp=8, context=most + 1, fp8_kv_cache=True) == []


# ------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def r1(tmp_path: Path) -> Path:
    folder = tmp_path / "R1"
    shutil.copytree(TINY_R1, folder)
    return folder


def edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def wrong(folder: Path) -> str:
    found = refused("vllm", model=str(folder))
    assert len(found) == 1, found
    return found[0]


def test_a_whole_folder(r1):
    assert refused("vllm", model=str(r1), tp=2, mtp=1) == []
    assert look(str(r1)).precision == "fp8"


def test_tiny_r1_over_four_ranks(r1):
    assert any("rows of q_b_proj = 768: --tp 4 cuts" in line for line in refused("sglang", model=str(r1), tp=4))


def test_bf16_with_a_quantization_config(bf16_folder, tmp_path):
    folder = tmp_path / "bf16"
    shutil.copytree(bf16_folder, folder)
    assert refused("vllm", model=str(folder)) == []
    edit(folder, quantization_config=json.loads((TINY_R1 / "config.json").read_text())["quantization_config"])
    assert "has a quantization_config, but the weights are BF16, as the official cast leaves it" in wrong(folder)


def test_fp8_without_a_quantization_config(r1):
    edit(r1, quantization_config=None)
    assert "has no quantization_config, but the weights are FP8" in wrong(r1)


def test_an_mtp_layer_in_name_only(r1):
    """As transformers saves them: num_nextn_predict_layers is its default, and the layer is gone."""
    assert refused("vllm", model=str(r1), mtp=1) == []
    edit(r1, num_hidden_layers=2)  # layer 2 is there, but is no MTP layer
    assert refused("vllm", model=str(r1)) == []
    (line,) = refused("vllm", model=str(r1), mtp=1)
    assert "--mtp: R1 has no MTP layer: config.json names one (num_nextn_predict_layers), the weights lack it" in line


def test_converted(bf16_folder, tmp_path):
    convert(bf16_folder, tmp_path / "mp2", 2)
    assert "converted for 2 rank(s) of dsv3 generate; engines read the Hugging Face folder" in wrong(tmp_path / "mp2")


@pytest.mark.parametrize("name", ["topk_method", "scoring_func"])
def test_fields_that_transformers_drops(r1, name):
    edit(r1, **{name: None})
    assert f"lacks {name}; add" in wrong(r1)


def test_files_missing(r1, tmp_path):
    (r1 / "tokenizer.json").unlink()
    assert "no tokenizer.json, nor another tokenizer" in wrong(r1)
    (r1 / "tiktoken.model").touch()
    assert refused("vllm", model=str(r1)) == []
    next(iter(r1.glob("model-00002*"))).unlink()
    assert "missing; download again" in wrong(r1)
    (tmp_path / "empty").mkdir()
    assert "config.json: not found; engines read a Hugging Face folder" in wrong(tmp_path / "empty")


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff"])
def test_a_config_that_is_none(r1, data):
    (r1 / "config.json").write_bytes(data)
    assert "config.json: " in wrong(r1)


def store(folder: Path, dtype: torch.dtype) -> None:
    """The FP8 tensors in another type, as if they were packed."""
    for file in folder.glob("*.safetensors"):
        tensors = {n: t.to(dtype) if t.dtype == torch.float8_e4m3fn else t for n, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
NVFP4 = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32, "strategy": "group"}}
KIMI = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": GROUP}}


@pytest.mark.parametrize(
    ("config", "beside", "engines"),
    [
        (AWQ, {}, "sglang vllm ascend"),
        (AWQ | {"quant_method": "gptq"}, {}, "sglang vllm ascend"),
        (KIMI, {}, "sglang vllm lmdeploy trtllm ascend"),
        (None, {"hf_quant_config.json": NVFP4}, "sglang vllm trtllm"),
        ({"quant_method": "blockwise_int8", "weight_block_size": [128, 128]}, {}, "sglang"),
        ({"quant_method": "w8a8_int8"}, {}, "sglang"),
        (None, {"quant_model_description.json": {"model.layers.0.mlp.up_proj.weight": "W8A8_DYNAMIC"}}, "ascend"),
        ({"quant_method": "a_new_one"}, {}, "sglang vllm lmdeploy trtllm ascend"),
    ],
)
def test_quantised_folders_go_to_the_engines_that_read_them(r1, config, beside, engines):
    edit(r1, quantization_config=config)
    for name, values in beside.items():
        (r1 / name).write_text(json.dumps(values))
    store(r1, torch.int8)
    found = {engine.name: refused(engine.name, model=str(r1)) for engine in ENGINES}
    assert {name for name, said in found.items() if not said} == set(engines.split())
    assert all("does not read; --engine: " in line for said in found.values() for line in said)
    assert "is not checked here" in next(iter(checks.advice(Serve(model=str(r1)), None)))


def test_ascend_is_told_of_modelslims_weights_alone(bf16_folder, r1):
    ascend = find("ascend")
    assert refused("ascend", model=str(bf16_folder)) == []
    assert "--quantization" not in ascend.build(Serve(model=str(bf16_folder))).argv
    (r1 / "quant_model_description.json").write_text("{}")
    for model in (str(r1), "vllm-ascend/DeepSeek-R1-W8A8", "/data/elsewhere"):
        assert "ascend" in ascend.build(Serve(model=model)).argv


def test_quantisation_that_the_weights_do_not_have(r1):
    """An engine would take BF16 for something else."""
    edit(r1, quantization_config=AWQ)
    store(r1, torch.bfloat16)
    assert "says AWQ, by itself or in a file beside it, but the weights are BF16" in wrong(r1)


def test_quantisation_that_makes_no_sense(r1):
    edit(r1, quantization_config=AWQ | {"bits": "four"})
    assert "bits = 'four'" in wrong(r1)


def test_another_architecture_is_left_to_the_engine(r1):
    edit(r1, model_type="qwen2", quantization_config=None)
    store(r1, torch.bfloat16)
    assert refused("vllm", model=str(r1), tp=3) == []
    assert "its shape and its memory are not checked" in next(iter(checks.advice(Serve(model=str(r1)), None)))


# ------------------------------------------------------------------------------------------------ this machine


def machine(tmp_path: Path, gpus: list[str] | None = None, flags: str = "", env: dict | None = None) -> Machine:
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc" / "cpuinfo").write_text(f"flags : sse2 {flags}\n")
    text = None if gpus is None else "".join(f"{i}, {gpu}, 0, {cc}, 580\n" for i, (gpu, cc) in enumerate(gpus))
    return Machine(root=tmp_path, env=env or {}, run=lambda command: text if "--query" in " ".join(command) else None)


def here(engine: str, m: Machine, **fields: object) -> list[str]:
    serve = Serve(**{"model": R1, "port": free_port()} | fields)
    found = vllm.CPU_ENGINE if serve.cpu else find(engine)
    return checks.of_machine(found, serve, found.build(serve), m)


def says(found: list[str], words: str) -> bool:
    return any(words in line for line in found)


def test_not_installed(tmp_path):
    found = here("sglang", machine(tmp_path), python="/nowhere/bin/python")
    assert says(found, "SGLang is not installed here (--python /nowhere/bin/python: no such program)")
    assert says(found, f"python3 -m venv sglang && sglang/bin/pip install sglang=={find('sglang').version}")


def test_a_version_that_was_not_looked_up():
    engine = find("vllm")
    assert checks.version_note(engine, engine.version) is checks.version_note(engine, engine.version + "+cpu") is None
    assert re.search("vLLM 0.1 is installed.*check_flags --engine vllm", checks.version_note(engine, "0.1"))


H100 = ("NVIDIA H100 80GB HBM3, 81559", "9.0")


def test_gpus(tmp_path):
    assert says(here("sglang", machine(tmp_path), tp=8), "no NVIDIA GPU here")
    assert says(here("sglang", machine(tmp_path, [H100] * 4), tp=8), "this machine has 4 GPU(s), and 8 are asked for")
    found = here("sglang", machine(tmp_path, [H100] * 4), tp=16, nnodes=2, master_addr="a")
    assert says(found, "this machine has 4 GPU(s), and 8 are asked for, its part of 16")
    assert says(here("sglang", machine(tmp_path, [H100] * 8), tp=8), "does not fit 8 x NVIDIA H100 80GB HBM3")
    assert says(
        here("lmdeploy", machine(tmp_path, [("NVIDIA A800, 81920", "8.0")] * 16), tp=16), "no FP8 for this model"
    )
    unknown = here("sglang", machine(tmp_path, [("Tesla T4, 15360", "7.5")] * 8), tp=8)
    assert not says(unknown, "fit")


def test_an_amd_machine_is_not_judged(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kfd").touch()
    assert not says(here("sglang", machine(tmp_path), tp=8), "GPU")


def test_port_in_use(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        assert says(here("vllm", machine(tmp_path), port=port), f"port {port} is in use")
    assert not says(here("vllm", machine(tmp_path), port=port), "in use")


def test_no_key_in_the_variable(tmp_path):
    fields = {"host": "0.0.0.0", "api_key_env": "DSV3_API_KEY"}
    assert says(here("vllm", machine(tmp_path), **fields), "DSV3_API_KEY: that variable is not set")
    assert not says(here("vllm", machine(tmp_path, env={"DSV3_API_KEY": "x"}), **fields), "not set")


@pytest.mark.parametrize(("engine", "launcher"), [("lmdeploy", "Ray"), ("trtllm", "MPI")])
def test_engines_that_another_launcher_spreads(tmp_path, engine, launcher):
    found = here(engine, machine(tmp_path), tp=16, nnodes=2, master_addr="a")
    assert says(found, f"{launcher} starts {find(engine).title} on several machines: dsv3 launch --engine {engine}")


def test_a_folder_that_is_not_there(tmp_path):
    assert says(here("vllm", machine(tmp_path), model="R1-typo"), "R1-typo: no such folder; an id has an owner")
    assert says(here("vllm", machine(tmp_path), model="kimi k2 instruct"), "the id of Kimi-K2-Instruct is moonshotai/")
    assert not says(here("vllm", machine(tmp_path)), "no such folder")


# ------------------------------------------------------------------------------------------------ the command line


def test_dry_run_prints_although_nothing_is_installed(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    verb.main(["--engine", "vllm", "--model", str(TINY_R1), "--tp", "2", "--gpu", "4090", "--dry-run"])
    out = capsys.readouterr().out
    assert "# not on this machine: vLLM is not installed here" in out
    told = Serve(model=str(TINY_R1), family="r1", tool_call_parser=False, tp=2)
    assert out.endswith(find("vllm").build(told).text())


def test_refusals_come_one_a_line_with_exit_code_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        verb.main(["--engine", "sglang", "--model", str(TINY_R1), "--tp", "3", "--mtp", "--dp", "2", "--dry-run"])
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) > 2
    assert all(line.startswith("dsv3 serve: error: ") for line in lines)


def test_nothing_is_started_where_it_cannot_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit) as stopped:
        verb.main(["--engine", "vllm", "--model", str(TINY_R1), "--folder", str(tmp_path)])
    assert stopped.value.code == 1
    assert "vLLM is not installed here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--engine", "sglang", "--cpu"], "--cpu: vLLM's build for CPUs and llama.cpp"),
        (["--engine", "vllm", "--gpu", "H1000"], "no GPU 'H1000' in the list"),
        (["--engine", "vllm", "--host", "0.0.0.0"], "--host 0.0.0.0 opens the server to the network"),
    ],
)
def test_wrong_options(flags, words):
    with pytest.raises(ValueError, match=words):
        verb.main([*flags, "--model", R1, "--dry-run"])


def test_advice():
    said = list(checks.advice(Serve(model=R1, tp=8), find_gpu("H20-96G")))
    assert len(said) == 1
    most = int(said[0].split("--context ")[1].split()[0])
    assert refused("vllm", "H20-96G", tp=8, context=most) == []
    assert list(checks.advice(Serve(model=R1, tp=8), find_gpu("H200"))) == []
    assert says(list(checks.advice(Serve(model=R1, tp=8, dp=2), None)), "memory is not checked: the planner does not")
    network = Serve(model=R1, host="0.0.0.0", api_key_env="K")
    assert says(list(checks.advice(network, None)), "0.0.0.0 is open to the network, in plain HTTP")


def test_absolute_paths_for_a_program_that_runs_elsewhere(r1, monkeypatch):
    monkeypatch.chdir(r1.parent)
    serve = verb.absolute(Serve(model="R1", python="venv/bin/python"))
    assert (serve.model, serve.python) == (str(r1), str(r1.parent / "venv/bin/python"))
    assert verb.absolute(replace(serve, model=R1)).model == R1
