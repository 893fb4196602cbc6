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

import torch
from torch import Tensor

from .. import paths
from . import cpu, reference

SOURCE = Path(__file__).with_name("native.c")
BLOCK = 128  # native.c's
# Measured on 2 cores: a step of more tokens is faster in torch, which then reads a matrix once for all of them; so is
# attention of more heads; and a second thread pays from LARGE numbers on.
MOST_TOKENS, MOST_HEADS, LARGE = 8, 8, 1 << 16
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
            found.mlp.argtypes = [POINTER] * 5 + [LONG] * 4 + [INT]
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


def _threads(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= LARGE else 1


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
        x.shape[0], groups[0] if groups else 1, rows, k, dtype == torch.float32, _threads(weight.numel()),
    )  # fmt: skip
    return out


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` in float32 for any number of tokens: [n, K] and [V, K] bfloat16 -> [n, V] float32."""
    return torch.cat([linear(part, weight, dtype=torch.float32) for part in x.split(MOST_TOKENS)])


# w1 above w3 [2 W, D], its scale or None, w2 [D, W], its scale or None.
Stored = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


class MLPs:
    """Gated feed-forward layers of one shape, chosen by number.

    Args:
        layers: the layer of each number; numbers may be missing.
        count: how many numbers there are.
    """

    def __init__(self, layers: dict[int, Stored], count: int):
        self.layers = layers  # keeps the tensors alive that the table points to
        self.table = (POINTER * (4 * count))()
        for number, parts in layers.items():
            self.dim, self.width = parts[2].shape
            self.table[4 * number : 4 * number + 4] = [None if t is None else t.data_ptr() for t in parts]

    def add(self, y: Tensor, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """y [n, D] float32 plus, for each token of x [n, D] bfloat16, its ``chosen`` [n, K] layers * ``weights``."""
        if self.layers:
            n, k = chosen.shape
            _functions().mlp(
                x.data_ptr(), self.table, chosen.data_ptr(), weights.data_ptr(), y.data_ptr(),
                n, k, self.dim, self.width, _threads(3 * k * self.dim * self.width),
            )  # fmt: skip
        return y


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
        kept.stride(0) // width, n // kept.shape[0], scale, _threads(n * heads * kept.shape[1] * width),
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
