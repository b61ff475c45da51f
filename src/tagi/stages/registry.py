"""All training stages in the order of a run, and the characteristics of methods."""

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
    """Return a stage by name. Raises `ConfigError` for an unknown name."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"STAGE: expected one of {', '.join(stage.name for stage in STAGES)}, got {name!r}")


def last_stage(recipe: Recipe) -> TrainingStage:
    """Return the last stage of a recipe."""
    return stage_of(recipe.run.stages[-1])


def characteristics(recipe: Recipe) -> dict[str, bool]:
    """Return the characteristics of the method that the recipe's last stage trains, by the paper's names.

    - Meta-Train: it is trained on the training tasks.
    - Pre-Train: a hypernetwork is pretrained on unlabelled text.
    - Instr. Concat.: the decoder sees the instruction's states or tokens before those of the input.
    - Instr. Fus.: the input's hidden states attend to the instruction in the encoder.
    - Low Up. Params: some of the backbone's parameters are frozen.
    - Low Infer. Cost: the instruction or the demonstrations are processed once per task.
    - Instr. Learning: a teacher that reads the instruction with the input supervises the hypernetwork. With
      `losses.alone_kl` the model itself is this teacher.
    - Unseen Task: the method is intended for tasks that are not in training.

    The paper grades the last one from results; here it follows from the design of the method.
    """
    return dict(zip(CHARACTERISTICS, last_stage(recipe).traits(recipe), strict=True))
