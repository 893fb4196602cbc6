#!/bin/bash
# LMDeploy 0.18.0 on 2 host(s) of 8 GPU(s), by ssh. Needs the same folders and environments on every host.
# The server listens at 127.0.0.1:23333 of me@gpu01; from elsewhere: ssh -L 23333:127.0.0.1:23333 me@gpu01.
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
trap 'ray stop' EXIT
ray start --head --port=6379
lmdeploy serve api_server '/data/it'"'"'s R1' --backend pytorch --tp 16 --reasoning-parser default --server-name 127.0.0.1 --server-port 23333
NODE
ssh -o BatchMode=yes me@gpu01 "bash -c $(quoted "$host") node0 $(quoted "$node")" < <(input "") &

read -r -d '' node << 'NODE'
set -e
cd '/home/me/my course'
until ray start --address=gpu01:6379 --block; do [ $SECONDS -lt 300 ] || exit 1; sleep 2; done
NODE
ssh -o BatchMode=yes gpu02 "bash -c $(quoted "$host") node1 $(quoted "$node")" < <(input "") &

# When one host has ended, the others are ended, too.
wait -n
