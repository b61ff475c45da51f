"""Loading the models of a recipe: backbone, concatenation method, and meta-trained model."""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import folder_revision, load_backbone, make_backbone
from tagi.backbones.machine import best_device, machine_dtype
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.data.toy.tokenizer import toy_tokenizer
from tagi.errors import ConfigError
from tagi.files import write_text
from tagi.formats.finding import MODEL, find_checkpoint
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.prompted import Prompted
from tagi.settings.generator import LoraShape
from tagi.settings.recipe import Recipe
from tagi.settings.text import Reads
from tagi.stages.recipe_settings import concatenated_text, lora_shape
from tagi.training.distributed import once

_BACKBONE = "backbone"
_MADE_OF = "made_of.json"
"""Record of a backbone that was created from a configuration, written last."""
P = TypeVar("P", bound=Prompted[Any])


def load_recipe_backbone(recipe: Recipe, out: Path, dropout: float | None = None) -> Backbone:
    """Load the recipe's backbone. One that is created from a configuration is written to `out/backbone` first.

    Args:
        recipe: The recipe.
        out: Folder of the stage.
        dropout: Dropout probability in training. None keeps the model's own.

    Raises:
        ConfigError: `out/backbone` belongs to another recipe.
    """
    wanted = recipe.backbone
    family: type[Backbone] = CausalBackbone if wanted.family == "causal" else T5Backbone
    dtype = machine_dtype() if wanted.dtype == "auto" else getattr(torch, wanted.dtype)
    slow = wanted.dtype == "auto" and dtype == torch.bfloat16 and best_device().type == "cpu"
    options: Any = {"dtype": dtype, "dropout": dropout, "attention": wanted.attention or ("eager" if slow else None)}
    if wanted.name != "config":
        return load_backbone(wanted.name, family, revision=wanted.revision, tokenizer=wanted.tokenizer, **options)
    folder = out / _BACKBONE
    once((folder / _MADE_OF).exists, lambda: _make_backbone(recipe, out, folder))
    _check_made_of(recipe, folder)
    # Relative to the checkpoint next to it, so that both can be moved.
    return load_backbone(f"../{_BACKBONE}", family, relative_to=out / MODEL, **options)


def as_t5(recipe: Recipe, backbone: Backbone) -> T5Backbone:
    """Return the backbone if it is a T5, else raise `ConfigError`."""
    if not isinstance(backbone, T5Backbone):
        raise ConfigError(f"backbone.family: expected 't5' for this stage, got {recipe.backbone.family!r}")
    return backbone


def concatenated_method(
    recipe: Recipe,
    backbone: Backbone,
    tune: Literal["all", "lora", "none"],
    reads: Reads = "instruction",
    shape: LoraShape | None = None,
) -> Prompted[Any]:
    """Return the backbone with the instruction concatenated, whatever its family.

    Args:
        recipe: The recipe.
        backbone: The recipe's backbone.
        tune: What is trained.
        reads: What is read of a task.
        shape: Shape of the LoRA if `tune` is "lora". By default that of the generated LoRA.
    """
    text = concatenated_text(recipe, reads)
    lora, frozen = ((shape or lora_shape(recipe)) if tune == "lora" else None), tune == "none"
    if isinstance(backbone, CausalBackbone):
        cached = recipe.metatrain.prefix_cached
        return CausalConcatenation(backbone, text, lora, frozen=frozen, prefix_cached=cached)
    return Concatenation(as_t5(recipe, backbone), text, lora, frozen=frozen)


def concatenation(recipe: Recipe) -> type[Prompted[Any]]:
    """Return the class of `concatenated_method` for the recipe's family of backbones."""
    return CausalConcatenation if recipe.backbone.family == "causal" else Concatenation


def load_metatrained(kind: type[P], checkpoint: str | None, reason: str) -> P:
    """Load a meta-trained model under its own identity.

    Args:
        kind: Required method.
        checkpoint: The checkpoint.
        reason: The recipe keys that require it.

    Raises:
        ConfigError: There is no checkpoint, or one of another method.
    """
    if checkpoint is None:
        raise ConfigError(f"{reason}: expected --metatrained CHECKPOINT, got none")
    folder = find_checkpoint(checkpoint)
    method = load_method(folder)
    if not isinstance(method, kind):
        raise ConfigError(f"{checkpoint}: expected a meta-trained model ({kind.name}), got method {method.name!r}")
    method.backbone.identity = BaseModel(str(folder), folder_revision(folder))
    return method


def _make_backbone(recipe: Recipe, out: Path, folder: Path) -> None:
    tokenizer = str(recipe.backbone.tokenizer)
    if tokenizer == "toy":
        tokenizer = str(out / "tokenizer")
        toy_tokenizer().save_pretrained(tokenizer)
    make_backbone(recipe.backbone.config or {}, tokenizer, recipe.seed, folder)
    write_text(folder / _MADE_OF, json.dumps(_made_of(recipe), indent=2) + "\n")


def _made_of(recipe: Recipe) -> dict[str, Any]:
    return {"config": recipe.backbone.config, "tokenizer": recipe.backbone.tokenizer, "seed": recipe.seed}


def _check_made_of(recipe: Recipe, folder: Path) -> None:
    """Raise `ConfigError` if an earlier run created another backbone."""
    path = folder / _MADE_OF
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected what the backbone was made of, got: {error}") from error
    for key, wanted in _made_of(recipe).items():
        got = found.get(key) if isinstance(found, dict) else found
        if not isinstance(found, dict) or got != wanted:
            remedy = "remove it or choose another folder"
            raise ConfigError(f"{folder}: expected a backbone made of {key} {wanted}, got one of {got}: {remedy}")
