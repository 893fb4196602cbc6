"""What a model is: ``ModelConfig``, read from a Hugging Face ``config.json`` or from a config of the official demo.

The same on every rank and every machine; how the model runs is ``runtime.py``, which tensors it has is ``layout.py``.
"""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from . import quantized
from .outside import small_json, some

CONFIGS = Path(__file__).parent / "configs"
BLOCK = 128  # rows and columns that share one FP8 scale (technical report, section 3.3.2)
# The least and the most that a field may say: room for any real model, and nothing that runs without end.
WHOLE = {
    "max_batch_size": (1, 1_000_000),
    "max_seq_len": (1, 1_000_000_000),
    "vocab_size": (1, 10_000_000),
    "dim": (1, 1_000_000),
    "inter_dim": (1, 1_000_000),
    "moe_inter_dim": (0, 1_000_000),
    "n_layers": (1, 2_000),
    "n_dense_layers": (0, 2_000),
    "n_heads": (1, 10_000),
    "n_routed_experts": (0, 100_000),
    "n_shared_experts": (0, 1_000),
    "n_activated_experts": (0, 100_000),
    "n_expert_groups": (0, 100_000),
    "n_limited_groups": (0, 100_000),
    "q_lora_rank": (0, 1_000_000),
    "kv_lora_rank": (1, 1_000_000),
    "qk_nope_head_dim": (0, 100_000),
    "qk_rope_head_dim": (2, 100_000),
    "v_head_dim": (1, 100_000),
    "original_seq_len": (1, 1_000_000_000),
    "n_mtp_layers": (0, 1_000),
}
REAL = {
    "route_scale": (0, 1_000_000),
    "rope_theta": (1.1, 10**15),  # its logarithm is divided by
    "rope_factor": (1, 1_000_000),
    "beta_fast": (0, 1_000_000),
    "beta_slow": (0, 1_000_000),
    "mscale": (0, 1_000),
    "mscale_all_dim": (0, 1_000),
    "rms_norm_eps": (0, 1),
}
_FILLED: Any = None  # the default of a field that __post_init__ fills in: afterwards it is never None
TENSORS = 500_000  # of a model; DeepSeek-V3 has 91,991


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A DeepSeek-V2/V3 model's architecture, with the field names of the official demo (inference/model.py ModelArgs).

    Fields that the demo lacks: ``topk_method``, ``norm_topk_prob``, ``mscale_all_dim``, ``rms_norm_eps`` and
    ``n_mtp_layers``, ``tie_word_embeddings``. Left out they take what the demo's own models use.

    Raises:
        ValueError: a value that no model can have, naming the field.
    """

    max_batch_size: int = 8
    max_seq_len: int = 4096 * 4
    dtype: Literal["bf16", "fp8"] = "bf16"
    scale_fmt: Literal["ue8m0"] | None = None
    vocab_size: int = 102400
    dim: int = 2048
    inter_dim: int = 10944
    moe_inter_dim: int = 1408
    n_layers: int = 27
    n_dense_layers: int = 1
    n_heads: int = 16
    # mixture of experts
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    n_activated_experts: int = 6
    n_expert_groups: int = 1
    n_limited_groups: int = 1
    score_func: Literal["softmax", "sigmoid"] = "softmax"
    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"] = _FILLED
    norm_topk_prob: bool = _FILLED
    route_scale: float = 1.0
    # multi-head latent attention
    q_lora_rank: int = 0
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    # YaRN; rope_factor 1 is plain RoPE
    original_seq_len: int = 4096
    rope_theta: float = 10000.0
    rope_factor: float = 40.0
    beta_fast: int = 32
    beta_slow: int = 1
    mscale: float = 1.0
    mscale_all_dim: float = _FILLED
    rms_norm_eps: float = 1e-6
    # multi-token prediction
    n_mtp_layers: int = 0
    tie_word_embeddings: bool = False  # the head is the embedding, stored once

    def __post_init__(self) -> None:
        def default(name: str, value: Any) -> None:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        sigmoid = self.score_func == "sigmoid"
        default("topk_method", "noaux_tc" if sigmoid else "group_limited_greedy")
        default("norm_topk_prob", sigmoid)
        default("mscale_all_dim", self.mscale)
        for name, (least, most) in (WHOLE | REAL).items():
            value, whole = getattr(self, name), name in WHOLE
            kinds = (int,) if whole else (int, float)
            if type(value) not in kinds or not least <= value <= most:  # NaN is between no two numbers
                what = "whole number" if whole else "number"
                raise ValueError(f"{name} = {value!r:.60}: must be a {what} from {least:,} to {most:,}")
        self._one_of("norm_topk_prob", False, True)
        self._one_of("tie_word_embeddings", False, True)
        self._one_of("dtype", "bf16", "fp8")
        self._one_of("scale_fmt", None, "ue8m0")
        self._one_of("score_func", "softmax", "sigmoid")
        self._one_of("topk_method", "greedy", "group_limited_greedy", "noaux_tc")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim = {self.qk_rope_head_dim}: RoPE turns pairs, so it must be even")
        if self.n_dense_layers < self.n_layers or self.n_mtp_layers:
            self._check_experts()
        layers = self.n_layers + self.n_mtp_layers
        experts = max(layers - self.n_dense_layers, 0) * self.n_routed_experts
        if 6 * experts + 20 * layers > TENSORS:  # matrices and, in FP8, their scales
            raise ValueError(
                f"n_layers = {self.n_layers}, n_mtp_layers = {self.n_mtp_layers}, "
                f"n_routed_experts = {self.n_routed_experts}: together more than {TENSORS:,} tensors"
            )

    def _one_of(self, name: str, *allowed: Any) -> None:
        value = getattr(self, name)
        if not any(value is one or (type(value) is str and value == one) for one in allowed):
            raise ValueError(f"{name} = {value!r:.60}: must be one of {', '.join(map(repr, allowed))}")

    def _check_experts(self) -> None:
        experts, groups, chosen = self.n_routed_experts, self.n_expert_groups, self.n_limited_groups
        if groups < 1 or experts % groups:
            raise ValueError(f"n_routed_experts = {experts} does not divide into n_expert_groups = {groups}")
        if not 1 <= chosen <= groups:
            raise ValueError(f"n_limited_groups = {chosen}: must lie between 1 and n_expert_groups = {groups}")
        if not 1 <= self.n_activated_experts <= experts // groups * chosen:
            raise ValueError(
                f"n_activated_experts = {self.n_activated_experts}: the chosen groups hold {experts // groups * chosen}"
            )
        if self.topk_method == "noaux_tc" and groups > 1 and experts // groups < 2:
            raise ValueError("topk_method 'noaux_tc' scores a group by its best two experts, so a group needs two")

    @property
    def fp8(self) -> bool:
        """Whether the checkpoint's matrices are float8_e4m3fn with one float32 scale per 128x128 block."""
        return self.dtype == "fp8"

    @property
    def cut_unit(self) -> int:
        """Widths of feed-forward layers are cut over ranks between units of this many: FP8 blocks stay whole."""
        return BLOCK if self.fp8 else 1

    @property
    def dense(self) -> bool:
        """Whether no layer has routed experts, the MTP layers apart."""
        return self.n_dense_layers >= self.n_layers

    @property
    def route_bias(self) -> bool:
        """Whether the gate has a bias for balancing (report, section 2.1.2); it steers the choice, not the weight."""
        return self.topk_method == "noaux_tc"

    @property
    def grouped(self) -> bool:
        """Whether experts are chosen in two steps: groups first, then experts inside the chosen groups."""
        return self.n_expert_groups > 1 and self.topk_method != "greedy"

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key: the part without position and the rotated part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @classmethod
    def from_demo(cls, values: dict[str, Any]) -> "ModelConfig":
        """A config in the official demo's form (inference/configs/*.json)."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown fields {some(unknown)}: neither the demo's config nor a Hugging Face one")
        return cls(**values)

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> "ModelConfig":
        """A Hugging Face ``config.json`` of model_type ``deepseek_v3`` or ``deepseek_v2``, YaRN included.

        Raises:
            ValueError: another architecture, or a feature that DeepSeek's models do not have.
        """
        kind = hf.get("model_type")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise ValueError(elsewhere(kind))
        v3 = FAMILIES[kind] == "deepseek_v3"
        for name, expected in _FIXED.items():
            if hf.get(name) not in (None, expected):
                raise ValueError(f"{name} = {hf[name]!r:.60}: only {expected!r} is supported")
        optional = {
            "scoring_func": "sigmoid" if v3 else "softmax",
            "topk_method": "noaux_tc" if v3 else "greedy",
            "norm_topk_prob": v3,
        } | dict.fromkeys(_HF_OPTIONAL)
        needed = [k for k in _HF_NAMES if k not in optional]
        missing = [k for k in needed if k not in hf]
        if missing:
            raise ValueError(f"config.json lacks {', '.join(missing)}")
        null = [k for k in needed if hf[k] is None]
        if null:
            raise ValueError(f"{some(null)}: null, must be a number")
        found = optional | {k: v for k, v in hf.items() if v is not None}
        values: dict[str, Any] = {ours: found.get(theirs) for theirs, ours in _HF_NAMES.items()}
        values = {name: value for name, value in values.items() if value is not None}
        if values["n_routed_experts"] == 0:  # MTP layers would need some; transformers 5 writes 1 whatever there is
            values["n_mtp_layers"] = 0
        if values["topk_method"] == "gready":  # the default of DeepSeek's configuration_deepseek.py, for V2
            values["topk_method"] = "greedy"
        try:
            return cls(**values | _rope(hf) | _quantization(hf))
        except ValueError as error:
            theirs = {ours: name for name, ours in _HF_NAMES.items()}
            theirs |= {ours: f"rope_scaling.{name}" for name, ours in _YARN_NAMES.items()}
            words = re.sub(r"\w+", lambda m: theirs.get(m[0], m[0]), str(error))
            raise ValueError(words) from None

    def to_hf(self) -> dict[str, Any]:
        """The inverse: Hugging Face's fields of this architecture, YaRN and the kind of FP8 included."""
        found: dict[str, Any] = {theirs: getattr(self, ours) for theirs, ours in _HF_NAMES.items()}
        yarn = {theirs: getattr(self, ours) for theirs, ours in _YARN_NAMES.items()}
        scale_fmt = {"scale_fmt": self.scale_fmt} if self.scale_fmt else {}
        return found | {
            "q_lora_rank": self.q_lora_rank or None,
            "rope_scaling": None if self.rope_factor == 1 else yarn | {"type": "yarn"},
            "quantization_config": QUANTIZATION | scale_fmt if self.fp8 else None,
        }

    @classmethod
    def load(cls, path: str | Path, shapes: bool = False) -> "ModelConfig":
        """Reads ``path``: a folder with a config.json, a JSON file of either form, or the name of a shipped config.

        ``shapes``: whatever the weights are stored as, which ``quantized.read`` tells; the config is then BF16's.

        Raises:
            FileNotFoundError: no such file, listing the shipped configs.
            ValueError: not JSON, or not a config of these architectures.
        """
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        if not os.path.lexists(file):
            shipped = CONFIGS / path.name
            if path.is_dir() or not shipped.is_file():
                names = ", ".join(sorted(p.name for p in CONFIGS.glob("*.json")))
                raise FileNotFoundError(
                    f"{file}: not found; give a checkpoint folder, a config.json, or one of {names}"
                )
            file = shipped
        values = quantized.declared(small_json(file), file.parent)
        if shapes:
            values.pop("quantization_config", None)
        try:
            is_hf = "model_type" in values or "architectures" in values
            return cls.from_hf(values) if is_hf else cls.from_demo(values)
        except KeyError as error:
            raise ValueError(f"{file}: lacks {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: {error}") from None


