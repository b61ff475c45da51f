"""The rows of the paper's tables as changes to a recipe: what makes it another method, and what that needs elsewhere.

A recipe says what is trained on and how long; a method says what is trained. `RECIPE+METHOD` is the recipe with the
method's keys in place of its own.
"""

import tomllib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from tagi.errors import ConfigError

MARK = "+"
"""Between a recipe and a method."""
_ORDER = "order.toml"


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A method as the paper's tables have it.

    `flops` and `time` are its ratios there (Tables 2 and 3), None where it has none. `keys` are the recipe's keys that
    make it this method, dotted; `own` those that depend on the source of the tasks or on the recipe, by its name.
    `families` of backbones can do it.
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
        """Every key that it changes in a recipe of that name whose tasks are of `source`; `method` is its title."""
        return {"method": self.title, **self.keys, **self.own.get(source, {}), **self.own.get(recipe, {})}


def method_names() -> list[str]:
    """The shipped methods' names: those of the paper's tables in their order, then any others by name."""
    order: list[str] = tomllib.loads((_folder() / _ORDER).read_text(encoding="utf-8"))["order"]
    files = {file.name for file in _folder().iterdir() if file.name.endswith(".toml")} - {_ORDER}
    return [*order, *sorted({name.removesuffix(".toml") for name in files} - set(order))]


def method_rows() -> list[MethodRow]:
    """The shipped methods, in the order of `method_names`."""
    return [_read(name) for name in method_names()]


def chosen_methods(given: str, family: str = "t5") -> list[str]:
    """Names of "all" that a backbone of the family can do, or of a list with commas, each once."""
    if given == "all":
        return [row.name for row in method_rows() if family in row.families]
    return [method_row(name.strip()).name for name in dict.fromkeys(given.split(","))]


def method_row(name: str) -> MethodRow:
    """A method by its name; `ConfigError` if there is none."""
    names = method_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"method: expected one of {', '.join(names)}, got {name!r}{hint}")
    return _read(name)


def with_method(tables: dict[str, Any], row: MethodRow) -> dict[str, Any]:
    """A recipe's tables with the method's keys in place of their own; `tables` stays as it is.

    `ConfigError` if the recipe is a method already: keys of both would make a third, under the second's name.
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


def as_toml(tables: dict[str, Any]) -> str:
    """Tables as TOML, without comments."""
    return "\n".join(_lines(tables, ())).strip() + "\n"


def _lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    if path and (len(inner) < len(table) or not table):
        yield f"\n[{'.'.join(path)}]"
    yield from (f"{key} = {_value(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        yield from _lines(value, (*path, key))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)


def _folder() -> Traversable:
    return resources.files("tagi") / "recipes" / "methods"


def _read(name: str) -> MethodRow:
    table = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    keys = dict(table.pop("recipe", {}))
    own = {where: dict(value) for where, value in table.items() if isinstance(value, dict)}
    facts = {key: value for key, value in table.items() if key not in own}
    if "families" in facts:
        facts["families"] = tuple(facts["families"])
    return MethodRow(name, keys=keys, own=own, **facts)
