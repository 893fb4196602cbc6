#!/bin/bash
# SGLang 0.5.23 on 2 host(s) of 8 GPU(s): sbatch THIS_FILE
# The server listens at 127.0.0.1:30000 of the first node.
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
exec sglang serve --model-path '/data/it'"'"'s R1' --tp-size 16 --nnodes 2 --node-rank 0 --dist-init-addr "$MASTER_ADDR":29500 --reasoning-parser deepseek-r1 --tool-call-parser deepseekv3 --host 127.0.0.1 --port 30000
;;
1)
exec sglang serve --model-path '/data/it'"'"'s R1' --tp-size 16 --nnodes 2 --node-rank 1 --dist-init-addr "$MASTER_ADDR":29500 --reasoning-parser deepseek-r1 --tool-call-parser deepseekv3 --host 127.0.0.1 --port 30000
;;
esac
NODE
# One per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c "$node"
