"""The models that people ask for, with ids, precision and size: ``assets/models.json``."""

import json
from dataclasses import dataclass, replace
from typing import Literal

from ..config import ModelConfig
from ..cost import weight_bytes
from ..paths import ASSETS, TINY_R1

MODELS = ASSETS / "models.json"
# How a model talks, whatever its shapes and its precision: an upload in another precision is of its model's family.
FAMILIES = {
    "r1": "R1, R1-Zero, R1-0528: always think",
    "v3": "V3, V3-0324: do not think",
    "v3.1": "V3.1, V3.1-Terminus: think if asked to",
    "v3.2": "V3.2-Exp, V3.2, V3.2-Speciale",
    "v4": "V4, V4.1",
    "v2": "the chat models of V2, V2.5, Coder-V2, V2-Lite",
    "distill": "Qwen and Llama models that R1 taught: always think",
    "kimi-k2": "Kimi-K2-Instruct: does not think",
    "kimi-k2-thinking": "Kimi-K2-Thinking, K2.5, K2.6: think",
    "kimi-vl": "Kimi-VL, with a vision encoder",
    "kimi-k3": "Kimi-K3",
    "moonlight": "Moonlight-Instruct",
    "gigachat3": "GigaChat3, GigaChat3.1",
    "glm-4.7-flash": "GLM-4.7-Flash: thinks unless told not to",
    "prover": "Prover-V2, which writes proofs: neither a thought's marks nor tools",
    "base": "continues a text; no chat",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A published checkpoint.

    Attributes:
        family: whose way to talk it has, one of ``FAMILIES``: chat template, thinking and tool calls go by it.
        modelscope, huggingface: ids on the two hubs; None for the one that ships with dsv3.
        architecture: model_type of its config.json.
        runs: ``dsv3 generate``, or ``engine`` for what only SGLang, vLLM and the like run.
        config: the shipped config that describes it; None if the tensor table does not cover it.
        context: max_position_embeddings of its config.json.
        stored: bytes of its tensors where they cannot be summed from the table.
    """

    name: str
    family: str
    modelscope: str | None
    huggingface: str | None
    architecture: str
    precision: Literal["fp8", "bf16"]
    runs: str
    config: str | None
    context: int | None
    stored: int | None
    source: str

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors as published; the files' headers add some millions."""
        cfg = self.load_config()
        return weight_bytes(cfg, self.precision) if cfg else self.stored or 0

    def load_config(self) -> ModelConfig | None:
        """Its config, or None for an architecture that dsv3 does not run."""
        if self.name == TINY_R1.name:
            return ModelConfig.load(TINY_R1)
        if self.config is None:
            return None
        cfg = ModelConfig.load(self.config)
        return replace(cfg, max_seq_len=self.context or cfg.max_seq_len, dtype=self.precision)


def models() -> list[Model]:
    """Every model of the catalogue."""
    return [Model(**row) for row in json.loads(MODELS.read_text(encoding="utf-8"))]


def find_model(name: str) -> Model | None:
    """The model that ``name`` means: ``DeepSeek-R1``, ``r1``, ``deepseek-ai/DeepSeek-R1``; None if it is not known."""

    def plain(text: str) -> str:
        return text.lower().removeprefix("deepseek-ai/").removeprefix("deepseek-").removesuffix("-chat")

    return next((m for m in models() if plain(m.name) == plain(name)), None)


def model_named(name: str) -> Model:
    """``find_model`` for a caller who cannot go on without the model.

    Raises:
        ValueError: it is not known.
    """
    model = find_model(name)
    if model is None:
        raise ValueError(f"no model {name!r}; known: {', '.join(m.name for m in models())}")
    return model
