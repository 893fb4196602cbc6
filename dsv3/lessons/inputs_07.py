"""What lesson 07's parts are tried on."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..paths import TINY_R1

BF16 = torch.bfloat16
Layer = Callable[[Tensor], Tensor]


def random(*shapes: tuple[int, ...], size: float = 1.0) -> tuple[Tensor, ...]:
    """Tensors of normal numbers, the same each time."""
    draw = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return tuple(torch.randn(shape, generator=draw) * size for shape in shapes)


def wide(*shape: int, size: float = 1.0, dtype: torch.dtype = torch.float32, weight: bool = True) -> tuple:
    """x, whose vectors differ in length and mean, and a norm's weight."""
    x, w = random(shape, (shape[-1],))
    lengths = torch.linspace(0.3, 2, shape[-2])[:, None]
    return ((x + 0.5) * lengths * size).to(dtype), (1 + 0.5 * w if weight else torch.ones(shape[-1])).to(dtype)


def norm(width: int, seed: int) -> Layer:
    """A norm with weights of its own."""
    gain = 0.5 + torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return lambda x: F.rms_norm(x, (width,), gain.to(x.dtype))


def layer(width: int, seed: int) -> Layer:
    """Not linear, and it mixes tokens as attention does: each adds those before it."""
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)) * width**-0.5
    return lambda x: F.silu(x @ matrix.to(x.dtype)) + 0.3 * (x.cumsum(-2) @ matrix.T.to(x.dtype))


def layers(*shape: int, dtype: torch.dtype = torch.float32) -> tuple:
    """x and a block's four functions."""
    width = shape[-1]
    (x,) = random(shape)
    return x.to(dtype), norm(width, 1), layer(width, 2), norm(width, 3), layer(width, 4)


def stacked(count: int, *shape: int, D: int = 6, dtype: torch.dtype = torch.float32) -> tuple:
    """Ids, an embedding, so many blocks, and the last norm."""
    tokens = torch.randint(11, shape, generator=torch.Generator().manual_seed(count))
    blocks = tuple(layer(D, seed) for seed in range(count))
    return tokens, random((11, D))[0].to(dtype), blocks, norm(D, 7)


def pairs(*shape: int, dtype: torch.dtype = torch.float32) -> tuple:
    """h, e, their norms, the matrix that joins them, a block and a norm."""
    D = shape[-1]
    h, e, join = random(shape, shape, (D, 2 * D))
    return h.to(dtype), e.to(dtype), norm(D, 1), norm(D, 2), join.to(dtype), layer(D, 3), norm(D, 4)


def guessing(B: int, S: int, D: int = 8, V: int = 40) -> tuple:
    """Ids, and a toy of a model: what it knows of a token depends on those before."""
    table, join, head = random((V, D), (2 * D, D), (D, V))
    tokens = torch.randint(V, (B, S), generator=torch.Generator().manual_seed(S))
    return (
        tokens,
        lambda ids: table[ids].cumsum(1),
        lambda h, following: torch.cat([h, 2 * table[following]], dim=-1) @ join,
        lambda h: h @ head,
    )


def configs() -> Iterator[tuple[str, Callable[[], tuple]]]:
    """What must hold, and a model's sizes."""
    big = ModelConfig.load("config_671B.json")
    yield "DeepSeek-V3: 671,025,397,760 stored, 36,624,596,992 multiplied", lambda: (big,)
    yield "DeepSeek-V3 with 16 experts per token", lambda: (replace(big, n_activated_experts=16),)
    yield "tiny-r1 has one dense layer of three", lambda: (ModelConfig.load(TINY_R1),)
    yield "DeepSeek-V2", lambda: (ModelConfig.load("config_236B.json"),)
    yield "V2-Lite has q_lora_rank 0: one matrix for the queries", lambda: (ModelConfig.load("config_16B.json"),)


def checkpoint_names() -> Iterator[tuple[str, Callable[[], tuple]]]:
    """What must hold, and a name in a model of so many blocks."""
    yield "an ordinary block", lambda: ("model.layers.60.self_attn.q_a_proj.weight", 61)
    yield "DeepSeek-V3's MTP layer is number 61", lambda: ("model.layers.61.eh_proj.weight", 61)
    yield "its block belongs to the MTP layer, too", lambda: ("model.layers.61.mlp.experts.9.up_proj.weight", 61)
    yield "tiny-r1's MTP layer is number 3", lambda: ("model.layers.3.enorm.weight", 3)
    yield "numbers are compared as numbers", lambda: ("model.layers.9.input_layernorm.weight", 61)
    yield "a deeper model has a block 61", lambda: ("model.layers.61.mlp.gate.weight", 90)
    yield "there may be two MTP layers", lambda: ("model.layers.28.hnorm.weight", 27)
    yield "embedding, norm and head belong to the model", lambda: ("model.embed_tokens.weight", 61)
    yield "a short name", lambda: ("lm_head.weight", 61)
