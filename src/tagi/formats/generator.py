"""Saving and loading a generator: trained tensors alone, the base model by name and revision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypeVar

from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone
from tagi.errors import CheckpointError
from tagi.formats.checkpoint import base_of, read_config, read_tensors, write_checkpoint
from tagi.formats.generator_card import generator_card
from tagi.hypernetwork.model import GeneratorModel
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings

METHOD = "tagi"
G = TypeVar("G", bound=GeneratorModel, default=GeneratorModel)


def generator_tensors(generator: GeneratorModel) -> dict[str, Tensor]:
    """What a checkpoint holds: hypernetwork, shared LoRA, fusion, a reader of its own, the backbone's tuned part."""
    own = {
        f"{part}.{name}": tensor
        for part in ("hypernetwork", "shared", "fusion", "reader")
        if getattr(generator, part) is not None
        for name, tensor in getattr(generator, part).state_dict().items()
    }
    tuned = {
        f"backbone.{name}": parameter
        for name, parameter in generator.backbone.named_parameters()
        if parameter.requires_grad
    }
    return {**own, **tuned}


def save_generator(generator: GeneratorModel, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a generator's checkpoint with its card; the same generator gives the same bytes."""
    write_checkpoint(
        folder,
        method=METHOD,
        base=generator.backbone.identity,
        settings={"generator": generator.settings.as_dict(), "text": generator.text.settings.as_dict()},
        tensors=generator_tensors(generator),
        extra=extra,
        files={"README.md": generator_card(generator, extra or {})},
    )


def load_generator(
    folder: Path,
    *,
    backbone: Backbone | None = None,
    kind: type[G] = GeneratorModel,  # type: ignore[assignment]
) -> G:
    """Read a generator's checkpoint, and its backbone unless one is given.

    Raises `CheckpointError` if it is damaged or foreign, or if the backbone is not the one it was made for:
    both names and revisions are shown.
    """
    config = read_config(folder)
    if config["method"] != METHOD or "generator" not in config:
        raise CheckpointError(f"{folder}: expected a generator, got a checkpoint of method {config['method']!r}")
    base = base_of(config)
    if backbone is None:
        backbone = load_backbone(base.name, revision=base.revision, relative_to=folder)
    elif backbone.identity.revision != base.revision:
        raise CheckpointError(f"{folder}: expected base model {base}, got {backbone.identity}")
    generator = kind(backbone, GeneratorSettings.from_dict(config["generator"]), TextSettings.from_dict(config["text"]))
    expected = generator_tensors(generator)
    with torch.no_grad():
        for name, tensor in read_tensors(folder, expected).items():
            expected[name].copy_(tensor)
    return generator.eval()
