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
    Stage,
    StageSettings,
    Training,
    TrainingSettings,
)

__all__ = [
    "BackboneSettings",
    "DataSettings",
    "EvaluationSettings",
    "GeneratorSettings",
    "Recipe",
    "RecipeSummary",
    "Stage",
    "StageSettings",
    "Training",
    "TrainingSettings",
    "check_recipe",
    "copy_recipe",
    "list_recipes",
    "load_recipe",
    "recipe_names",
    "recipe_text",
]
