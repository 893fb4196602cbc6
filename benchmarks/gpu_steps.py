"""Whole models on a GPU: milliseconds a decode step and a prefill, dsv3 beside ``model.py`` and transformers.

``gpu.py`` starts one process for each contender, which may hang, or not fit, without taking the others with it:
python -m benchmarks.gpu_steps MODEL CONTENDER prints a JSON line for each thing measured. The weights are random; what
a step costs depends on shapes alone, but for the experts that are hit.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv3.cli import run
from dsv3.config import ModelConfig
from dsv3.paths import TINY_R1

if TYPE_CHECKING:
    import torch

    from dsv3.inference.decode import Model as Decoding

ROOT = Path(__file__).parents[1]
OURS = "dsv3"
REACH = "ms to reach"  # a goal against this name is the milliseconds to reach over ours
SCORE = "CPU's score"
PROMPT, NEW, REPEAT = 32, 48, 3
LONGEST = 6.0  # seconds: a row is not measured again once this has passed
EACH = 50.0  # seconds of a contender's process, start and compiling included
Row = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """What is measured, and what one H100 is to reach.

    Attributes:
        config: a shipped config, whose weights are random here, or a checkpoint's folder. changes: to its fields.
        decode_ms: batch -> milliseconds a step. prefill_ms: prompt tokens -> milliseconds.
        who: the contenders, ours first.
    """

    config: str
    decode_ms: dict[int, float]
    prefill_ms: dict[int, float] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    who: tuple[str, ...] = (OURS, "model.py")

    @property
    def cfg(self) -> ModelConfig:
        """The configuration, with room for the largest batch and prompt."""
        sizes = {"max_batch_size": max(self.decode_ms), "max_seq_len": 4096, "n_mtp_layers": 0}
        return replace(ModelConfig.load(self.config), **sizes, **self.changes)

    @property
    def works(self) -> tuple[tuple[str, dict[int, float]], ...]:
        """What is measured: its name, and size -> milliseconds to reach."""
        return ("decode", self.decode_ms), ("prefill", self.prefill_ms)


MODELS = {
    # R1's widths with one dense layer and four of 256 experts: what fits one GPU, in FP8.
    "V3x5": Model(
        "config_671B.json", {1: 2.1, 8: 4.9, 32: 10.7}, {2048: 32.0}, {"n_layers": 5, "n_dense_layers": 1}
    ),
    "V2-Lite": Model(
        "config_16B.json", {1: 3.0, 8: 7.3, 32: 11.8}, {2048: 20.0}, who=(OURS, "model.py", "transformers")
    ),
    "tiny-r1": Model(str(TINY_R1), {1: 0.5}, who=(OURS,)),
}  # fmt: skip
SCORES = ("bf16", "fp8")  # tiny-r1's, on 2,000 sums, in both number formats
LEAST_SCORE = 0.999  # of the CPU's: two sums of 2,000 may fall to rounding


def fill(model: "torch.nn.Module") -> None:
    """Random numbers of a trained model's size into all parameters, FP8 ones a piece at a time.

    What is kept in float32 gets BF16 numbers, as in a checkpoint: they may be read in half the bytes.
    """
    import torch

    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dtype == torch.float8_e4m3fn:
                for rows in p.data.split(4096):
                    rows.copy_(torch.randn(rows.shape, device=p.device).mul_(50).clamp_(-448, 448).to(p.dtype))
            elif name.endswith("scale"):
                p.data.fill_(4e-4)
            elif p.dim() == 1:
                p.data.fill_(0.0 if "bias" in name else 1.0)
            else:
                for rows in p.data.split(4096):
                    rows.copy_(rows.normal_(0, 0.02).bfloat16())


def several(once: Callable[[], float]) -> float:
    """The median of ``REPEAT`` times; of fewer where they take long."""
    began, times = time.monotonic(), [once()]
    while len(times) < REPEAT and time.monotonic() - began < LONGEST:
        times.append(once())
    return statistics.median(times)


def prompt(length: int, row: int = 0) -> list[int]:
    """Token ids that all vocabularies have, others in each row."""
    return [10 + (7 * row + i) % 400 for i in range(length)]


def generated(model: "Decoding", wanted: Model) -> Iterator[Row]:
    """Through ``generate``, as everybody decodes: what it makes of a model here is what is timed."""
    from dsv3.inference.decode import Stats, generate

    def once(prompts: list[list[int]], new: int) -> Stats:
        stats = Stats()
        for _ in generate(model, prompts, eos_id=-1, max_new_tokens=new, stats=stats):
            pass
        return stats

    def step(prompts: list[list[int]]) -> float:
        stats = once(prompts, NEW)
        return stats.decode_seconds / stats.steps

    for batch in wanted.decode_ms:
        prompts = [prompt(PROMPT, row) for row in range(batch)]
        step(prompts)  # compiles, captures
        yield {"work": "decode", "size": batch, "ms": 1e3 * several(lambda p=prompts: step(p))}
    for length in wanted.prefill_ms:
        prompts = [prompt(length)]
        once(prompts, 1)
        yield {"work": "prefill", "size": length, "ms": 1e3 * several(lambda p=prompts: once(p, 1).prefill_seconds)}


def ours(wanted: Model, fast: bool, device: "torch.device") -> Iterator[Row]:
    """dsv3 as ``load`` gives it, or ``model.py``."""
    from dsv3.inference.fast import Fast
    from dsv3.inference.graph import recorded
    from dsv3.kernels import pick
    from dsv3.model import Transformer
    from dsv3.runtime import Runtime

    if Path(wanted.config).is_dir():
        from dsv3.llm import load

        kind = "fast" if fast else "plain"
        yield from generated(load(wanted.config, model=kind, device=device.type, max_batch_size=1).model, wanted)
        return
    cfg, choice = wanted.cfg, pick(device)
    gemm = choice.gemm if cfg.fp8 else "bf16"
    model = Transformer(cfg, Runtime(kernels=choice.kernels, gemm=gemm, device=device)).eval()
    fill(model)
    yield from generated(recorded(Fast(model))[0] if fast else model, wanted)


def transformers(wanted: Model, device: "torch.device") -> Iterator[Row]:
    """Its own model of the same shape, in BF16; from the time of many tokens that of one is subtracted."""
    import torch
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    c = wanted.cfg
    config = DeepseekV2Config(
        vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.inter_dim, num_hidden_layers=c.n_layers,
        moe_intermediate_size=c.moe_inter_dim, first_k_dense_replace=c.n_dense_layers, num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_heads, n_routed_experts=c.n_routed_experts, n_shared_experts=c.n_shared_experts,
        num_experts_per_tok=c.n_activated_experts, n_group=c.n_expert_groups, topk_group=c.n_limited_groups,
        topk_method="greedy", norm_topk_prob=c.norm_topk_prob, routed_scaling_factor=c.route_scale,
        q_lora_rank=c.q_lora_rank or None, kv_lora_rank=c.kv_lora_rank, qk_rope_head_dim=c.qk_rope_head_dim,
        qk_nope_head_dim=c.qk_nope_head_dim, v_head_dim=c.v_head_dim, max_position_embeddings=c.max_seq_len,
        eos_token_id=None, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = DeepseekV2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)

    def timed(ids: "torch.Tensor", new: int) -> float:
        began = time.monotonic()
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False).tolist()
        return time.monotonic() - began

    for batch in wanted.decode_ms:
        ids = torch.tensor([prompt(PROMPT, row) for row in range(batch)], device=device)
        timed(ids, 4)
        step = several(lambda x=ids: (timed(x, NEW) - timed(x, 1)) / (NEW - 1))
        yield {"work": "decode", "size": batch, "ms": 1e3 * step}
    for length in wanted.prefill_ms:
        ids = torch.tensor([prompt(length)], device=device)
        timed(ids, 1)
        yield {"work": "prefill", "size": length, "ms": 1e3 * several(lambda x=ids: timed(x, 1))}


def lines(command: list[str], seconds: float) -> tuple[list[Row], str]:
    """The JSON lines that a command prints within its time -> (rows, why it did not come to its end or ``""``)."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=max(seconds, 0.01))
        text, why = done.stdout, ""
        if done.returncode:
            why = (done.stderr.decode(errors="replace").strip().splitlines() or ["it died without a word"])[-1][:300]
    except subprocess.TimeoutExpired as late:
        text, why = late.stdout or b"", "out of time"
    whole = [line for line in text.decode(errors="replace").splitlines(keepends=True) if line.endswith("}\n")]
    return [json.loads(line) for line in whole if line.startswith("{")], why


