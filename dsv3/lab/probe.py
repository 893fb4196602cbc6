"""What a changed model still gets right: sums with their known solutions, read in one pass instead of generated."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..inference.chat import Tokenizer
from ..llm import LLM
from ..model import Transformer
from ..tiny import data, tokenizer
from ..tiny.train import pack

# A column of the thinking: digit, operator, digit, operator, carry, ten lent, "=", sum, ":", result so far.
COLUMN = re.compile(r"^(\d)([-+*])(\d)([-+])(\d)((?:\+\d\d)?)(=)(\d\d?)(:)(\d+)$", re.M)


class Solved(NamedTuple):
    """Questions with tiny-r1's way of solving them, padded to one length.

    Attributes:
        tokens: [B, S].
        learned: [B, S] bool, the tokens that the model has to write.
        texts: prompt and completion of each.
        offsets: where each token stands in its text, (begin, end) in characters.
    """

    tokens: Tensor
    learned: Tensor
    texts: list[str]
    offsets: list[list[tuple[int, int]]]


def solved(folder: Path, n: int, seed: int = 0) -> Solved:
    """``n`` sums that training never saw, with the tokens of the checkpoint in ``folder``."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows, texts, offsets = [], [], []
    for problem, question in data.held_out_set(n, seed):
        turn = data.solve(problem, question, data.is_chinese(question))
        parts = tokenizer.conversation([turn])
        prompt, completion = encoder.encode(parts[0]), encoder.encode(parts[1])
        rows.append((prompt.ids, completion.ids))
        texts.append("".join(parts))
        shift = len(parts[0])
        offsets.append(prompt.offsets + [(begin + shift, end + shift) for begin, end in completion.offsets])
    return Solved(*pack(rows, tokenizer.pad_id(encoder)), texts, offsets)


@torch.inference_mode()
def score(model: Transformer, sums: Solved) -> tuple[float, float]:
    """Share of the solutions that the model would write itself, greedily, to the last token; and nats per token."""
    logits = model.logits(model(sums.tokens[:, :-1]))
    wanted, learned = sums.tokens[:, 1:], sums.learned[:, 1:]
    exact = ((logits.argmax(-1) == wanted) | ~learned).all(1).float().mean()
    return exact.item(), torch.nn.functional.cross_entropy(logits[learned], wanted[learned]).item()


def answered(llm: LLM, question: str, most: int = 120) -> tuple[list[int], int]:
    """The tokens of a question and of the model's answer to it, and how many of them are the prompt's."""
    prompt = llm.tokenizer.prompt([{"role": "user", "content": question}])
    reply = llm.chat(question, temperature=0, max_new_tokens=most)
    return prompt + llm.tokenizer.encode(reply.text), len(prompt)


def labels(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Each token as a word for an axis: a new line as an arrow, special ones as a dot."""
    return [tokenizer.decode([token]).replace("\n", "↵").replace(" ", "␣") or "•" for token in tokens]