FAMILIES = {"deepseek_v3": "deepseek_v3", "deepseek_v2": "deepseek_v2", "kimi_k2": "deepseek_v3"}  # model_type -> whose
OTHERS = {  # model_type -> what it is, and who runs it
    "deepseek_v32": "DeepSeek-V3.2, sparse attention with an indexer; vLLM, SGLang and transformers run it",
    "deepseek_v4": "DeepSeek-V4, another attention and experts in FP4; vLLM, SGLang and transformers run it",
    "deepseek_v41": "DeepSeek-V4.1, not DeepSeek-V3's architecture; vLLM and SGLang run it",
    "deepseek": "DeepSeekMoE, the first, whose attention has no latent; vLLM runs it",
    "deepseek_vl_v2": "DeepSeek-VL2, with a vision encoder; vLLM and SGLang run it",
    "kimi_vl": "Kimi-VL, with a vision encoder; vLLM and SGLang run it",
    "kimi_k25": "Kimi-K2.5, with a vision encoder; vLLM, SGLang and transformers run it",
    "kimi_k3": "Kimi-K3, not DeepSeek-V3's architecture; vLLM and SGLang run it",
    "kimi_linear": "Kimi-Linear, with linear attention; vLLM, SGLang and transformers run it",
    "glm4_moe_lite": "GLM-4.7-Flash, a relative with a latent; vLLM, SGLang and transformers run it",
    "glm_moe_dsa": "GLM with sparse attention and an indexer; vLLM, SGLang and transformers run it",
    "longcat_flash": "LongCat-Flash, two attentions a layer; vLLM, SGLang and transformers run it",
    "qwen2": "Qwen2, as the R1 distillations named Qwen are; vLLM, SGLang and transformers run it",
    "qwen3": "Qwen3, as the distillation DeepSeek-R1-0528-Qwen3-8B is; vLLM, SGLang and transformers run it",
    "llama": "Llama, as the R1 distillations named Llama are; vLLM, SGLang and transformers run it",
}


