"""Inputs of lesson 08's parts, and how a kernel is run on them: program by program, each access watched."""

import itertools

import torch

from ..kernels import reference
from ..lab.kernels import triton_here

triton, tl = triton_here()

BF16, F32 = torch.bfloat16, torch.float32


@triton.jit
def swiglu(a_ptr, b_ptr, y_ptr, N, a_stride, b_stride, y_stride, BLOCK: tl.constexpr):
    """Program (i, j): BLOCK columns of row i of y = silu(a) * b."""
    row, column = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < N
    a = tl.load(a_ptr + row * a_stride + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = a * tl.sigmoid(a) * b
    tl.store(y_ptr + row * y_stride + column, y.to(y_ptr.dtype.element_ty), mask=inside)


def random(*shape, seed=0, dtype=F32, size=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * size).to(dtype)


def empty(*shape, dtype=F32):
    """Full of NaN: what a kernel does not write is seen."""
    return torch.full(shape, torch.nan).to(dtype)


def watched(kernel, grid, args):
    """Run all programs of a grid; an access that leaves its tensor is an error."""
    from ..kernels.launch import Launch
    from ..kernels.trace import run_program

    if not hasattr(kernel, "fn"):
        raise TypeError("this is a plain Python function: write @triton.jit above it")
    for program in itertools.product(*map(range, grid)):
        try:
            run_program(Launch(kernel, grid, args), program)
        except Exception as error:  # the interpreter wraps what a kernel raises
            raise (error.__cause__ or error) from None


class Watched:
    """A kernel for a launcher: ``kernel[grid](...)`` is watched, and its grid is noted."""

    def __init__(self, kernel):
        self.kernel, self.grids = kernel, []

    def __getitem__(self, grid):
        def launch(*args, **named):
            given = dict(zip(self.kernel.arg_names, args, strict=False))
            given |= {name: value for name, value in named.items() if name in self.kernel.arg_names}
            size = grid(given) if callable(grid) else grid
            self.grids.append(tuple(size))
            watched(self.kernel, tuple(size), given)

        return launch


# ------------------------------------------------------------------------------------------------------ launched


def gate_and_up(M, N, together=True, size=2.0):
    """The two halves of one matrix [M, 2N], as one product gives them, or two matrices."""
    if together:
        return random(M, 2 * N, dtype=BF16, size=size).split(N, dim=1)
    return random(M, N, dtype=BF16, size=size), random(M, N, seed=1, dtype=BF16, size=size)


def launches(answer, given):
    kernel = Watched(swiglu)
    y = answer(kernel, *given)
    return y, kernel.grids


# ------------------------------------------------------------------------------------------------ FP8 and products


def runs(M, K, sizes=(1.0,), zero=False, dtype=BF16):
    """x [M, K] whose runs have different sizes; the second run of zeros, if so wished."""
    x = random(M, K).view(-1, 32)
    x = x * torch.tensor(sizes).repeat(len(x))[: len(x), None]
    x[2:4] *= 0.0 if zero else 1.0
    return (x.view(M, K).to(dtype),)


def coded(*numbers, BLOCK=32):
    """One run that holds 448, so that its scale is 1, and these numbers."""
    x = torch.zeros(1, BLOCK)
    x[0, : len(numbers) + 1] = torch.tensor([448.0, *numbers])
    return (x,)


def quantised(BLOCK):
    def use(answer, given):
        (x,) = given
        q, scale = empty(*x.shape, dtype=reference.FP8), empty(x.shape[0], x.shape[1] // BLOCK)
        watched(answer, (scale.numel(),), {"x_ptr": x, "q_ptr": q, "scale_ptr": scale, "BLOCK": BLOCK})
        return q.double(), scale.double()  # no tolerance

    return use


def blocks(M, N, BLOCK):
    """A quantised matrix whose blocks have very different scales."""
    w = random(M, N) * torch.arange(M * N).view(M, N).remainder(7).add(1)
    for i in range(0, M, BLOCK):
        for j in range(0, N, BLOCK):
            w[i : i + BLOCK, j : j + BLOCK] *= 1.7 ** ((3 * i + j) // BLOCK % 5)
    return reference.weight_quant(w, BLOCK)


def dequantised(BLOCK, dtype=BF16):
    def use(answer, given):
        w, scale = given
        M, N = w.shape
        out = empty(M, N, dtype=dtype)
        args = {"w_ptr": w, "scale_ptr": scale, "out_ptr": out, "M": M, "N": N, "BLOCK": BLOCK}
        watched(answer, (-(-M // BLOCK), -(-N // BLOCK)), args)
        return out.double()  # no tolerance

    return use


def product(M, N, K, BLOCK=32):
    spread = torch.arange(K).div(BLOCK, rounding_mode="floor").mul(0.7).exp2()
    x = random(M, K) * spread.flip(0) * torch.arange(1, M + 1)[:, None]
    return *reference.act_quant(x, BLOCK), *blocks(N, K, BLOCK)


def multiplied(BLOCK_M, BLOCK_N, BLOCK=32, dtype=F32):
    def use(answer, given):
        a, a_scale, b, b_scale = given
        (M, K), N = a.shape, len(b)
        y = empty(M, N, dtype=dtype)
        args = {"a_ptr": a, "a_scale_ptr": a_scale, "b_ptr": b, "b_scale_ptr": b_scale, "y_ptr": y}
        args |= {"M": M, "N": N, "K": K, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK": BLOCK}
        watched(answer, (-(-M // BLOCK_M), -(-N // BLOCK_N)), args)
        return y

    return use


# ------------------------------------------------------------------------------------------------------- attention


def tokens(lengths, T, H=3, C=32, R=16, size=1.0, dtype=F32, scale=0.3):
    """Queries, a cache [T, C + R] and how much of it each query sees; nobody may look at what lies beyond."""
    cache = random(T, C + R, seed=1, dtype=dtype)
    cache[max(lengths) :] = torch.nan
    q = random(len(lengths), H, C + R, dtype=dtype, size=size)
    return q, cache, torch.tensor(lengths, dtype=torch.int32), scale


def far_below():
    """One token whose scores are hundreds below 0."""
    _, cache, lengths, scale = tokens([1], 1)
    return (-40 * cache).expand(1, 3, -1).contiguous(), cache, lengths, scale


def attended(pieces, BLOCK_T=16, C=32, R=16):
    def use(answer, given):
        q, cache, lengths, scale = given
        M, H, _ = q.shape
        out, lse = empty(M, pieces, H, C), empty(M, pieces, H)
        args = {"q_ptr": q, "cache_ptr": cache, "length_ptr": lengths, "out_ptr": out, "lse_ptr": lse, "scale": scale}
        args |= {"H": H, "pieces": pieces, "C": C, "R": R, "BLOCK_H": 16, "BLOCK_T": BLOCK_T}
        watched(answer, (M, pieces), args)
        return out, lse

    return use


def pieces_of(M, pieces, H, C=32, spread=1.0, empty_ones=0):
    """Results of pieces and their logsumexps; the last ones saw no token."""
    out, lse = random(M, pieces, H, C), random(M, pieces, H, seed=1, size=spread)
    if empty_ones:
        out[:, -empty_ones:], lse[:, -empty_ones:] = 0.0, -torch.inf
    return out, lse


def merged(PIECES, dtype=F32):
    def use(answer, given):
        out, lse = given
        M, pieces, H, C = out.shape
        y = empty(M, H, C, dtype=dtype)
        args = {"out_ptr": out, "lse_ptr": lse, "y_ptr": y, "H": H, "pieces": pieces, "C": C, "PIECES": PIECES}
        watched(answer, (M, H), args)
        return y

    return use


# ------------------------------------------------------------------------------------------------------- transfers


def fused(BLOCK):
    def use(answer, given):
        a, b = given
        M, N = a.shape
        q, scale = empty(M, N, dtype=reference.FP8), empty(M, N // BLOCK)
        args = {"a_ptr": a, "b_ptr": b, "q_ptr": q, "scale_ptr": scale, "N": N}
        args |= {"a_stride": a.stride(0), "b_stride": b.stride(0), "BLOCK": BLOCK}
        watched(answer, (M, N // BLOCK), args)
        return q.double(), scale.double()

    return use


def one_token(N, K, BLOCK=32):
    return random(K, dtype=BF16), *blocks(N, K, BLOCK)


def times_matrix(BLOCK=32):
    def use(answer, given):
        x, w, scale = given
        N, K = w.shape
        y = empty(N)
        args = {"x_ptr": x, "w_ptr": w, "scale_ptr": scale, "y_ptr": y, "N": N, "K": K, "BLOCK": BLOCK}
        watched(answer, (-(-N // BLOCK),), args)
        return y

    return use


def verdicts(answer, given):
    """What a learner's test says of the right ``act_quant``, of a faulty one, and of the right one again."""
    found = []
    for quantise in (reference.act_quant, given[0], reference.act_quant):
        try:
            answer(quantise)
        except NotImplementedError:
            raise
        except Exception:
            found.append("fails")
        else:
            found.append("passes")
    return found


def min_for_max(x, block=128, scale_fmt=None):
    """DeepSeek-V3 #968: the smaller of the maximum and 1e-4, so that every activation saturates."""
    groups = x.float().unflatten(-1, (-1, block))
    scale = groups.abs().amax(-1).clamp(max=1e-4) / 448
    return (groups / scale.unsqueeze(-1)).clamp(-448, 448).to(reference.FP8).flatten(-2), scale


def zero_by_zero(x, block=128, scale_fmt=None):
    """A run of zeros divided by its scale, which is 0."""
    q, scale = reference.act_quant(x, block, scale_fmt)
    none = (x.float().unflatten(-1, (-1, block)) == 0).all(-1)
    nan = torch.where(none, torch.nan, 0.0).repeat_interleave(block, -1)
    return (q.float() + nan).to(reference.FP8), torch.where(none, 0.0, scale)
