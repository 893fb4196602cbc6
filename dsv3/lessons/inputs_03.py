"""What lesson 03's answers are tried on: matrices whose blocks differ in size by far, all from a seed."""

import torch
from torch import Tensor


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def matrix(M: int, N: int) -> Tensor:
    """[M, N] float32, each block another size."""
    blocks = scales(M, N).repeat_interleave(128, 0)[:M].repeat_interleave(128, 1)[:, :N]
    return random(M, N) * 100 * blocks


def scales(M: int, N: int) -> Tensor:
    """[ceil(M / 128), ceil(N / 128)] float32, no powers of two, and far apart."""
    return 0.001 * (2 * random(-(-M // 128), -(-N // 128), seed=7)).exp()


def codes(M: int, N: int) -> Tensor:
    """[M, N] float8_e4m3fn."""
    return (random(M, N, seed=5) * 60).clamp(-448, 448).to(torch.float8_e4m3fn)


def tokens(S: int, K: int, outlier: float = 1.0) -> Tensor:
    """[S, K] float32 activations; one number of the second token is ``outlier`` times as large."""
    x = random(S, K) * torch.linspace(0.1, 3, S)[:, None] * (1 + torch.arange(K) // 128)
    if S > 1:
        x[1, 5] *= outlier
    return x
