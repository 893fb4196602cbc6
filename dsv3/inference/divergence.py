"""Do all ranks compute the same? After every layer each rank holds the whole hidden state, and it must be bit-equal.

For the day when ranks disagree: a wrong library on one node, a collective that was skipped. What a rank adds to a sum
reaches all alike: wrong weights in its own part are not seen here (``load`` compares what every rank holds whole).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..model import Transformer


@contextmanager
def compare_layers(model: Transformer) -> Iterator[None]:
    """Inside, every forward pass of ``model`` ends with a comparison of its hidden states over the ranks.

    Slow: each layer's state is copied to the CPU, and all ranks wait for each other after each pass.

    Raises:
        ValueError: on every rank, out of the forward pass; names the first layer, and the ranks that differ from most.
    """
    tp = model.run.tp
    names, digests = [], []

    def note(name: str):  # noqa: ANN202
        def hook(module: nn.Module, args: tuple, out: Tensor) -> None:
            names.append(name)
            digests.append(digest(out))

        return hook

    def compare(*_: object) -> None:
        ranks = [text.split() for text in tp.gather_text(" ".join(digests))]
        layers = names.copy()
        names.clear()
        digests.clear()
        if (difference := first_difference(layers, ranks)) is not None:
            raise ValueError(difference)

    watched = [("embed", model.embed), *((f"layers.{i}", block) for i, block in enumerate(model.layers))]
    hooks = [module.register_forward_hook(note(name)) for name, module in watched]
    hooks.append(model.register_forward_hook(compare))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def digest(x: Tensor) -> str:
    """16 hex digits for a tensor's bits."""
    data = x.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(data.numpy().data, digest_size=8).hexdigest()


def first_difference(layers: list[str], ranks: list[list[str]]) -> str | None:
    """``ranks[r][i]`` is rank r's digest after ``layers[i]`` -> a sentence, or None if all agree."""
    if len({len(digests) for digests in ranks}) > 1:
        passes = ", ".join(f"{len(digests)} on rank {r}" for r, digests in enumerate(ranks))
        return f"ranks differ in the number of layers that they ran: {passes}"
    for layer, digests in zip(layers, zip(*ranks, strict=True), strict=True):
        # Of two ranks nobody can say which is right; then rank 0 counts as right.
        usual = max(Counter(digests).items(), key=lambda item: (item[1], item[0] == digests[0]))[0]
        if odd := [str(r) for r, d in enumerate(digests) if d != usual]:
            return f"activations differ after {layer}, the first such layer: rank {', '.join(odd)} against the others"
    return None
