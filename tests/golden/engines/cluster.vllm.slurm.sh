#!/bin/bash
# vLLM 0.33.0 on 2 host(s) of 8 GPU(s): sbatch THIS_FILE
# The server listens at 127.0.0.1:8000 of the first node.
#SBATCH --job-name=dsv3-serve
#SBATCH --nodes=2
#SBATCH --nodelist=gpu01,gpu02
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --output=dsv3-serve-%j.log
set -euo pipefail
cd '/home/me/my course'

read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR

read -r -d '' node << 'NODE' || true
set -e
case "$SLURM_NODEID" in
0)
exec vllm serve '/data/it'"'"'s R1' --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 0 --master-addr "$MASTER_ADDR" --master-port 29500 --enable-expert-parallel --host 127.0.0.1 --port 8000 --reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --enable-auto-tool-choice --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}'
;;
1)
exec vllm serve '/data/it'"'"'s R1' --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 1 --master-addr "$MASTER_ADDR" --master-port 29500 --headless --enable-expert-parallel --reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --enable-auto-tool-choice --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}'
;;
esac
NODE
# One per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c "$node"
