"""What a model needs on GPUs: memory by part and rank, what fits, how fast decoding can be. Pure functions.

Weights are summed from the tensor table, rank by rank, uneven ones included. Left out: what an engine allocates
beyond the formulas of ``FORMULAS`` (CUDA graphs, all-to-all buffers), and in the speeds all communication.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ..config import BLOCK, ModelConfig
from ..cost import attention_flops, cache_bytes, touched
from ..layout import Row, check_ranks, layout, owner, shared_out
from ..quantized import Quantized, Storage
from ..said import Said
from .gpus import GPU

Precision = Literal["fp8", "bf16", "int8", "int4", "nvfp4", "mxfp4"]
PRECISIONS: tuple[Precision, ...] = ("fp8", "bf16", "int8", "int4", "nvfp4", "mxfp4")
BLOCKED = ("fp8", "int8")  # a scale for each 128 x 128 weights
FOUR_BITS = {  # every matrix that FP8 has in FP8, where no checkpoint says more
    "int4": Storage("int4", 4, 16 + 4, (1, 128)),
    "nvfp4": Storage("nvfp4", 4, 8, (1, 16), matrix=64),
    "mxfp4": Storage("mxfp4", 4, 8, (1, 32)),
}
LARGEST = 1_000_000_000  # context, batch or GPUs that anything is asked about
RANKS = 100_000  # layers x tensor-parallel ranks that are summed; DeepSeek-R1 on 128 has 7,808
FORMULAS = {
    Said("weights"): Said(
        "the tensor table's bytes on the rank; int8 as fp8; 4 bits and, for int4, 20 more for each 128 weights,"
        " for nvfp4 and mxfp4 8 more for each 16 or 32; a quantised checkpoint's as its files say"
    ),
    Said("KV cache"): Said(
        "batch x context x layers on the GPU x (kv_lora_rank + qk_rope_head_dim) x 2 bytes, on each tp rank"
    ),
    Said("activations"): Said(
        "2 bytes x (3 T dim + the largest of a, b, c) + 4 bytes x batch x vocab_size, T = min(chunk, batch x context)"
    ),
    Said("a, attention"): "T (q_lora_rank + kv_lora_rank + qk_rope_head_dim)"
    " + (T + context) n_heads / tp (qk_head_dim + v_head_dim)",
    Said("b, dense layer"): "3 T inter_dim / tp",
    Said("c, experts"): Said(
        "T n_activated_experts (dim + 3 moe_inter_dim ep / tp), as if each choice fell on this GPU"
    ),
    Said("reserve"): Said("a share of the GPU's memory for CUDA, NCCL and fragmentation"),
    Said("decoding"): Said(
        "a step reads the weights (1 - (1 - K/E)^batch of the experts) and the cache, and computes"
        " flops(context) x batch; the longer of both, for the slowest GPU of each stage, stages added up"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a model is shared out: ``tp`` ranks cut every layer, ``pp`` stages hold layers, ``ep`` of the ``tp`` groups
    hold whole experts (``ep == tp``: no expert is cut)."""

    tp: int = 1
    pp: int = 1
    ep: int = 1

    @property
    def gpus(self) -> int:
        return self.tp * self.pp


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the model has to do.

    Attributes:
        context: tokens of each sequence in the cache.
        batch: sequences at once.
        chunk: tokens of a prompt that go through the model together; SGLang and vLLM take 8192 on large GPUs.
        reserve: share of a GPU's memory to leave alone; vLLM's gpu_memory_utilization of 0.92 leaves as much.
        mtp: hold the MTP layer, too.
    """

    context: int = 4096
    batch: int = 1
    chunk: int = 8192
    reserve: float = 0.08
    mtp: bool = False

    def __post_init__(self) -> None:
        for name in ("context", "batch", "chunk"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise ValueError(f"{name} = {getattr(self, name)!r:.60}: must be 1 or more, {LARGEST:,} at most")

    @property
    def sequences(self) -> Said:
        """``2 sequences of 4,096 tokens``."""
        several = self.batch > 1
        words = "{batch:,} sequences of {context:,} tokens" if several else "{batch:,} sequence of {context:,} tokens"
        return Said(words, batch=self.batch, context=self.context)


class Piece(NamedTuple):
    """Equal tensors of one layer: ``row`` stands for ``number`` of them; ``storage`` says how they are quantised."""

    layer: int
    row: Row
    number: int
    storage: Storage | None = None

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one of them if it had ``shape``."""
        return self.storage.nbytes(shape) if self.storage else self.row._replace(shape=shape).nbytes


class Need(NamedTuple):
    """Bytes on one GPU."""

    weights: int
    cache: int
    activations: int
    reserve: int

    @property
    def total(self) -> int:
        return sum(self)


class Decode(NamedTuple):
    """Bounds that no engine can beat; None where the GPU's rate is unknown."""

    memory_s: float
    compute_s: float | None
    tokens_per_s: float


@dataclass(frozen=True)
class Table:
    """A model's tensors in one precision, condensed: what ``weights`` needs, made once for any number of splits."""

    cfg: ModelConfig
    pieces: tuple[Piece, ...]


