#!/bin/bash
# vLLM 0.33.0 on 2 host(s) of 8 GPU(s), by ssh. Needs the same folders and environments on every host.
# The server listens at 127.0.0.1:8000 of me@gpu01; from elsewhere: ssh -L 8000:127.0.0.1:8000 me@gpu01.
set -uo pipefail
trap 'kill $(jobs -p) 2> /dev/null' EXIT

# On a host: the first line of the input is the key; when the input ends, so does the node's script with all it started.
read -r -d '' host << 'HOST'
read -r _
exec 3<&0
set -m
bash -c "$1" < /dev/null 3<&- &
node=$!
{ cat <&3; kill -- -$node; } > /dev/null 2>&1 &
wait $node
HOST
# The input stays open as long as this script runs.
input() { printf '%s\n' "$1"; while kill -0 $$ 2> /dev/null; do sleep 1; done; }
quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

read -r -d '' node << 'NODE'
set -e
cd '/home/me/my course'
exec vllm serve '/data/it'"'"'s R1' --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 0 --master-addr gpu01 --master-port 29500 --enable-expert-parallel --host 127.0.0.1 --port 8000 --reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --enable-auto-tool-choice --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}'
NODE
ssh -o BatchMode=yes me@gpu01 "bash -c $(quoted "$host") node0 $(quoted "$node")" < <(input "") &

read -r -d '' node << 'NODE'
set -e
cd '/home/me/my course'
exec vllm serve '/data/it'"'"'s R1' --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 1 --master-addr gpu01 --master-port 29500 --headless --enable-expert-parallel --reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --enable-auto-tool-choice --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}'
NODE
ssh -o BatchMode=yes gpu02 "bash -c $(quoted "$host") node1 $(quoted "$node")" < <(input "") &

# When one host has ended, the others are ended, too.
wait -n
