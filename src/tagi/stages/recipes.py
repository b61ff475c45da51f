"""Loading recipes with all checks: those of tables, and those of stages between tables."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tagi.config.faults import faults_of
from tagi.config.methods import MARK, method_row, with_method
from tagi.config.recipes import read_tables, recipe_label
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.settings.tables import IN_RECIPE
from tagi.stages.protocol import Fault
from tagi.stages.registry import STAGES, stage_of

_TABLES = list(Recipe.model_fields)


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load and check a recipe.

    Args:
        name_or_path: Name of a built-in recipe, or a TOML file.
        overrides: Changed keys, such as "training.steps=10".

    Raises:
        ConfigError: The recipe is invalid. The message names all errors by key.
    """
    tables, faults = read_tables(name_or_path, overrides)
    return _validated(tables, faults, recipe_label(name_or_path))


def check_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """Return all errors of a recipe by dotted key. Raises `ConfigError` if it cannot be read."""
    tables, faults = read_tables(name_or_path, overrides)
    return faults + _validate(tables)[1]


def as_method(recipe: Recipe, name: str) -> Recipe:
    """Apply a method to a recipe. Raises a `ConfigError` with all reasons if that is impossible."""
    return _validated(with_method(recipe.model_dump(), method_row(name)), [], f"{recipe.name}{MARK}{name}")


def _validated(tables: dict[str, Any], faults: list[str], label: str) -> Recipe:
    recipe, more = _validate(tables)
    if faults or more:
        raise ConfigError(f"{label}: {'; '.join(faults + more)}")
    return recipe


def _validate(tables: dict[str, Any]) -> tuple[Recipe, list[str]]:
    """Return the recipe and its errors in the order of its tables. With errors, the recipe may lack tables."""
    faults: list[str] = []
    faulty: set[Any] = set()
    try:
        recipe = Recipe.from_tables(tables)
    except ValidationError as error:
        faults = faults_of(error)
        faulty = {fault["loc"][0] for fault in error.errors()}
        recipe = _without(faulty, tables)
    run = recipe.run.stages if hasattr(recipe, "run") else []
    of_run = [stage.run_faults for stage in STAGES if stage.name in run]
    for rule in [*(stage.table_faults for stage in STAGES), _need_faults, *of_run]:
        # Skip rules that need a table with errors.
        with suppress(AttributeError) if faulty else nullcontext():
            for key, message in rule(recipe):
                faults.append(f"{key}: {message}")
    return recipe, sorted(dict.fromkeys(faults), key=_table_number)


def _without(faulty: set[Any], tables: dict[str, Any]) -> Recipe:
    """Return a recipe with the valid tables only."""
    values = {}
    for name, field in Recipe.model_fields.items():
        if name not in faulty:
            kind: Any = field.annotation
            values[name] = TypeAdapter(kind).validate_python(tables.get(name, field.default), context=IN_RECIPE)
    recipe = Recipe.model_construct(**values)
    for name in faulty:
        recipe.__dict__.pop(name, None)
    return recipe


def _table_number(fault: str) -> int:
    table = fault.partition(":")[0].partition(".")[0]
    return _TABLES.index(table) if table in _TABLES else len(_TABLES)


def _need_faults(recipe: Recipe) -> Iterator[Fault]:
    """Check that all required earlier stages are in the run, and that metatrain trains the required method."""
    stages, metatrain = recipe.run.stages, recipe.metatrain
    needs = [need for name in reversed(stages) for need in stage_of(name).needs(recipe) if need.role != "start"]
    missing: dict[str, str] = {}
    for need in needs:
        if need.stage not in stages:
            missing.setdefault(need.stage, f"{need.stage!r} among stages ({need.reason})")
    if missing and len(stages) > 1:
        yield "run.stages", f"expected {', '.join(missing.values())}, got {', '.join(stages)}"
        return
    for need in needs:
        if need.method is None or need.stage not in stages:
            continue
        if need.method != metatrain.method:
            wanted = f"expected metatrain.method = {need.method!r} among them ({need.reason})"
            yield "run.stages", f"{wanted}, got {metatrain.method!r}"
            return
        if not metatrain.instruction:
            yield "run.stages", f"expected metatrain.instruction = true ({need.reason}), got false"
            return
