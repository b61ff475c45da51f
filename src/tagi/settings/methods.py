"""The methods, as listed by the files `tagi/recipes/methods/NAME.toml`.

A method with code of its own names its class in the file: `implementation = "MODULE:CLASS"`.
"""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, ValidationError

from tagi.errors import ConfigError
from tagi.settings.faults import fault_sentence, shown, toml_fault

CONCATENATION = "concatenation"
"""Default method of the stage metatrain: instruction and input in one text."""
_ORDER = "order.toml"


class MethodFile(BaseModel):
    """What a method's file says; every further entry is a table of keys for one source of tasks or one recipe.

    Args:
        title: Name in tables.
        source: The paper that the method is from.
        flops: FLOPs relative to the meta-trained model (Tables 2 and 3), if the paper has them.
        time: Time relative to the meta-trained model (Tables 2 and 3), if the paper has it.
        families: Families of backbones that can do it.
        implementation: The class that does it, as "MODULE:CLASS", if it is not a configuration alone.
        recipe: Dotted keys of a recipe and the values that make it this method.
    """

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]
    title: str
    source: str
    flops: float | None = None
    time: float | None = None
    families: list[Literal["t5", "causal"]] = ["t5", "causal"]
    implementation: str | None = None
    recipe: dict[str, Any] = {}


def method_names() -> list[str]:
    """Return the names of all methods: those of the paper's tables in their order, then the others sorted."""
    order: list[str] = _toml(_ORDER)["order"]
    files = {file.name for file in _FOLDER.iterdir() if file.name.endswith(".toml")} - {_ORDER}
    return [*order, *sorted({name.removesuffix(".toml") for name in files} - set(order))]


def method_file(name: str) -> MethodFile:
    """Return the content of a method's file. Raises `ConfigError` with file and key if it is invalid."""
    try:
        return MethodFile(**_toml(f"{name}.toml"))
    except ValidationError as error:
        faults = "; ".join(map(fault_sentence, error.errors(include_url=False)))
        raise ConfigError(f"{name}.toml: {faults}") from error


@lru_cache
def implementations() -> dict[str, str]:
    """Return "MODULE:CLASS" by name for the methods that have a class."""
    files = {name: method_file(name) for name in method_names()}
    return {name: file.implementation for name, file in files.items() if file.implementation is not None}


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
    text = (_FOLDER / name).read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: expected TOML, got: {toml_fault(text, error)}") from error