def measure(until: float, each: float = EACH) -> list[Row]:
    """A row for each model and work, and tiny-r1's scores; what came too late, or failed, says so."""
    rows: dict[str, dict[str, list[Row]]] = {name: {} for name in MODELS}
    why: dict[str, dict[str, str]] = {name: {} for name in MODELS}

    def measured(name: str, who: str) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu_steps", name, who]
        rows[name][who], why[name][who] = lines(command, min(each, until - time.monotonic()))
        print(f"{name}, {who}: {rows[name][who]} {why[name][who]}", flush=True)

    for name in MODELS:  # what is ours first: a rival that takes long takes no time from it
        measured(name, OURS)
    scored = scores(*lines([sys.executable, "-m", "dsv3.tiny.evaluate"], until - time.monotonic()))
    for name, model in MODELS.items():
        for who in model.who[1:]:
            measured(name, who)
    found = [row for name, model in MODELS.items() for row in merge(name, model, rows[name], why[name])] + scored
    for row in found:
        print(f"{row['group']:20} {row['shape']:44} {row.get('not_measured') or row['ratios']}", flush=True)
    return found


def merge(name: str, model: Model, rows: dict[str, list[Row]], why: dict[str, str]) -> list[Row]:
    """One row per work and size, ours with what it means beside the goal and beside each other contender's."""
    made = []
    for work, wanted in model.works:
        for size, least in wanted.items():
            ms = {who: r["ms"] for who in rows for r in rows[who] if (r["work"], r["size"]) == (work, size)}
            row: Row = {"group": f"{work}, {name}", "shape": f"batch {size}" if work == "decode" else f"{size} tokens"}
            missing = {who: why[who] or "no such row" for who in rows if who not in ms and who != OURS}
            if mine := ms.get(OURS):
                row |= {"ms": round(mine, 3), "tokens_per_s": round(1e3 * size / mine, 1)}
                row |= {"ms_of": {who: round(t, 3) for who, t in ms.items() if who != OURS}}
                row |= {"ratios": {REACH: round(least / mine, 3)}, "goals": {REACH: 1.0}, "missing": missing}
                row["ratios"] |= {who: round(t / mine, 3) for who, t in ms.items() if who != OURS}
            else:
                row["not_measured"] = why[OURS] or "no such row"
            made.append(row)
    return made


