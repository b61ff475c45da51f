"""Loading the checkpoint of any method."""

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from tagi.errors import CheckpointError, ConfigError
from tagi.formats.checkpoint import read_config, read_some_tensors
from tagi.hypernetwork.shared_lora import SharedLora
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.lora import read_lora_bank
from tagi.methods.pretraining import generating
from tagi.methods.prompted import Prompted
from tagi.methods.protocol import Method, Trainable
from tagi.methods.single import SingleTask
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings, LoraShape
from tagi.settings.methods import implementations

METHODS: dict[str, type[Method]] = {
    **{method.name: method for method in (TAGI, Concatenation, CausalConcatenation, SingleTask)},
    **{name: resolve_name(place) for name, place in implementations().items()},
}


def load_method(folder: Path) -> Method:
    """Load the method saved in `folder`. Raises `CheckpointError` for an unknown method."""
    name = read_config(folder)["method"]
    if name not in METHODS:
        raise CheckpointError(f"{folder}: expected a method among {', '.join(METHODS)}, got {name!r}")
    return METHODS[name].load(folder)


def start_from(model: Trainable, folder: Path) -> int:
    """Copy all parameters and buffers that the checkpoint and `model` share; return the number of parameters.

    Parts of a generator or a backbone are matched by name, whichever method saved them. Raises `CheckpointError` if
    nothing matches or a shape differs.
    """
    config, method = read_config(folder), generating(model)
    if method is not None and config.get("generator") is not None:
        _check_meaning(method.generator.settings, GeneratorSettings.from_dict(config["generator"]), folder)
    shared = None if method is None else method.generator.shared
    if shared is not None and config.get("lora"):
        return _start_shared(shared, config, folder)
    buffers = dict(model.named_buffers())  # A0 belongs to the generator
    trained = model.trained_tensors()
    if shared is not None:  # a frozen shared LoRA is copied too
        trained = {**trained, **{f"shared.{name}": tensor for name, tensor in shared.named_parameters()}}
    wanted = {name.removeprefix("generator."): tensor for name, tensor in {**buffers, **trained}.items()}
    found = {name.removeprefix("generator."): tensor for name, tensor in read_some_tensors(folder).items()}
    common: dict[str, tuple[Tensor, Tensor]] = {name: (wanted[name], found[name]) for name in wanted if name in found}
    if not common:
        raise CheckpointError(f"{folder}: expected parameters to start from, got none that this stage trains")
    with torch.no_grad():
        for name, (target, source) in common.items():
            if target.shape != source.shape:
                raise CheckpointError(
                    f"{folder}: expected {name!r} of shape {tuple(target.shape)}, got {tuple(source.shape)}"
                )
            target.copy_(source)
    return sum(target.numel() for target, _ in common.values())


def _start_shared(shared: SharedLora, config: Mapping[str, Any], folder: Path) -> int:
    """Copy a LoRA trained by the stage metatrain into the shared LoRA; return its number of parameters."""
    kind = METHODS.get(config["method"])
    if kind is None or not issubclass(kind, Prompted):
        raise CheckpointError(f"{folder}: expected a meta-trained LoRA, got method {config['method']!r}")
    shape = LoraShape.from_dict(config["lora"])
    tensors = read_some_tensors(folder)
    try:
        shared.copy_from(read_lora_bank(tensors, shared.paths, shape))
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return sum(tensor.numel() for tensor in shared.parameters())


def _check_meaning(settings: GeneratorSettings, there: GeneratorSettings, folder: Path) -> None:
    """Raise `ConfigError` if settings differ that change the meaning of a hypernetwork's parameters."""
    for key in ("alpha", "heads", "pooling", "standardize", "shared_rank", "residual"):
        wanted, got = getattr(settings, key), getattr(there, key)
        if wanted != got:
            raise ConfigError(f"generator.{key}: expected {got!r} as in {folder} to start from it, got {wanted!r}")
