"""``native.c``, compiled on first use by the machine's C compiler and kept in the cache folder; called by ``ctypes``.

Without a compiler everything works all the same, only slower: ``library()`` is None then, and callers use torch.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import paths
from . import cpu, reference

if TYPE_CHECKING:
    from ..config import ModelConfig

SOURCE = Path(__file__).with_name("native.c")
BLOCK = 128  # native.c's
# Measured on 2 cores: a step of more tokens is faster in torch, which then reads a matrix once for all of them; so is
# attention of more heads.
MOST_TOKENS, MOST_HEADS = 8, 8
POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where there is no C compiler (``CC``, ``cc``, ``gcc``, ``clang``) that can."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return None
    try:
        words = shlex.split(compiler)
    except ValueError:  # a quote that does not end
        return None
    flags = ["-O3", "-march=native", "-fPIC", "-shared"]
    # torch's own OpenMP: a second one would bring threads that fight with torch's.
    openmp = sorted(Path(torch.__file__).parent.glob("lib/libgomp*"))
    attempts = [[*flags, "-fopenmp", str(SOURCE), str(openmp[0])]] if openmp else []
    for attempt in [*attempts, [*flags, "-fopenmp-simd", str(SOURCE)]]:
        found = _built(words, [*attempt, "-lm"])
        if found:
            found.linear.argtypes = [POINTER] * 4 + [LONG] * 4 + [INT] * 2
            found.mlp.argtypes = [POINTER] * 5 + [LONG] * 3 + [INT]
            found.ask.argtypes = [POINTER] * 6 + [LONG, INT]
            found.route.argtypes = [POINTER] * 4 + [LONG] * 2 + [INT]
            found.attend.argtypes = [POINTER] * 4 + [LONG] * 6 + [ctypes.c_float, INT]
            found.rms_norm.argtypes = [POINTER] * 3 + [LONG] * 2 + [ctypes.c_float]
            found.weight_dequant.argtypes = [POINTER] * 3 + [LONG] * 2
            found.give_back.restype = None
            return found
    return None


def _functions() -> ctypes.CDLL:
    """``library()``, for what is called only after asking whether there is one.

    Raises:
        RuntimeError: there is none.
    """
    found = library()
    if found is None:
        raise RuntimeError("native.c is not compiled here; ask library() first")
    return found


def _built(compiler: list[str], arguments: list[str]) -> ctypes.CDLL | None:
    """The library, from the cache folder or made now; None if the compiler fails, or the system refuses to load it."""
    try:
        folder = paths.home() / (f"native-{os.getuid()}" if hasattr(os, "getuid") else "native")
        # What -march=native means here, and the compiler's version.
        macros = subprocess.run(
            [*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull], capture_output=True, check=True
        )
        key = hashlib.sha256(
            macros.stdout + SOURCE.read_bytes() + " ".join([*compiler, *arguments]).encode()
        ).hexdigest()[:16]
        file = folder / f"native-{key}.so"
        if not os.path.lexists(file):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if not _ours(folder, stat.S_IFDIR):
                return None
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made = f"{work}/native.so"
                subprocess.run([*compiler, *arguments, "-o", made], capture_output=True, check=True)
                os.chmod(made, 0o700)
                os.replace(made, file)
        return ctypes.CDLL(str(file)) if _ours(folder, stat.S_IFDIR) and _ours(file, stat.S_IFREG) else None
    except (OSError, RuntimeError, subprocess.CalledProcessError):  # RuntimeError: nobody knows the home folder
        return None


def _ours(path: Path, kind: int) -> bool:
    """Whether ``path`` is of this kind, no link, and nobody but this user can have made it or can put another there."""
    if not hasattr(os, "getuid"):
        return True
    found = path.lstat()
    if stat.S_IFMT(found.st_mode) != kind or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return False
    above = [p.stat() for p in path.resolve().parents]
    return all(a.st_mode & stat.S_ISVTX or not a.st_mode & 0o002 for a in above)


def linear(x: Tensor, weight: Tensor, scale: Tensor | None = None, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """``x @ weight.T`` for at most ``MOST_TOKENS`` tokens, with float32 sums.

    Args:
        x: [n, K], or [n, G, K] with as many matrices; bfloat16.
        weight: [N, K], or [G, N, K]; bfloat16, or float8_e4m3fn with one ``scale`` per 128x128 block.
        dtype: of the result, bfloat16 or float32.

    Returns:
        [n, N] or [n, G, N] of ``dtype``. Products of two BF16 are exact in float32, so in float32 a result is within
        K * 2^-24 of the sum of its products' sizes.
    """
    *groups, rows, k = weight.shape
    x = x.contiguous()
    out = torch.empty(*x.shape[:-1], rows, dtype=dtype)
    _functions().linear(
        x.data_ptr(), weight.data_ptr(), None if scale is None else scale.data_ptr(), out.data_ptr(),
        x.shape[0], groups[0] if groups else 1, rows, k, dtype == torch.float32, torch.get_num_threads(),
    )  # fmt: skip
    return out


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` in float32 for any number of tokens: [n, K] and [V, K] bfloat16 -> [n, V] float32."""
    return torch.cat([linear(part, weight, dtype=torch.float32) for part in x.split(MOST_TOKENS)])


