"""Saving and loading generators: trained tensors, with name and revision of the base model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypeVar

from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone
from tagi.errors import CheckpointError
from tagi.formats.cards import generator_card
from tagi.formats.checkpoint import base_of, read_config, read_tensors, write_checkpoint
from tagi.formats.finding import find_checkpoint, source_of
from tagi.hypernetwork.model import GeneratorModel
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings

METHOD = "tagi"
G = TypeVar("G", bound=GeneratorModel, default=GeneratorModel)


def generator_tensors(generator: GeneratorModel) -> dict[str, Tensor]:
    """Return a checkpoint's tensors: hypernetwork, shared LoRA, fusion, own reader, tuned backbone parameters."""
    parts = [(name, getattr(generator, name)) for name in ("hypernetwork", "shared", "fusion", "reader")]
    own = {
        f"{part}.{name}": tensor
        for part, module in parts
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    parameters = generator.backbone.named_parameters()
    return {**own, **{f"backbone.{name}": tensor for name, tensor in parameters if tensor.requires_grad}}


def save_generator(generator: GeneratorModel, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a generator's checkpoint with its card. The same generator gives identical files.

    `extra` is kept as provenance. From then on the generator's adapters name this folder as their generator's.
    """
    write_checkpoint(
        folder,
        method=METHOD,
        base=generator.backbone.identity,
        settings={"generator": generator.settings.as_dict(), "text": generator.text.settings.as_dict()},
        tensors=generator_tensors(generator),
        extra=extra,
        files={"README.md": generator_card(generator, extra or {})},
    )
    generator.source = str(folder.resolve())


def load_generator(
    name: str | Path,
    *,
    revision: str | None = None,
    base: str | None = None,
    backbone: Backbone | None = None,
    kind: type[G] = GeneratorModel,  # type: ignore[assignment]
) -> G:
    """Read a generator's checkpoint, and its backbone unless one is given.

    Args:
        name: Whatever `find_checkpoint` takes.
        revision: Branch, tag or commit of a hub repository.
        base: Where the base model is now, if not where the checkpoint says. It must be the same model.
        backbone: The backbone, which must be the one that the generator was made for.
        kind: The class to make.

    Raises:
        CheckpointError: The checkpoint is not found, damaged, foreign or made for another base model.
    """
    folder = find_checkpoint(str(name), revision)
    config = read_config(folder)
    if config["method"] != METHOD or "generator" not in config:
        raise CheckpointError(f"{folder}: expected a generator, got a checkpoint of method {config['method']!r}")
    pinned = base_of(config)
    if backbone is None:
        beside = folder if base is None else None
        backbone = load_backbone(base or pinned.name, revision=pinned.revision, relative_to=beside)
    elif backbone.identity.revision != pinned.revision:
        raise CheckpointError(f"{folder}: expected base model {pinned}, got {backbone.identity}")
    generator = kind(backbone, GeneratorSettings.from_dict(config["generator"]), TextSettings.from_dict(config["text"]))
    expected = generator_tensors(generator)
    with torch.no_grad():
        for key, tensor in read_tensors(folder, expected).items():
            expected[key].copy_(tensor)
    generator.source = source_of(str(name), folder)
    return generator.eval()
