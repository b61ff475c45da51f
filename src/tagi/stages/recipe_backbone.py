"""Loading or making the backbone that a recipe names."""

import json
from pathlib import Path
from typing import Any

import torch

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone, make_backbone
from tagi.backbones.machine import best_device, machine_dtype
from tagi.backbones.protocol import Backbone
from tagi.backbones.t5 import T5Backbone
from tagi.data.toy.tokenizer import toy_tokenizer
from tagi.errors import ConfigError
from tagi.files import write_text
from tagi.formats.finding import MODEL
from tagi.settings.recipe import Recipe
from tagi.training.distributed import once

_BACKBONE = "backbone"
_MADE_OF = "made_of.json"
"""The last file in the folder of a backbone that was made here: configuration, tokenizer and seed."""


def load_recipe_backbone(recipe: Recipe, out: Path, dropout: float | None = None) -> Backbone:
    """Load the recipe's backbone; one that is made from a configuration is written to `out/backbone` first.

    Args:
        recipe: The recipe.
        out: The folder of the stage.
        dropout: Dropout probability while it is trained. None keeps the model's own.

    Raises:
        ConfigError: `out/backbone` was made by another recipe.
    """
    wanted = recipe.backbone
    family: type[Backbone] = CausalBackbone if wanted.family == "causal" else T5Backbone
    attention = wanted.attention
    if wanted.dtype == "auto":
        dtype = machine_dtype()
        if attention is None and dtype == torch.bfloat16 and best_device().type == "cpu":
            attention = "eager"
    else:
        dtype = getattr(torch, wanted.dtype)
    if wanted.name != "config":
        return load_backbone(
            wanted.name,
            family,
            revision=wanted.revision,
            dtype=dtype,
            tokenizer=wanted.tokenizer,
            dropout=dropout,
            attention=attention,
        )
    folder = out / _BACKBONE
    once((folder / _MADE_OF).exists, lambda: _make_backbone(recipe, out, folder))
    _check_made_of(recipe, folder)
    # Named as the finished checkpoint beside it will find it, wherever both are moved.
    return load_backbone(
        f"../{_BACKBONE}", family, relative_to=out / MODEL, dtype=dtype, dropout=dropout, attention=attention
    )


def as_t5(recipe: Recipe, backbone: Backbone) -> T5Backbone:
    """Return the backbone if it is a T5, which the recipe's rules have made sure of; else raise `ConfigError`."""
    if not isinstance(backbone, T5Backbone):
        raise ConfigError(f"backbone.family: expected 't5' for this stage, got {recipe.backbone.family!r}")
    return backbone


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
    """Raise `ConfigError` if this recipe would make another backbone than an earlier run left."""
    path = folder / _MADE_OF
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected what the backbone was made of, got: {error}") from error
    for key, wanted in _made_of(recipe).items():
        got = found.get(key) if isinstance(found, dict) else found
        if not isinstance(found, dict) or got != wanted:
            raise ConfigError(
                f"{folder}: expected a backbone made of {key} {wanted}, got one of {got}: remove it or choose another "
                "folder"
            )
