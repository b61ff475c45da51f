"""All training stages, in the order in which a run does them, and the characteristics of what they train."""

from importlib import import_module

from tagi.errors import ConfigError
from tagi.settings import stages as catalogue
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import TrainingStage

STAGES: tuple[TrainingStage, ...] = tuple(import_module(f"tagi.stages.{name}").STAGE for name in catalogue.STAGES)

CHARACTERISTICS = (
    "Meta-Train",
    "Pre-Train",
    "Instr. Concat.",
    "Instr. Fus.",
    "Low Up. Params",
    "Low Infer. Cost",
    "Instr. Learning",
    "Unseen Task",
)
"""The characteristics of the paper's Tables 1 and 8, in the order of Table 8."""


def stage_of(name: str) -> TrainingStage:
    """Return a stage by its name; `ConfigError` if there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"STAGE: expected one of {', '.join(stage.name for stage in STAGES)}, got {name!r}")


def last_stage(recipe: Recipe) -> TrainingStage:
    """Return a recipe's last stage: what it trains is what the recipe is about."""
    return stage_of(recipe.run.stages[-1])


def characteristics(recipe: Recipe) -> dict[str, bool]:
    """Return each characteristic of what the recipe's last stage trains, by the paper's name for it.

    - Meta-Train: something is trained on the training tasks.
    - Pre-Train: a hypernetwork is trained on unlabelled text before.
    - Instr. Concat.: the instruction's states, or its tokens, precede the input's where the answer is written.
    - Instr. Fus.: the input's states attend to the instruction while they are computed.
    - Low Up. Params: some of the backbone's parameters stay as they are.
    - Low Infer. Cost: the instruction, or the demonstrations, are read once for all inputs of a task.
    - Instr. Learning: a teacher that reads the instruction with the input supervises the hypernetwork. With
      `losses.alone_kl` the model itself is this teacher.
    - Unseen Task: what is trained is made for tasks that training has not seen.

    The paper grades the last by ticks, from results; here it is a matter of how a method is made.
    """
    return dict(zip(CHARACTERISTICS, last_stage(recipe).traits(recipe), strict=True))
