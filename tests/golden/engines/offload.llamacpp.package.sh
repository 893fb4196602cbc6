# llama-server is not here, so the server of llama-cpp-python runs: all experts stay in RAM, and thinking comes in one piece with the answer; dsv3 ask tells them apart.
# It listens where HOST and PORT say, which it reads before its flags, whoever set them; PYTHONSAFEPATH: a llama_cpp in the folder where it runs is not taken for the package.
# The MTP layer is not in a GGUF file: the converter leaves it out.
# Flags as in llama-cpp-python 0.3.36:
#   --model '/data/it'"'"'s R1-00001-of-00009.gguf': what to serve, a split file's first part [llama_cpp/server/settings.py]
#   --n_ctx 16384: tokens of prompt and answer together; 0: as the file says; by itself 2048 [llama_cpp/server/settings.py]
#   --logits_all false: by itself it keeps a row of logits, as long as the vocabulary, for each token of the context [llama_cpp/server/settings.py]
#   --last_n_tokens_size 0: no penalty on what was said already, which by itself is 1.1 and spoils sums (server/types.py) [llama_cpp/server/settings.py]
#   --interrupt_requests false: a request waits, and does not cut off the answer before it [llama_cpp/server/settings.py]
#   --n_threads 32: for the answer [llama_cpp/server/settings.py]
#   --n_threads_batch 32: for the prompt [llama_cpp/server/settings.py]
#   --numa true: weights and threads spread over 2 sockets' memory [llama_cpp/server/settings.py]
HOST=127.0.0.1 PORT=8000 PYTHONSAFEPATH=1 v/python -m llama_cpp.server \
    --model '/data/it'"'"'s R1-00001-of-00009.gguf' \
    --n_ctx 16384 \
    --logits_all false \
    --last_n_tokens_size 0 \
    --interrupt_requests false \
    --n_threads 32 \
    --n_threads_batch 32 \
    --numa true
