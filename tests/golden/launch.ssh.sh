#!/bin/bash
# DeepSeek on 2 host(s) of 8 GPU(s), by ssh. Needs the same folders and Python on every host.
set -uo pipefail
trap 'kill $(jobs -p) 2> /dev/null' EXIT

ssh -o BatchMode=yes gpu02 'cd '"'"'/home/me/my course'"'"' && exec python -m dsv3 torchrun --nnodes 2 --nproc-per-node 8 --master-port 29500 --node-rank 1 --master-addr gpu01 -m dsv3.generate --ckpt-path '"'"'/data/it'"'"'"'"'"'"'"'"'s R1 $mp16'"'"' --device cuda --input-file '"'"'my prompts.txt'"'"' --temperature 0.6' < /dev/null &
# Node 0 in the foreground: it has the keyboard. When it ends, the others end by themselves.
ssh -t -o BatchMode=yes me@gpu01 'cd '"'"'/home/me/my course'"'"' && exec python -m dsv3 torchrun --nnodes 2 --nproc-per-node 8 --master-port 29500 --node-rank 0 --master-addr gpu01 -m dsv3.generate --ckpt-path '"'"'/data/it'"'"'"'"'"'"'"'"'s R1 $mp16'"'"' --device cuda --input-file '"'"'my prompts.txt'"'"' --temperature 0.6'
code=$?
wait
exit $code
