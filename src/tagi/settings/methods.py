"""The shipped methods' files (`tagi/recipes/methods/NAME.toml`): the only list of methods that there is.

A method that is more than a configuration names the class that does it, as `implementation = "MODULE:CLASS"`. Its file
and that module are all that a method takes.
"""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any

from pydantic import AfterValidator, Strict

from tagi.errors import ConfigError
from tagi.settings.faults import shown

CONCATENATION = "concatenation"
"""The method of the stage metatrain by default: one text of instruction and input."""
_ORDER = "order.toml"


def method_names() -> list[str]:
    """Return the shipped methods' names: those of the paper's tables in their order, then others by name."""
    order: list[str] = _toml(_ORDER)["order"]
    files = {file.name for file in _FOLDER.iterdir() if file.name.endswith(".toml")} - {_ORDER}
    return [*order, *sorted({name.removesuffix(".toml") for name in files} - set(order))]


def method_table(name: str) -> dict[str, Any]:
    """Return what a shipped method's file says. Raises `ConfigError` if it is no TOML."""
    return _toml(f"{name}.toml")


@lru_cache
def implementations() -> dict[str, str]:
    """Return by name where the methods are implemented that have a class of their own: "MODULE:CLASS"."""
    tables = {name: method_table(name) for name in method_names()}
    return {name: table["implementation"] for name, table in tables.items() if "implementation" in table}


def _known_method(name: str) -> str:
    known = [CONCATENATION, *implementations()]
    if name not in known:
        expected = ", ".join(map(repr, known[:-1]))
        raise ValueError(f"expected {expected} or {known[-1]!r}, got {shown(name)}")
    return name


MetatrainMethod = Annotated[str, Strict(), AfterValidator(_known_method)]
"""A method that the stage metatrain trains."""
_FOLDER = resources.files("tagi") / "recipes" / "methods"


def _toml(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: expected TOML: {error}") from error
