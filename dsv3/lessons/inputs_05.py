"""What lesson 05's answers are tried on: inputs of shapes that all differ, and a model that is made in no time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..config import ModelConfig
from ..model import Transformer
from ..runtime import Runtime
from ..said import Said


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, size: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * size).to(dtype)


def qkv(
    S: int, T: int, H: int = 3, D: int = 10, P: int = 6, dtype: torch.dtype = torch.float32, size: float = 1.0
) -> tuple:
    return (
        random(S, H, D, dtype=dtype, size=size),
        random(T, H, D, seed=1, dtype=dtype),
        random(T, H, P, seed=2, dtype=dtype),
        0.3,
    )


def rounded(answer: Any, given: tuple) -> Any:
    """Its number format, and its values as float32: how precise a way to them was is left open."""
    found = answer(*given)
    return (str(found.dtype), found.float()) if isinstance(found, Tensor) else found


def turned(S: int, H: int, R: int, at: Sequence[int], dtype: torch.dtype = torch.float32) -> tuple:
    return random(S, H, R, dtype=dtype), torch.tensor(at), 10.0 ** -torch.arange(0, 2, 4 / R)


def hidden(
    S: int = 5, D: int = 12, C: int = 6, R: int = 4, size: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple:
    return (
        random(S, D, size=size, dtype=dtype) + 0.5 * size,
        random(C + R, D, seed=1, dtype=dtype),
        1 + random(C, seed=2, dtype=dtype),
    )


def latents(
    T: int = 7, C: int = 16, R: int = 4, H: int = 3, N: int = 8, P: int = 6, dtype: torch.dtype = torch.float32
) -> tuple:
    return (
        random(T, C, dtype=dtype),
        random(T, R, seed=1, dtype=dtype),
        random(H * (N + P), C, seed=2, dtype=dtype),
        H,
        N,
    )


def step(
    S: int, T: int, H: int = 3, N: int = 8, R: int = 4, C: int = 16, P: int = 6,
    dtype: torch.dtype = torch.float32, scale: float = 0.2,
) -> tuple:  # fmt: skip
    q = random(S, H, N, dtype=dtype), random(S, H, R, seed=1, dtype=dtype)
    return *q, random(T, C + R, seed=2, dtype=dtype), random(H * (N + P), C, seed=3, dtype=dtype), scale


def played(*moves: tuple[int, int], second: bool = False) -> Callable[[Any, tuple], tuple]:
    """Updates of one cache, (start, S) each; all that it returned. Or with a ``second`` cache that is used between."""

    def use(answer: Any, given: tuple) -> tuple:
        one, other, found = answer(6), answer(6), []
        for i, (start, S) in enumerate(moves):
            found.append(one.update(start, random(S, 6, seed=i, dtype=given[0])).clone())
            if second:
                other.update(start, random(S, 6, seed=90 + i, dtype=given[0]))
        return tuple(found)

    return use


class Shapes(TorchFunctionMode):
    """Watches the shapes of all results."""

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self.seen = getattr(self, "seen", []) + [tuple(each.shape)]
        return result


def not_expanded(answer: Any) -> str:
    """Says so if the absorbed step makes all heads' keys or values on its way."""
    T, N, P = 23, 8, 6
    with Shapes() as shapes, torch.no_grad():
        answer(*step(1, T, N=N, P=P))
    if any(T in shape and {N, P, N + P, 3 * (N + P)} & set(shape) for shape in shapes.seen):
        says = "the numbers are right, but the cache is expanded: {T} tokens of width {N} or {P} appear on the way"
        return Said(says, T=T, N=N, P=P)
    return ""


def small(seed: int, dim: int = 64) -> Callable[[int], Transformer]:
    """``load`` for a test of attention: a small model with random weights, the same ones each time."""

    def load(max_seq_len: int) -> Transformer:
        cfg = ModelConfig(
            max_seq_len=max_seq_len, vocab_size=1024, dim=dim, inter_dim=96, n_layers=2, n_dense_layers=2,
            n_heads=3, n_routed_experts=0,
            q_lora_rank=40, kv_lora_rank=48, qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=20,
        )  # fmt: skip
        model, rng = Transformer(cfg, Runtime(dtype=torch.float32)), torch.Generator().manual_seed(seed)
        for each in model.parameters():
            each.data = torch.randn(each.shape, generator=rng) * (1 if each.dim() == 1 else 1.5 * each.shape[1] ** -0.5)
        return model

    return load
