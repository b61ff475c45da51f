"""Reading and writing PEFT's adapter folders. All of PEFT's names and keys are in this module."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from transformers.pytorch_utils import Conv1D

from tagi.adapters.bank import LoraBank
from tagi.backbones.protocol import Backbone
from tagi.errors import CheckpointError
from tagi.formats.checkpoint import check_finite, read_some_tensors, write_tensors
from tagi.formats.records import Record

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


_UNDERSTOOD = {
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout", "fan_in_fan_out"),
    *("layers_to_transform", "layers_pattern", "exclude_modules", "eva_config", "megatron_core", "qalora_group_size"),
}
"""Keys that do not affect the saved factors, whatever their value."""
_STARTS = ("gaussian", "eva", "orthogonal")
"""Initialisations that do not change the base model's weights."""


class LoraConfiguration(Record):
    """The configuration of a plain LoRA: the keys that say what a bank needs.

    Every other key must be known to have no effect, or must be off: null, false or empty. Unknown keys of newer
    versions of PEFT are an error.

    Args:
        base_model_name_or_path: Name or folder of the base model, if the configuration says it.
        revision: The base model's commit on the hub.
        r: The rank.
        lora_alpha: Alpha; the scale is alpha / rank.
        target_modules: Names of the adapted layers, in full or their last parts, or a regular expression that matches
            whole paths. Which layers are adapted is read from the tensors.
        init_lora_weights: Initialisation. "pissa", "olora" and others change the base model's weights, which a saved
            adapter does not contain.
    """

    model_config = ConfigDict(extra="allow")
    FILE = CONFIG
    WHAT = "the configuration of a plain LoRA adapter"
    peft_type: Literal["LORA"]
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = Field(ge=1)
    lora_alpha: float
    target_modules: str | list[str] = Field(min_length=1)
    bias: Literal["none"] | None = None
    init_lora_weights: bool | str | None = None

    @model_validator(mode="after")
    def _refuse_what_is_not_understood(self) -> "LoraConfiguration":
        if isinstance(self.init_lora_weights, str) and self.init_lora_weights not in _STARTS:
            wanted = f"expected true, false or one of {', '.join(_STARTS)}, which leave the base's weights as they are"
            remedy = "convert it with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
            raise ValueError(f"'init_lora_weights': {wanted}, got {self.init_lora_weights!r}: {remedy}")
        for key, value in (self.model_extra or {}).items():
            if value and key not in _UNDERSTOOD:
                raise ValueError(f"{key!r}: expected it to be off (null, false or empty), got {value!r:.60}")
        return self

    @property
    def short_targets(self) -> list[str]:
        """The last parts of the layers' names, without duplicates; of a regular expression the expression."""
        if isinstance(self.target_modules, str):
            return [self.target_modules]
        return sorted({name.rsplit(".", 1)[-1] for name in self.target_modules})


def write_lora(folder: Path, bank: LoraBank, backbone: Backbone) -> None:
    """Write a bank with one task as a PEFT adapter into an existing folder. The same bank gives identical files.

    Layers are named by their last parts where these name no other linear layer of the backbone, else in full. Tensors
    keep their type. PEFT adapts whole layers, so slices of one are joined (`LoraBank.whole`), which gives them the sum
    of their ranks. Only a base model of the hub has a revision there: PEFT knows commits alone.

    `peft.LoraConfig.save_pretrained` is not used: what it writes depends on PEFT's version.
    """
    bank, base = bank.whole(), backbone.identity
    if bank.tasks != 1:
        raise ValueError(f"a PEFT adapter holds one task, the bank has {bank.tasks}")
    factors = {layer: zip(tensor_names(layer), pair, strict=True) for layer, pair in bank.factors.items()}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if backbone.encoder_decoder else "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": None if base.revision.startswith("sha256:") else base.revision,
        "r": bank.rank,
        "lora_alpha": _alpha(bank),
        "target_modules": _targets(list(bank.factors), backbone.linears),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": backbone.transposed,
        "inference_mode": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    write_tensors(folder, {name: factor[0] for pair in factors.values() for name, factor in pair}, WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_peft(folder: Path) -> LoraBank:
    """Read a plain LoRA adapter in PEFT's format as a bank of one task.

    Raises `CheckpointError` for a missing or damaged file and for anything that a bank cannot hold.
    """
    config, path = LoraConfiguration.read(folder), folder / WEIGHTS
    if not path.is_file() and (folder / _PICKLE).is_file():
        raise CheckpointError(
            f"{folder}: expected {WEIGHTS}, got {_PICKLE}, a pickle, which can run code when it is read and is never "
            f"loaded: if you trust it, convert it with PEFT, PeftModel.from_pretrained(base, {str(folder)!r})"
            ".save_pretrained(new_folder)"
        )
    tensors = read_some_tensors(folder, WEIGHTS)
    rank, factors = config.r, {}
    for layer in sorted({_layer(key, path) for key in tensors}):
        a, b = (tensors.get(name) for name in tensor_names(layer))
        if a is None or b is None:
            raise CheckpointError(f"{path}: expected A and B for {layer!r}, got one of them")
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointError(
                f"{path}: expected A ({rank}, d_in) and B (d_out, {rank}) for {layer!r}, "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        factors[layer] = (a.unsqueeze(0), b.unsqueeze(0))
    if not factors:
        raise CheckpointError(f"{path}: expected LoRA factors, got no tensor")
    check_finite(path, tensors)
    return LoraBank(factors, config.lora_alpha / rank)


def tensor_names(layer: str) -> tuple[str, str]:
    """Return the names of a layer's A and B in an adapter's file."""
    return f"{_PREFIX}{layer}{_A}", f"{_PREFIX}{layer}{_B}"


def layer_shape(backbone: Backbone, layer: str) -> tuple[int, int]:
    """Return `(d_out, d_in)` of a linear layer of a backbone, given by its path."""
    module: Any = backbone.model.get_submodule(layer)
    d_out, d_in = module.weight.shape
    return (d_in, d_out) if isinstance(module, Conv1D) else (d_out, d_in)


def _alpha(bank: LoraBank) -> int | float:
    """Alpha of a bank, as an integer if an integer gives exactly its scale: some readers take no other number."""
    whole = round(bank.scale * bank.rank)
    return whole if whole / bank.rank == bank.scale else bank.scale * bank.rank


def _layer(key: str, path: Path) -> str:
    for suffix in (_A, _B):
        if key.startswith(_PREFIX) and key.endswith(suffix):
            return key[len(_PREFIX) : -len(suffix)]
    raise CheckpointError(f"{path}: expected LoRA factors alone, got {key!r}")


def _targets(layers: list[str], linears: Sequence[str]) -> list[str]:
    # PEFT matches a short name anywhere in the model: safe only where it matches the adapted layers and no more.
    names = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
    matched = {path for path in linears if path.rsplit(".", 1)[-1] in names}
    return names if matched == set(layers) else sorted(layers)
