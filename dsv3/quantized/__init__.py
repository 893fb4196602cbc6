"""How a checkpoint's weights are stored, from what stands beside them: ``quantization_config`` in config.json,
ModelOpt's ``hf_quant_config.json``, or the ``quant_model_description.json`` of Ascend's tools."""

import os
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from ..outside import small_json
from ..said import Said
from .fields import names_in, objects, whole
from .methods import ALIASES, METHODS
from .names import Names, Unread
from .storage import Kind, Storage

SIDECARS = ("hf_quant_config.json", "quant_model_description.json")
LEFT = (
    "modules_to_not_convert",
    "ignored_layers",
    "ignore",
    "exclude_modules",
    "exclude",
    "llm_int8_skip_modules",
    "skip_modules",
)
HEADS = ("compressed-tensors", "modelopt", "modelopt_fp4", "modelopt_fp8", "quark")  # quantise the head unless told


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A checkpoint's quantisation.

    Attributes:
        method: ``quant_method``, as the file says.
        words: what it is, for a message: ``AWQ``.
        engines: who runs it.
        stored: which modules are stored how, the first that holds a name; empty where it is not known here.
        left: modules that stay as they are, mostly in BF16.
        head: whether the output head takes part unless ``left`` names it.
        unread: the list of modules that stay as they are cannot be read here, so nothing can be counted.
    """

    method: str
    words: str
    engines: str
    stored: tuple[tuple[Names, Storage], ...] = ()
    left: Names = Names()
    head: bool = False
    unread: bool = False

    @property
    def kind(self) -> Kind | None:
        """The narrowest of what it stores, which in these models the experts have; None where it is not known."""
        known = self.stored and not self.unread
        return min((s for _, s in self.stored), key=lambda s: s.bits).kind if known else None

    def in_blocks_of(self, size: int) -> bool:
        """Whether it is FP8 in blocks of ``size`` x ``size``, as DeepSeek publishes it."""
        return self.method == "fp8" and [s.block for _, s in self.stored] == [(size, size)]

    def storage(self, module: str) -> Storage | None:
        """How the matrix ``module`` (``model.layers.3.self_attn.o_proj``) is stored; None: not quantised."""
        if module in self.left:
            return None
        return next((storage for names, storage in self.stored if module in names), None)

    @property
    def said(self) -> Said:
        """``AWQ (4 bits and a scale for 128 weights; not quantised: lm_head)``."""
        kinds = list(dict.fromkeys(storage.said for _, storage in self.stored))
        how = Said("bits not known here")
        if kinds and not self.unread:
            how = reduce(lambda one, other: Said("{one} or {other}", one=one, other=other), kinds)
        if not self.left.said:
            return Said("{words} ({how})", words=self.words, how=how)
        return Said("{words} ({how}; not quantised: {left})", words=self.words, how=how, left=self.left.said)

    def __str__(self) -> str:
        return str(self.said)


# --------------------------------------------------------------------------------------------- reading the files


def declared(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A config.json's ``values`` with ``quantization_config`` as the files beside it in ``folder`` complete it.

    Raises:
        OSError, ValueError: one of ``SIDECARS`` cannot be read.
    """
    if values.get("quantization_config") or not ("model_type" in values or "architectures" in values):
        return values
    if values.get("compression_config"):  # compressed-tensors' older name
        return values | {"quantization_config": values["compression_config"]}
    modelopt, ascend = (folder / name for name in SIDECARS)
    if os.path.lexists(modelopt):
        found = small_json(modelopt).get("quantization")
        if not isinstance(found, dict):
            raise ValueError(f"{modelopt}: lacks the object 'quantization'; fetch it again")
        if found.get("quant_algo"):
            return values | {"quantization_config": {"quant_method": "modelopt"} | found}
    if os.path.lexists(ascend):
        return values | {"quantization_config": {"quant_method": "ascend", "description": small_json(ascend)}}
    return values


def read(path: Path) -> Quantized | None:
    """The quantisation of the folder or config.json ``path``; None: none, or no such file.

    Raises:
        OSError, ValueError: a file cannot be read, or its quantisation makes no sense.
    """
    file = path / "config.json" if path.is_dir() else path
    if not os.path.lexists(file):
        return None
    try:
        return of(declared(small_json(file), file.parent).get("quantization_config"))
    except ValueError as error:
        raise ValueError(str(error) if str(file.parent) in str(error) else f"{file}: {error}") from None


def of(config: Any) -> Quantized | None:
    """What a ``quantization_config`` says; None for an empty one.

    Raises:
        ValueError: a value that makes no sense, naming the field.
    """
    if not config:
        return None
    if not isinstance(config, dict):
        raise ValueError(f"quantization_config = {config!r:.60}: must be an object")
    method = config.get("quant_method")
    if method is None and "config_groups" in config:
        method = "compressed-tensors"
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if not isinstance(method, str) or not method:
        raise ValueError(f"quantization_config.quant_method = {method!r:.60}: must be a name, such as 'fp8' or 'awq'")
    method = ALIASES.get(method.lower(), method.lower())
    known = METHODS.get(method)
    if known is None:
        return Quantized(
            method=f"{method:.60}", words=Said("something unknown here"), engines="vLLM or transformers, if at all"
        )
    words, engines, read_storage = known
    stored, left, unread = tuple[tuple[Names, Storage], ...](), Names(), False
    try:
        stored = tuple(read_storage(config)) if read_storage else ()
        left = names_in(config, *LEFT) | _left(config)
    except Unread:
        unread = True
    if method == "modelopt" and isinstance(algo := config.get("quant_algo"), str):
        words = Said("{whose}'s {algo}", whose=words, algo=f"{algo:.30}")
    head = bool(config.get("lm_head")) or method in HEADS
    return Quantized(method=method, words=words, engines=engines, stored=stored, left=left, head=head, unread=unread)


def _left(config: dict[str, Any]) -> Names:
    """Modules that overrides leave alone: GPTQModel's ``dynamic``, AutoRound's ``extra_config``."""
    dynamic = [f"re:{name[2:]}" for name in objects(config, "dynamic") if name.startswith("-:")]
    extra = [n for n, how in objects(config, "extra_config").items() if whole(how, "bits", 16) >= 16]
    return Names.of(dynamic + extra)
