"""What llama.cpp itself does, in llama-cpp-python's environment, where dsv3 is not: quantise a file, answer questions.

PYTHON benchmarks/llama_worker.py quantize IN.gguf OUT.gguf Q4_0
PYTHON benchmarks/llama_worker.py answer FILE.gguf REQUEST.json ANSWER.json

A request has ``questions``, the most tokens of an answer as ``limit`` (0: prompts alone), and ``cache``: the type of
keys and values. For each question the answer has the tokens that llama.cpp makes of the chat template's text, and its
greedy tokens.
"""

import json
import sys

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

CONTEXT = 512


def quantize(source: str, target: str, name: str) -> None:
    """Write ``source`` again, with types as llama.cpp chooses them for ``name``: Q4_0, Q4_K_M, ..."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    if code := llama_cpp.llama_model_quantize(source.encode(), target.encode(), params):
        sys.exit(f"llama_model_quantize: {code}")


def answer(file: str, questions: list[str], limit: int, cache: str) -> list[tuple[list[int], list[int]]]:
    """Prompt and greedy answer of each question as token ids, the last one of an answer that ends included."""
    kind = getattr(llama_cpp, f"GGML_TYPE_{cache}")
    llm = llama_cpp.Llama(file, n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, type_k=kind, type_v=kind, verbose=False)
    template = Jinja2ChatFormatter(
        llm.metadata["tokenizer.chat_template"],
        eos_token=llm.detokenize([llm.token_eos()], special=True).decode(),
        bos_token=llm.detokenize([llm.token_bos()], special=True).decode(),
    )
    answers = []
    for question in questions:
        text = template(messages=[{"role": "user", "content": question}]).prompt
        prompt, tokens = llm.tokenize(text.encode(), add_bos=False, special=True), []
        for token in llm.generate(prompt, temp=0, repeat_penalty=1.0) if limit else ():
            tokens.append(int(token))
            if token == llm.token_eos() or len(tokens) == limit:
                break
        answers.append((prompt, tokens))
    return answers


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "quantize":
        quantize(*words)
        return
    file, request, target = words
    with open(request, encoding="utf-8") as asked:
        answers = answer(file, **json.load(asked))
    with open(target, "w", encoding="utf-8") as out:
        json.dump(answers, out)


if __name__ == "__main__":
    main()
