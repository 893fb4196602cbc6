#!/bin/bash
# LMDeploy 0.18.0 on 2 host(s) of 8 GPU(s): sbatch THIS_FILE
# The server listens at 127.0.0.1:23333 of the first node.
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
trap 'ray stop' EXIT
ray start --head --port=6379
lmdeploy serve api_server '/data/it'"'"'s R1' --backend pytorch --tp 16 --reasoning-parser default --server-name 127.0.0.1 --server-port 23333
;;
1)
until ray start --address="$MASTER_ADDR":6379 --block; do [ $SECONDS -lt 300 ] || exit 1; sleep 2; done
;;
esac
NODE
# One per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c "$node"
