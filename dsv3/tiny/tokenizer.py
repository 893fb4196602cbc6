"""tiny-r1's tokenizer: byte-level BPE with every digit a token of its own, and R1's special tokens."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .data import Turn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
SPECIAL = (BOS, EOS, PAD, USER, ASSISTANT)
PLAIN = (THINK, END_THINK)  # as in R1, tokens of their own that decoding does not hide

# R1's behaviour: system prompt first, earlier turns without their thinking, and an opened <think> to answer in.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for m in messages if m['role'] == 'system' -%}{%- set ns.system = m['content'] -%}{%- endfor -%}"
    "{{ bos_token }}{{ ns.system }}"
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}{{ '<｜User｜>' + m['content'] }}"
    "{%- elif m['role'] == 'assistant' -%}"
    "{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1].lstrip('\\n') + '<｜end▁of▁sentence｜>' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<｜Assistant｜><think>\\n' }}{%- endif -%}"
)


def build(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Train the BPE on ``texts``: a tokenizer of at most ``vocab_size`` tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+|[^\s\p{L}\p{N}]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *PLAIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer makes all of them special; <think> must survive decoding without special tokens.
    description = json.loads(tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["content"] not in PLAIN
    return Tokenizer.from_str(json.dumps(description, ensure_ascii=False))


def corpus(seed: int = 0, n: int = 20000) -> list[str]:
    """Text in the proportions of the training data, to learn merges from; only words matter, digits never merge."""
    from . import data, facts

    rng = random.Random(seed)
    texts = []
    for p in data.problems(seed, held_out=False):
        turn = rng.choice(
            (lambda p=p: data.solve(p, *data.ask(p, rng)), lambda: facts.fact(rng), lambda: facts.declined(rng))
        )()
        texts += [turn.question, turn.thinking, turn.answer]
        if len(texts) >= 3 * n:
            return texts
    raise AssertionError("problems() is endless")


def conversation(turns: list[Turn]) -> tuple[str, str]:
    """Prompt and completion of the last turn; the earlier ones stand before it without their thinking."""
    prompt = BOS
    for turn in turns[:-1]:
        prompt += f"{USER}{turn.question}{ASSISTANT}{turn.answer}{EOS}"
    last = turns[-1]
    return (
        f"{prompt}{USER}{last.question}{ASSISTANT}{THINK}\n",
        f"{last.thinking}\n{END_THINK}\n\n{last.answer}{EOS}",
    )


def pad_id(tokenizer: "Tokenizer") -> int:
    """The id of ``PAD``, with which rows are filled up."""
    return tokenizer.get_vocab()[PAD]


def save(tokenizer: "Tokenizer", folder: Path, context: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which ``AutoTokenizer`` reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        # Not R1's LlamaTokenizerFast: with it several releases of transformers 5 drop every space.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
