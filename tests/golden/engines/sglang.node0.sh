# Flags as in SGLang 0.5.23:
#   --model-path '/data/it'"'"'s R1': what to serve [sglang/srt/arg_groups/fields/model.py]
#   --tp-size 16: every layer cut over 16 GPUs [sglang/srt/arg_groups/fields/parallel.py]
#   --nnodes 2: machines [sglang/srt/arg_groups/fields/parallel.py]
#   --node-rank 0: which of them this is; 0 answers requests [sglang/srt/arg_groups/fields/parallel.py]
#   --dist-init-addr gpu01:29501: node 0, where the machines meet [sglang/srt/arg_groups/fields/parallel.py]
#   --reasoning-parser deepseek-r1: thinking and answer apart [sglang/srt/parser/reasoning_parser_names.py]
#   --tool-call-parser deepseekv3: calls of tools apart from the text [sglang/srt/function_call/parser_names.py]
#   --speculative-algorithm EAGLE: speculative decoding with the MTP layer [sglang/srt/arg_groups/fields/spec.py]
#   --speculative-num-steps 1: tokens drafted one after another [sglang/srt/arg_groups/fields/spec.py]
#   --speculative-eagle-topk 1: a chain, not a tree [sglang/srt/arg_groups/fields/spec.py]
#   --speculative-num-draft-tokens 2: the drafted ones and the next [sglang/srt/arg_groups/fields/spec.py]
#   --kv-cache-dtype fp8_e4m3: half the bytes for each cached token [sglang/srt/arg_groups/fields/model.py]
#   --context-length 32768: tokens of prompt and answer together [sglang/srt/arg_groups/fields/model.py]
#   --host 127.0.0.1: who can reach it [sglang/srt/arg_groups/fields/serving.py]
#   --port 30000: of the server [sglang/srt/arg_groups/fields/serving.py]
sglang serve \
    --model-path '/data/it'"'"'s R1' \
    --tp-size 16 \
    --nnodes 2 \
    --node-rank 0 \
    --dist-init-addr gpu01:29501 \
    --reasoning-parser deepseek-r1 \
    --tool-call-parser deepseekv3 \
    --speculative-algorithm EAGLE \
    --speculative-num-steps 1 \
    --speculative-eagle-topk 1 \
    --speculative-num-draft-tokens 2 \
    --kv-cache-dtype fp8_e4m3 \
    --context-length 32768 \
    --host 127.0.0.1 \
    --port 30000
