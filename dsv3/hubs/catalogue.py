"""The models that people ask for, by the names that they type: ``assets/models.json``, a table with a line for each."""

import difflib
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from ..config import FAMILIES as ARCHITECTURES
from ..config import ModelConfig
from ..cost import weight_bytes
from ..outside import some
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
        huggingface, modelscope: ids on the two hubs; None where none is known.
        family: whose way to talk it has, one of ``FAMILIES``: chat template, thinking and tool calls go by it.
        architecture: model_type of its config.json.
        precision: of its weights as published, one word, or ``unknown``.
        config: the shipped config with its shapes; None if they are not known, or the tensor table does not cover it.
        context: max_position_embeddings of its config.json; None: the shipped config's.
        stored: bytes of its tensors where they cannot be summed from the table.
        quantization: what its config.json says as ``quantization_config``, as far as it decides bits.
        tiktoken: whether its tokenizer is tiktoken's, with Python of its repository that reads it.
        aliases: further ids of it.
        source: of what stands here.
    """

    name: str
    huggingface: str | None
    modelscope: str | None
    family: str
    architecture: str
    precision: str
    config: str | None
    context: int | None
    stored: int | None
    quantization: dict[str, Any] | None
    tiktoken: bool
    aliases: list[str]
    source: str

    @property
    def runs(self) -> str:
        """What it runs in: ``dsv3 generate``, or ``engine`` for what only SGLang, vLLM and the like run."""
        ours = self.architecture in ARCHITECTURES and self.precision in ("fp8", "bf16")
        return "dsv3 generate" if ours else "engine"

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors as published, 0 if nothing here says; the files' headers add some millions."""
        if self.name == TINY_R1.name:
            return _nbytes(str(TINY_R1), "fp8")
        if self.config and (self.precision == "fp8" or self.precision == "bf16"):
            return _nbytes(self.config, self.precision)
        return self.stored or 0

    @property
    def counted(self) -> bool:
        """Whether the tensor table and what is known of its quantisation tell what each of its matrices takes."""
        known = self.quantization is not None or self.precision in ("fp8", "bf16")
        return known and (self.config is not None or self.name == TINY_R1.name)

    def load_config(self) -> ModelConfig | None:
        """Its config, in BF16 where it is quantised in another way than FP8; None where it is not known. The length of
        its context is its own, the rest of its RoPE the shipped config's."""
        if self.name == TINY_R1.name:
            return ModelConfig.load(TINY_R1)
        if self.config is None:
            return None
        cfg = ModelConfig.load(self.config)
        cfg = replace(cfg, dtype="fp8" if self.precision == "fp8" else "bf16")
        return replace(cfg, max_seq_len=self.context or cfg.max_seq_len)


@cache  # a sum over up to 91,991 tensors, the same for many lines of the table
def _nbytes(config: str, precision: Literal["fp8", "bf16"]) -> int:
    return weight_bytes(ModelConfig.load(config), precision)


def models() -> list[Model]:
    """Every model of the catalogue."""
    table = json.loads(MODELS.read_text(encoding="utf-8"))
    return [Model(**dict(zip(table["columns"], row, strict=True))) for row in table["rows"]]


def hub_id(name: str) -> str:
    """``owner/name`` of a web address of one of the hubs; anything else as it is."""
    address = r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|modelscope\.cn/models|modelscope\.ai/models)/"
    found = re.fullmatch(address + r"([\w.-]+/[\w.-]+)(?:/.*|[?#].*)?", name.strip(), re.IGNORECASE | re.DOTALL)
    return found[1] if found else name


def _plain(name: str) -> str:
    """How names are compared: letters' case, blanks and underscores, and ``DeepSeek-`` in front do not count."""
    owner, slash, rest = re.sub(r"[\s_]+", "-", hub_id(name).strip().lower()).rpartition("/")
    return owner + slash + rest.removeprefix("deepseek-")


def find_model(name: str) -> Model | None:
    """The model that ``name`` means; None if it is not known.

    ``R1``, ``deepseek r1``, ``DeepSeek-R1``, ``deepseek-ai/DeepSeek-R1`` and the address of its page are one. With an
    owner it must be that owner's: another's upload is not the known one.
    """
    wanted = _plain(name[:500])
    for model in models():
        ids = (model.name, model.huggingface, model.modelscope, *model.aliases)
        if wanted in [_plain(known) for known in ids if known]:
            return model
    return None


def unknown(name: str) -> str:
    """``no model 'R3'; did you mean DeepSeek-R1 or DeepSeek-V3?``, for a message."""
    known = {_plain(m.name): m.name for m in models()}
    wanted = _plain(name[:100]).rpartition("/")[2].partition(":")[0]  # as in deepseek-r1:671b
    longer = [n for n in known if wanted and n.startswith(wanted)][:3]
    near = [known[n] for n in longer or difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {some(list(known.values()))}"
    return f"no model {name!r:.100}; {hint} (all: dsv3 download --list)"


def model_named(name: str) -> Model:
    """``find_model`` for a caller who cannot go on without the model.

    Raises:
        ValueError: it is not known.
    """
    model = find_model(name)
    if model is None:
        raise ValueError(unknown(name))
    return model