def elsewhere(model_type: object) -> str:
    """Why dsv3 does not run a model_type, and who does."""
    what = OTHERS.get(model_type) if isinstance(model_type, str) else None
    return (
        f"model_type is {model_type!r:.60}{f': {what}' if what else ''}; dsv3 itself runs "
        f"{', '.join(map(repr, FAMILIES))}" + ("" if what else "; ask vLLM, SGLang or transformers for this one")
    )


_HF_NAMES = {  # theirs -> ours
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "inter_dim",
    "moe_intermediate_size": "moe_inter_dim",
    "num_hidden_layers": "n_layers",
    "first_k_dense_replace": "n_dense_layers",
    "num_attention_heads": "n_heads",
    "n_routed_experts": "n_routed_experts",
    "n_shared_experts": "n_shared_experts",
    "num_experts_per_tok": "n_activated_experts",
    "n_group": "n_expert_groups",
    "topk_group": "n_limited_groups",
    "routed_scaling_factor": "route_scale",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "scoring_func": "score_func",
    "topk_method": "topk_method",
    "norm_topk_prob": "norm_topk_prob",
    "rms_norm_eps": "rms_norm_eps",
    "max_position_embeddings": "max_seq_len",
    "num_nextn_predict_layers": "n_mtp_layers",
    "rope_theta": "rope_theta",
    "tie_word_embeddings": "tie_word_embeddings",
}
_YARN_NAMES = {  # the same, inside rope_scaling
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "factor": "rope_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "original_max_position_embeddings": "original_seq_len",
}
_HF_OPTIONAL = (
    "q_lora_rank",
    "num_nextn_predict_layers",
    "rms_norm_eps",
    "n_group",
    "topk_group",
    "rope_theta",
    "tie_word_embeddings",
)
QUANTIZATION = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [BLOCK] * 2}
_FIXED = {
    "moe_layer_freq": 1,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_interleave": True,
}
# What transformers reads beside, and no DeepSeek model has: the factor follows from mscale and mscale_all_dim.
_YARN_FIXED = {"attention_factor": None, "truncate": True, "partial_rotary_factor": 1.0}


