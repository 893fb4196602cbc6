"""What a pass through a model computes and reads, by part, and what a guess of the next token saves of it."""

import math
from collections import Counter
from dataclasses import dataclass

from ..config import ModelConfig
from ..cost import PARTS, activated, attention_flops, cache_bytes, parameters, touched
from ..layout import layout

CACHE = "cache"  # beside ``cost.PARTS``: attention over the cache


@dataclass(frozen=True)
class Sums:
    """A model's sums, made once by ``sums``: walking 92,000 tensors takes a moment.

    Attributes:
        stored, used: ``cost.parameters`` and ``cost.activated``.
        nbytes: of the checkpoint's weights, by part, scales included.
    """

    cfg: ModelConfig
    stored: dict[str, int]
    used: dict[str, int]
    nbytes: dict[str, int]

    def operations(self, new: int, context: int, batch: int = 1, attn: str = "absorb") -> dict[str, float]:
        """Floating-point operations of a pass: ``new`` tokens of each of ``batch`` sequences, behind ``context``.

        Only the last token of each sequence meets the head, as in ``decode.prefill``. The i-th new token
        looks at itself, the context and the i - 1 before it.
        """
        found: dict[str, float] = {part: 2 * n * new * batch for part, n in self.used.items() if part in PARTS}
        found["head"] = 2 * self.stored["head"] * batch
        looks = new * context + new * (new + 1) // 2
        return found | {CACHE: attention_flops(self.cfg, looks, attn) * batch}

    def bytes_read(self, new: int, context: int, batch: int = 1) -> dict[str, float]:
        """Bytes that the same pass reads at least once: weights as they are stored, and the latent cache."""
        return self.weights_read(new * batch) | {CACHE: cache_bytes(self.cfg) * (context + new) * batch}

    def weights_read(self, tokens: int) -> dict[str, float]:
        """The weights' part of that, when ``tokens`` tokens go through the model together."""
        routed = self.nbytes["routed"] * touched(self.cfg, tokens)
        looked_up = 2 * self.cfg.dim * tokens  # a row of the embedding for each token
        read = self.nbytes | {"routed": routed, "embedding": looked_up}
        return {part: n for part, n in read.items() if part != "mtp"}

    def crossing(self, attn: str = "absorb") -> int:
        """The context at which looking back costs a decoded token as many operations as all its matrices."""
        return math.ceil(2 * self.used["total"] / attention_flops(self.cfg, 1, attn))


def sums(cfg: ModelConfig) -> Sums:
    """The sums of ``cfg``'s table."""
    nbytes: Counter[str] = Counter()
    for row in layout(cfg):
        if row.copy_of is None:
            nbytes[row.part] += row.nbytes
    return Sums(cfg, parameters(cfg), activated(cfg), dict.fromkeys(PARTS, 0) | nbytes)


def read_by(cfg: ModelConfig, tokens: int) -> float:
    """Parameters that a step touches when ``tokens`` tokens go through the model together.

    Everything but the routed experts is read once, however many tokens there are.
    """
    used = activated(cfg)
    return used["total"] - used["routed"] + parameters(cfg)["routed"] * touched(cfg, tokens)


def read_by_mtp(cfg: ModelConfig, tokens: int) -> float:
    """The same of one guess by the MTP layer: its own weights, and the head once more."""
    rows = (row for row in layout(cfg) if row.part == "mtp" and not row.is_scale and row.copy_of is None)
    layer = sum(row.numel * (1.0 if row.expert is None else touched(cfg, tokens)) for row in rows)
    return layer + activated(cfg)["head"]


def speed_up(accepted: float, step: float, check: float, guess: float) -> float:
    """Tokens per second with one guess a step, over those without.

    Args:
        accepted: share of the guesses that are right.
        step, check, guess: cost of a step of one token, of a step of two, and of the guess; in any one unit.
    """
    return (1 + accepted) * step / (check + guess)
