"""The methods, as listed by the files `tagi/recipes/methods/NAME.toml`.

A method with code of its own names its class in the file: `implementation = "MODULE:CLASS"`.
"""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any

from pydantic import AfterValidator, Strict

from tagi.errors import ConfigError
from tagi.settings.faults import shown

CONCATENATION = "concatenation"
"""Default method of the stage metatrain: instruction and input in one text."""
_ORDER = "order.toml"


def method_names() -> list[str]:
    """Return the names of all methods: those of the paper's tables in their order, then the others sorted."""
    order: list[str] = _toml(_ORDER)["order"]
    files = {file.name for file in _FOLDER.iterdir() if file.name.endswith(".toml")} - {_ORDER}
    return [*order, *sorted({name.removesuffix(".toml") for name in files} - set(order))]


def method_table(name: str) -> dict[str, Any]:
    """Return the content of a method's file. Raises `ConfigError` if it is not valid TOML."""
    return _toml(f"{name}.toml")


@lru_cache
def implementations() -> dict[str, str]:
    """Return "MODULE:CLASS" by name for the methods that have a class."""
    tables = {name: method_table(name) for name in method_names()}
    return {name: table["implementation"] for name, table in tables.items() if "implementation" in table}


def _known_method(name: str) -> str:
    known = [CONCATENATION, *implementations()]
    if name not in known:
        expected = ", ".join(map(repr, known[:-1]))
        raise ValueError(f"expected {expected} or {known[-1]!r}, got {shown(name)}")
    return name


MetatrainMethod = Annotated[str, Strict(), AfterValidator(_known_method)]
"""Name of a method that the stage metatrain can train."""
_FOLDER = resources.files("tagi") / "recipes" / "methods"


def _toml(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: expected TOML: {error}") from error
