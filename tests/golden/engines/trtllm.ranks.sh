# mpirun or srun starts this on each GPU: dsv3 launch --engine trtllm
# Flags as in TensorRT-LLM 1.2.1:
#   --backend pytorch: reads the Hugging Face folder as it is [tensorrt_llm/commands/serve.py]
#   --tp_size 16: every layer cut over 16 GPU(s) [tensorrt_llm/commands/serve.py]
#   --ep_size 16: whole experts on each GPU, none is cut [tensorrt_llm/commands/serve.py]
#   --reasoning_parser deepseek-r1: thinking and answer apart [tensorrt_llm/commands/serve.py]
#   --max_seq_len 32768: tokens of prompt and answer together [tensorrt_llm/commands/serve.py]
#   --config trtllm-c670e7c2.yml: what has no flag [tensorrt_llm/commands/serve.py]
#   --host 127.0.0.1: who can reach it [tensorrt_llm/commands/serve.py]
#   --port 8000: of the server [tensorrt_llm/commands/serve.py]
cat > trtllm-c670e7c2.yml << 'EOF'
kv_cache_config:
  dtype: fp8
speculative_config:
  decoding_type: MTP
  num_nextn_predict_layers: 1
EOF
trtllm-llmapi-launch trtllm-serve '/data/it'"'"'s R1' \
    --backend pytorch \
    --tp_size 16 \
    --ep_size 16 \
    --reasoning_parser deepseek-r1 \
    --max_seq_len 32768 \
    --config trtllm-c670e7c2.yml \
    --host 127.0.0.1 \
    --port 8000
