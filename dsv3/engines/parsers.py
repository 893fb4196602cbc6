"""What each engine calls the parsers that take a model's answer apart, by the model's family: one table.

A family is how a model talks (``hubs.catalogue.FAMILIES``, some of them split here). A parser that does not fit it is
worse than none: with that of R1, which takes all text for a thought until ``</think>``, the whole answer of a model
that does not think lands in the field of the thoughts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .command import Flag
from .options import Serve


class Names(NamedTuple):
    """An engine's names for a family; None: none fits, and the flag stays out."""

    reasoning: str | None = None
    tool: str | None = None


NONE = Names()
THOUGHT = ("<think>", "</think>")
CALLS = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
KIMI_CALLS = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a model talks, and who takes its answers apart.

    Attributes:
        thinks: when, for a reader.
        switch: of ``chat_template_kwargs`` in a request, what turns the thinking on or off; None: nothing does.
        thought, calls: tokens that the parsers look for; a tokenizer without them stops an engine at its start (vLLM's
            parser_manager.py, LMDeploy's reasoning_parser.py).
        template: the file in the engines' repositories, and not in their wheels, that puts tools into the prompt where
            the model's own chat template does not; None: it does, or there are no tools.
        engines: the names in each engine; none in an engine that is not there. vLLM-Ascend has vLLM's.
        source: where it is said that these fit.
    """

    thinks: str
    switch: str | None = None
    thought: tuple[str, ...] = THOUGHT
    calls: tuple[str, ...] = ()
    template: str | None = None
    engines: dict[str, Names] = field(default_factory=dict)
    source: str = ""


# The lists of names: vllm/reasoning/__init__.py and vllm/tool_parsers/__init__.py of vLLM 0.33.0 (0.23.0 for Ascend);
# sglang/srt/parser/reasoning_parser_names.py and sglang/srt/function_call/parser_names.py of SGLang 0.5.23;
# lmdeploy/serve/parsers/ of LMDeploy 0.18.0. TensorRT-LLM 1.2.1 was not to be had: only what every version that was
# seen has.
FAMILIES: dict[str, Family] = {
    "r1": Family(
        thinks="always",
        calls=CALLS,
        template="tool_chat_template_deepseekr1.jinja",
        engines={
            "sglang": Names("deepseek-r1", "deepseekv3"),
            "vllm": Names("deepseek_r1", "deepseek_v3"),
            "lmdeploy": Names("default"),  # "deepseek-r1" is its older name
            "trtllm": Names("deepseek-r1"),
        },
        source="vLLM docs/features/tool_calling.md, reasoning_outputs.md; SGLang docs/basic_usage/deepseek_v3.md",
    ),
    "v3": Family(
        thinks="never",
        calls=CALLS,
        template="tool_chat_template_deepseekv3.jinja",
        engines={
            "sglang": Names(None, "deepseekv3"),
            "vllm": Names(None, "deepseek_v3"),
        },
        source="vLLM docs/features/tool_calling.md; SGLang docs/basic_usage/deepseek_v3.md",
    ),
    "v3.1": Family(
        thinks="if asked to",
        switch='{"thinking": true}',
        calls=CALLS,
        template="tool_chat_template_deepseekv31.jinja",
        engines={
            "sglang": Names("deepseek-v3", "deepseekv31"),
            "vllm": Names("deepseek_v3", "deepseek_v31"),
            "lmdeploy": Names("deepseek-v32"),  # its deepseek-v3 asks for enable_thinking, which the template ignores
        },
        source="vLLM docs/features/tool_calling.md, deepseek_v3_reasoning_parser.py; SGLang's cookbook for DeepSeek",
    ),
    "v3.2-exp": Family(
        thinks="if asked to",
        switch='{"thinking": true}',
        engines={
            "sglang": Names("deepseek-v3", "deepseekv31"),  # and its template tool_chat_template_deepseekv32.jinja
            "vllm": Names("deepseek_v3", "deepseek_v32"),
            "lmdeploy": Names("deepseek-v32"),
        },
        source="vLLM's recipe DeepSeek-V3.2-Exp; SGLang docs/basic_usage/deepseek_v32.md",
    ),
    "v3.2": Family(
        thinks="if asked to",
        switch='{"thinking": true}',
        engines={
            "sglang": Names("deepseek-v3", "deepseekv32"),
            "vllm": Names("deepseek_v3", "deepseek_v32"),
            "lmdeploy": Names("deepseek-v32", "deepseek-v32"),
        },
        source="vLLM's recipe DeepSeek-V3.2; SGLang docs/basic_usage/deepseek_v32.md",
    ),
    "v3.2-speciale": Family(
        thinks="if asked to; no tools",
        switch='{"thinking": true}',
        engines={
            "sglang": Names("deepseek-v3"),
            "vllm": Names("deepseek_v3"),
            "lmdeploy": Names("deepseek-v32"),
        },
        source="SGLang docs/basic_usage/deepseek_v32.md; vLLM's not verified",
    ),
    "v4": Family(
        thinks="by the engine's default",
        switch='{"thinking": true}',
        engines={
            "sglang": Names("deepseek-v4", "deepseekv4"),
            "vllm": Names("deepseek_v4", "deepseek_v4"),
            "lmdeploy": Names("deepseek-v4", "deepseek-v4"),
        },
        source="vLLM's recipes DeepSeek-V4; SGLang's cookbook; vLLM-Ascend's guide DeepSeek-V4-Flash.md",
    ),
    "v4.1": Family(
        thinks="not verified",
        engines={"sglang": Names("deepseek-v41", "deepseekv41"), "vllm": Names("deepseek_v41", "deepseek_v41")},
        source="the engines' lists of names alone",
    ),
    "v2": Family(thinks="never", source="no engine lists a parser for it"),
    "distill": Family(
        thinks="always",
        engines={
            "sglang": Names("deepseek-r1"),
            "vllm": Names("deepseek_r1"),
            "lmdeploy": Names("default"),
            "trtllm": Names("deepseek-r1"),
        },
        source="vLLM docs/features/reasoning_outputs.md; SGLang separate_reasoning.ipynb",
    ),
    "kimi-k2": Family(
        thinks="never",
        calls=KIMI_CALLS,
        engines={
            "sglang": Names(None, "kimi_k2"),  # the reasoning parser of this name is for those that think
            "vllm": Names(None, "kimi_k2"),
            "lmdeploy": Names(None, "kimi_k2"),
        },
        source="vLLM's recipe Kimi-K2-Instruct; SGLang's cookbook for Moonshotai",
    ),
    "kimi-k2-thinking": Family(
        thinks="K2-Thinking always, K2.5 and K2.6 unless told not to",
        switch='{"thinking": false}',
        calls=KIMI_CALLS,
        engines={
            "sglang": Names("kimi_k2", "kimi_k2"),
            "vllm": Names("kimi_k2", "kimi_k2"),
            "lmdeploy": Names("default", "kimi_k2"),
        },
        source="vLLM's recipes Kimi-K2-Thinking and Kimi-K2.5; SGLang's cookbook; LMDeploy's by its source",
    ),
    "kimi-k3": Family(
        thinks="not verified",
        engines={"sglang": Names("kimi_k3", "kimi_k3"), "vllm": Names("kimi_k3", "kimi_k3")},
        source="the engines' lists of names alone",
    ),
    "kimi-vl": Family(thinks="never", source="no engine lists a parser for it"),
    "kimi-vl-thinking": Family(
        thinks="always",
        thought=("◁think▷", "◁/think▷"),
        engines={"sglang": Names("kimi")},
        source="SGLang's reasoning_parser.py; vLLM has none for these marks",
    ),
    "moonlight": Family(thinks="never", source="no engine lists a parser for it"),
    "gigachat3": Family(
        thinks="never",
        engines={
            "sglang": Names(None, "gigachat3"),
            "vllm": Names(None, "gigachat3"),
        },
        source="vLLM docs/features/tool_calling.md; SGLang's list of names",
    ),
    "glm-4.7-flash": Family(
        thinks="unless told not to",
        switch='{"enable_thinking": false}',
        engines={
            "sglang": Names("glm45", "glm47"),
            "vllm": Names("glm45", "glm47"),
            "lmdeploy": Names("default", "glm47"),
        },
        source="vLLM docs/features/tool_calling.md; SGLang's cookbook for GLM; LMDeploy's by its source",
    ),
    "prover": Family(thinks="without marks; no tools", source="its model card"),
    "base": Family(thinks="never; it has no chat", source="continues a text"),
}
NOT_IN_ASCEND = ("v4.1", "kimi-k3")  # newer than vLLM 0.23.0, which it stands on
# Where the engines' repositories keep the chat templates with tools.
SGLANG_TEMPLATES = "examples/chat_template/"
TEMPLATES = {
    "sglang": SGLANG_TEMPLATES,
    "ktransformers": SGLANG_TEMPLATES,
    "vllm": "examples/",
    "ascend": "examples/",
}


def listed(engine: str, family: str) -> Names:
    """``engine``'s names for ``family``; KTransformers runs SGLang's server."""
    if engine == "ktransformers":
        return listed("sglang", family)
    if engine == "ascend":
        return NONE if family in NOT_IN_ASCEND else listed("vllm", family)
    return FAMILIES[family].engines.get(engine, NONE)


def names(engine: str, serve: Serve) -> Names:
    """What ``engine`` calls the parsers that ``serve`` wants; none for a family that is not known."""
    if serve.family is None:
        return NONE
    reasoning, tool = listed(engine, serve.family)
    return Names(reasoning if serve.reasoning_parser else None, tool if serve.tool_call_parser else None)


def flags(engine: str, serve: Serve, reasoning: Flag, tool: Flag) -> Iterator[Flag]:
    """``reasoning`` and ``tool``, an engine's flags without their values, with the names that fit; or neither."""
    for flag, name in zip((reasoning, tool), names(engine, serve), strict=True):
        if name:
            yield replace(flag, words=(*flag.words, name))


def lines() -> Iterator[str]:
    """The table for ENGINES.md."""
    engines = ("sglang", "vllm", "ascend", "lmdeploy", "trtllm")
    yield "| family | thinks | in a request | " + " | ".join(f"`{e}`" for e in engines) + " |"
    yield "|---" * (3 + len(engines)) + "|"
    for name, family in FAMILIES.items():
        cells = [_cell(listed(e, name)) for e in engines]
        switch = f"`{family.switch}`" if family.switch else "-"
        yield f"| `{name}` | {family.thinks} | {switch} | " + " | ".join(cells) + " |"


def _cell(found: Names) -> str:
    return ", ".join(f"`{name}`" if name else "-" for name in found) if any(found) else "-"
