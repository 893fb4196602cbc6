"""What several tests of figures look into."""

import pytest

from dsv3.llm import LLM, load
from dsv3.paths import TINY_R1


@pytest.fixture(scope="module")
def llm() -> LLM:
    """tiny-r1 as model.py has it."""
    return load(TINY_R1, gemm="bf16", model="plain")
