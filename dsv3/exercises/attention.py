"""Checks of lesson 05."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import ModelConfig
from ..cost import cache_bytes
from ..model import inverse_frequencies, rotate, turns
from . import Wrong, exercise

Shape = tuple[int, ...]

# Heads, N, R, C, P, tokens, scale: all different, so that no mistake of shape goes unseen; one token alone.
STEPS = ((3, 8, 4, 16, 6, 11, 0.3), (2, 4, 2, 8, 5, 1, 0.5), (5, 9, 4, 16, 6, 7, 2.0))


def _shaped(found: object, shape: Shape) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Wrong(f"the result should be a tensor {list(shape)}, not {got}")


def _far(found: Tensor, wanted: Tensor) -> bool:
    return not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)


@exercise("05", 1)
def check_rope_halves(rope_halves: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    rng = torch.Generator().manual_seed(5)
    cfg = ModelConfig.load("config_671B.json")
    frequencies = inverse_frequencies(cfg)
    x, q = torch.randn(6, 64, generator=rng), torch.randn(6, 64, generator=rng)
    positions = torch.tensor([0, 1, 2, 17, 300, 4000])
    wanted = rotate(torch.stack([x, q]), turns(cfg, frequencies, positions.expand(2, -1)))
    found = rope_halves(x, positions, frequencies)
    _shaped(found, (6, 64))
    if _far(found[0], torch.cat([x[0, 0::2], x[0, 1::2]])):
        raise Wrong("at position 0 nothing turns, so the result is x in the order of halves: x0, x2, ..., x1, x3, ...")
    if _far(found.norm(dim=1), x.norm(dim=1)):
        raise Wrong("turning must not change a token's length; look at the signs: (a cos - b sin, a sin + b cos)")
    if not _far(
        found, torch.cat([*rotate(x.unsqueeze(0), turns(cfg, -frequencies, positions[None]))], 0)[:, _halves()]
    ):
        raise Wrong("it turns the other way: the first of a pair becomes a cos - b sin, the second a sin + b cos")
    if _far(found, wanted[0][:, _halves()]):
        raise Wrong("the pairs are wrong: x0 turns with x1, x2 with x3, each pair with its own frequency")
    scores, right = found @ rope_halves(q, positions, frequencies).T, wanted[0] @ wanted[1].T
    if not torch.allclose(scores, right, rtol=1e-3, atol=1e-2):
        raise Wrong("scores of queries and keys differ from those of the interleaved form")


def _halves() -> list[int]:
    return [*range(0, 64, 2), *range(1, 64, 2)]


@exercise("05", 2)
def check_absorbed_step(step: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    rng = torch.Generator().manual_seed(6)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    for heads, n, rope, rank, p, tokens, scale in STEPS:
        q_nope, q_pe, kept = random(heads, n), random(heads, rope), random(tokens, rank + rope)
        wkv_b = random(heads * (n + p), rank) * rank**-0.5
        c, k_pe = kept.split([rank, rope], dim=-1)
        k, v = (c @ wkv_b.T).unflatten(-1, (heads, -1)).split([n, p], dim=-1)
        scores = torch.einsum("hn,thn->ht", q_nope, k) + q_pe @ k_pe.T
        wanted = torch.einsum("ht,thp->hp", (scores * scale).softmax(-1), v)
        with _Widths() as widths:
            found = step(q_nope, q_pe, kept, wkv_b, scale)
        _shaped(found, (heads, p))
        if _far(found, wanted):
            unscaled = torch.einsum("ht,thp->hp", scores.softmax(-1), v)
            no_position = torch.einsum("ht,thp->hp", ((scores - q_pe @ k_pe.T) * scale).softmax(-1), v)
            hint = "compare with unfolding: k, v = wkv_b times the latent, for each head"
            if not _far(found, unscaled):
                hint = "the scores are not scaled before the softmax"
            elif not _far(found, no_position):
                hint = "the rotated part is missing: scores are q_c times latent plus q_pe times rotated key"
            where = f"{heads} heads, {tokens} token{'s' if tokens > 1 else ''}"
            raise Wrong(f"off by {(found - wanted).abs().max():.3f} with {where}; {hint}")
        if tokens > 1 and widths.have(tokens, {n, p, n + p, heads * (n + p)}):
            raise Wrong(f"the right numbers, but the cache is unfolded: {tokens} tokens of width {n} or {p}")


class _Widths(torch.overrides.TorchFunctionMode):
    """Watches the shapes of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Shape] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self.shapes.append(tuple(each.shape))
        return result

    def have(self, tokens: int, widths: set[int]) -> bool:
        """Whether a result has that many tokens and one of the widths."""
        return any(tokens in shape and widths & set(shape) for shape in self.shapes)


@exercise("05", 3)
def check_tokens_that_fit(tokens_that_fit: Callable[[ModelConfig, int, int], tuple[int, int]]) -> None:
    for name, gigabytes, ranks in (("config_671B.json", 1, 1), ("config_671B.json", 3, 16), ("config_16B.json", 1, 4)):
        nbytes = gigabytes * 10**9
        cfg = ModelConfig.load(name)
        wanted = nbytes // cache_bytes(cfg), nbytes // (cache_bytes(cfg, "naive") // ranks)
        found = tokens_that_fit(cfg, nbytes, ranks)
        if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(n, int) for n in found):
            raise Wrong(f"return two whole numbers, not {found!r}; // divides to a whole number")
        for what, mine, right in zip(("MLA's cache", "full keys and values"), found, wanted, strict=True):
            if mine != right:
                hint = ""
                if ranks > 1 and mine == nbytes * ranks // cache_bytes(cfg):
                    hint = ": the latent is kept on every rank, whole"
                elif mine in (2 * right, 2 * right + 1):
                    hint = ": a BF16 number takes two bytes"
                raise Wrong(
                    f"{name}, {nbytes / 1e9:g} GB, {ranks} ranks, {what}: {mine:,} tokens instead of {right:,}{hint}"
                )
