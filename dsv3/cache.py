"""The key-value cache: passed to the model, not kept in it, so two conversations are two caches."""

import torch
from torch import Tensor


class Cache:
    """What attention keeps of the tokens seen so far: tensors [B, T, ...] per layer, grown as needed.

    ``"absorb"`` keeps the latent and the rotated key side by side, [B, T, C + R]; ``"naive"`` keeps keys
    [B, T, H, N + R] and values [B, T, H, P]. Each sequence has its own positions, so prompts of different lengths share
    a batch; what stands behind a sequence's last position is never looked at, so going back needs no work.
    """

    def __init__(self) -> None:
        self.layers: dict[int, list[Tensor]] = {}

    def update(self, layer: int, positions: Tensor, end: int, *new: Tensor) -> list[Tensor]:
        """Writes ``new`` ([B, S, ...] each) at ``positions`` [B, S]; returns all up to ``end``, [B, end, ...]."""
        kept = self.room(layer, end, *new)
        rows = torch.arange(positions.shape[0], device=positions.device).unsqueeze(1)
        for whole, part in zip(kept, new, strict=True):
            whole[rows, positions] = part
        return [whole[:, :end] for whole in kept]

    def room(self, layer: int, end: int, *like: Tensor) -> list[Tensor]:
        """The layer's tensors [B, T, ...] with T >= ``end``, made for or grown by entries as those of ``like``."""
        kept = self.layers.get(layer)
        if kept is None or kept[0].shape[1] < end:
            length = max(end, 64, 0 if kept is None else 2 * kept[0].shape[1])
            grown = [x.new_zeros(x.shape[0], length, *x.shape[2:]) for x in like]
            for old, big in zip(kept or (), grown, strict=False):
                big[:, : old.shape[1]] = old
            kept = self.layers[layer] = grown
        return kept

    def keep(self, rows: list[int]) -> None:
        """Forget all sequences but ``rows``."""
        self.layers = {layer: [whole[rows] for whole in kept] for layer, kept in self.layers.items()}

    @property
    def nbytes(self) -> int:
        """Bytes allocated now, in all layers."""
        return sum(t.nbytes for kept in self.layers.values() for t in kept)
