#!/bin/bash
# TensorRT-LLM 1.2.1 on 2 host(s) of 8 GPU(s): sbatch THIS_FILE
# The server listens at 127.0.0.1:8000 of the first node.
#SBATCH --job-name=dsv3-serve
#SBATCH --nodes=2
#SBATCH --nodelist=gpu01,gpu02
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --output=dsv3-serve-%j.log
set -euo pipefail
cd '/home/me/my course'

cat > trtllm-4fdccdeb.yml << 'EOF'
kv_cache_config:
  dtype: fp8
EOF
srun --kill-on-bad-exit=1 --mpi=pmix trtllm-llmapi-launch trtllm-serve '/data/it'"'"'s R1' --backend pytorch --tp_size 16 --ep_size 16 --reasoning_parser deepseek-r1 --config trtllm-4fdccdeb.yml --host 127.0.0.1 --port 8000
