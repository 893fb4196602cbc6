"""Decoding without waiting for Python: a step's launches are captured once as a CUDA graph and replayed as one.

A graph holds addresses, not values. So what changes from step to step lies in tensors that stay where they are: the
tokens, their places, the caches. ``Room`` is such a cache for one batch with the steps that were captured over it. Its
sizes are powers of two, so that few steps are captured. Where nothing can be captured (a CPU, ranks that talk through
gloo) the same steps are called each time.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..cache import Cache
from ..kernels import reference
from ..runtime import Runtime
from .fast import Fast
from .step import Here, Step, lacking, positions

SHORTEST = 1024  # tokens of a room's cache
AHEAD = 64  # places behind the context's end where guesses may stand for a moment
WARM = 2  # calls before capturing: kernels are compiled and loaded, NCCL connects, cuBLAS takes its workspace

Function = Callable[[], Tensor]
Recorder = Callable[[Function], Function]  # a function without arguments -> what does the same, from the same tensors


def call_again(run: Runtime) -> Recorder:
    """The recorder that records nothing: each replay calls the function."""
    return lambda function: function


def cuda_graphs(run: Runtime) -> Recorder:
    """The recorder that captures. Its graphs share their memory: a result is copied before the next one replays."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(run.device)

    def record(function: Function) -> Function:
        current, traffic, graph = torch.cuda.current_stream(run.device), run.tp.traffic, torch.cuda.CUDAGraph()
        # The outer stream context also puts the current stream back where a failed capture does not.
        with torch.cuda.device(run.device), torch.cuda.stream(stream), no_collecting():
            stream.wait_stream(current)
            for _ in range(WARM):
                function()
            before = traffic.copy()
            try:
                # Only this thread's calls are watched: NCCL's own thread may ask for its events meanwhile.
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    result = function()
            except RuntimeError as error:
                why = " ".join(str(error).split())
                warnings.warn(f"a step cannot be captured, and is launched anew each time: {why:.200}", stacklevel=2)
                return function
            finally:
                sent = traffic - before
                traffic.include(sent, -1)  # counted while captured, but nothing was sent
        current.wait_stream(stream)
        run.tp.graphs.add(graph)

        def replay() -> Tensor:
            graph.replay()
            traffic.include(sent)
            return result.clone()

        return replay

    return record


@contextmanager
def no_collecting() -> Iterator[None]:
    """No graph is freed by the garbage collector meanwhile: that spoils one being captured (pytorch/pytorch#161037)."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Recorded:
    """A step and what it reads: [B, S] tokens, [B] places of each sequence's first; for the MTP layer [B, S, D]."""

    tokens: Tensor
    first: Tensor
    h: Tensor | None
    replay: Function


class Room(Cache):
    """The caches of a batch where they stay, [rows, length, C + R] for each layer, and what was recorded over them.

    The first ``batch`` rows are the sequences'; a row behind them is nobody's: it stands at -S, so it writes nothing
    and sees nothing, and all such rows choose the same few experts. When a sequence ends, those behind it move up; when
    half have ended, the next smaller step takes over. A room that must grow is made anew, what it holds is copied, and
    what was recorded over it is forgotten. It never shrinks; it is bounded by ``max_batch_size`` and ``max_seq_len``.
    """

    def __init__(self, step: Step, make: Callable[[Runtime], Recorder], tell: Callable[[str], None]):
        super().__init__()
        self.step, self.make, self.tell = step, make, tell
        self.batch = self.rows = self.length = self.used = 0
        self.turns, self.record = step.turns, make(step.run)
        self.recorded: dict[tuple[bool, int, int], Recorded] = {}

    def open(self, batch: int) -> None:
        """Forget all sequences; ``batch`` new ones come."""
        self.batch, self.used = batch, 0

    def fit(self, end: int) -> None:
        """Make room for all sequences up to position ``end`` - 1."""
        rows, step = size(self.batch, 1, self.step.cfg.max_batch_size), self.step
        self.used = max(self.used, end)
        if rows <= self.rows and end <= self.length:
            return
        self.recorded.clear()  # they point into what is now left
        self.record = self.make(step.run)
        rows, length = max(rows, self.rows), max(size(end, SHORTEST, step.cfg.max_seq_len + AHEAD), self.length)
        width = step.cfg.kv_lora_rank + step.cfg.qk_rope_head_dim
        for layer in (*step.layers, *step.mtp_layers):
            number = layer.attn.layer
            new = torch.zeros(rows, length, width, dtype=step.run.dtype, device=step.run.device)
            for old in self.layers.get(number, ()):
                new[: old.shape[0], : old.shape[1]] = old
            self.layers[number] = [new]
        self.rows, self.length, self.turns = rows, length, step.turned(length)

    def room(self, layer: int, end: int, *like: Tensor) -> list[Tensor]:
        """The rows of as many sequences as ``like`` [B, ...] has."""
        return [self.layers[layer][0][: like[0].shape[0]]]

    def keep(self, rows: list[int]) -> None:
        moving = [(i, row) for i, row in enumerate(rows) if i != row]
        if moving:
            to, source = torch.tensor(moving, device=self.step.run.device).T
            for (whole,) in self.layers.values():
                whole[to, : self.used] = whole[source, : self.used]
        self.batch = len(rows)

    def read(self, tokens: Tensor, start: int, h: Tensor | None = None) -> Tensor:
        """Prompts: [B, S] tokens from ``start`` on -> [B, S, D]; with ``h`` by the MTP layer."""
        batch, new = tokens.shape
        self.fit(start + new)
        first = torch.full((batch,), start, dtype=torch.int32, device=tokens.device)
        return self.go(tokens, first, h, reads=True, end=start + new)

    def advance(self, tokens: Tensor, first: list[int], h: Tensor | None = None) -> Tensor:
        """A step: [B, S] tokens, each sequence's from its own place on -> [B, S, D]; with ``h`` by the MTP layer."""
        batch, new = tokens.shape
        self.fit(max(first) + new)
        rows = size(batch, 1, self.step.cfg.max_batch_size)
        key = (h is not None, rows, new)
        if key not in self.recorded:
            self.recorded[key] = self.prepare(*key)
        step = self.recorded[key]
        for static, now in ((step.tokens, tokens), (step.h, h)):
            if static is not None and now is not None:
                static[:batch].copy_(now)
                static[batch:].zero_()
        cuda = self.step.run.device.type == "cuda"
        places = torch.tensor([*first, *[-new] * (rows - batch)], dtype=torch.int32, pin_memory=cuda)
        step.first.copy_(places, non_blocking=True)  # from pinned memory, so that nothing is waited for
        return step.replay()[:batch]

    def prepare(self, guesses: bool, rows: int, new: int) -> Recorded:
        """Record a step of ``rows`` sequences with ``new`` tokens each, while all rows are nobody's."""
        what = "guess" if guesses else "step"
        self.tell(f"preparing a {what} of {rows} x {new} tokens, {self.length:,} of context each; kernels are compiled")
        run, dim = self.step.run, self.step.cfg.dim
        tokens = torch.zeros(rows, new, dtype=torch.long, device=run.device)
        first = torch.full((rows,), -new, dtype=torch.int32, device=run.device)
        h = torch.zeros(rows, new, dim, dtype=run.dtype, device=run.device) if guesses else None
        replay = self.record(lambda: self.go(tokens, first, h, reads=False, end=self.length))
        return Recorded(tokens, first, h, replay)

    def go(self, tokens: Tensor, first: Tensor, h: Tensor | None, reads: bool, end: int) -> Tensor:
        here = Here(self, len(tokens), end, positions(first, tokens.shape[1]), self.turns, reads)
        return self.step.forward(tokens, here) if h is None else self.step.guess(h, tokens, here)


