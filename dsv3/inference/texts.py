"""The text files beside a checkpoint's tensors, as transformers reads them: tokenizer, special tokens, template, end.

No code of a checkpoint runs. ``chat.py`` makes a ``Tokenizer`` of what is found here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..outside import TOKENIZER, printable, small, small_json, small_text, some

if TYPE_CHECKING:
    from tokenizers import AddedToken

SETTINGS, TEMPLATE, MORE_TEMPLATES = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What every conversation is rendered with, or what transformers and the engines take for arguments of their own.
TAKEN = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
)
# Tokenizers without a tokenizer.json -> the packages and the Python that make one. transformers 5 lacks a name that
# Kimi-K2's and Moonlight's own code imports; and without that code it takes another pattern of words than theirs.
SAVE = "A.from_pretrained('.').backend_tokenizer.save('tokenizer.json')"
WAYS = {
    "tiktoken's": (
        "'transformers<5' tiktoken blobfile",
        "from transformers.integrations.tiktoken import convert_tiktoken_to_fast as f; "
        "f(A.from_pretrained('.', trust_remote_code=True).model, '.')",
    ),
    "SentencePiece's": ("transformers sentencepiece", SAVE),
    "vocab.json and merges.txt": ("transformers", SAVE),
}


def tokenizer_json(folder: Path, settings: Mapping[str, Any]) -> bytes:
    """The content of tokenizer.json.

    Raises:
        FileNotFoundError: it is missing; names the tokenizer that is there instead, and how to convert it.
        OSError, ValueError: no file, or too long.
    """
    file = folder / "tokenizer.json"
    if os.path.lexists(file):
        return small(file, TOKENIZER)
    classes = json.dumps([settings.get("tokenizer_class"), settings.get("auto_map")]).lower()
    if os.path.lexists(folder / "tiktoken.model") or any(folder.glob("*.tiktoken")) or "tiktoken" in classes:
        kind = "tiktoken's"
    elif os.path.lexists(folder / "tokenizer.model"):
        kind = "SentencePiece's"
    elif os.path.lexists(folder / "vocab.json") and os.path.lexists(folder / "merges.txt"):
        kind = "vocab.json and merges.txt"
    else:
        raise FileNotFoundError(f"{folder}: no tokenizer.json; copy it from the original checkpoint")
    packages, code = WAYS[kind]
    own = ", which runs the checkpoint's own code" if "trust_remote_code" in code else ""
    raise FileNotFoundError(
        f"{folder}: no tokenizer.json, its tokenizer is {kind}; make one in the original's folder: "
        f"pip install {packages} (in another environment), then{own}: "
        f'python -c "from transformers import AutoTokenizer as A; {code}"'
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with what special_tokens_map.json says, which counts where the former lists no tokens.

    Raises:
        OSError, ValueError: one of them is damaged.
    """
    files = [folder / name for name in (SETTINGS, "special_tokens_map.json")]
    settings, special = (small_json(file) if os.path.lexists(file) else {} for file in files)
    return settings if settings.get("added_tokens_decoder") is not None else settings | special


def special_tokens(file: Path, settings: Mapping[str, Any]) -> tuple[dict[str, "AddedToken"], list["AddedToken"]]:
    """The special tokens with names, which templates know them by, and those without; ``file`` is for messages.

    Raises:
        ValueError: one of them is no token.
    """
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if not isinstance(more, dict | list):
        raise ValueError(f"{file}: extra_special_tokens is {more!r:.60}, must be a list")
    own = {name: value for name, value in settings.items() if name.endswith("_token") and isinstance(value, dict | str)}
    named = own | {name: settings[name] for name in NAMED if settings.get(name) is not None}
    named |= more if isinstance(more, dict) else {}
    rest = more if isinstance(more, list) else []
    return (
        {name: _token(file, name, value) for name, value in named.items()},
        [_token(file, "extra_special_tokens", value) for value in rest],
    )


