# The MTP layer is not in a GGUF file: the converter leaves it out.
# dsv3 plan MODEL --gpu NAME --ram GB says how many layers' experts the card can hold beside: --n-cpu-moe.
# Flags as in llama.cpp 0c1e570:
#   --model '/data/it'"'"'s R1-00001-of-00009.gguf': what to serve, a split file's first part [common/arg.cpp]
#   --n-gpu-layers all: attention, shared experts and the cache of all layers on the card [common/arg.cpp]
#   --cpu-moe: the routed experts of all layers in RAM: a token reads few of them [common/arg.cpp]
#   --ctx-size 16384: tokens of prompt and answer together; 0: as the file says [common/arg.cpp]
#   --parallel 1: one conversation at a time has all of it; more would share it out [common/arg.cpp]
#   --flash-attn auto: one kernel for MLA's attention, where the card has it [common/arg.cpp]
#   --jinja: the file's own chat template [common/arg.cpp]
#   --reasoning-format deepseek: thinking and answer apart [common/arg.cpp]
#   --host 0.0.0.0: who can reach it [common/arg.cpp]
#   --port 8080: of the server [common/arg.cpp]
LLAMA_API_KEY="$DSV3_API_KEY" llama-server \
    --model '/data/it'"'"'s R1-00001-of-00009.gguf' \
    --n-gpu-layers all \
    --cpu-moe \
    --ctx-size 16384 \
    --parallel 1 \
    --flash-attn auto \
    --jinja \
    --reasoning-format deepseek \
    --host 0.0.0.0 \
    --port 8080