# A matrix and its scale or None.
Stored = tuple[Tensor, Tensor | None]


class _Matrix(ctypes.Structure):
    _fields_ = [("w", POINTER), ("scale", POINTER)]

    @classmethod
    def of(cls, stored: Stored) -> "_Matrix":
        weight, scale = stored
        return cls(weight.data_ptr(), None if scale is None else scale.data_ptr())


class _MLP(ctypes.Structure):
    _fields_ = [("up", _Matrix), ("down", _Matrix), ("width", LONG)]


class MLPs:
    """Gated feed-forward layers of one input, chosen by number.

    Args:
        layers: the layer of each number: w1 above w3 [2 W, D], and w2 [D, W]; numbers may be missing.
        count: how many numbers there are.
    """

    def __init__(self, layers: dict[int, tuple[Stored, Stored]], count: int):
        self.layers = layers  # keeps the tensors alive that the table points to
        self.table = (_MLP * count)()
        for number, (up, down) in layers.items():
            self.table[number] = _MLP(_Matrix.of(up), _Matrix.of(down), down[0].shape[1])

    def __call__(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The sum of each token's ``chosen`` [n, K] layers * ``weights``: x [n, D] bfloat16 -> [n, D] float32."""
        (n, dim), x = x.shape, x.contiguous()
        y = torch.empty(n, dim)
        _functions().mlp(
            x.data_ptr(), self.table, chosen.data_ptr(), weights.data_ptr(), y.data_ptr(),
            n, chosen.shape[1], dim, torch.get_num_threads(),
        )  # fmt: skip
        return y


class _Router(ctypes.Structure):
    _fields_ = [
        *((name, POINTER) for name in ("w", "bias")),
        *((name, LONG) for name in ("experts", "groups", "kept", "n")),
        *((name, INT) for name in ("softmax", "normalise")),
        ("scale", ctypes.c_float),
    ]


class Router:
    """``model.Gate`` for a few tokens.

    Args:
        weight: [E, D] bfloat16.
        bias: [E] float32, or None.
    """

    def __init__(self, cfg: "ModelConfig", weight: Tensor, bias: Tensor | None):
        self.held = weight, bias  # what the structure points to
        self.n = cfg.n_activated_experts
        groups, kept = (cfg.n_expert_groups, cfg.n_limited_groups) if cfg.grouped else (1, 1)
        self.structure = _Router(
            weight.data_ptr(), None if bias is None else bias.data_ptr(), len(weight), groups, kept, self.n,
            cfg.score_func == "softmax", cfg.norm_topk_prob, cfg.route_scale,
        )  # fmt: skip

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, D] bfloat16 -> weights and numbers, both [n, 1 + K]: before the K experts, number E with weight 1."""
        (n, dim), x = x.shape, x.contiguous()
        chosen, weights = torch.empty(n, 1 + self.n, dtype=torch.long), torch.empty(n, 1 + self.n)
        _functions().route(
            ctypes.byref(self.structure), x.data_ptr(), chosen.data_ptr(), weights.data_ptr(),
            n, dim, torch.get_num_threads(),
        )  # fmt: skip
        return weights, chosen


class _Asking(ctypes.Structure):
    _fields_ = [
        *((name, _Matrix) for name in ("first", "second", "key")),
        *((name, POINTER) for name in ("q_norm", "kv_norm")),
        *((name, LONG) for name in ("dim", "q_rank", "heads", "nope", "rotary", "rank")),
        ("eps", ctypes.c_float),
    ]


class Asking:
    """The first half of ``FastMLA`` for a few tokens.

    Args:
        first: [Q + C + R, D], or without a compressed query [H * (N + R) + C + R, D].
        second: [H * (N + R), Q], if there is one.
        key: [H, C, N] bfloat16.
        q_norm, kv_norm: [Q] and [C] float32.
    """

    def __init__(
        self,
        cfg: "ModelConfig",
        first: Stored,
        second: Stored | None,
        key: Tensor,
        q_norm: Tensor | None,
        kv_norm: Tensor,
        eps: float,
    ):
        self.held = first, second, key, q_norm, kv_norm  # what the structure points to
        self.heads, self.kept = len(key), cfg.kv_lora_rank + cfg.qk_rope_head_dim
        self.space = len(first[0]) + (len(second[0]) if second else 0) + cfg.q_lora_rank
        self.structure = _Asking(
            _Matrix.of(first), _Matrix.of(second) if second else _Matrix(), _Matrix(key.data_ptr(), None),
            None if q_norm is None else q_norm.data_ptr(), kv_norm.data_ptr(),
            first[0].shape[1], cfg.q_lora_rank, self.heads, cfg.qk_nope_head_dim, cfg.qk_rope_head_dim,
            cfg.kv_lora_rank, eps,
        )  # fmt: skip

    def __call__(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, D] bfloat16, turns [1, n, R / 2] complex -> queries [n, H, C + R], and [n, C + R] for the cache."""
        n, x = x.shape[0], x.contiguous()
        turns = turns.contiguous()
        query, entry = x.new_empty(n, self.heads, self.kept), x.new_empty(n, self.kept)
        space = x.new_empty(n * self.space)
        _functions().ask(
            ctypes.byref(self.structure), x.data_ptr(), turns.data_ptr(), query.data_ptr(), entry.data_ptr(),
            space.data_ptr(), n, torch.get_num_threads(),
        )  # fmt: skip
        return query, entry