def scores(rows: Iterable[Row], why: str) -> list[Row]:
    """tiny-r1's score on 2,000 sums over the CPU's, in both number formats."""
    cpu = json.loads((ROOT / "benchmarks" / "results" / "tiny-r1.json").read_text(encoding="utf-8"))
    got, expected = ({row["gemm"]: row["all"] for row in some} for some in (rows, cpu))
    made = []
    for gemm in SCORES:
        row: Row = {"group": "tiny-r1's score", "shape": f"{gemm}, 2,000 sums"}
        if gemm in got:
            ratio = round(got[gemm] / expected[gemm], 4)
            row |= {"percent": got[gemm], "ratios": {SCORE: ratio}, "goals": {SCORE: LEAST_SCORE}}
        else:
            row["not_measured"] = why or "no such row"
        made.append(row)
    return made


def goals() -> list[tuple[str, str, float]]:
    """All (group, rival, least ratio), in the table's order."""
    found = [(f"{work}, {name}", REACH, 1.0) for name, model in MODELS.items() for work, sizes in model.works if sizes]
    return [*found, ("tiny-r1's score", SCORE, LEAST_SCORE)]


def main(argv: list[str]) -> None:
    """The command line of one contender's process."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_steps", description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("who", choices=(OURS, "model.py", "transformers"))
    args = parser.parse_args(argv)
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = MODELS[args.model]
    torch.manual_seed(0)
    other = args.who == "transformers"
    for row in transformers(wanted, device) if other else ours(wanted, args.who == OURS, device):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    run(main)
