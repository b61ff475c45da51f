"""Finding, listing, copying and loading recipes: built-in ones by name, others by path, any with `+METHOD`."""

import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from tagi.config.faults import did_you_mean, faults_of
from tagi.config.methods import MARK, MethodRow, method_row, with_method
from tagi.config.overrides import apply_overrides
from tagi.errors import ConfigError
from tagi.files import write_text
from tagi.settings.data import TASK_FILES
from tagi.settings.faults import toml_fault
from tagi.settings.recipe import Recipe

OWN_TASKS = "own-tasks"
"""The recipe for a user's own tasks."""


def recipe_names() -> list[str]:
    """Return the shipped recipes' names, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def list_recipes() -> list[dict[str, str]]:
    """Return the name and the one-line description of every shipped recipe."""
    return [{"name": name, "description": str(_tables(name).get("description", ""))} for name in recipe_names()]


def recipe_text(name_or_path: str | Path) -> str:
    """Return the TOML of a recipe, comments included; of `RECIPE+METHOD` that of both together, without comments.

    Raises `ConfigError` if it cannot be read as UTF-8.
    """
    plain, row = _split(name_or_path)
    if row is not None:
        return tomli_w.dumps(_tables(name_or_path))
    source = _find(plain)
    try:
        return source.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise ConfigError(f"{source}: expected UTF-8 text, got {got}") from error
    except OSError as error:
        raise ConfigError(f"{source}: expected a readable TOML file, got: {error.strerror}") from error


def copy_recipe(name_or_path: str | Path, dest: Path) -> Path:
    """Copy a recipe to a file, or under its own name into a folder.

    Args:
        name_or_path: A shipped recipe's name, or a TOML file; either with `+METHOD`.
        dest: A new file, or a folder.

    Returns:
        The new file.

    Raises `ConfigError` if the file exists or cannot be written.
    """
    text = recipe_text(name_or_path)
    plain, row = _split(name_or_path)
    name = _find(plain).name if row is None else f"{_find(plain).name.removesuffix('.toml')}-{row.name}.toml"
    target = dest / name if dest.is_dir() else dest
    if target.exists():
        raise ConfigError(f"{target}: expected a path that does not exist yet, got an existing file")
    try:
        write_text(target, text)
    except OSError as error:
        raise ConfigError(f"{target}: expected a path that can be written, got: {error.strerror}") from error
    return target


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe with overrides applied and every table checked by itself.

    `tagi.stages.recipes.load_recipe` checks the rules of the stages as well. Raises one `ConfigError` with all faults.
    """
    tables, faults = read_tables(name_or_path, overrides)
    try:
        recipe = Recipe.from_tables(tables)
        if not faults:
            return recipe
    except ValidationError as error:
        faults += faults_of(error)
    raise ConfigError(f"{recipe_label(name_or_path)}: {'; '.join(faults)}")


def read_tables(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return a recipe's tables with overrides (`training.steps=10`) applied, and a fault for each that cannot be.

    A file of tasks in place of a recipe stands for the recipe `own-tasks` on that file.
    """
    if str(name_or_path).lower().endswith(TASK_FILES):
        overrides = [f"data.path={json.dumps(str(name_or_path))}", *overrides]
        name_or_path = OWN_TASKS
    tables = _tables(name_or_path)
    return tables, apply_overrides(tables, overrides)


def _tables(name_or_path: str | Path) -> dict[str, Any]:
    plain, row = _split(name_or_path)
    text = recipe_text(plain)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{recipe_label(plain)}: expected TOML, got: {toml_fault(text, error)}") from error
    return tables if row is None else with_method(tables, row)


def _split(name_or_path: str | Path) -> tuple[str | Path, MethodRow | None]:
    """Return a recipe, and the method that is named after a plus, if any."""
    plain, mark, method = str(name_or_path).rpartition(MARK)
    if not mark or Path(name_or_path).exists():
        return name_or_path, None
    return (Path(plain) if isinstance(name_or_path, Path) else plain), method_row(method)


def _shipped() -> Traversable:
    return resources.files("tagi") / "recipes"


def _is_path(name_or_path: str | Path) -> bool:
    return isinstance(name_or_path, Path) or name_or_path.endswith(".toml") or len(Path(name_or_path).parts) > 1


def _find(name_or_path: str | Path) -> Traversable:
    if _is_path(name_or_path):
        return Path(name_or_path)
    name, names = str(name_or_path), recipe_names()
    if name not in names:
        raise ConfigError(
            f"expected a TOML file or a shipped recipe ({', '.join(names)}), got {name!r}{did_you_mean(name, names)}"
        )
    return _shipped() / f"{name}.toml"


def recipe_label(name_or_path: str | Path) -> str:
    """Return what messages call a recipe."""
    return str(name_or_path) if _is_path(name_or_path) else f"recipe {name_or_path!r}"