def table(cfg: ModelConfig, precision: Precision, quantized: Quantized | None = None) -> Table:
    """The condensed tensor table of ``cfg``, stored in ``precision`` or as a ``quantized`` checkpoint has it, without
    MTP's copies of embedding and head."""
    stored = replace(cfg, dtype="bf16" if precision == "bf16" else "fp8")
    by_itself = quantized is not None or precision in FOUR_BITS  # scales have no rows of their own
    merged: dict[tuple, tuple[Row, int]] = {}
    last = cfg.n_layers - 1
    for row in layout(stored):
        if row.copy_of or (by_itself and row.is_scale):
            continue
        head, number = row.name.split(".")[:2]
        layer = int(number) if head == "layers" else 0 if row.part == "embedding" else last
        storage = _storage(row, precision, quantized) if by_itself else None
        if by_itself and storage is None and row.kind == "fp8":
            row = row._replace(kind="bf16")
        key = (layer, row.part, row.shape, row.kind, row.cut, row.unit, row.expert is None, row.is_scale, storage)
        first, count = merged.get(key, (row, 0))
        merged[key] = first, count + 1
    pieces = tuple(Piece(key[0], row, n, key[-1]) for key, (row, n) in merged.items())
    return Table(stored, pieces)


def _storage(row: Row, precision: Precision, quantized: Quantized | None) -> Storage | None:
    """How a quantised checkpoint stores a tensor of the table; None for those that it leaves alone."""
    if row.kind != "fp8" and not (row.part == "head" and quantized and quantized.head):
        return None
    return quantized.storage(row.hf.removesuffix(".weight")) if quantized else FOUR_BITS[precision]


