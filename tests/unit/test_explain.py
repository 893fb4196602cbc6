"""The table of known failures, fed with what people really saw."""

import re

import pytest

from dsv3.explain import explain, failures

# As they stand in the threads, long lines cut at the end.
REAL = {
    "empty file": [
        "modelscope.hub.errors.FileIntegrityError: File llm/ZP/glm4-9B/._____temp/model-00003-of-00004.safetensors "
        "integrity check failed, expected sha256 signature is 9716302a052d79c2750e3c98d34f4c4048871092831fc158cd89286513"
        "df83d9, actual is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, the download may be "
        "incomplete, please try again.",
        "e3b0c442…",
        "safetensors_rust.SafetensorError: Error while deserializing header: header too small",
    ],
    "pointer or page instead of a file": [
        "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
        "safetensors_rust.SafetensorError: Error while deserializing header: header too large",
    ],
    "truncated file": [
        "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
    ],
    "no scale": [
        "Warning: Missing scale_inv tensor for model.layers.39.mlp.experts.92.gate_proj.weight, skipping conversion",
        "Missing scale_inv",
    ],
    "distillation given to convert.py": [
        'Traceback (most recent call last):\n  File "/home/lqsilicon/Workspace/DeepSeek-V3/inference/convert.py", line 96, '
        "in <module>\n    main(args.hf_ckpt_path, args.save_path, args.n_experts, args.model_parallel)\n"
        'assert key in mapping, f"Key {key} not found in mapping"\nAssertionError: Key k_proj not found in mapping',
    ],
    "MTP layer in convert.py": ["AssertionError: Key eh_proj not found in mapping"],
    "ranks that do not divide": [
        "AssertionError: Dimension 0 must be divisible by 32",
        "AssertionError: 25 is not divisible by 4",
        "ValueError: Total number of attention heads (128) must be divisible by tensor parallel size (3).",
        "ValueError: Weight output_partition_size = 576 is not divisible by weight quantization block_n = 128.",
    ],
    "killed for memory": [
        "  exitcode  : -9 (pid: 12345)\n  error_file: <N/A>\n  traceback : Signal 9 (SIGKILL) received by PID 12345",
        "Loading checkpoint shards:  42%\nKilled\n",
    ],
    "transformers too old for FP8": [
        "ValueError: Unknown quantization type, got fp8 - supported types are: ['awq', 'bitsandbytes_4bit', "
        "'bitsandbytes_8bit', 'gptq', 'aqlm', 'quanto', 'eetq', 'hqq', 'compressed-tensors', 'fbgemm_fp8', 'torchao']",
    ],
    "quantization_config left behind": [
        "ValueError: Unknown quantization type, got bf16 - supported types are: ['awq']"
    ],
    "no format in the header": [
        '[rank3]:     if metadata.get("format") not in ["pt", "tf", "flax", "mlx"]:\n'
        "[rank3]: AttributeError: 'NoneType' object has no attribute 'get'",
    ],
    "layer 61 not used": [
        "Some weights of the model checkpoint at /home/user/models/DeepSeek-R1-0528-BF16 were not used when initializing "
        "DeepseekV3ForCausalLM: ['model.layers.61.eh_proj.weight', 'model.layers.61.embed_tokens.weight', ",
        "Some weights … layers.61 were not used",
    ],
    "FP8 on transformers without a GPU": ["ValueError: Weight shape (576, 256) not divisible by scale grid (5, 2)"],
    "chat template gives a dictionary": [
        "TypeError: 'str' object cannot be interpreted as an integer",
        "ValueError: invalid literal for int() with base 10: 'input_ids'",
    ],
    "remote code that is not there": [
        "OSError: /models/deepseek-r1 does not appear to have a file named configuration_deepseek.py. Checkout "
        "'https://huggingface.co//models/deepseek-r1/tree/None' for available files.",
    ],
    "Hugging Face config given to the demo": [
        "    args = ModelArgs(**json.load(f))\n"
        "TypeError: ModelArgs.__init__() got an unexpected keyword argument 'attention_dropout'",
    ],
    "FP8 on a card without FP8 units": [
        "ValueError(\"type fp8e4nv not supported in this architecture. The supported fp8 dtypes are ('fp8e4b15', 'fp8e5')\")",
        "AssertionError: fp8e4nv data type is not supported on CUDA arch < 89",
    ],
    "Triton without a GPU": [
        '    raise RuntimeError(f"{len(actives)} active drivers ({actives}). There should only be one.")\n'
        "RuntimeError: 0 active drivers ([]). There should only be one.",
    ],
    "no Triton": [
        "ModuleNotFoundError: No module named 'triton'",
        "ERROR: No matching distribution found for triton==3.0.0",
    ],
    "driver too old": [
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver",
    ],
    "torch too old for the card": [
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.",
    ],
    "out of GPU memory": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total capacity of 47.53 GiB",
    ],
    "torchvision of another torch": ["RuntimeError: operator torchvision::nms does not exist"],
    "NCCL waits in vain": [
        "[rank1]:[E] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=21, OpType=BROADCAST, "
        "NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600046 milliseconds before timing out.",
    ],
    "peer-to-peer on consumer cards": [
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled cuda error\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.",
        "NCCL INFO P2P is disabled between connected GPUs 1 and 0. You can repress this message with ...",
    ],
    "llama.cpp does not know the tokenizer": [
        "NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()",
    ],
    "context longer than the memory": [
        "(EngineCore pid=2739502) ERROR 06-03 14:24:40 [core.py:1165] ValueError: To serve at least one request with the "
        "model's max seq len (30000), (6.66 GiB KV cache is needed, which is larger than the available KV cache memory (5.44 "
        "GiB). Based on the available memory, the estimated maximum model length is 13528. Try increasing "
        "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing `max_model_len`",
        "(EngineCore_DP0 pid=1094) ValueError: To serve at least one request with the models's max seq len (262144), (24.0 GiB "
        "KV cache is needed, which is larger than the available KV cache memory (3.18 GiB).",
        "ValueError: The model's max seq len (163840) is larger than the maximum number of tokens that can be stored in KV "
        "cache (13360). Try increasing gpu_memory_utilization or decreasing max_model_len when",
    ],
    "weights leave no room for the KV cache": [
        "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.88.",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: "
        "self.server_args.mem_fraction_static=0.2",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
    ],
    "GPU memory taken by others": [
        "ValueError: Free memory on device (59.32/79.15 GiB) on startup is less than desired GPU memory utilization (0.9, "
        "71.24 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "free memory on device cuda:0 (19.77/22.05 GiB) on startup is less than desired GPU memory utilization (0.9, 19.84 GiB)",
    ],
    "vLLM on a CPU wants all memory": [
        "ValueError: Available memory on node 0 (14.17/18.71 GiB) on startup is less than desired CPU memory utilization "
        "(0.92, 17.21 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction of CPU memory",
    ],
    "context longer than the model's": [
        "ValueError: User-specified max_model_len (131072) is greater than the derived max_model_len (None=8192 in model's "
        "config.json). This may lead to incorrect model outputs or CUDA errors.",
    ],
    "port in use": [
        "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
        "OSError: [Errno 98] Address already in use",
        "RuntimeError: The server socket has failed to listen on any local network address. useIpv6: 0, code: -98, name: "
        "EADDRINUSE, message: address already in use",
    ],
    "architecture that the engine does not know": [
        "ValueError: Model architectures ['DeepseekV3ForCausalLM'] are not supported for now. Supported architectures: "
        "dict_keys(['AquilaModel', 'AquilaForCausalLM'])",
    ],
    "no kernel for FP8 here": [
        "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons: \n"
        "CPUFp8W8A8BlockScaledMMKernel requires AMX\nCPUFp8BlockScaledMMKernel requires AMX",
    ],
    "GPU too old for the quantization": [
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 90. Current "
        "capability: 86.",
    ],
    "no device for vLLM": [
        "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on "
        "verbose logging to help debug the issue.",
    ],
    "model not found": [
        "OSError: vicuna-13b-v1.3 is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'",
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
        "'/root/DeepSeek-V2-Lite'. Use `repo_type` argument if needed.",
        "ValueError: Invalid repository ID or local directory specified: '/models/R1'.",
    ],
    "hub out of reach": [
        "OSError: We couldn't connect to 'https://huggingface.co' to load this file, couldn't find it in the cached files",
        "huggingface_hub.utils._errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub",
        "huggingface_hub.utils._http.OfflineModeIsEnabled: Cannot reach https://huggingface.co/api/models/bigcode/starcoder",
        "requests.exceptions.ConnectionError: (MaxRetryError('HTTPSConnectionPool(host=\\'huggingface.co\\', port=443): Max "
        "retries exceeded with url: /api/models/meta-llama/Llama-2-13b-chat-hf/revision/main",
    ],
    "argument task of vLLM": ["TypeError: EngineArgs.__init__() got an unexpected keyword argument 'task'"],
    "router's bias not expected": [
        "KeyError: 'layers.1.mlp.gate.e_score_correction_bias'",
        "[rank0]: KeyError: 'model.layers.29.mlp.gate.e_score_correction_bias'",
    ],
    "more ranks than GPUs": [
        "AssertionError: local_world_size (16) must be less than or equal to the number of visible devices (8).",
        "RuntimeError: please ensure that world_size (2) is less than than max local gpu count (1)",
        "ValueError: World size (16) is larger than the number of available GPUs (8) in this node. If this is intentional",
    ],
    "CUDA libraries of another version": [
        "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
    ],
    "notebook's kernel without dsv3": ["ModuleNotFoundError: No module named 'dsv3'"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REAL.items() for text in texts])
def test_real_strings(name, text):
    assert explain(text).name == name
    assert explain(f"INFO 03-22 loading\n{text}\nINFO 03-22 bye").name == name


def test_every_failure_has_its_string_and_is_whole():
    assert set(REAL) == {f.name for f in failures()}
    for f in failures():
        assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", f.thread)
        assert f.cause.endswith(".")
        assert "\n" not in f.command
        re.compile(f.pattern)


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: the weather is bad",
        "KeyError: 'model'",
        "Segmentation fault (core dumped)",
        "a sentence about triton and nccl, drivers, 61 layers and fp8 in general",
        "x" * 5_000_000,
    ],
)
def test_what_is_not_known(text):
    assert explain(text) is None


def test_the_last_failure_of_a_traceback_counts():
    warning = "Some weights of the model checkpoint at X were not used when initializing DeepseekV3ForCausalLM: ['a']"
    assert explain(f"{warning}\ntorch.OutOfMemoryError: CUDA out of memory.").name == "out of GPU memory"
