"""Answers prompts through an engine's own Python interface: ``python offline_worker.py REQUEST ANSWER``, both JSON.

Runs in the engine's own environment, where dsv3 is not; ``offline.py`` starts it. The request names the engine and
holds the keyword arguments of its class, the prompts as token ids and as messages, and how to sample.
"""

import json
import os
import sys
from typing import Any

Answers = list[tuple[list[int], str]]  # token ids, and why they end: "stop" or "length"


def vllm(request: dict[str, Any]) -> Answers:
    from vllm import LLM, SamplingParams

    llm = LLM(**request["arguments"])
    sampling = SamplingParams(temperature=request["temperature"], max_tokens=request["max_new_tokens"])
    done = llm.generate([{"prompt_token_ids": ids} for ids in request["prompts"]], sampling)
    return [(list(d.outputs[0].token_ids), d.outputs[0].finish_reason) for d in done]


def sglang(request: dict[str, Any]) -> Answers:
    import sglang

    sampling = {"temperature": request["temperature"], "max_new_tokens": request["max_new_tokens"]}
    with sglang.Engine(**request["arguments"]) as engine:
        done = engine.generate(input_ids=request["prompts"], sampling_params=sampling)
    return [(d["output_ids"], d["meta_info"]["finish_reason"]["type"]) for d in done]


def lmdeploy(request: dict[str, Any]) -> Answers:
    """Its pipeline takes no token ids: it applies the chat template itself, and must come to as many."""
    from lmdeploy import GenerationConfig, PytorchEngineConfig, pipeline
    from lmdeploy.messages import SpeculativeConfig

    arguments = dict(request["arguments"])
    drafts = arguments.pop("speculative_config", None)
    sampling = GenerationConfig(
        max_new_tokens=request["max_new_tokens"],
        do_sample=request["temperature"] > 0,
        temperature=request["temperature"] or 1.0,
    )
    with pipeline(
        arguments.pop("model_path"),
        backend_config=PytorchEngineConfig(**arguments),
        speculative_config=SpeculativeConfig(**drafts) if drafts else None,
    ) as pipe:
        done = pipe(request["messages"], gen_config=sampling)
    for ids, d in zip(request["prompts"], done, strict=True):
        if d.input_token_len != len(ids):
            sys.exit(f"LMDeploy's chat template gives {d.input_token_len} tokens, the checkpoint's {len(ids)}")
    return [(d.token_ids, d.finish_reason) for d in done]


def trtllm(request: dict[str, Any]) -> Answers:
    from tensorrt_llm import LLM, SamplingParams

    sampling = SamplingParams(temperature=request["temperature"], max_tokens=request["max_new_tokens"])
    with LLM(**request["arguments"]) as llm:
        done = llm.generate([{"prompt_token_ids": ids} for ids in request["prompts"]], sampling)
    return [(list(d.outputs[0].token_ids), d.outputs[0].finish_reason) for d in done]


ENGINES = {"vllm": vllm, "sglang": sglang, "lmdeploy": lmdeploy, "trtllm": trtllm}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    answers = ENGINES[request["engine"]](request)
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":  # engines start processes that import this file again
    # This folder has modules of the engines' names, and must not be where they are looked for.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]
    main()