def check_split(cfg: ModelConfig, precision: Precision, split: Split) -> None:
    """Whether a model stored in ``precision`` can be shared out so.

    Raises:
        ValueError: heads, experts or FP8 blocks cannot be cut so.
    """
    blocks = precision in BLOCKED
    check_ranks(replace(cfg, dtype="fp8" if blocks else "bf16"), split.tp)
    if not 1 <= split.pp <= cfg.n_layers:
        raise ValueError(f"pp = {split.pp}: must lie between 1 and n_layers = {cfg.n_layers}")
    if split.tp * cfg.n_layers > RANKS:
        raise ValueError(
            f"tp = {split.tp}: with n_layers = {cfg.n_layers} more than {RANKS:,} shares to sum; take fewer"
        )
    if split.ep < 1 or split.tp % split.ep:
        raise ValueError(f"ep = {split.ep}: must divide tp = {split.tp}")
    if cfg.dense:
        return
    if split.ep > cfg.n_routed_experts:
        raise ValueError(f"ep = {split.ep}: there are {cfg.n_routed_experts} experts")
    cuts = split.tp // split.ep
    if cfg.moe_inter_dim % cuts or (blocks and cuts > 1 and cfg.moe_inter_dim // cuts % BLOCK):
        whole = f", in blocks of {BLOCK}" if blocks else ""
        width = f"moe_inter_dim = {cfg.moe_inter_dim}"
        raise ValueError(f"{width} does not divide by {cuts}{whole}: say --ep {split.tp}, for whole experts")


def check_context(name: str, cfg: ModelConfig, workload: Workload) -> None:
    """Whether the model called ``name`` takes sequences as long.

    Raises:
        ValueError: the context is longer than its own.
    """
    if workload.context > cfg.max_seq_len:
        asked, most = workload.context, cfg.max_seq_len
        raise ValueError(Said("--context {context}: {name} has {most}", context=asked, name=name, most=most))


def _even(cfg: ModelConfig, precision: Precision, tp: int) -> bool:
    """Whether ``tp`` ranks get equal shares of every tensor that is cut."""
    one_layer = replace(cfg, dtype="fp8" if precision in BLOCKED else "bf16", n_layers=2, n_mtp_layers=0)
    one_layer = replace(one_layer, n_dense_layers=min(cfg.n_dense_layers, 1))
    return tp == 1 or all(
        row.shape[row.cut] % (tp * row.unit) == 0
        for row in layout(one_layer)
        if row.cut is not None and not row.is_scale
    )


def weights(tensors: Table, split: Split, mtp: bool = False) -> list[Counter[str]]:
    """Bytes of weights by part, for each GPU: stage by stage, in a stage rank by rank."""
    cfg = tensors.cfg
    ranks: list[Counter[str]] = [Counter() for _ in range(split.gpus)]
    for piece in tensors.pieces:
        layer, row, count, _ = piece
        if row.part == "mtp" and not mtp:
            continue
        stage = owner(layer, cfg.n_layers, split.pp)
        for rank in range(split.tp):
            shape, n = row.shape, count
            if row.expert is not None:
                group, part = divmod(rank, split.tp // split.ep)
                n = count * len(shared_out(cfg.n_routed_experts, group, split.ep)) // cfg.n_routed_experts
                shape = _extent(_cut_expert(row, cfg).local(part, split.tp // split.ep))
            elif row.cut is not None:
                shape = _extent(row.local(rank, split.tp))
            ranks[stage * split.tp + rank][row.part] += n * piece.nbytes(shape)
    return ranks


def _extent(part: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple([s.stop - s.start for s in part])


def _cut_expert(row: Row, cfg: ModelConfig) -> Row:
    """The row of an expert that is cut over ranks, along its own width, instead of staying whole."""
    weight = row.scales or row
    weight = weight._replace(expert=None, cut=weight.shape.index(cfg.moe_inter_dim), unit=cfg.cut_unit)
    return weight.scale() if row.is_scale else weight


def activations(cfg: ModelConfig, split: Split, workload: Workload) -> int:
    """Bytes that a forward pass holds besides weights and cache, by the formula of ``FORMULAS``; an estimate."""
    tokens = min(workload.chunk, workload.batch * workload.context)
    heads = cfg.n_heads // split.tp
    latent = cfg.q_lora_rank + cfg.kv_lora_rank + cfg.qk_rope_head_dim
    attention = tokens * latent + (tokens + workload.context) * heads * (cfg.qk_head_dim + cfg.v_head_dim)
    dense = 3 * tokens * cfg.inter_dim // split.tp
    experts = tokens * cfg.n_activated_experts * (cfg.dim + 3 * cfg.moe_inter_dim * split.ep // split.tp)
    widest = max(attention, dense, experts if cfg.n_dense_layers < cfg.n_layers else 0)
    return 2 * (3 * tokens * cfg.dim + widest) + 4 * workload.batch * cfg.vocab_size


def layers_of(cfg: ModelConfig, stage: int, pp: int) -> int:
    """How many layers a pipeline stage holds."""
    return len(shared_out(cfg.n_layers, stage, pp))


def needs(cfg: ModelConfig, held: list[Counter[str]], gpu: GPU, split: Split, workload: Workload) -> list[Need]:
    """What each GPU must hold; ``held`` is what ``weights`` gives for ``split``."""
    tokens = workload.batch * workload.context
    a_layer = cache_bytes(cfg) // cfg.n_layers
    work, reserve = activations(cfg, split, workload), round(workload.reserve * gpu.nbytes)
    return [
        Need(part.total(), tokens * a_layer * layers_of(cfg, i // split.tp, split.pp), work, reserve)
        for i, part in enumerate(held)
    ]


def fits(wanted: list[Need], gpu: GPU) -> bool:
    """Whether the fullest GPU has room."""
    return max(n.total for n in wanted) <= gpu.nbytes


def largest(most: int, works: Callable[[int], bool]) -> int:
    """The largest n up to ``most`` for which ``works``, where everything below works, too; 0 if none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle) else (low, middle - 1)
    return low


def decode(
    cfg: ModelConfig,
    held: list[Counter[str]],
    multiplied: int,
    gpu: GPU,
    precision: Precision,
    split: Split,
    workload: Workload,
) -> Decode:
    """How fast a step of decoding, a token for each sequence, can be at best; ``multiplied``: ``cost.flops(cfg)``."""
    rate = gpu.rate(precision)
    a_layer = cache_bytes(cfg) // cfg.n_layers * workload.batch * workload.context
    operations = (multiplied + attention_flops(cfg, workload.context)) * workload.batch / split.tp / cfg.n_layers
    memory_s, compute_s, step = 0.0, 0.0, 0.0
    for stage in range(split.pp):
        layers = layers_of(cfg, stage, split.pp)
        ranks = held[stage * split.tp : (stage + 1) * split.tp]
        # The embedding is looked up; the MTP layer does not take part.
        unread = 1 - touched(cfg, workload.batch)
        read = max(r.total() - r["embedding"] - r["mtp"] - unread * r["routed"] for r in ranks)
        memory = (read + layers * a_layer) / (gpu.bandwidth_gb_s * 1e9)
        compute = layers * operations / (rate * 1e12) if rate else 0.0
        memory_s, compute_s, step = memory_s + memory, compute_s + compute, step + max(memory, compute)
    return Decode(memory_s, compute_s if rate else None, workload.batch / step)


def auto_split(cfg: ModelConfig, precision: Precision, n: int) -> Split:
    """Tensor parallel as far as every engine can cut the model, whole experts, pipeline stages for the rest.

    Engines cut evenly and between FP8 blocks; ``dsv3`` also cuts unevenly: DeepSeek-V3 in FP8 over 32 ranks.

    Raises:
        ValueError: ``n`` GPUs cannot share the model.
    """
    for tp in range(min(n, cfg.n_heads), 0, -1):
        if n % tp or n // tp > cfg.n_layers:
            continue
        split = Split(tp=tp, pp=n // tp, ep=tp)
        try:
            check_split(cfg, precision, split)
        except ValueError:
            continue
        if _even(cfg, precision, tp):
            return split
    refusal = "{n} GPUs: more than the model has layers to share out ({layers}); take fewer"
    raise ValueError(Said(refusal, n=n, layers=cfg.n_layers))
