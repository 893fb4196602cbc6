"""How a model talks: its family, told from the catalogue for an id, and for a folder from what its chat template does.

Names and model types only help where templates do the same. What is not known gets no parser, and a line that says so.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.gguf import is_meant, open_gguf
from ..cli import describe
from ..hubs.catalogue import find_model
from ..inference import texts
from ..inference.template import Template
from ..outside import TOKENIZER, parse_json, small, small_json
from .checkpoints import is_id
from .command import Engine
from .options import Serve
from .parsers import FAMILIES, KIMI_CALLS, TEMPLATES, THOUGHT, names

# Architectures of which every chat model is of one family; of the others the template decides.
BY_ARCHITECTURE = {
    "deepseek_v2": "v2",
    "deepseek_v32": "v3.2",
    "deepseek_v4": "v4",
    "deepseek_v41": "v4.1",
    "glm4_moe_lite": "glm-4.7-flash",
    "kimi_k25": "kimi-k2-thinking",
    "kimi_k3": "kimi-k3",
    "kimi_vl": "kimi-vl",
}
NO_TEMPLATE = ("deepseek_v32", "deepseek_v4", "deepseek_v41")  # Python takes its place; V3.2-Exp has one
TAUGHT = ("qwen2", "qwen3", "llama")  # what R1 taught
# Families that a name splits: the family, a part of the name, what that is.
SPLIT = (
    ("v3.2", "v3.2-exp", "v3.2-exp"),
    ("v3.2", "speciale", "v3.2-speciale"),
    ("v3.2", "-base", "base"),
    ("v4", "v4.1", "v4.1"),
    ("v4", "-base", "base"),
    ("v3", "prover", "prover"),
    ("r1", "prover", "prover"),
    ("kimi-vl", "thinking", "kimi-vl-thinking"),
)
QUESTION = {"role": "user", "content": "question"}
PAST = {"role": "assistant", "content": "HIDDEN</think>shown"}


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What is known of how a model talks.

    Attributes:
        family: one of ``parsers.FAMILIES``; None: not known.
        why: why not.
        tokens: of its tokenizer, of tiktoken's the special ones; None: not known.
        code: what of its repository is Python that the tokenizer needs; None: nothing.
        absent: Python files that its folder names and lacks.
    """

    family: str | None = None
    why: str = ""
    tokens: frozenset[str] | None = None
    code: str | None = None
    absent: tuple[str, ...] = ()


def of(model: str) -> Speech:
    """How ``model`` talks: a folder, or the id of one on a hub."""
    folder = Path(model)
    if folder.is_dir():
        try:
            return _of_folder(folder)
        except (ValueError, OSError) as error:
            return Speech(why=describe(error))
    if is_meant(folder):
        return _of_gguf(folder)
    known = find_model(model) if is_id(model) else None
    if known is None:
        return Speech(why="neither a folder here nor in the list of models")
    code = "its tokenizer" if known.tiktoken else None
    return Speech(family=_split(known.family, known.name), code=code)


def _of_gguf(file: Path) -> Speech:
    """By the chat template in the file."""
    try:
        values = open_gguf(file).values
        template = Template(file, str(values["tokenizer.chat_template"]))
        taught = values.get("general.architecture") in TAUGHT
        family = _family(Talk(template, {}), taught, frozenset())
    except KeyError:
        return Speech(why="the file has no chat template")
    except (ValueError, OSError) as error:
        return Speech(why=describe(error))
    name = f"{file.name} {values.get('general.name', '')}"
    return Speech(family=_split(family, name)) if family else Speech(why="its chat template is none that is known")


def _of_folder(folder: Path) -> Speech:
    config, settings = small_json(folder / "config.json"), texts.settings_of(folder)
    tokens = _tokens(folder, settings)
    ours, theirs = _python(settings, "AutoTokenizer"), _python(config, "")
    speech = Speech(
        tokens=tokens,
        code=", ".join(ours) or None,
        absent=tuple(name for name in dict.fromkeys(ours + theirs) if not (folder / name).is_file()),
    )
    name = f"{folder.resolve().name} {config.get('_name_or_path', '')}"
    architecture = str(config.get("model_type"))
    try:
        named, _ = texts.special_tokens(folder / texts.SETTINGS, settings)
        special = {name: token.content for name, token in named.items()}
        talk = Talk(Template(*texts.chat_template(folder, settings)), special)
        family = BY_ARCHITECTURE.get(architecture) or _family(talk, architecture in TAUGHT, tokens or frozenset())
    except (ValueError, OSError) as error:
        if architecture not in NO_TEMPLATE:
            return replace(speech, why=describe(error))
        return replace(speech, family=_split(BY_ARCHITECTURE[architecture], name))
    if family is None:
        return replace(speech, why="its chat template is none of those that are known")
    return replace(speech, family="v3.2-exp" if architecture == "deepseek_v32" else _split(family, name))


def _split(family: str, name: str) -> str:
    return next((fine for whole, part, fine in SPLIT if whole == family and part in name.lower()), family)


class Talk:
    """What a chat template makes of conversations, with ``special`` tokens by name."""

    def __init__(self, template: Template, special: dict[str, str]):
        self.template, self.special = template, {"bos_token": "", "eos_token": ""} | special

    def of(self, *messages: dict[str, str], **options: bool) -> str:
        """The prompt."""
        values = {"messages": list(messages), "add_generation_prompt": True}
        return self.template.render(self.special | values | options)


