# Flags as in vLLM 0.33.0:
#   --tensor-parallel-size 8: every layer cut over 8 GPUs [vllm/engine/arg_utils.py]
#   --pipeline-parallel-size 2: layers in 2 stages [vllm/engine/arg_utils.py]
#   --nnodes 2: machines, without Ray [vllm/engine/arg_utils.py]
#   --node-rank 1: which of them this is [vllm/engine/arg_utils.py]
#   --master-addr gpu01: node 0 [vllm/engine/arg_utils.py]
#   --master-port 29501: where the machines meet [vllm/engine/arg_utils.py]
#   --headless: only node 0 answers requests [vllm/entrypoints/common/cli_args.py]
#   --enable-expert-parallel: whole experts on each GPU, none is cut [vllm/engine/arg_utils.py]
#   --max-model-len 32768: tokens of prompt and answer together [vllm/engine/arg_utils.py]
#   --reasoning-parser deepseek_r1: thinking and answer apart [vllm/reasoning/__init__.py]
#   --tool-call-parser deepseek_v3: calls of tools apart from the text [vllm/tool_parsers/__init__.py]
#   --enable-auto-tool-choice: the model chooses whether it calls a tool [vllm/entrypoints/common/cli_args.py]
#   --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}': the MTP layer drafts 1 token(s) [vllm/config/speculative.py]
#   --kv-cache-dtype fp8: half the bytes for each cached token [vllm/config/cache.py]
vllm serve '/data/it'"'"'s R1' \
    --tensor-parallel-size 8 \
    --pipeline-parallel-size 2 \
    --nnodes 2 \
    --node-rank 1 \
    --master-addr gpu01 \
    --master-port 29501 \
    --headless \
    --enable-expert-parallel \
    --max-model-len 32768 \
    --reasoning-parser deepseek_r1 \
    --tool-call-parser deepseek_v3 \
    --enable-auto-tool-choice \
    --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
    --kv-cache-dtype fp8
