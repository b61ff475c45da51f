"""PEFT LoRA layers in a backbone for training, and their conversion to a bank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from tagi.adapters.bank import LoraBank
from tagi.backbones.protocol import Backbone, initial_factors
from tagi.errors import ConfigError
from tagi.settings.generator import LoraShape

_ADAPTER = "default"


def inject_lora(backbone: Backbone, shape: LoraShape) -> None:
    """Add PEFT's LoRA layers to every target module. Only they are trained afterwards.

    Raises `ConfigError` if the backbone's target modules are slices, or if it already has LoRA layers.
    """
    if backbone.fused or not backbone.target_modules:
        raise ConfigError(
            "lora: expected a backbone with query and value projections of their own, "
            f"got {backbone.identity.name}, which fuses them"
        )
    if any(hasattr(module, "lora_A") for module in backbone.target_layers.values()):
        raise ConfigError(
            "teacher.base = 'metatrained': expected a meta-trained model of whole weights (metatrain.tune = 'all'), "
            "got one that is a LoRA itself"
        )
    targets = [module.path for module in backbone.target_modules]
    config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=targets, lora_dropout=0.0)
    inject_adapter_in_model(config, backbone.model)
    reset_lora(backbone, shape)


@torch.no_grad()
def reset_lora(backbone: Backbone, shape: LoraShape) -> None:
    """Reset A to its initial values and B to zero."""
    start = initial_factors(backbone.target_modules, shape.rank, shape.seed)
    for path, (a, b) in _factors(backbone).items():
        a.copy_(start[path])
        b.zero_()


def lora_bank(backbone: Backbone, shape: LoraShape) -> LoraBank:
    """Return the LoRA layers as a bank with one task. Tensors are copied."""
    factors = {
        path: (a.detach().clone().unsqueeze(0), b.detach().clone().unsqueeze(0))
        for path, (a, b) in _factors(backbone).items()
    }
    return LoraBank(factors, shape.alpha / shape.rank)


def read_lora_bank(tensors: Mapping[str, Tensor], paths: Sequence[str], shape: LoraShape) -> LoraBank:
    """Read the LoRA of target modules out of a checkpoint's tensors, without its backbone.

    Raises `ValueError` if the tensors hold no LoRA of one of the modules.
    """

    def factor(path: str, name: str) -> Tensor:
        ending = f"{path}.{name}.{_ADAPTER}.weight"
        found = [tensor for key, tensor in tensors.items() if key == ending or key.endswith(f".{ending}")]
        if len(found) != 1:
            raise ValueError(f"expected a LoRA of the target module {path}, got none")
        return found[0].unsqueeze(0)

    factors = {path: (factor(path, "lora_A"), factor(path, "lora_B")) for path in paths}
    return LoraBank(factors, shape.alpha / shape.rank)


def _factors(backbone: Backbone) -> Mapping[str, tuple[nn.Parameter, nn.Parameter]]:
    layers: dict[str, Any] = dict(backbone.target_layers)
    return {path: (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight) for path, layer in layers.items()}
