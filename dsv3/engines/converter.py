"""llama.cpp's converter, which makes GGUF files of Hugging Face folders: its command, and what it would fail at.

Read in llama-cpp-python 0.3.36, whose source archive has it (commit 0c1e570), and run there on tiny-r1.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from ..checkpoint.gguf import SPLIT, open_gguf
from ..checkpoint.write import free_bytes
from ..config import ModelConfig
from ..layout import layout
from ..outside import TOKENIZER, parse_json, printable, small, small_json
from ..paths import can_write
from . import converter_worker
from .checkpoints import Served, look
from .command import Command, Flag

VERSION = "0c1e570"
SCRIPT = "convert_hf_to_gguf.py"
FILES = (SCRIPT, "conversion/base.py", "gguf-py/gguf/__init__.py")
ARCHITECTURE = "deepseek2"  # V2, V3, R1 and Kimi-K2, as llama.cpp calls them all
OUTTYPES = {"bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32, "f32": 4.0}  # bytes of a matrix's number
# What ``converter_worker`` answers: one of these, with all of its keys.
ANSWERS: tuple[dict[str, tuple[type, ...]], ...] = (
    {"missing": (list,)},
    {"error": (str,)},
    {"architecture": (str, NoneType), "drops_mtp": (bool,), "pre_tokenizer": (str, NoneType), "last_id": (int,)},
)
PATIENCE = 300  # seconds; torch and transformers are imported, from a network disk slowly
MOST_NAME = 240  # bytes of the file's; file systems take 255, and ".part" or "-2.log" come behind it
MOST_EXPERTS = 1024  # LLAMA_MAX_EXPERTS, src/llama-hparams.h
LITE_LAYERS = (26, 27)  # src/models/deepseek2.cpp: V2-Lite and others are told by this alone
LITE_48 = 128_256  # and by this vocabulary, with 48 layers
# What a tokenizer.json splits a text at before it merges -> llama.cpp's name for the same (src/llama-vocab.cpp): for
# tokenizers that were trained anew, which it does not know by the hash of what they make of a text.
PRE_TOKENIZERS = {
    (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ): "deepseek-v3",
    # tiny-r1's own. "smollm" keeps runs of marks in one piece, in which tiny-r1 merges nothing. Two cases become other
    # tokens: a word behind two or more blanks, and one that begins behind an apostrophe with s, t, m, d, re, ve or ll.
    (r"\p{N}", r" ?\p{L}+|\s+|[^\s\p{L}\p{N}]"): "smollm",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """A file to be made.

    Attributes:
        folder: the Hugging Face folder, in BF16 or DeepSeek's FP8.
        llama_cpp: where llama.cpp's source lies.
        outfile: the GGUF file.
        outtype: of the matrices, one of ``OUTTYPES``; vectors and the router stay in float32.
        python: an interpreter that has torch and transformers.
    """

    folder: Path
    llama_cpp: Path
    outfile: Path
    outtype: str = "bf16"
    python: str = sys.executable


def command(order: Order, outfile: Path, pre_tokenizer: str | None) -> Command:
    """The converter's command that writes ``outfile``; ``pre_tokenizer`` is None where it knows the tokenizer."""
    root, said = os.path.abspath(order.llama_cpp), pre_tokenizer or "-"
    why = f"its pre-tokenizer, by its splits: {said}" if pre_tokenizer else "the converter knows the tokenizer"
    return Command(
        checked=f"llama.cpp {VERSION}",
        program=(order.python, os.path.abspath(converter_worker.__file__), root),
        flags=(
            Flag(("convert", said), why, "conversion/base.py"),
            Flag((os.path.abspath(order.folder),), "the folder, of which no Python is run", SCRIPT),
            Flag(("--outfile", os.path.abspath(outfile)), "the file", SCRIPT),
            Flag(("--outtype", order.outtype), "of the matrices; vectors and the router stay in float32", SCRIPT),
        ),
    )


# ------------------------------------------------------------------------------------------------ what cannot work


def refusals(order: Order) -> Iterator[str]:
    """What the converter, or llama.cpp when it loads the file, would fail at; nothing is started."""
    served = look(str(order.folder))
    yield from of_source(order.llama_cpp)
    yield from served.wrong
    yield from _folder(order.folder, served)
    if served.cfg:
        yield from of_shape(served.cfg)
    yield from _target(order, served.cfg)


def of_source(root: Path) -> Iterator[str]:
    """Whether llama.cpp's source with its converter lies in ``root``."""
    lost = [name for name in FILES if not (root / name).is_file()]
    if not lost:
        return
    inner = root / "vendor" / "llama.cpp"  # in the source archive of llama-cpp-python
    cure = f"say --llama-cpp {inner}" if inner.is_dir() else "git clone https://github.com/ggml-org/llama.cpp"
    yield f"--llama-cpp {root}: no {lost[0]} there; {cure}"


