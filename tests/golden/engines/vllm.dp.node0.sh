# Flags as in vLLM 0.33.0:
#   --data-parallel-size 16: 16 groups that answer by themselves [vllm/engine/arg_utils.py]
#   --data-parallel-size-local 8: groups on each machine [vllm/engine/arg_utils.py]
#   --data-parallel-address gpu01: node 0 [vllm/engine/arg_utils.py]
#   --data-parallel-rpc-port 29501: where the groups meet [vllm/engine/arg_utils.py]
#   --enable-expert-parallel: whole experts on each GPU, none is cut [vllm/engine/arg_utils.py]
#   --max-model-len 32768: tokens of prompt and answer together [vllm/engine/arg_utils.py]
#   --host 127.0.0.1: by itself it listens on every address [vllm/entrypoints/common/cli_args.py]
#   --port 8000: of the server [vllm/entrypoints/common/cli_args.py]
#   --reasoning-parser deepseek_r1: thinking and answer apart [vllm/reasoning/__init__.py]
#   --tool-call-parser deepseek_v3: calls of tools apart from the text [vllm/tool_parsers/__init__.py]
#   --enable-auto-tool-choice: the model chooses whether it calls a tool [vllm/entrypoints/common/cli_args.py]
#   --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}': the MTP layer drafts 1 token(s) [vllm/config/speculative.py]
#   --kv-cache-dtype fp8: half the bytes for each cached token [vllm/config/cache.py]
vllm serve '/data/it'"'"'s R1' \
    --data-parallel-size 16 \
    --data-parallel-size-local 8 \
    --data-parallel-address gpu01 \
    --data-parallel-rpc-port 29501 \
    --enable-expert-parallel \
    --max-model-len 32768 \
    --host 127.0.0.1 \
    --port 8000 \
    --reasoning-parser deepseek_r1 \
    --tool-call-parser deepseek_v3 \
    --enable-auto-tool-choice \
    --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
    --kv-cache-dtype fp8
