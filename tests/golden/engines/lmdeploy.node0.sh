# Ray starts the ranks of all machines; the server waits until they are there.
# Whoever reaches Ray's port 6379 can run programs here: a private network only.
# Flags as in LMDeploy 0.18.0:
#   --backend pytorch: the other engine, TurboMind, lacks this model [lmdeploy/cli/utils.py]
#   --tp 16: every layer cut over 16 GPUs [lmdeploy/cli/utils.py]
#   --reasoning-parser default: thinking and answer apart [lmdeploy/serve/parsers/reasoning_parser]
#   --speculative-algorithm deepseek_mtp: speculative decoding with the MTP layer [lmdeploy/cli/utils.py]
#   --speculative-num-draft-tokens 1: tokens that it drafts [lmdeploy/cli/utils.py]
#   --session-len 32768: tokens of prompt and answer together [lmdeploy/cli/utils.py]
#   --server-name 127.0.0.1: by itself it listens on every address [lmdeploy/cli/serve.py]
#   --server-port 23333: of the server [lmdeploy/cli/serve.py]
ray start --head --port=6379
lmdeploy serve api_server '/data/it'"'"'s R1' \
    --backend pytorch \
    --tp 16 \
    --reasoning-parser default \
    --speculative-algorithm deepseek_mtp \
    --speculative-num-draft-tokens 1 \
    --session-len 32768 \
    --server-name 127.0.0.1 \
    --server-port 23333