def _folder(folder: Path, served: Served) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{folder}: no such folder"
        return
    if not any(folder.glob("model*.safetensors")):
        yield f"{folder}: no model*.safetensors; of other weights the converter unpickles, which is not done here"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file() and not any(name in line for line in served.wrong):
            yield f"{folder / name}: not found, and the converter reads it; copy it from where the weights came from"
    if not served.wrong and served.cfg is None:
        what = f"not a DeepSeek-V2 or V3 as it is known here: {served.unread}"
        yield f"{folder / 'config.json'}: {what}; for other models start {SCRIPT} yourself"
    if served.cfg:
        yield from _named(folder / "config.json")
    if served.stored and not served.blocks:
        what = served.stored.words
        yield f"{folder}: stored as {what}; whether the converter reads that is not known here: give it BF16 or FP8"


def _named(config: Path) -> Iterator[str]:
    """Whether a config names its architecture."""
    names = small_json(config).get("architectures")
    if isinstance(names, str):
        yield f"{config}: architectures is a text, and the converter reads a list: [{json.dumps(names[:60])}]"
    elif not isinstance(names, list) or not names or not isinstance(names[0], str):
        yield f"{config}: lacks architectures, by which the converter knows a model; copy it from the weights' origin"


def of_shape(cfg: ModelConfig) -> Iterator[str]:
    """Shapes at which llama.cpp aborts when it loads the file.

    Source: load_hparams in src/llama-model.cpp, load_arch_hparams and load_arch_tensors in src/models/deepseek2.cpp.
    """
    experts, groups, limited = cfg.n_routed_experts, cfg.n_expert_groups, cfg.n_limited_groups
    if not 1 < experts <= MOST_EXPERTS:
        yield f"n_routed_experts = {experts}: llama.cpp takes 2 to {MOST_EXPERTS}"
    if groups >= experts > 1:
        yield f"n_group = {groups}: llama.cpp wants fewer groups than the {experts} experts"
    if groups > 1 and not limited < groups:
        yield f"topk_group = {limited}: llama.cpp wants less than n_group = {groups}; with n_group 1 it limits nothing"
    lite = cfg.n_layers in LITE_LAYERS or (cfg.n_layers == 48 and cfg.vocab_size == LITE_48)
    if lite and cfg.q_lora_rank:
        yield (
            f"num_hidden_layers = {cfg.n_layers}: llama.cpp takes such a model for one without q_lora_rank, as V2-Lite "
            f"is, and this one has {cfg.q_lora_rank}; another number of layers works"
        )
    if not lite and not cfg.q_lora_rank:
        layers = " or ".join(map(str, LITE_LAYERS))
        yield f"q_lora_rank = null: llama.cpp reads that with {layers} layers only, and here are {cfg.n_layers}"


def _target(order: Order, cfg: ModelConfig | None) -> Iterator[str]:
    file = order.outfile
    if file.suffix != ".gguf":
        yield f"--outfile {file}: its name must end in .gguf, by which programs know such a file"
    if SPLIT.fullmatch(file.name):
        yield f"--outfile {file}: the name of a part of a split file; one file is made: leave the numbers out"
    if os.path.lexists(file):
        yield f"--outfile {file}: is there; move it away or give another name"
    if os.path.lexists(part := part_of(file)):
        yield taken(part)
    if len(os.fsencode(file.name)) > MOST_NAME:
        yield f"--outfile {file}: its name is longer than {MOST_NAME} bytes, and more is put behind it; shorten it"
    if not os.path.isdir(file.parent):
        yield f"{file.parent}: no such folder"
    elif not can_write(file.parent):
        yield f"{file.parent}: cannot be written to"
    elif cfg and (wanted := nbytes(order, cfg)) > (free := free_bytes(file.parent)):
        yield f"{file.parent}: {wanted / 1e9:,.2f} GB are needed, and {free / 1e9:,.2f} GB are free"


def part_of(file: Path) -> Path:
    """What ``file`` is called until it is whole: always the same, so that a rest is found by the next run."""
    return file.with_name(f"{file.name}.part")


def taken(part: Path) -> str:
    """Why no run can write ``part``, and what to do."""
    return f"{part}: is there: another run writes it still, or was killed and left it; if none does, remove it"


def nbytes(order: Order, cfg: ModelConfig) -> int:
    """Bytes of the file, about: its tensors, and the tokenizer's text."""
    tensors = 0.0
    for row in layout(replace(cfg, dtype="bf16", n_mtp_layers=0)):
        plain = len(row.shape) == 1 or ".gate." in row.name
        tensors += row.numel * (OUTTYPES["f32"] if plain else OUTTYPES[order.outtype])
    tokenizer = order.folder / "tokenizer.json"
    return round(tensors) + (tokenizer.stat().st_size if tokenizer.is_file() else 0)


