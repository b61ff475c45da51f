"""All training stages, in the order in which a run does them."""

from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.stages.backbone import Backbone
from tagi.stages.finetune import Finetune
from tagi.stages.metatrain import Metatrain
from tagi.stages.pretrain import Pretrain
from tagi.stages.protocol import TrainingStage
from tagi.stages.single import Single
from tagi.stages.teachers import Teachers

STAGES: tuple[TrainingStage, ...] = (Backbone(), Metatrain(), Teachers(), Pretrain(), Finetune(), Single())


def stage_of(name: str) -> TrainingStage:
    """Return a stage by its name; `ConfigError` if there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"STAGE: expected one of {', '.join(stage.name for stage in STAGES)}, got {name!r}")


def last_stage(recipe: Recipe) -> TrainingStage:
    """Return a recipe's last stage: what it trains is what the recipe is about."""
    return stage_of(recipe.run.stages[-1])
