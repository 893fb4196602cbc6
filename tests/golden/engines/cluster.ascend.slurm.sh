#!/bin/bash
# vLLM-Ascend 0.23.0 on 2 host(s) of 8 GPU(s): sbatch THIS_FILE
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
exec vllm serve '/data/it'"'"'s R1' --tensor-parallel-size 4 --data-parallel-size 4 --data-parallel-size-local 2 --data-parallel-address "$MASTER_ADDR" --data-parallel-rpc-port 29500 --quantization ascend --enable-expert-parallel --host 127.0.0.1 --port 8000 --reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --enable-auto-tool-choice --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}'
;;
1)
exec vllm serve '/data/it'"'"'s R1' --tensor-parallel-size 4 --data-parallel-size 4 --data-parallel-size-local 2 --data-parallel-address "$MASTER_ADDR" --data-parallel-rpc-port 29500 --data-parallel-start-rank 2 --headless --quantization ascend --enable-expert-parallel --reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --enable-auto-tool-choice --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}'
;;
esac
NODE
# One per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c "$node"
