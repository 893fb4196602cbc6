"""Runs llama.cpp's converter: ``python converter_worker.py ROOT ask FOLDER`` or ``... ROOT convert PRE WORDS...``.

In a Python that has what the converter imports, where dsv3 need not be; ``converter.py`` starts it. ``ask`` prints as
JSON what the converter makes of a folder. ``convert`` is its command line, told the name of the pre-tokenizer (``-``:
it knows the tokenizer by itself). In both nothing is fetched, and no Python of the folder is run: the converter would.
"""

import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

NEEDS = ("torch", "transformers", "numpy", "yaml", "tqdm")


def closed() -> None:
    """From here on ``AutoTokenizer`` runs no code of a repository, whatever it is told (conversion/deepseek.py)."""
    from transformers import AutoTokenizer

    load = AutoTokenizer.from_pretrained

    def closed_load(*args: Any, **options: Any) -> Any:
        return load(*args, **options | {"trust_remote_code": False})

    setattr(AutoTokenizer, "from_pretrained", staticmethod(closed_load))  # noqa: B010


def ask(folder: str) -> dict[str, Any]:
    """What the converter makes of the folder: its architecture and its tokenizer, None where it knows none."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        return {"missing": missing}
    closed()
    import conversion
    import conversion.base
    import gguf
    from transformers import AutoTokenizer

    try:
        gguf.Metadata.load_model_card(Path(folder))
    except Exception as error:
        return {"error": f"README.md, in the lines between its two ---: {error}; correct it or move it away"}
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        name = json.load(file)["architectures"][0]
    found: dict[str, Any] = {"architecture": None, "drops_mtp": False, "pre_tokenizer": None, "last_id": -1}
    try:
        model = conversion.get_model_class(name)
        found |= {
            "architecture": gguf.MODEL_ARCH_NAMES[model.model_arch],
            "drops_mtp": bool(getattr(model, "skip_mtp", False)),
        }
    except NotImplementedError:
        return found
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found["last_id"] = max(tokenizer.get_vocab().values())
    with suppress(NotImplementedError):
        found["pre_tokenizer"] = conversion.base.TextModel.get_vocab_base_pre(None, tokenizer)
    return found


def convert(root: str, pre: str, words: list[str]) -> None:
    """The converter's own ``main``."""
    closed()
    import conversion.base
    import convert_hf_to_gguf

    if pre != "-":
        conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = [os.path.join(root, "convert_hf_to_gguf.py"), *words]
    convert_hf_to_gguf.main()


def main() -> None:
    root, what, *words = sys.argv[1:]
    sys.path.insert(0, root)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if what == "convert":
        convert(root, words[0], words[1:])
        return
    try:
        answer = ask(words[0])
    except Exception as error:  # of a folder or a llama.cpp that nobody has tried: said in one line
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    # This folder has modules of engines' names, and must not be where they are looked for.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]
    main()