def _rope(hf: dict[str, Any]) -> dict[str, Any]:
    """RoPE's fields, YaRN's with them, from ``rope_scaling`` (DeepSeek) or ``rope_parameters`` (transformers 5)."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_scaling = {rope!r:.60}: must be an object")
    rope = {"rope_theta": hf.get("rope_theta") or 10000.0} | {k: v for k, v in rope.items() if v is not None}
    theta = {"rope_theta": rope["rope_theta"]}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta | {"rope_factor": 1.0}
    if kind not in ("yarn", "deepseek_yarn"):  # the second is vLLM's name for it
        raise ValueError(f"rope_scaling of type {kind!r:.60}: only 'yarn' is supported")
    for name, computed in _YARN_FIXED.items():
        if rope.get(name, computed) != computed:
            raise ValueError(f"rope_scaling.{name} = {rope[name]!r:.60}: only {computed!r} is supported")
    defaults = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.0}
    yarn = defaults | {"original_max_position_embeddings": hf["max_position_embeddings"]} | rope
    return theta | {ours: yarn[theirs] for theirs, ours in _YARN_NAMES.items()}


def _quantization(hf: dict[str, Any]) -> dict[str, Any]:
    quant = hf.get("quantization_config")
    found = quantized.of(quant)
    if quant is None or found is None:
        return {}
    if not found.in_blocks_of(BLOCK):
        raise ValueError(
            f"quantization_config {found.method!r}: weights are stored as {found}, which dsv3 generate does not run; "
            f"dsv3 serve does, by {found.engines}"
        )
    scale_fmt = quant.get("scale_fmt")
    return {"dtype": "fp8", "scale_fmt": None if scale_fmt == "float" else scale_fmt}  # transformers 5 writes "float"
