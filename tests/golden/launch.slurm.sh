#!/bin/bash
# DeepSeek on 2 host(s) of 8 GPU(s): sbatch THIS_FILE
#SBATCH --job-name=dsv3
#SBATCH --nodes=2
#SBATCH --nodelist=gpu01,gpu02
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --output=dsv3-%j.log
set -euo pipefail
cd '/home/me/my course'

read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR

# One torchrun per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c 'exec python -m dsv3 torchrun --nnodes 2 --nproc-per-node 8 --master-port 29500 --node-rank "$SLURM_NODEID" --master-addr "$MASTER_ADDR" -m dsv3.generate --ckpt-path '"'"'/data/it'"'"'"'"'"'"'"'"'s R1 $mp16'"'"' --device cuda --input-file '"'"'my prompts.txt'"'"' --temperature 0.6'
