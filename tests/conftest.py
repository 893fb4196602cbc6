"""A small random checkpoint in DeepSeek's exact format, made once a run."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import SMALL

from dsv3.convert import convert
from dsv3.fp8_cast_bf16 import cast
from dsv3.model import Transformer
from dsv3.runtime import Runtime
from dsv3.tiny import tokenizer
from dsv3.tiny.export import export

# Triton must see TRITON_INTERPRET when it is imported: test_interpreter.py runs these in a process of their own.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]


@pytest.fixture(scope="session")
def small_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, dtype="bf16"), Runtime(dtype=torch.float32))
    return {
        name: 1 + 0.1 * torch.randn(p.shape) if p.dim() == 1 else torch.randn(p.shape) * p.shape[-1] ** -0.5
        for name, p in model.named_parameters()
    }


@pytest.fixture(scope="session")
def fp8_folder(small_weights, tmp_path_factory) -> Path:
    """FP8, five shards, index, config, tokenizer. Tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("small")
    texts = tokenizer.corpus(n=300)
    tokenizer.save(tokenizer.build(texts, SMALL.vocab_size), folder, SMALL.max_seq_len)
    export(small_weights, SMALL, folder, folder / "fp8")
    return folder / "fp8"


@pytest.fixture(scope="session")
def bf16_folder(fp8_folder) -> Path:
    """The same, cast."""
    target = fp8_folder.parent / "bf16"
    cast(fp8_folder, target)
    return target


@pytest.fixture(params=["cast", "convert"])
def made(request, fp8_folder, tmp_path) -> Path:
    """What a cast writes, and what a conversion for two ranks does."""
    target = tmp_path / "out"
    cast(fp8_folder, target) if request.param == "cast" else convert(fp8_folder, target, 2)
    return target
