"""The known failures of running DeepSeek-V3 and R1: what each says, its cause, the command that cures it, a thread."""

from typing import NamedTuple


class Failure(NamedTuple):
    """A failure that people meet.

    Attributes:
        name: of the case, for tests and the appendix.
        pattern: a regular expression that finds it in an error line or a traceback; case does not matter.
        cause: one or two sentences.
        command: what to run; capitals stand for your own folders.
        thread: where it was reported in public.
    """

    name: str
    pattern: str
    cause: str
    command: str
    thread: str


GITHUB = "https://github.com/"

# From the special to the general: the first match at a place is the answer.
FAILURES = (
    # ---------------------------------------------------------------------------------------- download, files
    Failure(
        "empty file",
        r"e3b0c44298fc1c149afbf4c8|e3b0c442\b|header.{0,3}too.?small",
        "The file is empty: the hub's client got no bytes (e3b0c442 is the sha256 of nothing).",
        "dsv3 download --model DeepSeek-R1 --local-dir R1 --verify-only",
        GITHUB + "modelscope/modelscope/issues/1365",
    ),
    Failure(
        "pointer or page instead of a file",
        r"header.{0,3}too.?large|InvalidHeaderDeserialization",
        "The .safetensors file is a git-LFS pointer or a web page: git-lfs was not installed when it was cloned, or a "
        "proxy answered instead of the hub.",
        "dsv3 download --model DeepSeek-R1 --local-dir R1 --verify-only",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/557",
    ),
    Failure(
        "truncated file",
        r"MetadataIncompleteBuffer|incomplete metadata, file not fully covered",
        "The .safetensors file ends early: its download broke off.",
        "dsv3 download --model DeepSeek-R1 --local-dir R1 --verify-only",
        GITHUB + "QwenLM/Qwen/issues/462",
    ),
    # ---------------------------------------------------------------------------------------- cast, conversion
    Failure(
        "no scale",
        r"Missing scale_inv",
        "An FP8 tensor has no scale beside it: a shard is missing or of another download. The official cast goes on, "
        "and leaves FP8 numbers in a BF16 file.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "radixark/miles/pull/1641",
    ),
    Failure(
        "distillation given to convert.py",
        r"Key [kqv]_proj not found in mapping",
        "The R1 distillations are Qwen2 and Llama models; the converter knows DeepSeek-V2/V3. They need no conversion.",
        "vllm serve deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/330",
    ),
    Failure(
        "MTP layer in convert.py",
        r"Key (eh_proj|enorm|hnorm) not found in mapping",
        "The official converter skips the MTP layer by the name model.layers.61; here it has another number.",
        "dsv3 convert --hf-ckpt-path IN --save-path OUT --n-experts 256 --model-parallel 16",
        GITHUB + "ml-explore/mlx-lm/pull/1524",
    ),
    Failure(
        "ranks that do not divide",
        r"Dimension \d+ must be divisible by|\d+ is not divisible by \d+|assert numerator % denominator == 0|"
        r"must be divisible by tensor parallel size|is not divisible by weight quantization block",
        "The model cannot be cut over so many ranks: attention heads, and in FP8 blocks of 128, must come out whole.",
        "dsv3 plan DeepSeek-R1 --gpu H100 --gpus 16",
        GITHUB + "vllm-project/vllm/issues/12256",
    ),
    Failure(
        "killed for memory",
        r"exitcode\s*:\s*-9\b|Signal 9 \(SIGKILL\)|^Killed$",
        "The process went over the machine's or the container's memory: the official converter and cast hold the whole "
        "checkpoint, 700 GB. dsv3's move byte ranges.",
        "dsv3 convert --hf-ckpt-path R1 --save-path R1-mp16 --n-experts 256 --model-parallel 16",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/251",
    ),
    # ---------------------------------------------------------------------------------------- transformers
    Failure(
        "transformers too old for FP8",
        r"Unknown quantization type, got fp8",
        "transformers of early 2025 does not know DeepSeek's FP8; a later one, or weights in BF16, will do.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/558",
    ),
    Failure(
        "quantization_config left behind",
        r"Unknown quantization type, got bf16",
        "The weights were cast to BF16, but config.json still has a quantization_config; the official cast leaves it.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "hiyouga/LlamaFactory/issues/6777",
    ),
    Failure(
        "no format in the header",
        r"metadata\.get\([\"']format[\"']\)|'NoneType' object has no attribute 'get'",
        "The official cast writes safetensors files without the header entry format: pt, which transformers asks for.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "deepseek-ai/DeepSeek-V3/pull/749",
    ),
    Failure(
        "layer 61 not used",
        r"were not used when initializing DeepseekV3|Some weights.{0,300}layers\.61.{0,80}were not used",
        "Harmless: layer 61 is the MTP layer for speculative decoding, which transformers does not have. The model is "
        "whole, its own layers are 0 to 60.",
        "dsv3 plan DeepSeek-R1 --gpu H20-96G --gpus 8 --mtp",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/267",
    ),
    Failure(
        "FP8 on transformers without a GPU",
        r"Weight shape .* not divisible by scale grid",
        "transformers dequantises FP8 at loading and takes the block size from the scales' shape: 576 rows in 5 blocks "
        "fail, 192 rows in 2 are silently wrong.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "huggingface/transformers/pull/36026",
    ),
    Failure(
        "chat template gives a dictionary",
        r"'str' object cannot be interpreted as an integer|invalid literal for int\(\) with base 10: 'input_ids'",
        "Since transformers 5 apply_chat_template returns a BatchEncoding, not a list of ids; the official generate.py "
        "expects the list.",
        "python -m dsv3.generate --ckpt-path OUT --interactive",
        GITHUB + "lvyufeng/PocketLLM/pull/286",
    ),
    Failure(
        "remote code that is not there",
        r"does not appear to have a file named (configuration|modeling)_deepseek\.py",
        "trust_remote_code asks for Python files that the folder lacks. The engines know DeepSeek-V3 themselves: leave "
        "the flag out.",
        "vllm serve R1 --tensor-parallel-size 8",
        GITHUB + "vllm-project/aibrix/issues/834",
    ),
    Failure(
        "Hugging Face config given to the demo",
        r"ModelArgs\S* got an unexpected keyword argument",
        "The official generate.py takes a config of the demo (config_671B.json), not Hugging Face's config.json.",
        "torchrun --nproc-per-node 8 -m dsv3.generate --ckpt-path OUT --interactive",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/739",
    ),
    # ---------------------------------------------------------------------------------------- GPU and driver
    Failure(
        "FP8 on a card without FP8 units",
        r"fp8e4nv\b.{0,40}not supported",
        "Ampere and older cards (A100, A800, 3090) have no FP8 units, and Triton refuses the type there.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "deepseek-ai/DeepSeek-R1/issues/588",
    ),
    Failure(
        "Triton without a GPU",
        r"0 active drivers",
        "Triton was asked for a GPU on a machine that shows none: a no-GPU instance, or a driver that does not load.",
        "dsv3 doctor",
        GITHUB + "deepseek-ai/DeepSeek-R1/issues/493",
    ),
    Failure(
        "no Triton",
        r"No module named '?triton|No matching distribution found for triton",
        "Triton has wheels for Linux only. dsv3 runs without it; on Windows take WSL for GPU kernels.",
        "wsl --install",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/325",
    ),
    Failure(
        "driver too old",
        r"NVIDIA driver on your system is too old",
        "torch was built for a newer CUDA than the driver runs; nvidia-smi shows the newest that it can. The wheels of "
        "torch 2.11 and later are for CUDA 13.",
        "pip install 'torch<2.11'",
        GITHUB + "modelscope/FunASR/issues/2973",
    ),
    Failure(
        "torch too old for the card",
        r"no kernel image is available for execution|is not compatible with the current PyTorch installation",
        "torch was built without code for this GPU; Blackwell (sm_100, sm_120) needs a build for CUDA 12.8 or newer.",
        "pip install --upgrade torch",
        GITHUB + "pytorch/pytorch/issues/150733",
    ),
    Failure(
        "out of GPU memory",
        r"CUDA out of memory|OutOfMemoryError|torch\.cuda\.OutOfMemory",
        "The weights, the KV cache and the activations do not fit the GPU; DeepSeek-R1 in FP8 needs about 700 GB.",
        "dsv3 plan DeepSeek-R1",
        GITHUB + "deepseek-ai/DeepSeek-V3/issues/855",
    ),
    Failure(
        "torchvision of another torch",
        r"operator torchvision::nms does not exist",
        "torchvision was built for another torch than the one installed; text models do not need it.",
        "pip uninstall -y torchvision torchaudio torchcodec",
        GITHUB + "vllm-project/vllm/issues/7940",
    ),
    # ---------------------------------------------------------------------------------------- several GPUs
    Failure(
        "NCCL waits in vain",
        r"Watchdog caught collective operation timeout|Timeout\(ms\)=600000|ran for 600\d\d\d milliseconds",
        "One rank did not come to a collective within 10 minutes: it died, or it waited for a user in a chat. dsv3 "
        "waits for days, and notices a dead rank by its closed connection.",
        "torchrun --nproc-per-node 8 -m dsv3.generate --ckpt-path OUT --interactive",
        GITHUB + "sgl-project/sglang/issues/3836",
    ),
    Failure(
        "peer-to-peer on consumer cards",
        r"ncclUnhandledCudaError|P2P is disabled between|peer access is not supported between",
        "GeForce cards do not reach each other's memory, and NCCL stumbles over it or hangs.",
        "NCCL_P2P_DISABLE=1 torchrun --nproc-per-node 2 -m dsv3.generate --ckpt-path OUT --interactive",
        GITHUB + "vllm-project/vllm/issues/8058",
    ),
    # ---------------------------------------------------------------------------------------- engines
    Failure(
        "llama.cpp does not know the tokenizer",
        r"BPE pre-tokenizer was not recognized",
        "llama.cpp tells tokenizers apart by a hash, and this one is not in its list: the converter is older than the "
        "model, or the tokenizer is not DeepSeek's.",
        "pip install --upgrade 'llama-cpp-python[server]'",
        GITHUB + "ggml-org/llama.cpp/issues/8649",
    ),
    Failure(
        "context longer than the memory",
        r"To serve at least one request with the model'?s'?s? max seq len|"
        r"tokens that can be stored in KV cache \(\d+\)",
        "The weights fit, but not the KV cache of one sequence of the model's whole context, 163840 tokens.",
        "dsv3 serve --engine vllm --model R1 --tp 8 --context 32768",
        GITHUB + "deepseek-ai/DeepSeek-V2/issues/83",
    ),
    Failure(
        "weights leave no room for the KV cache",
        r"leave no GPU memory for the KV cache|Not enough memory\. Please try to increase --mem-fraction-static|"
        r"No available memory for the cache blocks",
        "The weights take all the memory that the engine may use: more GPUs are needed, or weights of fewer bits.",
        "dsv3 plan DeepSeek-R1",
        GITHUB + "SemiAnalysisAI/InferenceX/issues/2128",
    ),
    Failure(
        "GPU memory taken by others",
        r"is less than desired GPU memory utilization",
        "Another process holds memory of the GPU: perhaps an engine that was not stopped, or a notebook's kernel.",
        "nvidia-smi",
        GITHUB + "vllm-project/vllm/issues/20305",
    ),
    Failure(
        "vLLM on a CPU wants all memory",
        r"is less than desired CPU memory utilization",
        "vLLM's CPU build reserves 92 % of the machine's memory unless it is told how many GiB the KV cache may take.",
        "VLLM_CPU_KVCACHE_SPACE=4 python -m vllm.entrypoints.openai.api_server --model R1-bf16",
        GITHUB + "vllm-project/vllm/pull/42479",
    ),
    Failure(
        "context longer than the model's",
        r"User-specified max_model_len \(\d+\) is greater than the derived",
        "More context was asked for than max_position_embeddings in config.json allows.",
        "dsv3 serve --engine vllm --model R1 --tp 8 --context 163840",
        GITHUB + "vllm-project/vllm/issues/3676",
    ),
    Failure(
        "port in use",
        r"address already in use|\bErrno 98\b|EADDRINUSE",
        "Another program listens at that port, perhaps a server that was not stopped.",
        "ss -ltnp",
        GITHUB + "vllm-project/vllm/issues/7514",
    ),
    Failure(
        "architecture that the engine does not know",
        r"Model architectures \[.{0,80}\] are not supported for now",
        "The engine is older than the model; DeepSeek-V3 needs vLLM 0.6.6 or later.",
        "pip install --upgrade vllm",
        GITHUB + "vllm-project/vllm/issues/11520",
    ),
    Failure(
        "no kernel for FP8 here",
        r"Failed to find a kernel that can implement the ScaledMM",
        "The engine has no kernel for FP8 weights on this device: vLLM's CPU build has one for Intel AMX only.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "vllm-project/vllm/pull/33892",
    ),
    Failure(
        "GPU too old for the quantization",
        r"quantization method \S+ is not supported for the current GPU",
        "The engine has no kernel for these quantised weights on so old a GPU.",
        "dsv3 fp8_cast_bf16 --input-fp8-hf-path R1 --output-bf16-hf-path R1-bf16",
        GITHUB + "vllm-project/vllm/issues/4327",
    ),
    Failure(
        "no device for vLLM",
        r"Failed to infer device type",
        "vLLM sees no GPU: a no-GPU instance, a container started without GPUs, a driver that does not load, or a "
        "wheel for another kind of device.",
        "dsv3 doctor",
        GITHUB + "vllm-project/vllm/pull/14200",
    ),
    Failure(
        "model not found",
        r"is not a local folder and is not a valid model identifier|Repo id must be in the form|"
        r"Invalid repository ID or local directory specified",
        "No such folder, so the engine took the path for a name on a hub, where it is not either.",
        "dsv3 download --model DeepSeek-R1 --local-dir R1",
        GITHUB + "vllm-project/vllm/issues/12867",
    ),
    Failure(
        "hub out of reach",
        r"couldn't connect to 'https://huggingface\.co'|LocalEntryNotFoundError|OfflineModeIsEnabled|"
        r"Max retries exceeded with url: /api/models/",
        "The engine was given a name on a hub and cannot reach it; a folder needs no network.",
        "dsv3 download --model DeepSeek-R1 --local-dir R1",
        GITHUB + "vllm-project/vllm/issues/1986",
    ),
    Failure(
        "argument task of vLLM",
        r"unexpected keyword argument 'task'",
        "vllm.LLM(task=...) of early 2025 is gone since vLLM 0.13; leave it out, generation is the default.",
        "python -m dsv3.engines.offline --engine vllm --model R1 --input-file FILE",
        GITHUB + "xorbitsai/inference/issues/4468",
    ),
    Failure(
        "router's bias not expected",
        r"KeyError: .{0,60}mlp\.gate\.e_score_correction_bias",
        'config.json lacks "topk_method": "noaux_tc", which transformers 5 does not write; the engine then makes no '
        "place for the bias.",
        "dsv3 serve --engine vllm --model R1 --dry-run",
        GITHUB + "vllm-project/vllm/pull/11578",
    ),
    Failure(
        "more ranks than GPUs",
        r"World size \(\d+\) is larger than the number of available GPUs|"
        r"local_world_size \(\d+\) must be less than or equal|ensure that world_size \(\d+\) is less than",
        "The ranks do not fit on this machine; several machines must be named.",
        "dsv3 serve --engine vllm --model R1 --tp 8 --pp 2 --nnodes 2 --node-rank 0 --master-addr ADDRESS",
        GITHUB + "vllm-project/vllm/pull/28873",
    ),
    Failure(
        "CUDA libraries of another version",
        r"lib(cudart|nvrtc|cublas|cublasLt)\.so\S*: cannot open shared object file",
        "The engine's wheel was built for another CUDA than the torch beside it; each engine wants an environment of "
        "its own.",
        "python3 -m venv vllm && vllm/bin/pip install vllm",
        GITHUB + "vllm-project/vllm/issues/36099",
    ),
    Failure(
        "notebook's kernel without dsv3",
        r"No module named '?dsv3",
        "The notebook runs in another Python than the one that dsv3 is installed in.",
        "python -m pip install -e . && python -m ipykernel install --user --name dv3",
        GITHUB + "datawhalechina/llm-universe/issues/37",
    ),
)
