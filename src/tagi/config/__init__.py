"""Recipes: what a run is told, checked as a whole before anything starts."""

from tagi.config.recipes import (
    RecipeSummary,
    check_recipe,
    copy_recipe,
    list_recipes,
    load_recipe,
    recipe_names,
    recipe_text,
)
from tagi.config.schema import (
    BackboneSettings,
    DataSettings,
    EvaluationSettings,
    GeneratorSettings,
    Recipe,
)
from tagi.config.sweeps import Point, grid_names, sweep_points
from tagi.config.tables import STAGES, Stage
from tagi.config.training import (
    LossSettings,
    MetatrainSettings,
    PretrainingSettings,
    RunSettings,
    StageSettings,
    TeacherSettings,
    Training,
    TrainingSettings,
)

__all__ = [
    "STAGES",
    "BackboneSettings",
    "DataSettings",
    "EvaluationSettings",
    "GeneratorSettings",
    "LossSettings",
    "MetatrainSettings",
    "Point",
    "PretrainingSettings",
    "Recipe",
    "RecipeSummary",
    "RunSettings",
    "Stage",
    "StageSettings",
    "TeacherSettings",
    "Training",
    "TrainingSettings",
    "check_recipe",
    "copy_recipe",
    "grid_names",
    "list_recipes",
    "load_recipe",
    "recipe_names",
    "recipe_text",
    "sweep_points",
]
