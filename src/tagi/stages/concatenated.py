"""The backbone that reads the instruction and the input in one text: as it is trained, and as it teaches."""

from typing import Any, Literal, TypeVar

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import folder_revision
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.errors import ConfigError
from tagi.formats.finding import find_checkpoint
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.prompted import Prompted
from tagi.settings.generator import LoraShape
from tagi.settings.recipe import Recipe
from tagi.settings.text import Reads
from tagi.stages.recipe_backbone import as_t5
from tagi.stages.recipe_settings import concatenated_text, lora_shape

P = TypeVar("P", bound=Prompted[Any])


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
        tune: What of it is trained.
        reads: What is read of a task.
        shape: Shape of the LoRA with `tune` "lora". By default that of the generator's LoRA.
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
        kind: The method that it has to be.
        checkpoint: Where it is.
        reason: The keys of the recipe that ask for it.

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
