# Ray starts the ranks of all machines; the server waits until they are there.
# Whoever reaches Ray's port 6379 can run programs here: a private network only.
# Flags as in LMDeploy 0.18.0:
#   --address=gpu01:6379: node 0 [docs/en/advance/pytorch_multinodes.md]
#   --block: stay in the foreground [docs/en/advance/pytorch_multinodes.md]
ray start \
    --address=gpu01:6379 \
    --block
