"""The rows of the paper's tables as changes to a recipe.

A recipe says what is trained on and how long; a method says what is trained. `RECIPE+METHOD` is the recipe with the
method's keys in place of its own.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tagi.config.faults import did_you_mean
from tagi.errors import ConfigError
from tagi.settings.methods import method_file, method_names

MARK = "+"
"""Between a recipe and a method."""


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A row of the paper's tables as changes to a recipe.

    Args:
        name: Name in `RECIPE+METHOD`.
        title: Name in tables.
        source: The paper that the method is from.
        flops: FLOPs relative to the meta-trained model (Tables 2 and 3), None where the paper has none.
        time: Time relative to the meta-trained model (Tables 2 and 3), None where the paper has none.
        keys: Dotted keys of a recipe and the values that make it this method.
        own: Further keys for one source of tasks or one recipe, by its name.
        families: Families of backbones that can do it.
    """

    name: str
    title: str
    source: str
    flops: float | None = None
    time: float | None = None
    keys: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    families: tuple[str, ...] = ("t5", "causal")

    def changes(self, source: str, recipe: str) -> dict[str, Any]:
        """Return the dotted keys that it changes in the named recipe with tasks of `source`, and their values."""
        return {"method": self.title, **self.keys, **self.own.get(source, {}), **self.own.get(recipe, {})}


def method_rows() -> list[MethodRow]:
    """Return the shipped methods in the order of `method_names`."""
    return [_read(name) for name in method_names()]


def chosen_methods(given: str, family: str = "t5") -> list[str]:
    """Return the names in a list with commas, each once; for "all" those that a backbone of the family can do."""
    if given == "all":
        return [row.name for row in method_rows() if family in row.families]
    return [method_row(name.strip()).name for name in dict.fromkeys(given.split(","))]


def method_row(name: str) -> MethodRow:
    """Return a method by its name. Raises `ConfigError` if there is none."""
    names = method_names()
    if name not in names:
        raise ConfigError(f"method: expected one of {', '.join(names)}, got {name!r}{did_you_mean(name, names)}")
    return _read(name)


def with_method(tables: dict[str, Any], row: MethodRow) -> dict[str, Any]:
    """Return a recipe's tables with the method's keys set. `tables` is not changed.

    Raises `ConfigError` if the recipe is a method already, since keys of both would make a third, and if its backbone
    is of a family that cannot do the method.
    """
    if tables.get("method") is not None:
        raise ConfigError(
            f"{tables.get('name')}{MARK}{row.name}: expected a recipe that no method was made of yet, got one that is "
            f"{tables['method']}"
        )
    source, name = str(tables.get("data", {}).get("source")), str(tables.get("name"))
    changed = deepcopy(tables)
    family = row.changes(source, name).get("backbone.family") or tables.get("backbone", {}).get("family", "t5")
    if family not in row.families:
        expected = " or ".join(map(repr, row.families))
        raise ConfigError(f"{row.name}: expected a recipe of backbone.family = {expected}, got {family!r}")
    for key, value in row.changes(source, name).items():
        table, *path = changed, *key.split(".")
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    return changed


def _read(name: str) -> MethodRow:
    file = method_file(name)
    facts = file.model_dump(include={"title", "source", "flops", "time"})
    return MethodRow(name, **facts, keys=file.recipe, own=dict(file.model_extra or {}), families=tuple(file.families))