# ------------------------------------------------------------------------------------------------ asked and answered


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the converter makes of a folder.

    Attributes:
        pre_tokenizer: what it must be told; None: it knows the tokenizer.
        notes: what is lost or changed.
        wrong: why it cannot work.
    """

    pre_tokenizer: str | None = None
    notes: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def asked(order: Order) -> Verdict:
    """Let the converter look at the folder: its architecture, and its tokenizer by the hash of what it makes of a text.

    Its own functions answer, in its own Python; no weights are read.
    """
    script = os.path.abspath(converter_worker.__file__)
    run = [order.python, script, os.path.abspath(order.llama_cpp), "ask", os.path.abspath(order.folder)]
    try:
        done = subprocess.run(run, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"after {PATIENCE} s no answer" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
        return Verdict(wrong=(f"--python {order.python}: {why}; name one that has torch and transformers",))
    if answer := _answer(done.stdout):
        return _understood(order, answer)
    last = printable((done.stderr.strip() or f"exit code {done.returncode}, and no answer").splitlines()[-1])
    return Verdict(wrong=(f"--python {order.python}: the converter does not start: {last}",))


def _answer(said: str) -> dict[str, Any] | None:
    """What ``converter_worker`` said in the last line; None: it was another program."""
    try:
        answer = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        return None
    for kinds in ANSWERS:
        if isinstance(answer, dict) and answer.keys() == kinds.keys():
            return answer if all(isinstance(answer[name], kind) for name, kind in kinds.items()) else None
    return None


def _understood(order: Order, answer: dict[str, Any]) -> Verdict:
    """The answer of ``converter_worker``."""
    if lost := list(map(str, answer.get("missing", ()))):
        packages = " ".join(lost).replace("yaml", "pyyaml")
        cure = f"{order.python} -m pip install {packages}, or name another with --python"
        return Verdict(
            wrong=(f"--python {order.python}: lacks {', '.join(lost)}, which the converter imports: {cure}",)
        )
    if "error" in answer:
        return Verdict(wrong=(f"{order.folder}: the converter cannot read it: {printable(answer['error'])}",))
    if answer["architecture"] != ARCHITECTURE:
        what = answer["architecture"] or "nothing that it knows"
        return Verdict(
            wrong=(f"{order.folder}: for this converter {what}, not {ARCHITECTURE}; take a newer llama.cpp",)
        )
    served = look(str(order.folder))
    cfg = served.cfg
    if cfg and answer["last_id"] >= cfg.vocab_size:
        return Verdict(
            wrong=(f"{order.folder}: the tokenizer has id {answer['last_id']}, and vocab_size is {cfg.vocab_size}",)
        )
    notes = list(_notes(served, answer))
    if answer["pre_tokenizer"]:
        return Verdict(notes=(*notes, f"tokenizer: known to the converter, as {answer['pre_tokenizer']}"))
    if (name := PRE_TOKENIZERS.get(splits(order.folder))) is None:
        return Verdict(
            wrong=(
                f"{order.folder}: llama.cpp does not know this tokenizer, and it splits texts neither as DeepSeek-V3's "
                "nor as tiny-r1's, so other tokens would come of them; a newer llama.cpp may know it",
            )
        )
    notes.append(f"tokenizer: not known to the converter; by its splits it is told that it is {name}")
    return Verdict(pre_tokenizer=name, notes=tuple(notes))


def _notes(served: Served, answer: dict[str, Any]) -> Iterator[str]:
    if served.cfg and served.cfg.n_mtp_layers and answer["drops_mtp"]:
        yield f"the MTP layer is left out: this converter skips it for {ARCHITECTURE}"
    if served.blocks:
        yield "FP8 weights: the converter dequantises them itself, block by block"


def splits(folder: Path) -> tuple[str, ...]:
    """The patterns at which a byte-level ``tokenizer.json`` splits a text, in their order; none if it does otherwise.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    found = parse_json(small(folder / "tokenizer.json", TOKENIZER)).get("pre_tokenizer")
    steps = found.get("pretokenizers") if isinstance(found, dict) and found.get("type") == "Sequence" else None
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        return ()
    *cuts, last = steps
    bytewise = last.get("type") == "ByteLevel" and not last.get("add_prefix_space") and not last.get("use_regex", True)
    patterns = [step.get("pattern") for step in cuts if step.get("type") == "Split"]
    alike = all(step.get("behavior") == "Isolated" and not step.get("invert") for step in cuts)
    if not bytewise or not alike or len(patterns) < len(cuts) or not all(isinstance(p, dict) for p in patterns):
        return ()
    return tuple(str(p.get("Regex")) for p in patterns)


def read_back(file: Path, order: Order) -> str:
    """What a file that was made says of itself, in a line.

    Raises:
        ValueError: it is damaged, or not the folder's model.
    """
    found = open_gguf(file)
    cfg = look(str(order.folder)).cfg
    said = {
        "architecture": found.architecture,
        "layers": found.values.get(f"{ARCHITECTURE}.block_count"),
        "tokens": found.values.get("tokenizer.ggml.tokens"),
    }
    if cfg is None or list(said.values()) != [ARCHITECTURE, cfg.n_layers, cfg.vocab_size]:
        shown = ", ".join(f"{name} {printable(value, 30)}" for name, value in said.items())
        raise ValueError(f"what the converter made is not the folder's model ({shown}); nothing is kept")
    return f"{found.architecture}, {len(found.weights)} tensors, {found.nbytes / 1e6:,.1f} MB"
