"""Recipes: what a run is told, checked as a whole before anything starts."""

from tagi.config.characteristics import CHARACTERISTICS, characteristics
from tagi.config.methods import MethodRow, chosen_methods, method_names, method_row, method_rows
from tagi.config.recipes import (
    RecipeSummary,
    as_method,
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
    ShotSettings,
)
from tagi.config.sweeps import Point, grid_names, sweep_points
from tagi.config.tables import STAGES, Stage
from tagi.config.training import (
    LossSettings,
    MetatrainSettings,
    PretrainingSettings,
    RunSettings,
    SingleSettings,
    StageSettings,
    TeacherSettings,
    Training,
    TrainingSettings,
)

__all__ = [
    "CHARACTERISTICS",
    "STAGES",
    "BackboneSettings",
    "DataSettings",
    "EvaluationSettings",
    "GeneratorSettings",
    "LossSettings",
    "MetatrainSettings",
    "MethodRow",
    "Point",
    "PretrainingSettings",
    "Recipe",
    "RecipeSummary",
    "RunSettings",
    "ShotSettings",
    "SingleSettings",
    "Stage",
    "StageSettings",
    "TeacherSettings",
    "Training",
    "TrainingSettings",
    "as_method",
    "characteristics",
    "check_recipe",
    "chosen_methods",
    "copy_recipe",
    "grid_names",
    "list_recipes",
    "load_recipe",
    "method_names",
    "method_row",
    "method_rows",
    "recipe_names",
    "recipe_text",
    "sweep_points",
]
