# Wants the package sglang-kt, not sglang: its own build, in an environment of its own.
# Flags as in SGLang 0.5.23, and KTransformers 0.7.2:
#   --model-path /data/R1: what to serve [sglang/srt/arg_groups/fields/model.py]
#   --reasoning-parser deepseek-r1: thinking and answer apart [sglang/srt/parser/reasoning_parser_names.py]
#   --tool-call-parser deepseekv3: calls of tools apart from the text [sglang/srt/function_call/parser_names.py]
#   --host 127.0.0.1: who can reach it [sglang/srt/arg_groups/fields/serving.py]
#   --port 30000: of the server [sglang/srt/arg_groups/fields/serving.py]
#   --kt-weight-path /data/R1: the routed experts for the CPU: the same files [doc/en/kt-kernel/Native-Precision-Tutorial.md]
#   --kt-method FP8: the experts as they are stored [doc/en/kt-kernel/Native-Precision-Tutorial.md]
#   --kt-cpuinfer 58: threads for the experts [doc/en/kt-kernel/Native-Precision-Tutorial.md]
#   --kt-threadpool-count 2: one pool of threads for each socket's memory [doc/en/kt-kernel/Native-Precision-Tutorial.md]
#   --kt-num-gpu-experts 1: routed experts of a layer on the card; more take its memory [doc/en/kt-kernel/Native-Precision-Tutorial.md]
python3 -m sglang.launch_server \
    --model-path /data/R1 \
    --reasoning-parser deepseek-r1 \
    --tool-call-parser deepseekv3 \
    --host 127.0.0.1 \
    --port 30000 \
    --kt-weight-path /data/R1 \
    --kt-method FP8 \
    --kt-cpuinfer 58 \
    --kt-threadpool-count 2 \
    --kt-num-gpu-experts 1