def _tokens(folder: Path, settings: dict[str, Any]) -> frozenset[str] | None:
    """Of tiktoken's those that stand beside it; None where nothing here says."""
    file = folder / "tokenizer.json"
    whole = parse_json(small(file, TOKENIZER)) if os.path.lexists(file) else {}
    listed, model = whole.get("added_tokens"), whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    found = {token.content for token in texts.added_tokens(folder, settings, set())}
    found.update(str(t.get("content")) for t in (listed if isinstance(listed, list) else []) if isinstance(t, dict))
    return frozenset(found.union(vocab if isinstance(vocab, dict) else ())) or None


def _python(values: dict[str, Any], kind: str) -> list[str]:
    """Files of the folder itself that ``auto_map`` names for classes of ``kind``; with ``--`` they are another's."""
    found = values.get("auto_map")
    classes = [c for name, c in found.items() if name.startswith(kind)] if isinstance(found, dict) else []
    flat = [c for listed in classes for c in (listed if isinstance(listed, list) else [listed])]
    return [c.rpartition(".")[0] + ".py" for c in flat if isinstance(c, str) and "." in c and "--" not in c]


def _family(talk: Talk, taught: bool, tokens: frozenset[str]) -> str | None:
    """By what becomes of a question, with and without thinking, and of an answer that was thought about."""
    prompt = talk.of(QUESTION)
    if "<|im_assistant|>" in prompt:
        return _moonshot(talk, tokens)
    if "<|role_sep|>" in prompt:
        return "gigachat3"
    if "<｜Assistant｜>" not in prompt:
        return None
    if not _opened(prompt) and _opened(talk.of(QUESTION, thinking=True)):
        return "v3.1"
    # R1's template of January 2025 opens no thought, but it leaves those of the past out, as all do that think.
    if _opened(prompt) or "HIDDEN" not in talk.of(QUESTION, PAST, QUESTION):
        return "distill" if taught else "r1"
    return "v3"


def _moonshot(talk: Talk, tokens: frozenset[str]) -> str:
    """Kimi-K2 calls tools, and Moonlight does not; the one that thinks puts a thought before each answer."""
    if KIMI_CALLS[0] not in talk.template.source and KIMI_CALLS[0] not in tokens:
        return "moonlight"
    thinks = THOUGHT[0] in talk.of(QUESTION, {"role": "assistant", "content": "answer"}, QUESTION)
    return "kimi-k2-thinking" if thinks else "kimi-k2"


def _opened(prompt: str) -> bool:
    return prompt.rstrip().endswith(THOUGHT[0])


# ------------------------------------------------------------------------------------------ what becomes of it


def told(serve: Serve, speech: Speech, trust: bool = False) -> Serve:
    """``serve`` with what ``speech`` says: the family, and only such parsers as the tokenizer has the tokens for.

    ``trust``: for a command that is only printed: with ``--trust-remote-code`` where it is needed.
    """
    name = serve.family or speech.family
    family = FAMILIES[name] if name else None

    def has(tokens: tuple[str, ...]) -> bool:
        return speech.tokens is None or speech.tokens.issuperset(tokens)

    return replace(
        serve,
        family=name,
        reasoning_parser=serve.reasoning_parser and (family is None or has(family.thought)),
        tool_call_parser=serve.tool_call_parser and (family is None or has(family.calls)),
        remote_code=serve.remote_code or trust and speech.code is not None,
    )


def refusals(serve: Serve, speech: Speech) -> Iterator[str]:
    """What stands against running Python of the repository, or against leaving it out."""
    if speech.code and not serve.remote_code:
        yield (
            f"{serve.model}: its tokenizer is Python code of the model's repository ({speech.code}), which the engine "
            "would run: read it, then say --trust-remote-code"
        )
    elif speech.absent and serve.remote_code:
        cure = "copy it from the folder that the weights came from"
        cure += "" if speech.code else ", or leave out --trust-remote-code, which is not needed here"
        yield f"{serve.model}: auto_map names {speech.absent[0]}, which is not there, and the engine stops: {cure}"


def notes(engine: Engine, asked: Serve, speech: Speech) -> Iterator[str]:
    """What to know of how the model talks and is taken apart; ``asked`` is the order as it was given."""
    serve = told(asked, speech)
    if serve.family is None:
        known = ", ".join(FAMILIES)
        unknown = f"how {serve.model} talks is not known here ({speech.why}): no reasoning or tool-call parser"
        yield f"{unknown}; --family says it: {known}"
        return
    family, chosen = FAMILIES[serve.family], names(engine.name, serve)
    lost = names(engine.name, replace(asked, family=serve.family))
    for wanted, got, tokens in zip(lost, chosen, (family.thought, family.calls), strict=True):
        if wanted and not got:
            yield f"no parser {wanted}: it looks for {' and '.join(tokens)}, which the tokenizer lacks"
    apart = lost.reasoning or engine.tells_thinking
    if serve.reasoning_parser and not apart and any(n.reasoning for n in family.engines.values()):
        ends = family.thought[1]
        yield f"{engine.title} has no reasoning parser for {serve.family}: a thought stands in the answer, up to {ends}"
    if family.switch:
        request = f'{{"chat_template_kwargs": {family.switch}}}'
        yield f"{serve.family} thinks {family.thinks}; in a request: {request}; dsv3 ask: --chat-template-kwargs"
    if family.template and chosen.tool and engine.name in TEMPLATES:
        file = TEMPLATES[engine.name] + family.template
        yield f"tools reach the prompt with --chat-template {file}, of the engine's repository, not of its package"
    if speech.code:
        yield f"--trust-remote-code runs Python of the model's repository ({speech.code}): read it first"
    elif asked.remote_code:
        yield "--trust-remote-code: not needed for this model; it lets the engine run Python of the model's repository"