def added_tokens(folder: Path, settings: Mapping[str, Any], special: set[str]) -> list["AddedToken"]:
    """The tokens beside tokenizer.json's, in their order: added_tokens_decoder, or added_tokens.json of older days.

    Args:
        special: those of added_tokens.json that are.

    Raises:
        OSError, ValueError: one is no token, or its number is none; or the file is damaged.
    """
    file, legacy = folder / SETTINGS, folder / "added_tokens.json"
    found = settings.get("added_tokens_decoder")
    if found is None and os.path.lexists(legacy):
        file = legacy
        found = {
            number: {"content": text, "special": text in special, "normalized": text not in special}
            for text, number in small_json(legacy).items()
        }
    if not isinstance(found, dict | None):
        raise ValueError(f"{file}: added_tokens_decoder is {found!r:.60}, must be an object")
    try:
        ordered = sorted((int(number), token) for number, token in (found or {}).items())
    except (TypeError, ValueError):
        raise ValueError(f"{file}: an added token's number is none") from None
    return [_token(file, "an added token", token, special=False) for _, token in ordered]


def _token(file: Path, name: str, token: Any, special: bool = True) -> "AddedToken":
    """A token that is text, or an object which says how the token is cut out of a text."""
    from tokenizers import AddedToken

    kinds = {"content": str, "lstrip": bool, "rstrip": bool, "single_word": bool, "normalized": bool, "special": bool}
    given = {"content": token} if isinstance(token, str) else token
    if isinstance(given, dict) and "content" in given:
        values: dict[str, Any] = {"special": special} | {key: given[key] for key in kinds if key in given}
        if all(isinstance(value, kinds[key]) for key, value in values.items()):
            return AddedToken(**values)
    raise ValueError(f"{file}: {name} is {token!r:.60}, must be text")


def chat_template(folder: Path, settings: Mapping[str, Any]) -> tuple[Path, str]:
    """The template of a plain conversation, and the file that has it. Of several, which have names, ``default``.

    Raises:
        ValueError: there is none, or none of that name; names those there are.
        OSError: a file cannot be opened.
    """
    for file in (folder / MORE_TEMPLATES / "default.jinja", folder / TEMPLATE):
        if os.path.lexists(file):
            return file, small_text(file)
    names = [file.stem for file in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))]
    older = folder / "chat_template.json"
    values = {folder / SETTINGS: settings.get("chat_template")}
    values |= {older: small_json(older).get("chat_template")} if os.path.lexists(older) else {}
    for file, value in values.items():
        if isinstance(value, list):
            value = {
                t["name"]: t.get("template") for t in value if isinstance(t, dict) and isinstance(t.get("name"), str)
            }
        named = value if isinstance(value, dict) else {"default": value}
        if (template := named.get("default")) and isinstance(template, str):
            return file, template
        names += [name for name in named if name != "default"]
    if names:
        raise ValueError(
            f"{folder}: its chat templates are {printable(some(names))}, none is named default; copy the one you want "
            f"to {TEMPLATE}"
        )
    raise ValueError(
        f"{folder}: has no chat template: no {TEMPLATE}, no chat_template in {SETTINGS}; put the original's there"
    )


def end_ids(folder: Path) -> set[int]:
    """The tokens that end an answer by generation_config.json and config.json; the tokenizer may have one more.

    Raises:
        OSError, ValueError: one of them is damaged, or an id is no whole number.
    """
    found = set()
    for file in (folder / "generation_config.json", folder / "config.json"):
        value = small_json(file).get("eos_token_id") if os.path.lexists(file) else None
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int for token in ids):
            raise ValueError(f"{file}: eos_token_id is {value!r:.60}, must be a whole number or a list of them")
        found |= {token for token in ids if token >= 0}
    return found


def template_options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """What a chat template is told beside the conversation, such as V3.1's ``thinking``; text must be a JSON object.

    Raises:
        ValueError: no object, nothing that JSON can hold, or a name that is taken.
    """
    what = "chat_template_kwargs"
    try:
        options = json.loads(given) if isinstance(given, str) else {} if given is None else given
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise ValueError("no object of names and values")
        options = dict(options)
        json.dumps(options, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        shown = f"{what} {printable(repr(given), 60)}"
        raise ValueError(f'{shown}: give JSON such as {{"thinking": true}} ({printable(error, 100)})') from None
    for name in TAKEN:
        if name in options:
            raise ValueError(f"{what}: {name} is not the template's to be told; leave it out")
    return options
