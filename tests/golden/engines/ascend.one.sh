# Flags as in vLLM-Ascend 0.23.0:
#   --tensor-parallel-size 4: every layer cut over 4 GPUs [vllm/engine/arg_utils.py]
#   --data-parallel-size 4: 4 groups that answer by themselves [vllm/engine/arg_utils.py]
#   --quantization ascend: weights in W8A8, as ModelSlim makes them [docs/source/tutorials/models/DeepSeek-R1.md]
#   --enable-expert-parallel: whole experts on each NPU, none is cut [docs/source/tutorials/models/DeepSeek-R1.md]
#   --max-model-len 16384: tokens of prompt and answer together [vllm/engine/arg_utils.py]
#   --host 127.0.0.1: by itself it listens on every address [vllm/entrypoints/common/cli_args.py]
#   --port 8000: of the server [vllm/entrypoints/common/cli_args.py]
#   --reasoning-parser deepseek_r1: thinking and answer apart [vllm/reasoning/__init__.py]
#   --tool-call-parser deepseek_v3: calls of tools apart from the text [vllm/tool_parsers/__init__.py]
#   --enable-auto-tool-choice: the model chooses whether it calls a tool [vllm/entrypoints/common/cli_args.py]
#   --speculative-config '{"method": "mtp", "num_speculative_tokens": 3}': the MTP layer drafts 3 token(s) [vllm/config/speculative.py]
#   --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}': decoding as one graph [docs/source/tutorials/models/DeepSeek-R1.md]
vllm serve /data/R1-W8A8 \
    --tensor-parallel-size 4 \
    --data-parallel-size 4 \
    --quantization ascend \
    --enable-expert-parallel \
    --max-model-len 16384 \
    --host 127.0.0.1 \
    --port 8000 \
    --reasoning-parser deepseek_r1 \
    --tool-call-parser deepseek_v3 \
    --enable-auto-tool-choice \
    --speculative-config '{"method": "mtp", "num_speculative_tokens": 3}' \
    --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}'