def attend(q: Tensor, kept: Tensor, lengths: Tensor, rank: int, scale: float) -> Tensor:
    """Attention over the latent cache, whose entries are keys and, in their first ``rank`` numbers, values.

    Args:
        q: [n, H, C + R] bfloat16, as many tokens for each sequence.
        kept: [B, T, C + R] bfloat16, a prefix of a longer cache or the whole of it.
        lengths: [n] int64: the entries of its sequence that a token sees.

    Returns:
        [n, H, C] bfloat16, C = ``rank``.
    """
    n, heads, width = q.shape
    q, out = q.contiguous(), torch.empty(n, heads, rank, dtype=q.dtype)
    _functions().attend(
        q.data_ptr(), kept.data_ptr(), lengths.data_ptr(), out.data_ptr(), n, heads, width, rank,
        kept.stride(0) // width, n // kept.shape[0], scale, torch.get_num_threads(),
    )  # fmt: skip
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * weight`` over the last dimension: x [n, D] bfloat16, weight [D] float32 -> [n, D] bfloat16."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _functions().rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape, eps)
    return out


def weight_dequant(w: Tensor, scale: Tensor, block: int = 128, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """As ``reference.weight_dequant``, bit for bit, in one pass; without a compiler, or to another dtype, ``cpu``'s.

    Args, returns, errors: as the reference's.
    """
    found = library()
    if dtype != torch.bfloat16 or block != BLOCK or found is None:
        return cpu.weight_dequant(w, scale, block, dtype)
    reference.check_scale(w, scale, block)
    out = torch.empty(w.shape, dtype=torch.bfloat16)
    w, scale = w.contiguous(), scale.float().contiguous()
    if found.weight_dequant(w.data_ptr(), scale.data_ptr(), out.data_ptr(), *w.shape):
        return reference.weight_dequant(w, scale, block, dtype)
    return out


def give_back() -> None:
    """Return freed memory to the system, where the C library keeps it (glibc) and there is a compiler."""
    if found := library():
        found.give_back()
