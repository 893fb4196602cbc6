# Flags as in vLLM-Ascend 0.23.0:
#   --tensor-parallel-size 4: every layer cut over 4 GPUs [vllm/engine/arg_utils.py]
#   --data-parallel-size 4: 4 groups that answer by themselves [vllm/engine/arg_utils.py]
#   --data-parallel-size-local 2: groups on each machine [vllm/engine/arg_utils.py]
#   --data-parallel-address npu01: node 0 [vllm/engine/arg_utils.py]
#   --data-parallel-rpc-port 29500: where the groups meet [vllm/engine/arg_utils.py]
#   --data-parallel-start-rank 2: the first group of this machine [vllm/engine/arg_utils.py]
#   --headless: only node 0 answers requests [vllm/entrypoints/common/cli_args.py]
#   --quantization ascend: weights in W8A8, as ModelSlim makes them [docs/source/tutorials/models/DeepSeek-R1.md]
#   --enable-expert-parallel: whole experts on each NPU, none is cut [docs/source/tutorials/models/DeepSeek-R1.md]
#   --reasoning-parser deepseek_r1: thinking and answer apart [vllm/reasoning/__init__.py]
#   --tool-call-parser deepseek_v3: calls of tools apart from the text [vllm/tool_parsers/__init__.py]
#   --enable-auto-tool-choice: the model chooses whether it calls a tool [vllm/entrypoints/common/cli_args.py]
#   --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}': decoding as one graph [docs/source/tutorials/models/DeepSeek-R1.md]
vllm serve /data/R1-W8A8 \
    --tensor-parallel-size 4 \
    --data-parallel-size 4 \
    --data-parallel-size-local 2 \
    --data-parallel-address npu01 \
    --data-parallel-rpc-port 29500 \
    --data-parallel-start-rank 2 \
    --headless \
    --quantization ascend \
    --enable-expert-parallel \
    --reasoning-parser deepseek_r1 \
    --tool-call-parser deepseek_v3 \
    --enable-auto-tool-choice \
    --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}'