def size(n: int, least: int, most: int) -> int:
    """The power of two from ``n`` on, but not less than ``least``, and not more than ``most`` if that is enough."""
    return max(n, min(max(1 << (n - 1).bit_length(), least), most))


class Replayed:
    """A ``Step`` that decodes in rooms. Methods, arguments and results as ``Transformer``'s.

    With a ``Room`` for a cache, ``start`` may be a list: each sequence's place, for a step that was recorded.

    Attributes:
        tell: is told, in a line, when something takes long.
    """

    def __init__(self, step: Step, make: Callable[[Runtime], Recorder] = call_again):
        self.step, self.make = step, make
        self.cfg, self.run, self.mtp, self.logits = step.cfg, step.run, step.mtp, step.logits
        self.tell: Callable[[str], None] = lambda text: None
        self.rooms: list[Room] = []

    def __call__(self, tokens: Tensor, start: int | list[int] | Tensor = 0, cache: Cache | None = None) -> Tensor:
        """As ``Transformer.forward``: [B, S] token ids -> [B, S, D]."""
        if isinstance(cache, Room):
            return self.in_room(cache, tokens, start)
        return self.step(tokens, start if isinstance(start, int) else torch.as_tensor(start), cache)

    def predict(
        self, h: Tensor, tokens: Tensor, start: int | list[int] | Tensor = 0, cache: Cache | None = None
    ) -> Tensor:
        """As ``Transformer.predict``: the first MTP layer, [B, S, D] and [B, S] -> [B, S, D]."""
        if isinstance(cache, Room):
            return self.in_room(cache, tokens, start, h)
        return self.step.predict(h, tokens, start if isinstance(start, int) else torch.as_tensor(start), cache)

    def in_room(self, room: Room, tokens: Tensor, start: int | list[int] | Tensor, h: Tensor | None = None) -> Tensor:
        if isinstance(start, int):
            return room.read(tokens, start, h)
        return room.advance(tokens, start if isinstance(start, list) else start.tolist(), h)

    @contextmanager
    def room(self, batch: int) -> Iterator[Room]:
        """A room for ``batch`` sequences, which nobody else uses meanwhile; if one was left before, that one."""
        free = [room for room in self.rooms if not room.batch]
        if not free:
            free.append(Room(self.step, self.make, lambda text: self.tell(text)))
            self.rooms += free
        free[0].open(batch)
        try:
            yield free[0]
        finally:
            free[0].open(0)

    @property
    def held(self) -> str:
        """What is kept for the next call, in words."""
        caches = ", ".join(f"{room.rows} x {room.length:,} tokens" for room in self.rooms) or "nothing"
        steps, nbytes = sum(len(room.recorded) for room in self.rooms), sum(room.nbytes for room in self.rooms)
        return f"kept for the next call: {steps} recorded steps, caches of {caches}, {nbytes / 1e9:.2f} GB"


def recorded(fast: Fast) -> tuple[Fast | Replayed, str | None]:
    """``fast`` as it decodes best here, and, on a GPU that could do better, a line that says why it does not."""
    run = fast.run
    if run.device.type != "cuda" and run.kernels is reference:
        return fast, None
    if why := lacking(fast):
        return fast, f"decoding is slow, one small operation after the other: {why}"
    if run.device.type != "cuda":
        return Replayed(Step(fast)), None
    talk = dist.get_backend() if dist.is_initialized() else "threads"
    if run.tp.size > 1 and talk != "nccl":
        return Replayed(Step(fast)), f"each step is launched anew: what ranks say through {talk} cannot be captured"
    return Replayed(Step(fast), cuda_graphs), None
